//! What to tell others to give them functions: text to paste or to put into a file, from what is known of the functions alone.
//!
//! Key types: [`Form`], [`Handout`] (one function), [`Emitted`]. What repeats for each function is made one by one; documents, and command
//! lines that say something once, for all functions together.

use crate::{Error, ErrorKind};
use pci::{Bdf, ClassCode, DeviceId, GroupId, VendorId};

mod cdi;
mod kubernetes;
mod unit;
mod vmm;

pub use vmm::{hostdev, qemu_devices, sysfs_path};

/// For whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Form {
    /// QEMU: options of its command line.
    Qemu,
    /// cloud-hypervisor: options of its command line.
    CloudHypervisor,
    /// libvirt: an element for the domain's `<devices>`.
    Libvirt,
    /// crosvm: options of its command line.
    Crosvm,
    /// Firecracker: a part of its configuration file.
    Firecracker,
    /// The Container Device Interface: a file for `/etc/cdi`.
    Cdi,
    /// systemd: a unit that makes the functions again when the machine boots.
    Systemd,
    /// Kubernetes: the configuration of the SR-IOV network device plugin.
    DevicePlugin,
    /// Kubernetes: policies of the SR-IOV network operator for functions that it does not create itself.
    NodePolicy,
    /// KubeVirt: devices that guests may have.
    KubeVirt,
}

/// The kernel interface that a VMM uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// Container and group, `/dev/vfio/vfio` and `/dev/vfio/N`.
    Type1,
    /// iommufd and character device, `/dev/iommu` and `/dev/vfio/devices/vfioN`.
    Iommufd,
}

/// A function to hand out, as far as it is known. What a form does not need may be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handout {
    /// Its address.
    pub bdf: Bdf,
    /// Vendor.
    pub vendor: Option<VendorId>,
    /// Device.
    pub device: Option<DeviceId>,
    /// Class.
    pub class: Option<ClassCode>,
    /// The driver that it is on.
    pub driver: Option<String>,
    /// Whether that driver hands it to user space through VFIO.
    pub is_on_vfio: bool,
    /// Its IOMMU group.
    pub group: Option<GroupId>,
    /// N of `/dev/vfio/devices/vfioN`.
    pub node: Option<u32>,
    /// Whether both nodes of iommufd are there.
    pub has_iommufd: bool,
    /// The PF that it is, or whose VF it is.
    pub pf: Option<Pf>,
    /// Which VF it is.
    pub index: Option<u16>,
}

/// A PF with its VFs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pf {
    /// Its address.
    pub bdf: Bdf,
    /// Vendor.
    pub vendor: Option<VendorId>,
    /// Device.
    pub device: Option<DeviceId>,
    /// Its network interface.
    pub interface: Option<String>,
    /// How many VFs are enabled.
    pub vfs: u16,
    /// The driver that all of them are on, where that hands them to user space.
    pub vf_driver: Option<String>,
}

/// A text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emitted {
    /// The functions that it gives away.
    pub functions: Vec<Bdf>,
    /// The interface that it asks for, where it asks for one. libvirt chooses itself.
    pub backend: Option<Backend>,
    /// The text, without a newline at its end.
    pub text: String,
    /// What to know about it.
    pub notes: Vec<String>,
}

impl Form {
    /// Whether the functions must be on a VFIO driver when the text is used.
    #[must_use]
    pub fn needs_vfio(self) -> bool {
        !matches!(self, Self::Systemd | Self::DevicePlugin | Self::NodePolicy)
    }

    /// As an error calls it.
    fn step(self) -> &'static str {
        match self {
            Self::Qemu => "emit qemu",
            Self::CloudHypervisor => "emit cloud-hypervisor",
            Self::Libvirt => "emit libvirt",
            Self::Crosvm => "emit crosvm",
            Self::Firecracker => "emit firecracker",
            Self::Cdi => "emit cdi",
            Self::Systemd => "emit systemd",
            Self::DevicePlugin => "emit k8s-device-plugin",
            Self::NodePolicy => "emit k8s-sriov-policy",
            Self::KubeVirt => "emit kubevirt",
        }
    }

    fn refuse(self, function: Bdf, why: impl Into<String>, fix: impl Into<String>) -> Error {
        let kind = ErrorKind::Unsupported {
            why: why.into(),
            fix: fix.into(),
        };
        Error::new(function, self.step(), kind)
    }
}

/// The texts that give `functions` to whom `form` names. With `wanted` no other interface of the kernel will do; without, iommufd is used where
/// there is one and whom it is for knows it. `node` is the name of this machine in a cluster.
///
/// # Errors
///
/// [`ErrorKind::SegmentTooLarge`] for a function that has no name there, [`ErrorKind::Unsupported`] for what cannot be done there, with the
/// reason.
pub fn emit(
    form: Form,
    functions: &[Handout],
    wanted: Option<Backend>,
    node: Option<&str>,
) -> Result<Vec<Emitted>, Error> {
    match form {
        Form::Qemu => Ok(vec![vmm::qemu(functions, wanted)]),
        Form::CloudHypervisor => Ok(vec![vmm::cloud_hypervisor(functions, wanted)]),
        Form::Cdi => cdi::emit(functions, wanted).map(|emitted| vec![emitted]),
        Form::Systemd => unit::emit(functions).map(|emitted| vec![emitted]),
        Form::DevicePlugin => kubernetes::device_plugin(functions).map(|emitted| vec![emitted]),
        Form::NodePolicy => kubernetes::node_policy(functions, node).map(|emitted| vec![emitted]),
        Form::KubeVirt => kubernetes::kubevirt(functions).map(|emitted| vec![emitted]),
        _ => functions
            .iter()
            .map(|function| vmm::emit(form, function, wanted))
            .collect(),
    }
}

impl Handout {
    /// The interface to use with whoever knows both.
    fn backend(&self, wanted: Option<Backend>) -> Backend {
        match wanted {
            Some(backend) => backend,
            None if self.has_iommufd => Backend::Iommufd,
            None => Backend::Type1,
        }
    }

    fn ids(&self, form: Form) -> Result<(VendorId, DeviceId), Error> {
        let ids = self.vendor.zip(self.device);
        ids.ok_or_else(|| {
            form.refuse(
                self.bdf,
                "its vendor and device are not known",
                "see why: sriovctl show",
            )
        })
    }

    /// Refuses a segment that has no name.
    fn check_segment(&self, form: Form, max: u32) -> Result<(), Error> {
        let segment = self.bdf.segment.0;
        if segment <= max {
            return Ok(());
        }
        let kind = ErrorKind::SegmentTooLarge { segment, max };
        Err(Error::new(self.bdf, form.step(), kind))
    }
}

#[cfg(test)]
mod tests;
