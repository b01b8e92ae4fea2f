//! Versions of the crates that ours is compared with, as they are built.

use std::collections::BTreeMap;

/// What cargo builds, so nothing here can be another version than that.
const LOCK: &str = include_str!("../../Cargo.lock");

/// Of what is measured on a device.
pub const OF_DEVICE: &[&str] = &["vfio-ioctls", "iommufd-ioctls"];
/// Of what VFs that were brought up are opened by, too.
pub const OF_VFS: &[&str] = &["vfio-ioctls"];
/// Of what needs no device.
pub const OF_SOFTWARE: &[&str] = &["vm-allocator"];

/// The versions of these crates, by name. One that there are several of is said with all of them.
#[must_use]
pub fn versions(crates: &[&str]) -> BTreeMap<String, String> {
    let version = |name: &&str| {
        let found: Vec<&str> = of(name).collect();
        (!found.is_empty()).then(|| ((*name).to_owned(), found.join(" and ")))
    };
    crates.iter().filter_map(version).collect()
}

fn of(name: &str) -> impl Iterator<Item = &'static str> {
    let head = format!("name = \"{name}\"");
    let mut lines = LOCK.lines();
    std::iter::from_fn(move || {
        lines.find(|line| *line == head)?;
        lines.next()?.strip_prefix("version = \"")?.strip_suffix('"')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_crate_that_is_compared_with_is_built_in_one_version() {
        for name in OF_DEVICE.iter().chain(OF_VFS).chain(OF_SOFTWARE) {
            let found: Vec<&str> = of(name).collect();
            let [version] = found.as_slice() else {
                panic!("{name} is built as {found:?}");
            };
            assert_eq!(version.split('.').count(), 3, "{name} {version}");
        }
        assert!(versions(&["no-such-crate"]).is_empty());
    }
}
