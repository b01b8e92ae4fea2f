//! Captured trees are input from strangers: nothing in them may confuse the program or the terminal.

use crate::machine::{Machine, bdf};
use std::os::unix::fs::symlink;
use system_tests::tree::{Node, Tree};

const READING: [&[&str]; 6] = [
    &["list"],
    &["tree"],
    &["show", "*:*"],
    &["groups"],
    &["status"],
    &["list", "-P"],
];

#[test]
fn names_with_control_characters_do_not_reach_the_terminal() {
    let machine = Machine::new();
    let device = machine.root().join(machine.tree.file(bdf("01:01.4"), "driver"));
    symlink("../../../../bus/pci/drivers/\u{1b}[2Jevil", device).unwrap();
    machine.write("proc/4711/comm", "\u{1b}]0;title\u{7}\n");
    for arguments in READING {
        let ran = machine.run(arguments);
        let is_clean = |text: &str| !text.contains(|c: char| c.is_control() && c != '\n');
        assert!(is_clean(&ran.stdout) && is_clean(&ran.stderr), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn functions_that_lie_below_each_other_are_all_drawn_once() {
    let directory = tempfile::tempdir().unwrap();
    let bridge = Node::port(bdf("00:01.0"), None, 1, 1);
    let pf = Node::nic(bdf("01:00.0"), bridge.bdf, "eth0").with_room_for(8, 8, 0x1889);
    let tree = Tree::of(directory.path(), &[bridge.clone(), pf.clone()]).unwrap();
    // The bridge claims to be a VF of the PF below it.
    tree.link(tree.file(bridge.bdf, "physfn"), tree.file(pf.bdf, ""))
        .unwrap();
    tree.link(tree.file(pf.bdf, "virtfn0"), tree.file(bridge.bdf, ""))
        .unwrap();
    let output = crate::machine::program()
        .args(["tree", "--sysroot"])
        .arg(directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    for function in ["0000:00:01.0", "0000:01:00.0"] {
        assert_eq!(text.matches(function).count(), 1, "{text}");
    }
}

#[test]
fn a_tree_of_garbage_is_shown_as_far_as_it_goes() {
    let machine = Machine::new();
    for name in [
        "class",
        "vendor",
        "modalias",
        "resource",
        "config",
        "numa_node",
        "power_state",
        "reset_method",
    ] {
        for function in ["01:00.0", "01:01.1", "00:01.0"] {
            machine
                .tree
                .write(
                    machine.tree.file(bdf(function), name),
                    [0xff_u8, 0, b'\n', b'x'].repeat(50),
                )
                .unwrap();
        }
    }
    for arguments in READING {
        let ran = machine.run(arguments);
        assert_eq!(ran.code, Some(0), "{arguments:?}: {}", ran.stderr);
        let ran = machine.run(&[arguments, &["--json"]].concat());
        assert_eq!(ran.json()["schema_version"], 1, "{arguments:?}");
    }
}
