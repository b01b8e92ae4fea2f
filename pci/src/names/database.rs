//! The text of `pci.ids`, indexed in one scan.
//!
//! A vendor or class has a line, its devices or subclasses follow indented by one tab, and their subsystems or programming
//! interfaces by two. Vendors and classes are told apart by the `C ` before the latter.

use crate::{ClassCode, DeviceId, SubsystemId, VendorId};

#[derive(Debug)]
pub(super) struct Database {
    text: String,
    /// Where the name of each vendor, device, class and subclass starts; sorted.
    names: Vec<(Key, usize)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Vendor(u16, Option<u16>),
    Class(u16, Option<u16>),
}

impl Database {
    pub(super) fn index(text: String) -> Self {
        let mut names = Vec::new();
        let mut section = None;
        let mut start = 0;
        for line in text.as_bytes().split(|byte| *byte == b'\n') {
            let end = start + line.len();
            if let Some((key, name)) = entry(section, line) {
                section = Some(key);
                names.push((key, end - name.len()));
            }
            start = end + 1;
        }
        // The database comes sorted; this costs one comparison for each line.
        names.sort();
        Self { text, names }
    }

    pub(super) fn version(&self) -> Option<&str> {
        version(self.text.as_bytes())
    }

    pub(super) fn vendor(&self, vendor: VendorId) -> Option<&str> {
        self.name(Key::Vendor(vendor.0, None))
    }

    pub(super) fn device(&self, vendor: VendorId, device: DeviceId) -> Option<&str> {
        self.name(Key::Vendor(vendor.0, Some(device.0)))
    }

    pub(super) fn subsystem(&self, vendor: VendorId, device: DeviceId, subsystem: SubsystemId) -> Option<&str> {
        let id = format!("{} {}", subsystem.vendor, subsystem.device);
        self.detail(Key::Vendor(vendor.0, Some(device.0)), &id)
    }

    pub(super) fn base_class(&self, class: ClassCode) -> Option<&str> {
        self.name(Key::Class(class.base().into(), None))
    }

    pub(super) fn subclass(&self, class: ClassCode) -> Option<&str> {
        self.name(Key::Class(class.base().into(), Some(class.sub().into())))
    }

    pub(super) fn interface(&self, class: ClassCode) -> Option<&str> {
        let id = format!("{:02x}", class.interface());
        self.detail(Key::Class(class.base().into(), Some(class.sub().into())), &id)
    }

    /// The name of `key` and the lines after it.
    fn from(&self, key: Key) -> Option<impl Iterator<Item = &str>> {
        let found = self.names.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        let (_, start) = self.names.get(found)?;
        Some(self.text.get(*start..)?.lines())
    }

    fn name(&self, key: Key) -> Option<&str> {
        Some(self.from(key)?.next()?.trim())
    }

    /// The name of a line with two tabs below that of `key`.
    fn detail(&self, key: Key, id: &str) -> Option<&str> {
        let below = self.from(key)?.skip(1);
        let own = below.map_while(|line| line.strip_prefix("\t\t").or(line.starts_with('#').then_some("")));
        own.filter_map(|line| line.split_once("  "))
            .find(|(word, _)| *word == id)
            .map(|(_, name)| name.trim())
    }
}

/// The version of a database, from a comment near its beginning (`# Version: 2025.07.11`).
pub(super) fn version(text: &[u8]) -> Option<&str> {
    const HEADER: usize = 1024;
    let header = text.get(..HEADER).unwrap_or(text);
    let mut comments = header
        .split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok());
    comments.find_map(|line| Some(line.strip_prefix('#')?.trim_start().strip_prefix("Version:")?.trim()))
}

/// What a line is about, given the last one that was about something, and the name in it.
fn entry(section: Option<Key>, line: &[u8]) -> Option<(Key, &[u8])> {
    match *line {
        [b'\t', b'\t', ..] | [b'#', ..] | [] => None,
        [b'\t', ref rest @ ..] => match section? {
            Key::Vendor(vendor, _) => id(rest, 4).map(|(id, name)| (Key::Vendor(vendor, Some(id)), name)),
            Key::Class(class, _) => id(rest, 2).map(|(id, name)| (Key::Class(class, Some(id)), name)),
        },
        [b'C', b' ', ref rest @ ..] => id(rest, 2).map(|(id, name)| (Key::Class(id, None), name)),
        _ => id(line, 4).map(|(id, name)| (Key::Vendor(id, None), name)),
    }
}

/// The id at the beginning of `text`, so many hex digits and two spaces, and what follows it.
fn id(text: &[u8], digits: usize) -> Option<(u16, &[u8])> {
    let (word, rest) = text.split_at_checked(digits)?;
    let name = rest.strip_prefix(b"  ")?;
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let id: u32 = word.iter().try_fold(0, |id, byte| Some(id << 4 | digit(byte)?))?;
    Some((u16::try_from(id).ok()?, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "\
#	Version: 2025.07.11
# Comment
0001  First
	0002  Device  of two words
# In between
		0003 0004  Board
		0003 0005  Other board
	0006  Second device
		0003 0004  Third board
fffe  Last

C 01  Storage
	08  Non-volatile
		02  NVMe
C 02  Network
";

    fn board(vendor: u16, device: u16) -> SubsystemId {
        SubsystemId {
            vendor: VendorId(vendor),
            device: DeviceId(device),
        }
    }

    #[test]
    fn every_level_is_found() {
        let names = Database::index(TEXT.to_owned());
        assert_eq!(names.version(), Some("2025.07.11"));
        assert_eq!(names.vendor(VendorId(1)), Some("First"));
        assert_eq!(names.vendor(VendorId(0xfffe)), Some("Last"));
        assert_eq!(names.device(VendorId(1), DeviceId(2)), Some("Device  of two words"));
        assert_eq!(
            names.subsystem(VendorId(1), DeviceId(2), board(3, 5)),
            Some("Other board")
        );
        assert_eq!(
            names.subsystem(VendorId(1), DeviceId(6), board(3, 4)),
            Some("Third board")
        );
        assert_eq!(names.base_class(ClassCode(0x02_0000)), Some("Network"));
        assert_eq!(names.subclass(ClassCode(0x01_0802)), Some("Non-volatile"));
        assert_eq!(names.interface(ClassCode(0x01_0802)), Some("NVMe"));
    }

    #[test]
    fn a_detail_belongs_to_the_line_above_it_alone() {
        let names = Database::index(TEXT.to_owned());
        assert_eq!(names.subsystem(VendorId(1), DeviceId(6), board(3, 5)), None);
        assert_eq!(names.subsystem(VendorId(1), DeviceId(7), board(3, 4)), None);
        assert_eq!(names.interface(ClassCode(0x01_0800)), None);
        assert_eq!(names.device(VendorId(0xfffe), DeviceId(2)), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "([\t#C 0-9a-f\n]|\\PC){0,200}", vendor: u16, device: u16, class: u32) {
            let names = Database::index(text);
            let class = ClassCode(class);
            let found = [
                names.version(),
                names.vendor(VendorId(vendor)),
                names.device(VendorId(vendor), DeviceId(device)),
                names.subsystem(VendorId(vendor), DeviceId(device), board(vendor, device)),
                names.base_class(class),
                names.subclass(class),
                names.interface(class),
            ];
            prop_assert!(found.into_iter().flatten().all(|name| !name.contains('\n')));
        }
    }
}
