//! Uses of block devices: from the disks of a function up through partitions, multipath heads and volumes to whoever mounts
//! or swaps. Formats: `Documentation/filesystems/proc.rst` §3.5 (`mountinfo`), `Documentation/ABI/stable/sysfs-block`.

use super::{Usage, Use};
use crate::file;
use pci::{Bdf, Reading, Sysfs};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Limit in bytes: a host of many containers has thousands of mounts of some hundred bytes each.
const MOUNTS_LIMIT: usize = 64 << 20;
const SWAPS_LIMIT: usize = 1 << 20;

pub(super) fn read(sysfs: &Sysfs, usage: &mut Usage) {
    let blocks = Blocks::read(sysfs, usage);
    for (function, disks) in &blocks.of_function {
        let mut uses = Vec::new();
        let reached = blocks.walk(disks, &mut uses);
        usage.add(*function, uses);
        usage.disks.insert(*function, reached);
    }
}

/// The block devices of the machine by name, how they lie on each other, and who uses them.
#[derive(Default)]
struct Blocks {
    of_function: BTreeMap<Bdf, Vec<String>>,
    /// Disk to partitions.
    partitions: BTreeMap<String, Vec<String>>,
    /// Device to what it is part of (`holders/`).
    holders: BTreeMap<String, Vec<String>>,
    mounts: BTreeMap<String, Vec<PathBuf>>,
    btrfs: BTreeMap<String, Vec<String>>,
    swaps: BTreeSet<String>,
}

impl Blocks {
    fn read(sysfs: &Sysfs, usage: &mut Usage) -> Self {
        let mut blocks = Self::default();
        let class = Path::new("sys/class/block");
        let names = usage.known(file::names(sysfs, class));
        let known: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let mut by_number = BTreeMap::new();
        for name in &names {
            // Without its link a device is gone.
            let Ok(link) = sysfs.read_link(class.join(name)) else {
                continue;
            };
            if let Some(function) = file::function_of(&link) {
                blocks.of_function.entry(function).or_default().push(name.clone());
            }
            let parent = link
                .parent()
                .and_then(Path::file_name)
                .and_then(|parent| parent.to_str());
            if let Some(disk) = parent.filter(|parent| known.contains(parent)) {
                blocks.partitions.entry(disk.to_owned()).or_default().push(name.clone());
            }
            let holders = usage.known(file::names(sysfs, class.join(name).join("holders")));
            if !holders.is_empty() {
                blocks.holders.insert(name.clone(), holders);
            }
            if let Ok(number) = sysfs.read(class.join(name).join("dev")) {
                by_number.insert(number, name.as_str());
            }
        }
        if !blocks.of_function.is_empty() {
            let mounts = usage.known(file::text(sysfs, "proc/self/mountinfo", MOUNTS_LIMIT));
            blocks.mounts = mounted(&mounts, sysfs, &by_number);
            let swaps = usage.known(file::text_if_any(sysfs, "proc/swaps", SWAPS_LIMIT));
            let paths = swaps
                .lines()
                .skip(1)
                .filter_map(|line| line.split_ascii_whitespace().next());
            blocks.swaps = paths.filter_map(|path| device_of(sysfs, &unescape(path))).collect();
            blocks.btrfs = usage.known(btrfs(sysfs));
        }
        blocks
    }

    /// Everything that lies on `disks`. Each device is looked at once, so a loop in a hostile tree ends.
    fn walk(&self, disks: &[String], uses: &mut Vec<Use>) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        let mut left: Vec<String> = disks.iter().rev().cloned().collect();
        while let Some(device) = left.pop() {
            if !seen.insert(device.clone()) {
                continue;
            }
            if let Some(at) = self.mounts.get(&device) {
                let (device, at) = (device.clone(), at.clone());
                uses.push(Use::Mounted { device, at });
            }
            for uuid in self.btrfs.get(&device).into_iter().flatten() {
                let (device, uuid) = (device.clone(), uuid.clone());
                uses.push(Use::Filesystem { device, uuid });
            }
            if self.swaps.contains(&device) {
                uses.push(Use::Swap { device: device.clone() });
            }
            for of in self.holders.get(&device).into_iter().flatten() {
                let (device, of) = (device.clone(), of.clone());
                uses.push(Use::Member { device, of });
            }
            left.extend(self.holders.get(&device).into_iter().flatten().cloned());
            left.extend(self.partitions.get(&device).into_iter().flatten().rev().cloned());
            left.extend(multipath_head(&device));
        }
        seen
    }
}

/// The device that stands for all paths to a namespace: `nvme0n1` of the path `nvme0c1n1` (subsystem, controller, head).
fn multipath_head(path: &str) -> Option<String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let (subsystem, rest) = path.strip_prefix("nvme")?.split_once('c')?;
    let (controller, head) = rest.split_once('n')?;
    let all = [subsystem, controller, head].into_iter().all(is_number);
    all.then(|| format!("nvme{subsystem}n{head}"))
}

/// Mount points by block device.
fn mounted(text: &str, sysfs: &Sysfs, by_number: &BTreeMap<String, &str>) -> BTreeMap<String, Vec<PathBuf>> {
    let mut mounts: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(' ');
        let (Some(number), Some(point)) = (fields.nth(2), fields.nth(1)) else {
            continue;
        };
        // A file system on many devices has a number of its own, and names one of its devices as the source.
        let source = || line.split_once(" - ")?.1.split(' ').nth(1);
        let device = match by_number.get(number) {
            Some(name) => Some((*name).to_owned()),
            None => source().and_then(|source| device_of(sysfs, &unescape(source))),
        };
        if let Some(device) = device {
            mounts.entry(device).or_default().push(unescape(point).into());
        }
    }
    mounts
}

/// The devices of each mounted btrfs; it has one directory there for as long as it is mounted.
fn btrfs(sysfs: &Sysfs) -> Reading<BTreeMap<String, Vec<String>>> {
    let root = Path::new("sys/fs/btrfs");
    let mut devices: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for uuid in file::names(sysfs, root)? {
        // `features` lies there too, and has no such directory.
        let members = file::names(sysfs, root.join(&uuid).join("devices")).unwrap_or_default();
        for device in members {
            devices.entry(device).or_default().push(uuid.clone());
        }
    }
    Ok(devices)
}

/// The kernel's name of the block device at a path below `/dev`, which may be one of udev's links.
fn device_of(sysfs: &Sysfs, path: &str) -> Option<String> {
    let name = path.strip_prefix("/dev/")?;
    match sysfs.link_name(Path::new("dev").join(name)) {
        Ok(target) => Some(target),
        Err(_) => (!name.contains('/')).then(|| name.to_owned()),
    }
}

/// Undoes the octal escapes (`\040`) of `/proc`.
fn unescape(text: &str) -> String {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) if byte == b'\\' => {
                plain.push(escaped);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                plain.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{multipath_head, unescape};

    #[test]
    fn a_path_of_nvme_multipath_has_a_head() {
        assert_eq!(multipath_head("nvme0c1n2").as_deref(), Some("nvme0n2"));
        assert_eq!(multipath_head("nvme10c200n3").as_deref(), Some("nvme10n3"));
        for other in ["nvme0n1", "nvme0c1", "nvme0c1n1p1", "nvmecn", "sdc1n1", ""] {
            assert_eq!(multipath_head(other), None, "{other}");
        }
    }

    #[test]
    fn octal_escapes_become_bytes_and_all_else_stays() {
        assert_eq!(unescape(r"/mnt/my\040disk\134"), r"/mnt/my disk\");
        assert_eq!(unescape(r"\04"), r"\04");
        assert_eq!(unescape(r"\999\"), r"\999\");
        assert_eq!(unescape("é"), "é");
    }
}
