use super::*;
use crate::fake::{self, Effect, Fault};
use crate::testing::{Tree, bdf};

const NVME: &str = "01:00.0";
const NIC: &str = "01:00.1";
const GPU: &str = "01:00.2";

/// An NVMe with two partitions, a NIC and a GPU.
fn tree() -> Tree {
    let tree = Tree::new();
    tree.function(bdf("00:01.0"), "0x060400\n", None);
    tree.function(bdf(NVME), "0x010802\n", None);
    tree.function(bdf(NIC), "0x020000\n", None);
    tree.function(bdf(GPU), "0x030000\n", None);
    let disk = Tree::function_path(bdf(NVME)).join("nvme/nvme0/nvme0n1");
    block(&tree, &disk, "259:0");
    block(&tree, &disk.join("nvme0n1p1"), "259:1");
    block(&tree, &disk.join("nvme0n1p2"), "259:2");
    let interface = tree.class_device(bdf(NIC), "net", "eth0");
    tree.file(interface.join("flags"), "0x1003\n");
    tree
}

fn block(tree: &Tree, path: &Path, number: &str) {
    tree.file(path.join("dev"), &format!("{number}\n"));
    tree.directory(path.join("holders"));
    tree.link_to(Path::new("sys/class/block").join(path.file_name().unwrap()), path);
}

/// A block device without hardware that `members` are part of.
fn volume(tree: &Tree, name: &str, number: &str, members: &[&str]) {
    let path = Path::new("sys/devices/virtual/block").join(name);
    block(tree, &path, number);
    for member in members {
        let member = tree
            .sysfs()
            .read_link(Path::new("sys/class/block").join(member))
            .unwrap();
        let member = Path::new("sys").join(member.strip_prefix("../../../sys").unwrap());
        tree.link_to(member.join("holders").join(name), &path);
    }
}

fn mounts(tree: &Tree, lines: &[&str]) {
    tree.file("proc/self/mountinfo", &lines.join("\n"));
}

fn usage(tree: &Tree) -> Usage {
    Usage::read(&tree.sysfs(), &Topology::read(&tree.sysfs()).unwrap())
}

fn uses(tree: &Tree, function: &str) -> Vec<String> {
    usage(tree).of(bdf(function)).iter().map(ToString::to_string).collect()
}

#[test]
fn an_idle_machine_uses_nothing_and_everything_is_known() {
    let usage = usage(&tree());
    for function in [NVME, NIC, GPU] {
        assert_eq!(usage.of(bdf(function)), []);
    }
    assert_eq!(usage.unknown, []);
}

#[test]
fn a_mounted_partition_is_found_by_its_number() {
    let tree = tree();
    mounts(
        &tree,
        &[
            "27 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw",
            r"40 27 259:2 /sub /mnt/my\040disk rw - ext4 /dev/nvme0n1p2 rw",
            "41 27 8:1 / /other rw - ext4 /dev/sda1 rw",
        ],
    );
    assert_eq!(uses(&tree, NVME), ["nvme0n1p2 is mounted at /, /mnt/my disk"]);
}

#[test]
fn a_file_system_with_a_number_of_its_own_is_found_by_its_source() {
    let tree = tree();
    tree.link("dev/disk/by-uuid/1234", "../../nvme0n1p1");
    mounts(
        &tree,
        &["27 1 0:33 /root / rw - btrfs /dev/disk/by-uuid/1234 rw,subvol=/root"],
    );
    assert_eq!(uses(&tree, NVME), ["nvme0n1p1 is mounted at /"]);
}

#[test]
fn every_device_of_a_btrfs_is_in_use() {
    let tree = tree();
    tree.directory("sys/fs/btrfs/features");
    tree.link("sys/fs/btrfs/ab-cd/devices/nvme0n1p2", "../../../../block");
    mounts(&tree, &["27 1 0:33 / / rw - btrfs /dev/sda rw"]);
    assert_eq!(uses(&tree, NVME), ["nvme0n1p2 belongs to the mounted btrfs ab-cd"]);
}

#[test]
fn swap_is_found() {
    let tree = tree();
    tree.file(
        "proc/swaps",
        "Filename Type Size\n/dev/nvme0n1p1 partition 1\n/swapfile file 1\n",
    );
    assert_eq!(uses(&tree, NVME), ["nvme0n1p1 is swap space"]);
}

#[test]
fn volumes_are_followed_up_to_their_mounts() {
    let tree = tree();
    volume(&tree, "md0", "9:0", &["nvme0n1p1"]);
    volume(&tree, "dm-0", "253:0", &["md0"]);
    tree.link("dev/mapper/vg-root", "../dm-0");
    tree.file("proc/swaps", "Filename Type Size\n/dev/mapper/vg-root partition 1\n");
    mounts(&tree, &["27 1 253:0 / /srv rw - xfs /dev/mapper/vg-root rw"]);
    let wanted = [
        "nvme0n1p1 is part of md0",
        "md0 is part of dm-0",
        "dm-0 is mounted at /srv",
        "dm-0 is swap space",
    ];
    assert_eq!(uses(&tree, NVME), wanted);
}

#[test]
fn volumes_that_lie_on_each_other_end() {
    let tree = tree();
    volume(&tree, "dm-0", "253:0", &["nvme0n1"]);
    volume(&tree, "dm-1", "253:1", &["dm-0"]);
    tree.link("sys/devices/virtual/block/dm-1/holders/dm-0", "../../dm-0");
    let wanted = [
        "nvme0n1 is part of dm-0",
        "dm-0 is part of dm-1",
        "dm-1 is part of dm-0",
    ];
    assert_eq!(uses(&tree, NVME), wanted);
}

#[test]
fn a_namespace_on_many_paths_is_found_through_its_head() {
    let tree = tree();
    let path = Tree::function_path(bdf(GPU)).join("nvme/nvme1/nvme1c1n1");
    tree.link_to("sys/class/block/nvme1c1n1", &path);
    tree.directory(&path);
    let head = Path::new("sys/devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1");
    block(&tree, head, "259:7");
    block(&tree, &head.join("nvme1n1p1"), "259:8");
    mounts(&tree, &["27 1 259:8 / /data rw - ext4 /dev/nvme1n1p1 rw"]);
    assert_eq!(uses(&tree, GPU), ["nvme1n1p1 is mounted at /data"]);
    assert_eq!(uses(&tree, NVME), [""; 0]);
}

#[test]
fn many_mounts_are_counted() {
    let tree = tree();
    let lines: Vec<String> = (0..9)
        .map(|n| format!("{n} 1 259:0 / /m{n} rw - ext4 /dev/nvme0n1 rw"))
        .collect();
    mounts(&tree, &lines.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(
        uses(&tree, NVME),
        ["nvme0n1 is mounted at /m0, /m1, /m2, /m3 and 5 more"]
    );
}

#[test]
#[cfg(target_endian = "little")]
fn a_nic_with_routes_is_in_use_and_its_default_route_comes_first() {
    let tree = tree();
    tree.file(
        "proc/net/route",
        "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT\n\
         eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0\n\
         eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n\
         eth9 0000000A 00000000 0001 0 0 0 000000FF 0 0 0\n",
    );
    assert_eq!(uses(&tree, NIC), ["eth0 carries the routes default, 192.0.2.0/24"]);
}

#[test]
fn routes_of_ipv6_count_as_well() {
    let tree = tree();
    let zero = "0".repeat(32);
    tree.file(
        "proc/net/ipv6_route",
        &format!(
            "fe800000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001 eth0\n\
             fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001 eth0\n"
        ),
    );
    assert_eq!(uses(&tree, NIC), ["eth0 carries the route fd00::/64"]);
}

#[test]
#[cfg(target_endian = "little")]
fn a_nic_below_a_bond_carries_what_the_bond_carries() {
    let tree = tree();
    let nic = Tree::function_path(bdf(NIC)).join("net/eth0");
    tree.directory("sys/devices/virtual/net/bond0");
    tree.link_to("sys/class/net/bond0", "sys/devices/virtual/net/bond0");
    tree.link_to(nic.join("upper_bond0"), "sys/devices/virtual/net/bond0");
    tree.link_to(nic.join("master"), "sys/devices/virtual/net/bond0");
    tree.file(
        "proc/net/route",
        "Iface\nbond0 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n",
    );
    assert_eq!(
        uses(&tree, NIC),
        ["eth0 is below bond0", "bond0 carries the route default"]
    );
}

#[test]
fn interfaces_tell_whether_they_are_up() {
    let tree = tree();
    let is_up = |tree: &Tree| usage(tree).interfaces(bdf(NIC))[0].is_up;
    assert_eq!(is_up(&tree), Some(true));
    let flags = Tree::function_path(bdf(NIC)).join("net/eth0/flags");
    tree.file(&flags, "0x1002\n");
    assert_eq!(is_up(&tree), Some(false));
    tree.remove(&flags);
    assert_eq!(is_up(&tree), None);
}

#[test]
fn the_display_of_the_firmware_and_of_the_console_are_in_use() {
    let tree = tree();
    tree.file(Tree::function_path(bdf(GPU)).join("boot_vga"), "1\n");
    tree.class_device(bdf(GPU), "graphics", "fb0");
    assert_eq!(uses(&tree, GPU), ["it is the display that the machine booted with"]);
    tree.file("sys/class/vtconsole/vtcon1/name", "(M) frame buffer device\n");
    tree.file("sys/class/vtconsole/vtcon1/bind", "1\n");
    assert_eq!(
        uses(&tree, GPU),
        [
            "it is the display that the machine booted with",
            "the console is on fb0"
        ]
    );
    tree.file("sys/class/vtconsole/vtcon1/bind", "0\n");
    tree.file(Tree::function_path(bdf(GPU)).join("boot_vga"), "0\n");
    assert_eq!(uses(&tree, GPU), [""; 0]);
}

#[test]
fn what_cannot_be_read_is_named() {
    let tree = tree();
    tree.remove("proc/self/mountinfo");
    let unknown = usage(&tree).unknown;
    assert_eq!(unknown.len(), 1);
    assert!(unknown[0].path().ends_with("proc/self/mountinfo"));
}

#[test]
fn disks_are_asked_for_until_one_does_not_answer() {
    let tree = tree();
    let claimed = |device: &str| Use::Claimed {
        device: device.to_owned(),
    };
    let mut machine = fake::Machine::new();
    let fault = |file: &str, effect| Fault {
        file: file.to_owned(),
        write: false,
        after: 0,
        effect,
    };
    // The disk first, then its partitions.
    machine.faults = vec![
        fault("nvme0n1", Effect::Errno(rustix::io::Errno::BUSY.raw_os_error())),
        fault("nvme0n1p1", Effect::Errno(rustix::io::Errno::NOENT.raw_os_error())),
        fault("nvme0n1p2", Effect::Hang),
    ];
    let mut found = usage(&tree);
    found.ask_for_disks(&mut machine, Duration::ZERO, &[bdf(NIC), bdf(NVME), bdf(GPU)]);
    assert_eq!(found.of(bdf(NVME)), [claimed("nvme0n1")]);
    assert_eq!(found.unknown, [Reason::TimedOut.at("dev/nvme0n1p2")]);

    let hangs = fault("nvme0n1", Effect::Hang);
    let not_reached = fault("nvme0n1p1", Effect::Errno(rustix::io::Errno::BUSY.raw_os_error()));
    machine.faults = vec![hangs, not_reached.clone()];
    let mut found = usage(&tree);
    found.ask_for_disks(&mut machine, Duration::ZERO, &[bdf(NVME)]);
    assert_eq!(found.of(bdf(NVME)), []);
    assert_eq!(machine.faults, [not_reached]);
}

#[test]
fn a_route_in_another_table_is_a_use_also_of_what_lies_below_its_interface() {
    let tree = tree();
    let nic = Tree::function_path(bdf(NIC)).join("net/eth0");
    tree.directory("sys/devices/virtual/net/vlan9");
    tree.file("sys/devices/virtual/net/vlan9/ifindex", "12\n");
    tree.link_to("sys/class/net/vlan9", "sys/devices/virtual/net/vlan9");
    tree.link_to(nic.join("upper_vlan9"), "sys/devices/virtual/net/vlan9");
    tree.file(nic.join("ifindex"), "2\n");
    let routes = |interface, destination: &str| PolicyRoutes {
        interface,
        destinations: vec![destination.to_owned()],
        count: 1,
    };
    let mut machine = fake::Machine::new();
    machine.policy_routes = vec![
        routes(2, "10.0.0.0/8 (table 7)"),
        routes(3, "10.9.0.0/16 (table 7)"),
        routes(12, "default (table 8)"),
    ];
    let mut found = usage(&tree);
    let before = found.of(bdf(NIC)).len();
    found.ask_for_routes(&tree.sysfs(), &mut machine, Duration::ZERO, &[bdf(NIC)]);
    let added: Vec<_> = found
        .of(bdf(NIC))
        .iter()
        .skip(before)
        .map(ToString::to_string)
        .collect();
    let wanted = [
        "eth0 carries the route 10.0.0.0/8 (table 7)",
        "vlan9 carries the route default (table 8)",
    ];
    assert_eq!(added, wanted);
    assert_eq!(found.of(bdf(NVME)), []);
    // Nobody is asked for the sake of a disk, and who does not answer is named.
    machine.faults = vec![Fault {
        file: "routes".to_owned(),
        write: false,
        after: 0,
        effect: Effect::Hang,
    }];
    let mut found = usage(&tree);
    found.ask_for_routes(&tree.sysfs(), &mut machine, Duration::ZERO, &[bdf(NVME)]);
    assert_eq!(found.unknown, []);
    found.ask_for_routes(&tree.sysfs(), &mut machine, Duration::ZERO, &[bdf(NIC)]);
    assert_eq!(found.unknown[0].reason(), &Reason::TimedOut);
}

#[test]
fn what_a_captured_tree_does_not_tell_is_not_asked_of_this_machine() {
    let tree = tree();
    let mut machine = fake::Machine::new();
    let mut found = usage(&tree);
    found.ask(&tree.sysfs(), &mut machine, Duration::ZERO, &[bdf(NVME), bdf(NIC)]);
    assert_eq!(machine.accesses, 0);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 32, failure_persistence: None, ..Default::default() })]
    #[test]
    fn no_text_in_proc_makes_the_reader_panic(text in "[ -~\t\n\\\\]{0,200}") {
        let tree = tree();
        for file in ["proc/self/mountinfo", "proc/swaps", "proc/net/route", "proc/net/ipv6_route"] {
            tree.file(file, &text);
        }
        drop(usage(&tree));
    }
}
