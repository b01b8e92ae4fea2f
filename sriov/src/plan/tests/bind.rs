//! Binding, unbinding and releasing.

use super::*;
use crate::fake::{Effect, Fault};

#[test]
fn a_pf_with_vfs_and_a_bridge_stay_where_they_are() {
    let mut lab = Lab::with_vfs(2, None);
    let machine = lab.machine();
    let wanted = ErrorKind::VfsExist { enabled: 2 };
    assert_eq!(bind(&machine, &[pf()], &vfio()).unwrap_err().kind, wanted);
    assert_eq!(unbind(&machine, &[pf()]).unwrap_err().kind, wanted);
    let error = unbind(&machine, &[bdf("00:01.0")]).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::InUse { .. }));
}

#[test]
fn a_pf_without_a_driver_but_with_vfs_gets_its_own_driver_back_and_no_other() {
    let mut lab = Lab::with_vfs(2, None);
    lab.fake.functions.get_mut(&pf()).unwrap().driver = None;
    let error = bind(&lab.machine(), &[pf()], &vfio()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::VfsExist { enabled: 2 });
    let plan = release(&lab.machine(), &[pf()]).unwrap();
    lab.apply(&plan);
    assert_eq!(lab.driver_of(pf()), Some("igb"));
}

#[test]
fn an_override_for_another_driver_is_corrected() {
    let mut lab = Lab::new();
    lab.fake.functions.get_mut(&pf()).unwrap().driver_override = "pci-stub".to_owned();
    let plan = bind(&lab.machine(), &[pf()], &WantedDriver::Named("igb".to_owned())).unwrap();
    assert_eq!(text(&plan), ["0000:01:00.0: write driver_override \"\""]);
}

#[test]
fn a_release_forgets_the_override_and_keeps_a_native_driver() {
    let mut lab = Lab::new();
    lab.fake.functions.get_mut(&pf()).unwrap().driver_override = "igb".to_owned();
    let plan = release(&lab.machine(), &[pf()]).unwrap();
    assert_eq!(text(&plan), ["0000:01:00.0: write driver_override \"\""]);
}

#[test]
fn a_driver_of_the_host_is_never_forced_onto_a_function() {
    let mut lab = Lab::new();
    lab.fake.functions.get_mut(&pf()).unwrap().driver_override = "igbvf".to_owned();
    let before = lab.fake.functions.clone();
    let plan = bind(&lab.machine(), &[pf()], &igbvf()).unwrap();
    let wanted = [
        "0000:01:00.0: write driver/unbind",
        "0000:01:00.0: write driver_override \"\"",
        "0000:01:00.0: write drivers/igbvf/bind",
    ];
    assert_eq!(text(&plan), wanted);
    let error = lab.with(|executor| executor.apply(&plan, "test")).unwrap_err();
    let ErrorKind::RolledBack { cause, undo_failures } = error.kind else {
        panic!("{error}")
    };
    assert!(undo_failures.is_empty(), "{undo_failures:?}");
    let wanted = "0000:01:00.0: write drivers/igbvf/bind: igbvf does not support this device; no driver has it";
    assert_eq!(cause.to_string(), wanted);
    assert!(cause.fix().unwrap().ends_with("sriovctl release 0000:01:00.0"));
    assert_eq!(lab.fake.functions, before);
}

#[test]
fn a_vf_goes_to_a_driver_of_the_host_although_autoprobe_is_off() {
    let mut lab = Lab::with_vfs(2, Some(&vfio()));
    lab.sriov().autoprobe = false;
    let plan = bind(&lab.machine(), &[vf(1)], &igbvf()).unwrap();
    let wanted = [
        "0000:01:00.0: write sriov_drivers_autoprobe \"1\"",
        "0000:01:00.2: write driver/unbind",
        "0000:01:00.2: write driver_override \"\"",
        "0000:01:00.2: write drivers/igbvf/bind",
        "0000:01:00.0: write sriov_drivers_autoprobe \"0\"",
    ];
    assert_eq!(text(&plan), wanted);
    lab.apply(&plan);
    assert_eq!(lab.driver_of(vf(1)), Some("igbvf"));
}

#[test]
fn vfs_are_released_although_autoprobe_is_off() {
    let mut lab = Lab::with_vfs(2, Some(&vfio()));
    lab.sriov().autoprobe = false;
    let plan = release(&lab.machine(), &[vf(0), vf(1)]).unwrap();
    let wanted = [
        "0000:01:00.0: write sriov_drivers_autoprobe \"1\"",
        "0000:01:00.1: write driver/unbind",
        "0000:01:00.1: write driver_override \"\"",
        "0000:01:00.1: write drivers_probe",
        "0000:01:00.2: write driver/unbind",
        "0000:01:00.2: write driver_override \"\"",
        "0000:01:00.2: write drivers_probe",
        "0000:01:00.0: write sriov_drivers_autoprobe \"0\"",
    ];
    assert_eq!(text(&plan), wanted);
}

#[test]
fn a_function_in_a_held_group_goes_to_vfio_and_not_to_the_host() {
    let mut lab = Lab::with_vfs(1, None);
    let plan = unbind(&lab.machine(), &[vf(0)]).unwrap();
    lab.apply(&plan);
    let tree = lab.tree();
    tree.process(4711, "qemu", &[(9, "/dev/vfio/257")]);
    let machine = lab.machine_in(&tree);
    assert!(matches!(
        release(&machine, &[vf(0)]).unwrap_err().kind,
        ErrorKind::Held { .. }
    ));
    assert!(matches!(
        bind(&machine, &[vf(0)], &igbvf()).unwrap_err().kind,
        ErrorKind::Held { .. }
    ));
    bind(&machine, &[vf(0)], &vfio()).unwrap();
}

#[test]
fn a_group_with_another_function_on_a_host_driver_is_warned_of() {
    let mut lab = Lab::new();
    let sibling = bdf("01:02.0");
    lab.fake = lab.fake.with_function(sibling, "nvme");
    lab.fake.functions.get_mut(&sibling).unwrap().group = Some(256);
    let machine = lab.machine();
    let plan = bind(&machine, &[pf()], &vfio()).unwrap();
    assert_eq!(
        plan.warnings,
        [
            LINK_GOES,
            "VFIO will not hand out IOMMU group 256 yet: 0000:01:02.0 is on nvme"
        ]
    );
    let plan = bind(&machine, &[pf(), sibling], &vfio()).unwrap();
    assert_eq!(plan.warnings[0], LINK_GOES);
    assert!(
        plan.warnings.iter().all(|warning| !warning.contains("IOMMU group")),
        "{:?}",
        plan.warnings
    );
}

/// Said of the PF.
const LINK_GOES: &str =
    "net0 is up and goes: when its driver has the function again it is down until somebody runs ip link set net0 up";

#[test]
fn what_weakens_isolation_is_said() {
    let mut lab = Lab::new();
    let tree = lab.tree();
    tree.remove("sys/bus/pci/devices/0000:01:00.0/reset_method");
    tree.file(
        "sys/kernel/iommu_groups/256/reserved_regions",
        "0x0000000000000000 0x0000000000ffffff direct\n",
    );
    tree.file("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n");
    tree.file("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
    tree.file("proc/cmdline", "quiet pcie_acs_override=downstream\n");
    let machine = lab.machine_in(&tree);
    let plan = bind(&machine, &[pf()], &vfio()).unwrap();
    let wanted = [
        LINK_GOES,
        "VFIO will refuse IOMMU group 256: the firmware demands a 1:1 mapping (RMRR or IVMD)",
        "0000:01:00.0: the kernel has no way to reset it: each user finds it as the last one left it",
        "allow_unsafe_interrupts is set: a guest can forge interrupts of the host",
        "pcie_acs_override is set: functions in different IOMMU groups may reach each other",
    ];
    assert_eq!(plan.warnings, wanted);
    let plan = create_vfs(&machine, pf(), NonZeroU16::MIN, Some(&vfio())).unwrap();
    assert_eq!(plan.warnings, wanted[3..]);
    assert_eq!(bind(&machine, &[pf()], &WantedDriver::Native).unwrap(), Plan::default());
}

#[test]
fn what_could_not_be_seen_is_said() {
    let mut lab = Lab::new();
    let tree = lab.tree();
    tree.remove("proc");
    let warnings = unbind(&lab.machine_in(&tree), &[pf()]).unwrap().warnings;
    assert!(
        warnings[0].starts_with("who holds the function is not known"),
        "{warnings:?}"
    );
    assert!(
        warnings[1].starts_with("whether the machine uses the function is not certain"),
        "{warnings:?}"
    );
}

#[test]
fn a_nic_whose_interface_is_elsewhere_is_warned_of() {
    let mut lab = Lab::new();
    let tree = lab.tree();
    tree.remove("sys/class/net/net0");
    let warnings = unbind(&lab.machine_in(&tree), &[pf()]).unwrap().warnings;
    assert!(warnings[0].contains("network namespace"), "{warnings:?}");
}

#[test]
fn an_interface_that_is_up_and_will_come_back_down_is_warned_of() {
    let mut lab = Lab::new();
    let tree = lab.tree();
    for (flags, is_said) in [("0x1003", true), ("0x1002", false)] {
        tree.file(Tree::function_path(pf()).join("net/net0/flags"), flags);
        let warnings = unbind(&lab.machine_in(&tree), &[pf()]).unwrap().warnings;
        let is_warned = warnings.iter().any(|warning| warning.contains("ip link set net0 up"));
        assert_eq!(is_warned, is_said, "{warnings:?}");
    }
}

#[test]
fn an_override_that_cannot_be_read_in_time_names_who_holds_the_function() {
    let mut lab = Lab::with_vfs(1, Some(&vfio()));
    // Kernels before Linux 7 take the device's lock to answer.
    lab.fake.faults = vec![Fault {
        file: "driver_override".to_owned(),
        write: false,
        after: 1,
        effect: Effect::Hang,
    }];
    let tree = lab.tree();
    tree.process(4711, "qemu", &[(9, "/dev/vfio/257")]);
    let error = tree.machine(&mut lab.fake).unwrap_err();
    assert_eq!(
        (error.device, error.step.as_str()),
        (Some(vf(0)), "read driver_override")
    );
    assert!(
        matches!(&error.kind, ErrorKind::TimedOut { holders, .. } if holders[0].pid == 4711),
        "{error}"
    );
}
