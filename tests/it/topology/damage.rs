//! Files that are missing, malformed, endless or in the wrong place: values with a reason, and no function lost.

use super::{Machine, bdf, small};
use pci::{ErrorKind, Fields, Function, Reason, Sysfs, Topology};
use rustix::fs::{CWD, FileType, Mode, inotify, mknodat};
use std::fs::{create_dir, read_dir, remove_dir_all, remove_file};
use std::mem::MaybeUninit;
use std::os::unix::fs::symlink;
use std::path::Path;

/// What can happen to a file or link.
#[derive(Debug, Clone, Copy)]
enum Damage {
    Gone,
    Empty,
    Garbage,
    Binary,
    Endless,
    Directory,
    Fifo,
    Loop,
    Absolute,
    Escape,
    Dangling,
}

const DAMAGES: [Damage; 11] = [
    Damage::Gone,
    Damage::Empty,
    Damage::Garbage,
    Damage::Binary,
    Damage::Endless,
    Damage::Directory,
    Damage::Fifo,
    Damage::Loop,
    Damage::Absolute,
    Damage::Escape,
    Damage::Dangling,
];

#[expect(clippy::disallowed_methods, reason = "the tree is the test's own")]
fn damage(path: &Path, damage: Damage) {
    if path.is_dir() && !path.is_symlink() {
        remove_dir_all(path).unwrap();
    } else {
        remove_file(path).unwrap();
    }
    let up = "../".repeat(40);
    match damage {
        Damage::Gone => {}
        Damage::Empty => std::fs::write(path, "").unwrap(),
        Damage::Garbage => std::fs::write(path, "0xzz -1 +5 ../.. \0 9999999999999999999999").unwrap(),
        Damage::Binary => std::fs::write(path, [0xff; 100]).unwrap(),
        Damage::Endless => std::fs::write(path, vec![b'1'; 1 << 20]).unwrap(),
        Damage::Directory => create_dir(path).unwrap(),
        Damage::Fifo => mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap(),
        Damage::Loop => symlink(path.file_name().unwrap(), path).unwrap(),
        Damage::Absolute => symlink("/etc/hostname", path).unwrap(),
        Damage::Escape => symlink(format!("{up}etc/hostname"), path).unwrap(),
        Damage::Dangling => symlink("nowhere/at-all", path).unwrap(),
    }
}

/// Everything that is known of a function, as text.
fn text(function: &Function) -> String {
    format!("{function:?}")
}

#[test]
fn no_damage_to_a_file_of_a_function_touches_another_function() {
    let (pf, vf) = (bdf(1, 0), bdf(1, 8));
    let pristine = Machine::of(&small()).read();
    let names = {
        let machine = Machine::of(&small());
        let dir = machine.tree.root().join(machine.tree.file(pf, ""));
        let names = read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        // The directories of VFs and class devices lie elsewhere or are read elsewhere.
        names
            .filter(|name| !["net", "link", "power"].contains(&name.as_str()))
            .collect::<Vec<_>>()
    };
    assert!(names.len() > 40, "{names:?}");
    for name in &names {
        let machine = Machine::of(&small());
        for kind in DAMAGES {
            let path = machine.tree.root().join(machine.tree.file(pf, name));
            if path.symlink_metadata().is_err() {
                // Restored after `Gone`, so that it can be damaged again.
                machine.tree.write(machine.tree.file(pf, name), "").unwrap();
            }
            damage(&path, kind);
            let topology = machine.read();
            assert_eq!(topology.functions().len(), 4, "{name} {kind:?}");
            let port = topology.function(bdf(0, 8)).unwrap();
            assert_eq!(
                text(port).len(),
                text(pristine.function(bdf(0, 8)).unwrap()).len(),
                "{name} {kind:?}"
            );
            let sibling = topology.function(vf).unwrap();
            assert!(
                sibling.vendor.is_ok() && sibling.driver.is_ok() && sibling.power_state.is_ok(),
                "{name} {kind:?}"
            );
        }
    }
}

#[test]
fn a_damaged_attribute_is_unknown_for_its_reason() {
    let expected = |kind: Damage, reason: &Reason| match kind {
        Damage::Gone | Damage::Dangling => *reason == Reason::Missing,
        Damage::Empty | Damage::Garbage | Damage::Binary => matches!(reason, Reason::Malformed(_)),
        Damage::Endless => matches!(reason, Reason::TooLarge(_)),
        Damage::Directory | Damage::Fifo => *reason == Reason::NotAFile,
        Damage::Loop => matches!(reason, Reason::Io(_)),
        Damage::Absolute | Damage::Escape => *reason == Reason::OutsideRoot,
    };
    for kind in DAMAGES {
        let machine = Machine::of(&small());
        let path = machine.tree.root().join(machine.tree.file(bdf(1, 0), "power_state"));
        damage(&path, kind);
        let topology = machine.read();
        let pf = topology.function(bdf(1, 0)).unwrap();
        let unknown = pf.power_state.as_ref().unwrap_err();
        assert!(expected(kind, unknown.reason()), "{kind:?}: {unknown}");
        assert_eq!(unknown.path(), path);
        assert!(
            pf.vendor.is_ok() && pf.numa_node.is_ok() && pf.sriov.is_ok(),
            "{kind:?}"
        );
    }
}

#[test]
fn ids_come_from_their_own_files_where_the_modalias_does_not_help() {
    for kind in DAMAGES {
        let machine = Machine::of(&small());
        let pristine = machine.read();
        damage(
            &machine.tree.root().join(machine.tree.file(bdf(1, 0), "modalias")),
            kind,
        );
        let topology = machine.read();
        let (before, after) = (
            pristine.function(bdf(1, 0)).unwrap(),
            topology.function(bdf(1, 0)).unwrap(),
        );
        assert_eq!(text(before), text(after), "{kind:?}");
    }
}

#[test]
fn a_function_whose_directory_is_gone_is_listed_and_unknown() {
    let machine = Machine::of(&small());
    let dir = machine.tree.file(bdf(1, 9), "");
    remove_dir_all(machine.tree.root().join(dir)).unwrap();
    let topology = machine.read();
    let function = topology.function(bdf(1, 9)).unwrap();
    assert!(function.vendor.as_ref().unwrap_err().is_missing());
    assert!(
        function.driver.as_ref().unwrap_err().is_missing(),
        "unbound is more than we know"
    );
    assert!(function.class_devices.as_ref().unwrap_err().is_missing());
}

#[test]
fn a_function_that_leads_out_of_the_tree_is_listed_and_unknown() {
    let machine = Machine::of(&small());
    let link = machine.tree.root().join("sys/bus/pci/devices/0000:01:01.1");
    for target in [
        "/sys/devices/pci0000:00/0000:00:00.0",
        "../../../../../../../../../../../../etc",
    ] {
        remove_file(&link).unwrap();
        symlink(target, &link).unwrap();
        // Alone on its bus, so that its link is needed.
        let topology = Topology::read_fields(&machine.tree.sysfs(), Fields::ID).unwrap();
        assert_eq!(topology.functions().len(), 4);
    }
    let alone = machine.tree.root().join("sys/bus/pci/devices/0000:09:00.0");
    symlink("../../../../../../etc", &alone).unwrap();
    let topology = machine.read();
    let function = topology.function(bdf(9, 0)).unwrap();
    assert_eq!(*function.vendor.as_ref().unwrap_err().reason(), Reason::OutsideRoot);
    assert_eq!(function.parent, None);
}

#[test]
fn what_is_no_function_is_reported() {
    let machine = Machine::of(&small());
    let devices = machine.tree.root().join("sys/bus/pci/devices");
    for name in ["nonsense", "0000:00:0A.0", "00:01.0", "0000:00:20.0"] {
        symlink("../../../devices/pci0000:00", devices.join(name)).unwrap();
    }
    // A function that is a directory and not a link, and one whose link has another name.
    create_dir(devices.join("0000:07:00.0")).unwrap();
    symlink("../../../devices/pci0000:00/0000:00:01.0", devices.join("0000:08:00.0")).unwrap();
    let topology = machine.read();
    assert_eq!(topology.functions().len(), 6);
    let mut odd: Vec<_> = topology
        .oddities()
        .iter()
        .map(|odd| odd.path().file_name().unwrap().to_str().unwrap())
        .collect();
    odd.sort_unstable();
    let expected = [
        "0000:00:0A.0",
        "0000:00:20.0",
        "0000:07:00.0",
        "0000:08:00.0",
        "00:01.0",
        "nonsense",
    ];
    assert_eq!(odd, expected);
}

#[test]
fn bridges_below_each_other_are_no_endless_path() {
    let machine = Machine::of(&[]);
    let tree = &machine.tree;
    for (function, above) in [("0000:01:00.0", "0000:02:00.0"), ("0000:02:00.0", "0000:01:00.0")] {
        let place = format!("sys/devices/{above}/{function}");
        tree.write(format!("{place}/vendor"), "0x8086\n").unwrap();
        tree.link(format!("sys/bus/pci/devices/{function}"), &place).unwrap();
    }
    let topology = machine.read();
    let parents = topology.parents(bdf(1, 0)).count();
    assert!((2..=256).contains(&parents), "{parents}");
}

#[test]
fn a_tree_without_a_pci_bus_is_an_error_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let error = Topology::read(&Sysfs::at(dir.path())).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoPciBus(dir.path().join("sys/bus/pci/devices")));
    assert!(error.fix().unwrap().contains("--sysroot"));
}

#[test]
fn configuration_space_and_files_behind_the_device_lock_are_not_opened() {
    let machine = Machine::of(&small());
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
    let locked = [
        "config",
        "sriov_numvfs",
        "sriov_vf_total_msix",
        "driver_override",
        "uevent",
        "enable",
    ];
    let add = |name: &str| {
        let path = machine.tree.root().join(machine.tree.file(bdf(1, 0), name));
        inotify::add_watch(&watch, path, inotify::WatchFlags::OPEN).unwrap();
    };
    locked.into_iter().for_each(add);
    drop(machine.read());
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut space);
    assert_eq!(
        events.next().unwrap_err(),
        rustix::io::Errno::AGAIN,
        "something was opened"
    );
    // The watch does see what is opened.
    let path = machine.tree.file(bdf(1, 0), "config");
    machine.tree.sysfs().read_bytes(path, 4096).unwrap();
    assert!(events.next().is_ok());
}
