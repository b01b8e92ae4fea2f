//! Agreement with pciutils on a generated machine.

use super::Machine;
use pci::{Function, Names, Sysfs, Topology};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use system_tests::tree::server;

/// The records that `lspci -vmm` prints for a tree, by slot; `None` where there is no lspci.
fn lspci(root: &Path, options: &str) -> Option<BTreeMap<String, BTreeMap<String, String>>> {
    let path = format!("sysfs.path={}", root.join("sys/bus/pci").display());
    let mut command = Command::new("lspci");
    // udev's database, where there is one, answers otherwise than pci.ids.
    let arguments = ["-A", "linux-sysfs", "-O", &path, "-O", "hwdb.disable=1", options];
    let output = match command.args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            #[expect(clippy::print_stdout, reason = "how a test says that it was skipped")]
            {
                println!("lab-skip: lspci: {error}");
            }
            return None;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let record = |record: &str| -> BTreeMap<String, String> {
        let fields = record.lines().filter_map(|line| line.split_once(":\t"));
        fields.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    let records = text.split("\n\n").map(record).filter(|record| !record.is_empty());
    Some(
        records
            .map(|record| (record.get("Slot").cloned().unwrap_or_default(), record))
            .collect(),
    )
}

fn read(machine: &Machine) -> BTreeMap<String, Function> {
    let topology: Topology = machine.read();
    topology
        .functions()
        .map(|function| (function.bdf.to_string(), function.clone()))
        .collect()
}

#[test]
fn lspci_sees_the_same_functions_ids_drivers_nodes_and_groups() {
    let machine = Machine::of(&server(220));
    let Some(records) = lspci(machine.tree.root(), "-Dvmmnk") else {
        return;
    };
    let functions = read(&machine);
    assert!(records.keys().eq(functions.keys()));
    for (slot, function) in functions {
        let class = function.class.unwrap();
        let mut expected = BTreeMap::from([
            ("Slot", slot.clone()),
            ("Class", format!("{:02x}{:02x}", class.base(), class.sub())),
            ("Vendor", function.vendor.unwrap().to_string()),
            ("Device", function.device.unwrap().to_string()),
            ("Rev", format!("{:02x}", function.revision.unwrap())),
        ]);
        if let Some(subsystem) = function.subsystem.unwrap() {
            expected.extend([
                ("SVendor", subsystem.vendor.to_string()),
                ("SDevice", subsystem.device.to_string()),
            ]);
        }
        expected.extend(function.driver.unwrap().map(|driver| ("Driver", driver)));
        expected.extend(function.numa_node.unwrap().map(|node| ("NUMANode", node.to_string())));
        expected.extend(
            function
                .iommu_group
                .unwrap()
                .map(|group| ("IOMMUGroup", group.to_string())),
        );
        let mut seen = records[&slot].clone();
        // Printed unless it is 0, and by newer versions always.
        seen.retain(|key, _| !["ProgIf", "Module", "PhySlot", "DTNode"].contains(&key.as_str()));
        assert!(
            seen.iter()
                .map(|(key, value)| (key.as_str(), value))
                .eq(expected.iter().map(|(k, v)| (*k, v))),
            "{seen:?} {expected:?}"
        );
    }
}

#[test]
fn lspci_gives_the_same_names_from_the_same_database() {
    let machine = Machine::of(&server(110));
    let Some(records) = lspci(machine.tree.root(), "-Dvmm") else {
        return;
    };
    let host = Sysfs::host();
    let names = Names::read(&host);
    if names.version() == Names::built_in().version() {
        #[expect(clippy::print_stdout, reason = "how a test says that it was skipped")]
        {
            println!("lab-skip: no database of the system's that is newer than the built-in one");
        }
        return;
    }
    let mut compared = 0;
    for (slot, function) in read(&machine) {
        let (vendor, device, class) = (
            function.vendor.unwrap(),
            function.device.unwrap(),
            function.class.unwrap(),
        );
        let record = &records[&slot];
        assert_eq!(names.class(class), Some(record["Class"].as_str()));
        assert_eq!(names.vendor(vendor), Some(record["Vendor"].as_str()));
        // Where its database has no name, lspci prints the number.
        if record["Device"] != format!("Device {device}") {
            assert_eq!(names.device(vendor, device), Some(record["Device"].as_str()));
            compared += 1;
        }
        if let Some(subsystem) = function.subsystem.unwrap()
            && record["SDevice"] != format!("Device {}", subsystem.device)
        {
            assert_eq!(
                names.subsystem(vendor, device, subsystem),
                Some(record["SDevice"].as_str()),
                "{vendor}:{device}, board {subsystem}"
            );
        }
    }
    assert!(compared > 0);
}
