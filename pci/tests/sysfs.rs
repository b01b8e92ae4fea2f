//! Reading files of a tree that may have been made to harm the reader.
#![expect(clippy::unwrap_used, reason = "what prepares a test may fail it")]

use pci::{Reason, Sysfs};
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use std::fs::{create_dir, create_dir_all};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const SECRET: &str = "outside";

/// A directory with a `secret` beside the root of a tree.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        create_dir_all(place.path("a/b")).unwrap();
        place.write("../secret", SECRET);
        place
    }

    /// A path in the tree.
    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("tree").join(path)
    }

    #[expect(clippy::disallowed_methods, reason = "the tree is the test's own")]
    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(path), content).unwrap();
    }

    fn sysfs(&self) -> Sysfs {
        Sysfs::at(self.path(""))
    }

    fn reason(&self, path: &str) -> Reason {
        self.sysfs().read(path).unwrap_err().reason().clone()
    }
}

#[test]
fn text_is_trimmed_and_empty_text_is_text() {
    let place = Place::new();
    place.write("a/file", " 0x8086 \n\n");
    place.write("empty", "");
    assert_eq!(place.sysfs().read("a/file").unwrap(), "0x8086");
    assert_eq!(
        place.sysfs().read("/a/file").unwrap(),
        "0x8086",
        "a leading slash is the root of the tree"
    );
    assert_eq!(place.sysfs().read("empty").unwrap(), "");
}

#[test]
fn what_is_not_there_is_missing() {
    let place = Place::new();
    let unknown = place.sysfs().read("a/none").unwrap_err();
    assert!(unknown.is_missing());
    assert_eq!(unknown.path(), place.path("a/none"));
    assert!(place.sysfs().names("none").unwrap_err().is_missing());
    assert!(place.sysfs().link_name("none").unwrap_err().is_missing());
}

#[test]
fn only_a_regular_file_has_text() {
    let place = Place::new();
    mknodat(CWD, place.path("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(place.path("socket")).unwrap();
    assert_eq!(place.reason("a"), Reason::NotAFile);
    assert_eq!(place.reason("fifo"), Reason::NotAFile);
    assert!(
        matches!(place.reason("socket"), Reason::Io(_)),
        "a socket cannot be opened"
    );
}

#[test]
fn a_read_has_a_limit() {
    const LIMIT: usize = 64 << 10;
    let place = Place::new();
    place.write("full", vec![b'x'; LIMIT]);
    place.write("over", vec![b'x'; LIMIT + 1]);
    assert_eq!(place.sysfs().read("full").unwrap().len(), LIMIT);
    assert_eq!(place.reason("over"), Reason::TooLarge(LIMIT));
    for limit in [0, 1, 511, 512, 513, LIMIT] {
        let bytes = place.sysfs().read_bytes("over", limit);
        assert_eq!(*bytes.unwrap_err().reason(), Reason::TooLarge(limit));
    }
    assert_eq!(place.sysfs().read_bytes("over", LIMIT + 1).unwrap().len(), LIMIT + 1);
}

#[test]
fn text_that_is_not_utf_8_is_malformed_but_bytes() {
    let place = Place::new();
    place.write("binary", [0xff, 0xfe]);
    assert!(matches!(place.reason("binary"), Reason::Malformed(_)));
    assert_eq!(place.sysfs().read_bytes("binary", 2).unwrap(), [0xff, 0xfe]);
}

#[test]
fn a_link_within_the_tree_is_followed() {
    let place = Place::new();
    place.write("a/b/file", "inside");
    symlink("../a/b", place.path("a/link")).unwrap();
    symlink("b/../link/file", place.path("a/far")).unwrap();
    assert_eq!(place.sysfs().read("a/link/file").unwrap(), "inside");
    assert_eq!(place.sysfs().read("a/far").unwrap(), "inside");
    assert_eq!(place.sysfs().link_name("a/far").unwrap(), "file");
    assert_eq!(place.sysfs().read_link("a/far").unwrap(), Path::new("b/../link/file"));
}

#[test]
fn a_link_out_of_the_tree_is_refused() {
    let place = Place::new();
    let secret = place.path("../secret").canonicalize().unwrap();
    symlink("../secret", place.path("up")).unwrap();
    symlink(&secret, place.path("absolute")).unwrap();
    symlink(secret.parent().unwrap(), place.path("directory")).unwrap();
    for path in ["up", "absolute", "directory/secret", "../secret", "a/../../secret"] {
        assert_eq!(place.reason(path), Reason::OutsideRoot, "{path}");
    }
    assert_eq!(
        *place.sysfs().names("directory").unwrap_err().reason(),
        Reason::OutsideRoot
    );
    assert_eq!(
        *place.sysfs().link_name("directory/x").unwrap_err().reason(),
        Reason::OutsideRoot
    );
    // What a link says may be read: it is not followed.
    assert_eq!(place.sysfs().read_link("up").unwrap(), Path::new("../secret"));
    assert_eq!(place.sysfs().read_link("absolute").unwrap(), secret);
}

#[test]
fn a_loop_of_links_ends() {
    let place = Place::new();
    symlink("two", place.path("one")).unwrap();
    symlink("one", place.path("two")).unwrap();
    assert!(matches!(place.reason("one"), Reason::Io(_)));
    assert!(matches!(place.reason("one/file"), Reason::Io(_)));
}

#[test]
fn what_is_no_link_says_nothing() {
    let place = Place::new();
    place.write("file", "");
    for path in ["file", "a"] {
        assert!(matches!(
            *place.sysfs().read_link(path).unwrap_err().reason(),
            Reason::Malformed(_)
        ));
    }
    symlink("..", place.path("dots")).unwrap();
    assert!(matches!(
        *place.sysfs().link_name("dots").unwrap_err().reason(),
        Reason::Malformed(_)
    ));
}

#[test]
fn names_are_sorted() {
    let place = Place::new();
    create_dir(place.path("c")).unwrap();
    place.write("b", "");
    assert_eq!(place.sysfs().names("").unwrap(), ["a", "b", "c"]);
}

#[test]
fn this_machine_is_read_from_its_root() {
    let host = Sysfs::host();
    assert!(host.is_host());
    // The kernel claims a size of 0 for it.
    assert!(!host.read("/proc/self/mountinfo").unwrap().is_empty());
}

proptest! {
    #[test]
    fn no_chain_of_links_leads_out(
        first in "(\\.\\./|a/|b/|two/|/){0,6}(secret|two|a)",
        second in "(\\.\\./|a/|b/|one/|/){0,6}(secret|one|\\.\\.)",
        path in "(\\.\\./|a/|b/|one/|two/){0,4}(secret|one|two)",
    ) {
        let place = Place::new();
        symlink(first, place.path("one")).unwrap();
        symlink(second, place.path("a/two")).unwrap();
        let text = place.sysfs().read(&path);
        prop_assert!(text != Ok(SECRET.to_owned()));
        let bytes = place.sysfs().read_bytes(&path, 100);
        prop_assert!(bytes != Ok(SECRET.into()));
    }
}
