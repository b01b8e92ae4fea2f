//! What the readers of `/proc` and `/sys/class` share.

use pci::{Bdf, Reading, Sysfs};
use std::path::Path;

/// The text of a file of at most `limit` bytes; bytes that are no UTF-8 (paths of mounts, names of processes) are replaced.
pub(crate) fn text(sysfs: &Sysfs, path: impl AsRef<Path>, limit: usize) -> Reading<String> {
    let bytes = sysfs.read_bytes(path, limit)?;
    Ok(String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

/// As [`text`]; empty where there is no such file, as for a part that the kernel was built without.
pub(crate) fn text_if_any(sysfs: &Sysfs, path: impl AsRef<Path>, limit: usize) -> Reading<String> {
    match text(sysfs, path, limit) {
        Err(unknown) if unknown.is_missing() => Ok(String::new()),
        other => other,
    }
}

/// The names in a directory, sorted; none where there is no such directory.
pub(crate) fn names(sysfs: &Sysfs, path: impl AsRef<Path>) -> Reading<Vec<String>> {
    match sysfs.names(path) {
        Err(unknown) if unknown.is_missing() => Ok(Vec::new()),
        other => other,
    }
}

/// The function that a device path (`…/0000:00:04.0/nvme/nvme0/nvme0n1`) runs through last: the one the device belongs to.
pub(crate) fn function_of(path: &Path) -> Option<Bdf> {
    // A directory of a function has the segment in its name.
    let is_full = |name: &&str| name.len() >= "0000:00:00.0".len();
    path.iter()
        .rev()
        .filter_map(|part| part.to_str())
        .filter(is_full)
        .find_map(|name| name.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::function_of;
    use std::path::Path;

    #[test]
    fn a_device_belongs_to_the_nearest_function() {
        let path = Path::new("../../devices/pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0/nvme0n1");
        assert_eq!(function_of(path), "0000:01:00.0".parse().ok());
        let vmd = Path::new("../../devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:1d.0/net/eth0");
        assert_eq!(function_of(vmd), "10000:e0:1d.0".parse().ok());
        assert_eq!(function_of(Path::new("../../devices/virtual/block/dm-0")), None);
    }
}
