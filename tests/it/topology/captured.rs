//! Trees captured from machines (`cargo run -p pci --example capture`) and this machine.

use super::relations::assert_relations;
use pci::{Function, Names, Sysfs, Topology};
use std::fmt::Write;
use std::path::Path;
use system_tests::tree::unpack;

/// One paragraph per function.
fn summary(topology: &Topology) -> String {
    let names = Names::built_in();
    let mut text = String::new();
    for function in topology.functions() {
        describe(&mut text, function, &names).unwrap();
    }
    text
}

fn describe(text: &mut String, function: &Function, names: &Names) -> std::fmt::Result {
    let (vendor, device) = (function.vendor.clone().unwrap(), function.device.clone().unwrap());
    let class = function.class.clone().unwrap();
    writeln!(
        text,
        "{} {class} {vendor}:{device} {}",
        function.bdf,
        names.class(class).unwrap_or_default()
    )?;
    let name = [names.vendor(vendor), names.device(vendor, device)].map(Option::unwrap_or_default);
    writeln!(text, "  {}", name.join(" "))?;
    writeln!(
        text,
        "  parent {:?} driver {:?} group {:?} numa {:?}",
        function.parent, function.driver, function.iommu_group, function.numa_node
    )?;
    writeln!(text, "  link {:?}", function.link)?;
    writeln!(text, "  sriov {:?} vf of {:?}", function.sriov, function.vf_of)?;
    writeln!(
        text,
        "  ari {:?} reset {:?} power {:?}",
        function.ari, function.reset_methods, function.power_state
    )?;
    for bar in function.bars.iter().flatten() {
        writeln!(
            text,
            "  {} {:#x} {} bytes {:?}",
            bar.index, bar.start, bar.len_bytes, bar.flags
        )?;
    }
    for device in function.class_devices.iter().flatten() {
        writeln!(text, "  {device}")?;
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the file belongs to the tests")]
fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_captured_machine_is_read_as_it_was() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/sysfs");
    let mut seen = 0;
    for entry in std::fs::read_dir(fixtures).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "sysfs") {
            continue;
        }
        let root = tempfile::tempdir().unwrap();
        unpack(&text(&path), root.path()).unwrap();
        let sysfs = Sysfs::at(root.path());
        let topology = Topology::read(&sysfs).unwrap();
        assert_relations(&topology);
        assert!(topology.oddities().is_empty(), "{:?}", topology.oddities());
        assert!(
            topology
                .functions()
                .all(|function| function.config(&sysfs).is_ok_and(|config| config.header().is_ok()))
        );
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        insta::assert_snapshot!(name, summary(&topology));
        seen += 1;
    }
    assert!(seen > 0);
}

#[test]
fn this_machine_is_read() {
    let topology = match Topology::read(&Sysfs::host()) {
        Ok(topology) => topology,
        Err(error) => {
            #[expect(clippy::print_stdout, reason = "how a test says that it was skipped")]
            {
                println!("lab-skip: {error}");
            }
            return;
        }
    };
    assert_relations(&topology);
    assert!(topology.oddities().is_empty(), "{:?}", topology.oddities());
    assert!(
        topology
            .functions()
            .all(|function| function.vendor.is_ok() && function.class.is_ok())
    );
}
