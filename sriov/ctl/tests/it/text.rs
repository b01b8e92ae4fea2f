//! What people see: help and tables, as committed snapshots.

use crate::machine::{Machine, Ran, bdf, program};

fn help(arguments: &[&str]) -> String {
    Ran::from(program().args(arguments).output().unwrap()).all()
}

#[test]
fn short_help() {
    insta::assert_snapshot!(help(&["-h"]));
}

#[test]
fn long_help() {
    insta::assert_snapshot!(help(&["--help"]));
}

#[test]
fn markdown_of_all_commands() {
    insta::assert_snapshot!(help(&["util", "markdown"]));
}

#[test]
fn list() {
    insta::assert_snapshot!(Machine::new().run(&["list"]).all());
}

#[test]
fn list_with_chosen_columns_sorted_and_filtered() {
    let arguments = [
        "list",
        "-o",
        "bdf,vf,holder",
        "-s",
        "vf",
        "--filter",
        "role=vf,driver!=iavf",
    ];
    insta::assert_snapshot!(Machine::new().run(&arguments).all());
}

#[test]
fn list_as_pairs() {
    insta::assert_snapshot!(
        Machine::new()
            .run(&["list", "-P", "-o", "bdf,sriov,devices", "ens1f0", "nvme0"])
            .all()
    );
}

#[test]
fn list_free() {
    insta::assert_snapshot!(Machine::new().run(&["list", "--free", "-n"]).all());
}

#[test]
fn columns() {
    insta::assert_snapshot!(Machine::new().run(&["list", "--columns"]).all());
}

#[test]
fn tree() {
    insta::assert_snapshot!(Machine::new().run(&["tree"]).all());
}

#[test]
fn tree_of_some_functions_in_ascii() {
    insta::assert_snapshot!(Machine::new().run(&["tree", "--ascii", "ens1f0#1", "nvme0"]).all());
}

/// The page of a function without decoded registers, whose text is not this program's.
fn show(selector: &str) -> String {
    let ran = Machine::new().run(&["show", selector]);
    let lines = ran.stdout.lines().filter(|line| !line.starts_with("    "));
    format!("{}\n{}", lines.collect::<Vec<_>>().join("\n"), ran.stderr)
}

#[test]
fn show_a_pf() {
    insta::assert_snapshot!(show("ens1f0"));
}

#[test]
fn show_a_vf_that_is_held() {
    insta::assert_snapshot!(show("01:01.0"));
}

#[test]
fn show_a_function_without_isolation() {
    insta::assert_snapshot!(show("nvme0"));
}

#[test]
fn help_of_a_command_is_found_in_two_ways() {
    let pages = [&["help", "vf", "create"][..], &["vf", "create", "--help"]].map(help);
    assert_eq!(pages[0], pages[1]);
    assert!(pages[0].starts_with("exit 0\n"), "{}", pages[0]);
    assert!(pages[0].contains("Create virtual functions"), "{}", pages[0]);
    assert_eq!(help(&["help"]), help(&["--help"]));
}

#[test]
fn a_vf_shows_no_blank_registers_as_its_ids() {
    let machine = Machine::new();
    let vf = machine.run(&["show", "01:01.0"]).stdout;
    assert!(!vf.contains("device=0xffff"), "{vf}");
    assert!(vf.contains("id         8086:1889"), "{vf}");
    assert!(vf.contains("§9.3.4.1.1"), "{vf}");
    let pf = machine.run(&["show", "ens1f0"]).stdout;
    assert!(pf.contains("vendor=0x8086") && !pf.contains("§9.3.4.1.1"), "{pf}");
}

#[test]
fn a_configuration_space_without_capabilities_says_who_may_read_them() {
    let machine = Machine::new();
    let config = machine.root().join(machine.tree.file(bdf("01:00.0"), "config"));
    assert!(!machine.run(&["show", "ens1f0"]).stdout.contains("need root"));
    std::fs::File::options()
        .write(true)
        .open(config)
        .unwrap()
        .set_len(64)
        .unwrap();
    let shown = machine.run(&["show", "ens1f0"]).stdout;
    assert!(
        shown.contains("config     64 bytes; capabilities need root to be read"),
        "{shown}"
    );
}

#[test]
fn groups() {
    insta::assert_snapshot!(Machine::new().run(&["groups"]).all());
}

#[test]
fn status() {
    insta::assert_snapshot!(Machine::new().run(&["status"]).all());
}

#[test]
fn emit() {
    let machine = Machine::new();
    let texts = ["qemu", "cloud-hypervisor", "libvirt", "crosvm", "firecracker"]
        .map(|format| machine.run(&["emit", format, "01:01.1"]).all());
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn emit_with_iommufd_where_its_nodes_are() {
    let machine = Machine::new();
    machine.write("dev/iommu", "");
    machine.write("dev/vfio/devices/vfio1", "");
    insta::assert_snapshot!(machine.run(&["emit", "qemu", "01:01.1", "01:01.2"]).all());
}

#[test]
fn emit_documents() {
    let machine = Machine::new();
    machine.write("proc/sys/kernel/hostname", "node-7\n");
    let formats = ["cdi", "systemd", "k8s-device-plugin", "k8s-sriov-policy", "kubevirt"];
    let texts = formats.map(|format| machine.run(&["emit", format, "01:01.0", "01:01.1"]).all());
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn a_unit_for_a_pf_makes_all_its_vfs() {
    let machine = Machine::new();
    let unit = machine.run(&["emit", "systemd", "ens1f0"]).stdout;
    assert!(unit.contains("ExecStart=sriovctl vf create 0000:01:00.0 5\n"), "{unit}");
    assert!(unit.contains("ExecStop=sriovctl vf delete 0000:01:00.0\n"), "{unit}");
}

#[test]
fn run_shows_its_command() {
    let arguments = [
        "run",
        "--vmm",
        "qemu",
        "01:01.1",
        "-N",
        "--kernel",
        "vmlinuz",
        "--append",
        "console=ttyS0 quiet",
        "--",
        "-S",
    ];
    insta::assert_snapshot!(Machine::new().run(&arguments).all());
}

#[test]
fn run_shows_what_its_own_guest_would_get() {
    let machine = Machine::new();
    machine.write("dev/iommu", "");
    machine.write("dev/vfio/devices/vfio1", "");
    let run = |arguments: &[&str]| {
        machine
            .run(&[&["run", "-N", "--kernel", "vmlinuz"], arguments].concat())
            .all()
    };
    let texts = [
        run(&[
            "01:01.1",
            "--append",
            "console=ttyS0 quiet",
            "--memory",
            "2G",
            "--cpus",
            "4",
        ]),
        run(&["--control", "/run/guest", "--hugepages", "1G", "--interface", "type1"]),
        run(&["01:01.1", "--device", "01:01.1"]),
        run(&["01:01.1", "--accel", "tcg"]),
        machine.run(&["run", "-N", "01:01.1"]).all(),
    ];
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn run_shows_the_nodes_and_slots_of_its_own_guest() {
    let machine = Machine::without_holder();
    machine.write("dev/iommu", "");
    for node in ["vfio0", "vfio1"] {
        machine.write(&format!("dev/vfio/devices/{node}"), "");
    }
    machine.write("sys/devices/system/node/has_memory", "0-1\n");
    let run = |arguments: &str| {
        let words = arguments.split_whitespace().collect::<Vec<_>>();
        let ran = machine.run(&[&["run", "-N", "--kernel", "vmlinuz"], words.as_slice()].concat());
        format!("$ sriovctl run {arguments}\n{}", ran.all())
    };
    let texts = [
        "01:01.1 --device 01:01.0,slot=2 --numa cpus=0-1,memory=512M,host=1 --numa cpus=2,memory=1G,host=0",
        "--device 01:01.1,slot=1.1 --device 01:01.0,slot=1.0 --numa 2 --cpus 2",
        "--device 01:01.1,slot=1.1 01:01.0",
        "--device 01:01.1,slot=32",
        "01:01.1 --numa host=2",
        "01:01.1 --vmm qemu --numa 2",
        "--device 01:01.1,slot=1 --vmm qemu",
        "01:01.1 --qemu ./qemu",
        "01:01.1 --vf-token bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3",
        "--device 01:01.1,token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3",
    ];
    insta::assert_snapshot!(texts.map(run).join("\n"));
}

#[test]
fn a_vf_of_a_pf_on_vfio_pci_is_given_away_with_its_token_only() {
    let machine = Machine::new();
    let driver = machine.tree.file(bdf("01:00.0"), "driver");
    std::fs::remove_file(machine.root().join(&driver)).unwrap();
    machine.tree.link(driver, "sys/bus/pci/drivers/vfio-pci").unwrap();
    let said = |arguments: &str| {
        let ran = machine.run(&arguments.split_whitespace().collect::<Vec<_>>());
        format!("$ sriovctl {arguments}\n{}", ran.all())
    };
    let token = "bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3";
    let texts = [
        "run -N --kernel vmlinuz 01:01.1".to_owned(),
        format!("run -N --kernel vmlinuz 01:01.1 --vf-token {token}"),
        format!("run -N --kernel vmlinuz --device 01:01.1,token={token}"),
        format!("run -N --vmm qemu 01:01.1 --vf-token {token}"),
        "run -N --kernel vmlinuz 01:01.1 --vf-token secret".to_owned(),
        "assign -N 01:01.1 --to sriovctl:/run/control".to_owned(),
        format!("assign -N 01:01.1 --to sriovctl:/run/control --vf-token {token}"),
        format!("assign -N 01:01.1 --to qemu:/run/qmp --vf-token {token}"),
        format!("assign -N 01:01.1 --to libvirt:web --vf-token {token}"),
    ];
    insta::assert_snapshot!(texts.map(|text| said(&text)).join("\n"));
}

#[test]
fn assign_shows_what_it_would_say() {
    let machine = Machine::new();
    machine.write("dev/iommu", "");
    machine.write("dev/vfio/devices/vfio1", "");
    let said = |arguments: &[&str]| machine.run(&[arguments, &["-N"]].concat()).all();
    let targets = [
        "qemu:/run/qmp",
        "cloud-hypervisor:/run/api",
        "libvirt:web",
        "sriovctl:/run/control",
    ];
    let mut texts: Vec<String> = targets
        .iter()
        .map(|to| said(&["assign", "01:01.1", "--to", to]))
        .collect();
    texts.push(said(&[
        "assign",
        "01:01.1",
        "--to",
        targets[0],
        "--interface",
        "type1",
        "--bus",
        "port1",
    ]));
    texts.extend(
        targets[..3]
            .iter()
            .map(|from| said(&["unassign", "01:01.0", "--from", from])),
    );
    insta::assert_snapshot!(texts.join("\n"));
}

#[test]
fn plan_to_bind() {
    insta::assert_snapshot!(
        Machine::new()
            .run(&["plan", "bind", "01:01.4", "--driver", "vfio-pci"])
            .all()
    );
}

#[test]
fn refusals() {
    let machine = Machine::new();
    let refused: &[&[&str]] = &[
        &["plan", "vf", "delete", "ens1f0"],
        &["plan", "vf", "create", "ens1f0", "3"],
        &["plan", "unbind", "01:01.0"],
        &["plan", "unbind", "nvme0"],
        &["plan", "release", "01:01.0", "ens7"],
        &["plan", "bind", "01:01.4", "--driver", "vfio-pic"],
        &["plan", "vf", "create", "nvme0", "1"],
        &["run", "--vmm", "qemu", "01:01.0", "-N"],
        &["run", "--vmm", "qemu", "01:01.2", "-N"],
        &["run", "--vmm", "qemu", "01:01.4", "-N"],
        &["run", "--vmm", "qemu", "10000:e0:01.0", "-N"],
        &["assign", "01:01.0", "--to", "qemu:/run/qmp", "-N"],
        &["assign", "01:01.1", "--to", "qemu:/run/qmp"],
        &["assign", "01:01.1", "--to", "libvirt:web", "--bus", "port1", "-N"],
        &["assign", "01:01.1", "--to", "xen:web", "-N"],
        &["emit", "crosvm", "01:01.1", "--interface", "iommufd"],
        &["emit", "cdi", "01:01.4"],
        &["emit", "k8s-device-plugin", "nvme0"],
        &["list", "ens1f1"],
        &["list", "--filter", "drivr=igb"],
        &["explain", "s77"],
    ];
    let mut text = String::new();
    for arguments in refused {
        text += &format!("$ sriovctl {}\n{}\n", arguments.join(" "), machine.run(arguments).all());
    }
    insta::assert_snapshot!(text);
}

#[test]
fn explain() {
    insta::assert_snapshot!(help(&["explain", "B06"]));
}

#[test]
fn a_dump_of_lspci() {
    let dump = "00:03.0 Ethernet controller: Red Hat\n\
                00: f4 1a 41 10 06 04 10 00 01 00 00 02 00 00 00 00\n\
                10: 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00\n\
                20: 00 00 00 00 00 00 00 00 00 00 00 00 f4 1a 01 00\n\
                30: 00 00 00 00 40 00 00 00 00 00 00 00 0b 01 00 00\n\
                40: 05 00 80 00 00 00 00 00 00 00 00 00 00 00 00 00\n\n";
    let machine = Machine::new();
    machine.write("dump.txt", dump);
    let file = machine.root().join("dump.txt");
    insta::assert_snapshot!(machine.run(&["show", "-F", file.to_str().unwrap()]).all());
}
