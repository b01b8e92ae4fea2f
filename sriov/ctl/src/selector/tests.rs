use super::*;
use system_tests::tree::{ClassNode, Node, Tree};
use tempfile::TempDir;

struct Machine {
    _directory: TempDir,
    tree: Tree,
    topology: Topology,
}

/// A NIC with eight VFs of which four are enabled, and a drive; the NIC has a representor for its VF 0.
fn machine() -> Machine {
    let bdf = |text: &str| -> Bdf { text.parse().unwrap() };
    let directory = tempfile::tempdir().unwrap();
    let port = Node::port(bdf("00:01.0"), None, 1, 2);
    let mut nic = Node::nic(bdf("01:00.0"), port.bdf, "ens1f0").with_room_for(8, 8, 0x1889);
    nic.class_devices.push(ClassNode {
        path: "net/eth9".to_owned(),
        class: "net",
    });
    let vfs = (0..4)
        .filter_map(|index| nic.vf(index))
        .map(|vf| Node { group: Some(22), ..vf });
    let mut nodes = vec![port.clone(), nic.clone()];
    nodes.extend(vfs);
    nodes.push(Node::nvme(bdf("02:00.0"), port.bdf, 0));
    let tree = Tree::of(directory.path(), &nodes).unwrap();
    tree.write("sys/class/net/eth9/phys_port_name", "pf0vf0\n").unwrap();
    let topology = Topology::read(&tree.sysfs()).unwrap();
    Machine {
        _directory: directory,
        tree,
        topology,
    }
}

/// What selectors mean, as short addresses, and what did not match.
fn resolve_texts(machine: &Machine, texts: &[&str]) -> Result<(Vec<String>, Vec<String>), Failure> {
    let selectors: Vec<Selector> = texts.iter().map(|text| text.parse().unwrap()).collect();
    let selection = resolve(&selectors, &machine.topology, &machine.tree.sysfs())?;
    let found = selection
        .functions
        .iter()
        .map(|bdf| bdf.routing_id.to_string())
        .collect();
    Ok((found, selection.unmatched))
}

fn found(machine: &Machine, text: &str) -> Vec<String> {
    resolve_texts(machine, &[text])
        .map(|(found, _)| found)
        .unwrap_or_default()
}

#[test]
fn every_form_of_the_grammar_selects_what_it_says() {
    let machine = machine();
    let vfs = ["01:01.0", "01:01.1", "01:01.2", "01:01.3"];
    for (text, expected) in [
        ("0000:01:00.0", &["01:00.0"][..]),
        ("01:00.0", &["01:00.0"]),
        ("ens1f0", &["01:00.0"]),
        ("nvme0n1", &["02:00.0"]),
        ("ens1f0#1-2", &["01:01.1", "01:01.2"]),
        ("01:00.0#3", &["01:01.3"]),
        ("pf:ens1f0", &vfs),
        ("pf:0000:01:00.0", &vfs),
        ("id:8086:1889", &vfs),
        ("id:144d", &["02:00.0"]),
        ("group:22", &vfs),
        ("class:nvme", &["02:00.0"]),
        ("class:06", &["00:01.0"]),
        ("0000:01:01.?", &vfs),
        ("01:01.*", &vfs),
        ("ens*", &["01:00.0"]),
        ("pf:ens*", &vfs),
    ] {
        assert_eq!(found(&machine, text), expected, "{text}");
    }
}

#[test]
fn a_function_that_is_named_twice_is_selected_once() {
    let machine = machine();
    let (found, _) = resolve_texts(&machine, &["ens1f0", "01:00.0", "id:8086:1592"]).unwrap();
    assert_eq!(found, ["01:00.0"]);
}

#[test]
fn a_representor_does_not_name_the_pf() {
    let machine = machine();
    assert!(found(&machine, "eth9").is_empty());
    assert_eq!(found(&machine, "e*"), ["01:00.0"]);
    machine.tree.write("sys/class/net/eth9/phys_port_name", "p0\n").unwrap();
    assert_eq!(found(&machine, "eth9"), ["01:00.0"]);
}

#[test]
fn nothing_matched_names_what_is_similar() {
    let failure = resolve_texts(&machine(), &["ens1f1"]).unwrap_err();
    assert_eq!((failure.exit, failure.code), (Exit::NoMatch, Some("C01")));
    assert_eq!(failure.hints, ["did you mean ens1f0?"]);
    let failure = resolve_texts(&machine(), &["ens1f0#6"]).unwrap_err();
    assert_eq!(failure.hints, ["ens1f0 has 4/8 VFs"]);
    let failure = resolve_texts(&machine(), &["group:7"]).unwrap_err();
    assert_eq!(failure.hints, ["list what is there: sriovctl list"]);
}

#[test]
fn what_matched_in_part_is_told() {
    let machine = machine();
    let (found, unmatched) = resolve_texts(&machine, &["nvme0", "ens1f0#2-5"]).unwrap();
    assert_eq!(found, ["01:01.2", "01:01.3", "02:00.0"]);
    assert_eq!(unmatched, ["ens1f0#2-5"]);

    let selectors = ["nvme0", "nvme7"].map(|text| text.parse::<Selector>().unwrap());
    let selection = resolve(&selectors, &machine.topology, &machine.tree.sysfs()).unwrap();
    assert_eq!(selection.exit(), Exit::PartialMatch);
    let refused = selection.complete(&machine.topology).unwrap_err();
    assert_eq!(refused.exit, Exit::PartialMatch);
}

#[test]
fn one_function_is_one_function() {
    let machine = machine();
    let one = |text: &str| resolve_one(&text.parse().unwrap(), &machine.topology, &machine.tree.sysfs());
    assert_eq!(one("ens1f0").unwrap().to_string(), "0000:01:00.0");
    assert_eq!(one("pf:ens1f0").unwrap_err().exit, Exit::Usage);
    assert_eq!(one("ens7").unwrap_err().exit, Exit::NoMatch);
}

#[test]
fn text_that_is_no_selector_is_refused() {
    for text in [
        "",
        "a b",
        "a/b",
        "0:1.0",
        "01:00.8",
        "id:",
        "id:80",
        "id:8086:",
        "group:x",
        "class:foo",
        "ens1f0#",
        "ens1f0#3-1",
        "ens1f0#a",
        "pf:",
    ] {
        assert!(text.parse::<Selector>().is_err(), "{text:?}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_a_selector_or_an_error(text in ".{0,40}") {
        if let Ok(selector) = text.parse::<Selector>() {
            proptest::prop_assert_eq!(selector.to_string(), text);
        }
    }
}
