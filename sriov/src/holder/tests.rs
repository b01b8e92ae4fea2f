use super::*;
use crate::testing::{Tree, bdf};

const FUNCTION: &str = "01:10.0";

fn tree() -> Tree {
    let tree = Tree::new();
    tree.function(bdf("00:01.0"), "0x060400\n", Some(1));
    tree.function(bdf(FUNCTION), "0x020000\n", Some(12));
    tree.function(bdf("01:10.1"), "0x020000\n", Some(12));
    tree.function(bdf("01:10.2"), "0x020000\n", Some(13));
    tree.class_device(bdf(FUNCTION), "vfio-dev", "vfio3");
    tree
}

fn held_by(tree: &Tree, function: &str) -> Vec<(u32, String)> {
    let holders = Holders::scan(&tree.sysfs()).of(bdf(function));
    holders
        .iter()
        .map(|holder| (holder.pid, holder.path.display().to_string()))
        .collect()
}

#[test]
fn a_group_node_holds_the_whole_group() {
    let tree = tree();
    tree.process(
        4711,
        "qemu",
        &[(3, "/dev/vfio/vfio"), (20, "/dev/vfio/12"), (21, "socket:[7]")],
    );
    let wanted = [(4711, "/dev/vfio/12".to_owned())];
    assert_eq!(held_by(&tree, FUNCTION), wanted);
    assert_eq!(held_by(&tree, "01:10.1"), wanted);
    assert!(held_by(&tree, "01:10.2").is_empty());
}

#[test]
fn a_character_device_holds_its_function_alone() {
    let tree = tree();
    tree.process(4711, "qemu", &[(5, "/dev/iommu"), (6, "/dev/vfio/devices/vfio3")]);
    assert_eq!(held_by(&tree, FUNCTION), [(4711, "/dev/vfio/devices/vfio3".to_owned())]);
    assert!(held_by(&tree, "01:10.1").is_empty());
}

#[test]
fn a_uio_node_holds_its_function() {
    let tree = tree();
    tree.class_device(bdf(FUNCTION), "uio", "uio4");
    tree.process(4711, "testpmd", &[(7, "/dev/uio4"), (8, "/dev/uio5")]);
    assert_eq!(held_by(&tree, FUNCTION), [(4711, "/dev/uio4".to_owned())]);
}

#[test]
fn what_names_no_function_is_listed_all_the_same() {
    let tree = tree();
    tree.process(4711, "qemu", &[(5, "/dev/iommu"), (3, "/dev/vfio/vfio")]);
    let holders = Holders::scan(&tree.sysfs());
    let process = &holders.processes[0];
    assert_eq!((process.pid, process.command.as_str()), (4711, "qemu"));
    assert_eq!(process.command_line, "/usr/bin/qemu -m 1G");
    let files: Vec<_> = process.files.iter().map(|file| (file.fd, file.node)).collect();
    assert_eq!(files, [(3, Node::Container), (5, Node::Iommufd)]);
    assert!(held_by(&tree, FUNCTION).is_empty());
}

#[test]
fn a_device_without_a_node_is_named_by_the_kernel() {
    let tree = tree();
    tree.process(4711, "dpdk", &[(9, "anon_inode:[vfio-device]")]);
    tree.file(
        "proc/4711/fdinfo/9",
        "pos:\t0\nvfio-device-syspath: /sys/devices/pci0000:00/0000:00:01.0/0000:01:10.0\n",
    );
    assert_eq!(
        held_by(&tree, FUNCTION),
        [(4711, "anon_inode:[vfio-device]".to_owned())]
    );
    assert!(Holders::scan(&tree.sysfs()).unnamed().is_empty());
}

#[test]
fn a_device_that_nothing_names_may_be_any() {
    let tree = tree();
    tree.process(4711, "dpdk", &[(9, "anon_inode:[vfio-device]")]);
    tree.process(4712, "qemu", &[(8, "/dev/vfio/13"), (9, "anon_inode:[vfio-device]")]);
    let unnamed = Holders::scan(&tree.sysfs()).unnamed();
    assert_eq!(unnamed.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [4711]);
}

#[test]
fn nodes_of_every_kind_are_told_apart() {
    let kinds = [
        ("/dev/vfio/12", Some((Node::Group, "12"))),
        ("/dev/vfio/noiommu-12", Some((Node::Group, "12"))),
        ("/dev/vfio/12 (deleted)", Some((Node::Group, "12"))),
        ("/dev/vfio/devices/vfio3", Some((Node::Device, "vfio3"))),
        ("/dev/vfio/devices/noiommu-vfio3", Some((Node::Device, "noiommu-vfio3"))),
        ("/dev/vfio/vfio", Some((Node::Container, ""))),
        ("/dev/iommu", Some((Node::Iommufd, ""))),
        ("/dev/uio0", Some((Node::Uio, "uio0"))),
        ("/dev/uio12 (deleted)", Some((Node::Uio, "uio12"))),
        ("/dev/uio", None),
        ("/dev/uio/0", None),
        ("/dev/vfio/", None),
        ("/dev/vfio/12/13", None),
        ("/dev/vfio/../../etc", None),
        ("/dev/vfio/devices/vfio", None),
        ("/home/me/dev/vfio/12", None),
        ("anon_inode:[eventfd]", None),
    ];
    for (path, wanted) in kinds {
        assert_eq!(classify(path), wanted, "{path}");
    }
}

#[test]
fn a_machine_that_shows_all_is_covered_in_full() {
    assert_eq!(Holders::scan(&tree().sysfs()).coverage, Coverage::Full);
}

#[test]
fn processes_of_others_are_counted_and_kernel_threads_are_not() {
    let tree = tree();
    // What may not be listed is no directory here: the error is another one, what is made of it the same, also for root.
    tree.file("proc/2/fd/x", "");
    for (pid, stat) in [
        (50, "50 (sshd) S 1 50 50 0 -1 4194560 0"),
        (51, "51 (kworker/0:1) x) S 2 0 0 0 -1 69238880 0"),
        (52, "52 (bash"),
    ] {
        tree.file(format!("proc/{pid}/stat"), stat);
        tree.link(format!("proc/{pid}/fd"), "fd");
    }
    let coverage = Holders::scan(&tree.sysfs()).coverage;
    let wanted = Coverage::Partial {
        unreadable: 2,
        hidden: false,
    };
    assert_eq!(coverage, wanted);
}

#[test]
fn processes_that_are_not_listed_are_noticed() {
    let tree = tree();
    tree.remove("proc/1");
    tree.process(4711, "bash", &[]);
    let wanted = Coverage::Partial {
        unreadable: 0,
        hidden: true,
    };
    assert_eq!(Holders::scan(&tree.sysfs()).coverage, wanted);
}

#[test]
fn a_tree_without_processes_says_so() {
    let tree = tree();
    tree.remove("proc");
    assert!(matches!(Holders::scan(&tree.sysfs()).coverage, Coverage::Nothing(_)));
}

#[test]
fn a_process_that_ends_meanwhile_is_no_gap() {
    let tree = tree();
    tree.directory("proc/4711");
    assert_eq!(Holders::scan(&tree.sysfs()).coverage, Coverage::Full);
}
