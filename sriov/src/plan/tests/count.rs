//! Creating and deleting VFs.

use super::*;
use crate::Holder;
use std::path::PathBuf;

#[test]
fn vfs_for_vfio_are_made_without_drivers_and_bound_one_by_one() {
    let mut lab = Lab::new();
    let plan = lab.create(1, Some(&vfio())).unwrap();
    let wanted = [
        "0000:01:00.0: write sriov_drivers_autoprobe \"0\"",
        "0000:01:00.0: write sriov_numvfs \"1\"",
        "0000:01:00.0: wait for 1 virtfn links",
        "0000:01:00.0 VF 0: write driver_override \"vfio-pci\"",
        "0000:01:00.0 VF 0: write drivers/vfio-pci/bind",
        "0000:01:00.0 VF 0: wait for the group node in /dev/vfio",
        "0000:01:00.0 VF 0: wait for the device node in /dev/vfio/devices",
        "0000:01:00.0: write sriov_drivers_autoprobe \"1\"",
    ];
    assert_eq!(text(&plan), wanted);
    assert_eq!(plan.warnings, [""; 0]);
}

#[test]
fn device_nodes_are_awaited_only_where_the_kernel_makes_them() {
    let mut lab = Lab::new();
    lab.has_device_nodes = false;
    let plan = lab.create(2, Some(&vfio())).unwrap();
    assert!(!text(&plan).iter().any(|line| line.contains("/dev/vfio/devices")));
    assert!(text(&plan).iter().any(|line| line.contains("/dev/vfio")));
}

#[test]
fn autoprobe_that_is_off_already_stays_off() {
    let mut lab = Lab::new();
    lab.sriov().autoprobe = false;
    let plan = lab.create(1, Some(&vfio())).unwrap();
    assert!(!text(&plan).iter().any(|line| line.contains("autoprobe")));
    lab.apply(&plan);
    assert!(!lab.sriov().autoprobe);
}

#[test]
fn native_vfs_need_autoprobe_for_a_moment() {
    let mut lab = Lab::new();
    lab.sriov().autoprobe = false;
    let plan = lab.create(2, Some(&WantedDriver::Native)).unwrap();
    lab.apply(&plan);
    assert_eq!(lab.driver_of(vf(1)), Some("igbvf"));
    assert!(!lab.sriov().autoprobe);
}

#[test]
fn vfs_for_a_driver_of_the_host_are_made_without_drivers_and_never_forced() {
    for autoprobe in [false, true] {
        let mut lab = Lab::new();
        lab.sriov().autoprobe = autoprobe;
        let plan = lab.create(1, Some(&igbvf())).unwrap();
        let [off, on] = ["0", "1"].map(|value| format!("0000:01:00.0: write sriov_drivers_autoprobe \"{value}\""));
        let mut wanted = [
            "0000:01:00.0: write sriov_numvfs \"1\"",
            "0000:01:00.0: wait for 1 virtfn links",
            &on,
            "0000:01:00.0 VF 0: write drivers/igbvf/bind",
        ]
        .map(str::to_owned)
        .to_vec();
        if autoprobe {
            wanted.insert(0, off);
        } else {
            wanted.push(off);
        }
        assert_eq!(text(&plan), wanted);
        lab.apply(&plan);
        assert_eq!(lab.driver_of(vf(0)), Some("igbvf"));
        assert_eq!(lab.sriov().autoprobe, autoprobe);
    }
}

#[test]
fn vfs_without_a_driver_and_without_autoprobe_are_warned_of() {
    let mut lab = Lab::new();
    lab.sriov().autoprobe = false;
    let plan = lab.create(2, None).unwrap();
    assert_eq!(plan.steps.len(), 2);
    assert_eq!(
        plan.warnings,
        ["sriov_drivers_autoprobe of 0000:01:00.0 is 0: the VFs get no driver"]
    );
}

#[test]
fn a_pf_whose_interface_is_down_is_warned_of() {
    let mut lab = Lab::new();
    let tree = lab.tree();
    tree.file("sys/class/net/net0/flags", "0x1002\n");
    let plan = create_vfs(&lab.machine_in(&tree), pf(), NonZeroU16::MIN, None).unwrap();
    assert!(plan.warnings[0].starts_with("net0 is down"), "{:?}", plan.warnings);
}

#[test]
fn vfs_cannot_be_made_of_every_function_nor_in_every_number() {
    let mut lab = Lab::new();
    let kind = |result: Result<Plan, Error>| result.unwrap_err().kind;
    assert_eq!(kind(lab.create(9, None)), ErrorKind::TooManyVfs { wanted: 9, total: 8 });
    let machine = lab.machine();
    let of = |function: &str| kind(create_vfs(&machine, bdf(function), NonZeroU16::MIN, None));
    assert_eq!(of("00:01.0"), ErrorKind::NotPf);
    assert_eq!(of("7f:00.0"), ErrorKind::Gone);
    let unknown = lab.create(1, Some(&WantedDriver::Named("vfio_pci".to_owned())));
    let (name, similar) = ("vfio_pci".to_owned(), vec!["vfio-pci".to_owned()]);
    assert_eq!(kind(unknown), ErrorKind::UnknownDriver { name, similar });
    lab.fake.functions.get_mut(&pf()).unwrap().driver = None;
    assert_eq!(kind(lab.create(1, None)), ErrorKind::NoDriver { driver: None });
    let mut lab = Lab::with_vfs(3, None);
    assert_eq!(kind(lab.create(4, None)), ErrorKind::VfsExist { enabled: 3 });
}

#[test]
fn a_count_that_cannot_be_read_is_an_error_with_the_file() {
    let mut lab = Lab::new();
    let tree = lab.tree();
    tree.file("sys/bus/pci/devices/0000:01:00.0/sriov_totalvfs", "many\n");
    let error = create_vfs(&lab.machine_in(&tree), pf(), NonZeroU16::MIN, None).unwrap_err();
    assert!(
        matches!(&error.kind, ErrorKind::Malformed { found, .. } if found == "many"),
        "{error}"
    );
}

#[test]
fn vfio_needs_an_iommu_and_other_drivers_do_not() {
    let mut lab = Lab::new();
    lab.fake.functions.get_mut(&pf()).unwrap().group = None;
    assert_eq!(lab.create(1, Some(&vfio())).unwrap_err().kind, ErrorKind::NoIommu);
    let error = bind(&lab.machine(), &[pf()], &vfio()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoIommu);
    let plan = lab.create(1, Some(&igbvf())).unwrap();
    lab.apply(&plan);
    assert_eq!(lab.driver_of(vf(0)), Some("igbvf"));
}

#[test]
fn a_vf_that_a_process_holds_keeps_all_vfs() {
    let mut lab = Lab::with_vfs(3, Some(&vfio()));
    let tree = lab.tree();
    tree.process(4711, "qemu", &[(9, "/dev/vfio/258")]);
    let machine = lab.machine_in(&tree);
    let holder = Holder {
        function: Some(vf(1)),
        pid: 4711,
        command: "qemu".to_owned(),
        command_line: "/usr/bin/qemu -m 1G".to_owned(),
        path: PathBuf::from("/dev/vfio/258"),
    };
    let held = ErrorKind::Held { holders: vec![holder] };
    let wanted = Error::new(pf(), "write sriov_numvfs", held.clone());
    assert_eq!(delete_vfs(&machine, pf()).unwrap_err(), wanted);
    assert_eq!(check_loss(&tree, Loss::VirtualFunctions(pf())), Err(wanted));
    let named = check_loss(&tree, Loss::Nothing(pf()));
    assert_eq!(named.unwrap_err().kind, held);
    // The one beside it is free.
    release(&machine, &[vf(0)]).unwrap();
    let wanted = Error::new(vf(1), "write driver/unbind", held);
    assert_eq!(release(&machine, &[vf(0), vf(1)]).unwrap_err(), wanted);
    assert_eq!(check_loss(&tree, Loss::Driver(vf(1))), Err(wanted));
    assert_eq!(check_loss(&tree, Loss::Driver(vf(0))), Ok(()));
    assert_eq!(check_loss(&tree, Loss::Driver(bdf("7f:00.0"))), Ok(()));
}

#[test]
fn a_device_that_nobody_can_name_keeps_what_is_on_vfio() {
    let mut lab = Lab::with_vfs(2, Some(&vfio()));
    let tree = lab.tree();
    tree.process(4711, "dpdk", &[(9, "anon_inode:[vfio-device]")]);
    let machine = lab.machine_in(&tree);
    assert!(matches!(
        delete_vfs(&machine, pf()).unwrap_err().kind,
        ErrorKind::Held { .. }
    ));
    // It cannot be one that is not on VFIO.
    let mut lab = Lab::with_vfs(2, None);
    let tree = lab.tree();
    tree.process(4711, "dpdk", &[(9, "anon_inode:[vfio-device]")]);
    delete_vfs(&lab.machine_in(&tree), pf()).unwrap();
}

#[test]
#[cfg(target_endian = "little")]
fn a_refusal_names_everything_that_is_in_the_way() {
    let mut lab = Lab::with_vfs(2, None);
    let plan = bind(&lab.machine(), &[vf(1)], &vfio()).unwrap();
    lab.apply(&plan);
    let tree = lab.tree();
    tree.process(4711, "qemu", &[(9, "/dev/vfio/devices/vfio258")]);
    tree.file(
        "proc/net/route",
        "Iface\nnet1 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n",
    );
    let error = delete_vfs(&lab.machine_in(&tree), pf()).unwrap_err();
    let uses = [
        "0000:01:00.2: held by qemu (pid 4711) through /dev/vfio/devices/vfio258",
        "0000:01:00.1: net1 carries the route default",
    ];
    let uses = uses.map(str::to_owned).into();
    assert_eq!(error.kind, ErrorKind::InUse { uses });
}
