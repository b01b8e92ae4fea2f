//! Names of vendors, devices and classes from the PCI ID database (<https://pci-ids.ucw.cz>).
//!
//! [`Names`] asks the system's `pci.ids` where that is newer than the copy built into this program, then the built-in copy.

mod database;

use crate::{ClassCode, DeviceId, Reading, SubsystemId, Sysfs, VendorId};
use database::Database;
use pci_ids::{Class, Device, FromId, Subclass, Vendor};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Looks names up: in the system's `pci.ids` where that is newer, else in the copy built into this program.
#[derive(Debug, Default)]
pub struct Names {
    system: Option<Database>,
    /// The built-in devices that were asked for. A machine has few different ones, and finding one is a linear search.
    devices: Mutex<BTreeMap<(VendorId, DeviceId), Option<&'static Device>>>,
}

/// The version of the built-in copy, as its header has it.
const BUILT_IN_VERSION: &str = "2022.11.25";

/// Where distributions put the database, relative to the root.
const PLACES: [&str; 2] = ["usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids"];

/// Ten times the size of the database of 2025.
const LIMIT: usize = 16 << 20;

impl Names {
    /// The system's database if there is one and it is newer than the built-in one; else the built-in one.
    #[must_use]
    pub fn read(sysfs: &Sysfs) -> Self {
        let read = |place: &&str| -> Reading<Vec<u8>> { sysfs.read_bytes(place, LIMIT) };
        let text = PLACES.iter().find_map(|place| read(place).ok());
        let newer = text.filter(|text| database::version(text).is_some_and(|version| version > BUILT_IN_VERSION));
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let text = newer.map(|text| String::from_utf8(text).unwrap_or_else(|not_utf8| lossy(not_utf8.as_bytes())));
        Self {
            system: text.map(Database::index),
            ..Self::default()
        }
    }

    /// The built-in database alone: the same names on every machine.
    #[must_use]
    pub fn built_in() -> Self {
        Self::default()
    }

    /// The database's date: `2025.07.11`.
    #[must_use]
    pub fn version(&self) -> &str {
        let system = self.system.as_ref().and_then(Database::version);
        system.unwrap_or(BUILT_IN_VERSION)
    }

    /// The vendor's name: `Intel Corporation`.
    #[must_use]
    pub fn vendor(&self, vendor: VendorId) -> Option<&str> {
        let system = self.system.as_ref().and_then(|names| names.vendor(vendor));
        system.or_else(|| Some(Vendor::from_id(vendor.0)?.name()))
    }

    /// The device's name: `82576 Gigabit Network Connection`.
    #[must_use]
    pub fn device(&self, vendor: VendorId, device: DeviceId) -> Option<&str> {
        let system = self.system.as_ref().and_then(|names| names.device(vendor, device));
        system.or_else(|| Some(self.built_in_device(vendor, device)?.name()))
    }

    /// The name of the board that carries the device. A board whose ids are those of the device is named as it.
    #[must_use]
    pub fn subsystem(&self, vendor: VendorId, device: DeviceId, subsystem: SubsystemId) -> Option<&str> {
        let system = self
            .system
            .as_ref()
            .and_then(|names| names.subsystem(vendor, device, subsystem));
        let built_in = || {
            let wanted = (subsystem.vendor.0, subsystem.device.0);
            let mut known = self.built_in_device(vendor, device)?.subsystems();
            Some(
                known
                    .find(|known| (known.subvendor(), known.subdevice()) == wanted)?
                    .name(),
            )
        };
        let is_device = (subsystem.vendor, subsystem.device) == (vendor, device);
        let as_device = || is_device.then(|| self.device(vendor, device)).flatten();
        system.or_else(built_in).or_else(as_device)
    }

    /// The name of the subclass (`Ethernet controller`), or of the base class where the subclass has none.
    #[must_use]
    pub fn class(&self, class: ClassCode) -> Option<&str> {
        let system = self.system.as_ref();
        let built_in = || Some(Subclass::from_cid_sid(class.base(), class.sub())?.name());
        system
            .and_then(|names| names.subclass(class))
            .or_else(built_in)
            .or_else(|| self.base_class(class))
    }

    /// The name of the base class: `Network controller`.
    #[must_use]
    pub fn base_class(&self, class: ClassCode) -> Option<&str> {
        let system = self.system.as_ref().and_then(|names| names.base_class(class));
        system.or_else(|| Some(Class::from_id(class.base())?.name()))
    }

    /// The name of the programming interface: `NVM Express`.
    #[must_use]
    pub fn interface(&self, class: ClassCode) -> Option<&str> {
        let system = self.system.as_ref().and_then(|names| names.interface(class));
        system.or_else(|| {
            let mut known = Subclass::from_cid_sid(class.base(), class.sub())?.prog_ifs();
            Some(known.find(|known| known.id() == class.interface())?.name())
        })
    }

    fn built_in_device(&self, vendor: VendorId, device: DeviceId) -> Option<&'static Device> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let find = || Device::from_vid_pid(vendor.0, device.0);
        *devices.entry((vendor, device)).or_insert_with(find)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const IGB: (VendorId, DeviceId) = (VendorId(0x8086), DeviceId(0x10c9));

    /// A system whose database has that version and one vendor, device and class.
    fn system(place: &str, version: &str) -> (tempfile::TempDir, Names) {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join(place);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text =
            format!("#\tVersion: {version}\n8086  Maker\n\t10c9  Card\n\t\t1af4 1100  Board\nC 02  Net\n\t00  Wire\n");
        #[expect(clippy::disallowed_methods, reason = "the file belongs to the test")]
        fs::write(file, text).unwrap();
        let names = Names::read(&Sysfs::at(root.path()));
        (root, names)
    }

    #[test]
    fn a_newer_database_of_the_system_comes_first() {
        for place in PLACES {
            let (_root, names) = system(place, "2999.01.01");
            assert_eq!(names.version(), "2999.01.01");
            assert_eq!(names.vendor(IGB.0), Some("Maker"));
            assert_eq!(names.device(IGB.0, IGB.1), Some("Card"));
            let board = SubsystemId {
                vendor: VendorId(0x1af4),
                device: DeviceId(0x1100),
            };
            assert_eq!(names.subsystem(IGB.0, IGB.1, board), Some("Board"));
            assert_eq!(names.class(ClassCode(0x02_0000)), Some("Wire"));
            assert_eq!(names.class(ClassCode(0x02_7700)), Some("Net"), "an unknown subclass");
        }
    }

    #[test]
    fn the_built_in_database_fills_the_gaps_of_the_systems() {
        let (_root, names) = system(PLACES[0], "2999.01.01");
        assert_eq!(names.vendor(VendorId(0x10de)), Some("NVIDIA Corporation"));
        assert_eq!(names.interface(ClassCode(0x01_0802)), Some("NVM Express"));
    }

    #[test]
    fn an_older_or_unmarked_database_is_not_used() {
        for version in ["2001.01.01", ""] {
            let (_root, names) = system(PLACES[0], version);
            assert_eq!(names.version(), BUILT_IN_VERSION);
            assert_eq!(names.vendor(IGB.0), Some("Intel Corporation"));
            assert_eq!(names.device(IGB.0, IGB.1), Some("82576 Gigabit Network Connection"));
        }
    }

    #[test]
    fn what_nobody_registered_has_no_name() {
        let names = Names::built_in();
        assert_eq!(names.vendor(VendorId(0x0002)), None);
        assert_eq!(names.device(VendorId(0x8086), DeviceId(0xffff)), None);
        assert_eq!(names.class(ClassCode(0x77_0000)), None);
    }
}
