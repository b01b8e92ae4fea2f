//! The files of one function (`Documentation/ABI/testing/sysfs-bus-pci`).
//!
//! Left out are those whose reading takes the device lock and so can block for ever: `sriov_numvfs`, `sriov_vf_total_msix`,
//! `driver_override`, and on some kernels `uevent`.

use super::Fields;
use crate::bar::parse_resource;
use crate::function::decimal;
use crate::id::{ModAlias, parse_class, parse_u16};
use crate::sysfs::{Buffer, Dir};
use crate::{
    Bar, Bdf, DeviceId, Function, GroupId, Link, LinkSpeed, LinkState, PowerState, Reading, Reason, ResetMethod, Sriov,
    SubsystemId, Unknown, VendorId, VfIndex, VfOf, VirtualFunctionRef,
};
use std::path::{Path, PathBuf};

/// A function's directory, open.
pub(super) struct Attributes<'r> {
    pub(super) fields: Fields,
    pub(super) dir: &'r Dir<'r>,
    pub(super) buffer: &'r mut Buffer,
    /// What every field is that was not asked for.
    pub(super) not_read: &'r Unknown,
}

impl Attributes<'_> {
    /// The fields that were asked for, ids last.
    pub(super) fn function(&mut self, bdf: Bdf) -> Function {
        let mut function = unknown(bdf, self.dir.path().to_path_buf(), self.not_read);
        if self.fields.contains(Fields::DRIVER) {
            function.driver = self.link("driver", |name| Some(name.to_owned()));
        }
        if self.fields.contains(Fields::GROUP) {
            function.iommu_group = self.link("iommu_group", GroupId::parse);
        }
        if self.fields.contains(Fields::NUMA) {
            function.numa_node = self.optional("numa_node", numa_node).map(Option::flatten);
        }
        if self.fields.contains(Fields::LINK) {
            function.link = self.express_link();
        }
        if self.fields.contains(Fields::BARS) {
            function.bars = self.bars();
        }
        if self.fields.contains(Fields::SRIOV) {
            function.vf_of = self.vf_of();
            function.sriov = match function.vf_of {
                Ok(Some(_)) => Ok(None),
                _ => self.sriov(),
            };
        }
        if self.fields.contains(Fields::REVISION) {
            function.revision = self.required("revision", |text| u8::try_from(parse_u16(text)?).ok());
        }
        if self.fields.contains(Fields::ARI) {
            function.ari = self.optional("ari_enabled", flag);
        }
        if self.fields.contains(Fields::RESET) {
            function.reset_methods = self.reset_methods();
        }
        if self.fields.contains(Fields::POWER) {
            function.power_state = self.required("power_state", PowerState::parse);
        }
        if self.fields.contains(Fields::ID) {
            self.ids(&mut function);
        }
        function
    }

    fn required<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Reading<T> {
        let value = self.dir.parse(name, self.buffer, parse);
        value.map_err(|reason| reason.at(self.dir.path_of(name)))
    }

    /// `None` where there is no such file.
    fn optional<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Reading<Option<T>> {
        match self.dir.parse(name, self.buffer, parse) {
            Ok(value) => Ok(Some(value)),
            Err(Reason::Missing) => Ok(None),
            Err(reason) => Err(reason.at(self.dir.path_of(name))),
        }
    }

    /// From the last component of a link; `None` where there is no such link.
    fn link<T>(&mut self, name: &str, parse: impl FnOnce(&str) -> Option<T>) -> Reading<Option<T>> {
        let value = self.dir.link_name(name, self.buffer);
        match value.and_then(|last| parse(last).ok_or_else(|| Reason::malformed(last))) {
            Ok(value) => Ok(Some(value)),
            Err(Reason::Missing) => Ok(None),
            Err(reason) => Err(reason.at(self.dir.path_of(name))),
        }
    }

    /// `modalias` has all ids in one file; where it does not help, each id has its own.
    fn ids(&mut self, function: &mut Function) {
        if let Ok(ids) = self.dir.parse("modalias", self.buffer, ModAlias::parse) {
            function.vendor = Ok(ids.vendor);
            function.device = Ok(ids.device);
            function.subsystem = Ok(ids.subsystem.present());
            function.class = Ok(ids.class);
            return;
        }
        function.vendor = self.required("vendor", |text| parse_u16(text).map(VendorId));
        function.device = self.required("device", |text| parse_u16(text).map(DeviceId));
        function.class = self.required("class", parse_class);
        let mut subsystem = |name| self.required(name, parse_u16);
        function.subsystem = subsystem("subsystem_vendor").and_then(|vendor| {
            let id = SubsystemId {
                vendor: VendorId(vendor),
                device: DeviceId(subsystem("subsystem_device")?),
            };
            Ok(id.present())
        });
    }

    fn express_link(&mut self) -> Reading<Option<Link>> {
        let Some(current_speed) = self.optional("current_link_speed", LinkSpeed::parse)? else {
            return Ok(None);
        };
        let current = LinkState {
            speed: current_speed,
            width: self.required("current_link_width", LinkState::parse_width)?,
        };
        let max = LinkState {
            speed: self.required("max_link_speed", LinkSpeed::parse)?,
            width: self.required("max_link_width", LinkState::parse_width)?,
        };
        Ok(Some(Link { current, max }))
    }

    fn bars(&mut self) -> Reading<Vec<Bar>> {
        let text = self.dir.text("resource", self.buffer);
        let bars = text.and_then(|text| parse_resource(text).map_err(Reason::malformed));
        bars.map_err(|reason| reason.at(self.dir.path_of("resource")))
    }

    /// The index is the PF's to tell and comes later.
    fn vf_of(&mut self) -> Reading<Option<VfOf>> {
        let Some(pf) = self.link("physfn", |name| name.parse().ok())? else {
            return Ok(None);
        };
        let index = Err(self.not_read.clone());
        Ok(Some(VfOf { pf, index }))
    }

    fn sriov(&mut self) -> Reading<Option<Sriov>> {
        let Some(total) = self.optional("sriov_totalvfs", decimal).transpose() else {
            return Ok(None);
        };
        Ok(Some(Sriov {
            total,
            offset: self.required("sriov_offset", decimal),
            stride: self.required("sriov_stride", decimal),
            vf_device: self.required("sriov_vf_device", |text| {
                u16::from_str_radix(text, 16).ok().map(DeviceId)
            }),
            drivers_autoprobe: self.required("sriov_drivers_autoprobe", flag),
            virtual_functions: self.virtual_functions()?,
        }))
    }

    fn virtual_functions(&mut self) -> Reading<Vec<VirtualFunctionRef>> {
        let mut links = Vec::new();
        let listed = self.dir.each(|entry| {
            if entry.is_link
                && let Some(index) = VfIndex::parse(entry.name)
            {
                links.push((index, entry.name.to_owned()));
            }
        });
        listed.map_err(|reason| reason.at(self.dir.path_of("")))?;
        links.sort_unstable();
        let mut vfs = Vec::new();
        for (index, name) in links {
            // A VF may go away between the two readings.
            if let Some(bdf) = self.link(&name, |name| name.parse().ok())? {
                vfs.push(VirtualFunctionRef { index, bdf });
            }
        }
        Ok(vfs)
    }

    fn reset_methods(&mut self) -> Reading<Vec<ResetMethod>> {
        let methods = |text: &str| Some(text.split_ascii_whitespace().map(ResetMethod::from).collect());
        match self.required("reset_method", methods) {
            // Without any method there is no file. Before Linux 5.15 there never is, but there may be a `reset`.
            Err(unknown) if unknown.is_missing() && !self.dir.has("reset") => Ok(Vec::new()),
            methods => methods,
        }
    }
}

/// A function of which only the place is known, for one reason.
pub(super) fn unknown(bdf: Bdf, path: PathBuf, reason: &Unknown) -> Function {
    fn because<T>(reason: &Unknown) -> Reading<T> {
        Err(reason.clone())
    }
    let above = path.parent().and_then(Path::file_name);
    let parent = above.and_then(|name| name.to_str()?.parse().ok());
    Function {
        bdf,
        path,
        vendor: because(reason),
        device: because(reason),
        subsystem: because(reason),
        class: because(reason),
        revision: because(reason),
        driver: because(reason),
        iommu_group: because(reason),
        numa_node: because(reason),
        link: because(reason),
        bars: because(reason),
        sriov: because(reason),
        vf_of: because(reason),
        ari: because(reason),
        reset_methods: because(reason),
        power_state: because(reason),
        parent,
        class_devices: because(reason),
    }
}

/// The kernel's -1 is `None`.
fn numa_node(text: &str) -> Option<Option<u32>> {
    if text == "-1" {
        return Some(None);
    }
    decimal(text).map(|node| Some(node.into()))
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}
