use super::*;
use crate::testing::{Kernel, State, bdf};
use crate::{Holder, Plan, WantedDriver};
use proptest::prelude::*;
use std::num::NonZeroU16;
use std::path::PathBuf;

fn vfio() -> WantedDriver {
    WantedDriver::Named("vfio-pci".to_owned())
}

fn machine(kernel: &Kernel) -> Machine {
    kernel.tree.machine(&kernel.functions()).unwrap()
}

fn count(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).unwrap()
}

fn create(kernel: &Kernel, n: u16, driver: Option<&WantedDriver>) -> Result<Plan, Error> {
    create_vfs(&machine(kernel), Kernel::pf(), count(n), driver)
}

/// The steps as text, one per line.
fn text(plan: &Plan) -> Vec<String> {
    let line = |step: &Step| {
        let rest = match &step.action {
            Action::Set { value, .. } => format!(" {value:?}"),
            Action::Probe { driver } => format!(" {driver:?}"),
            _ => String::new(),
        };
        format!("{}: {}{rest}", step.target, step.action)
    };
    plan.steps.iter().map(line).collect()
}

/// What a plan writes to `sriov_numvfs`.
fn counts(plan: &Plan) -> Vec<&str> {
    let mut counts = Vec::new();
    for step in &plan.steps {
        if let Action::Set {
            attribute: Attribute::NumVfs,
            value,
        } = &step.action
        {
            counts.push(value.as_str());
        }
    }
    counts
}

#[test]
fn vfs_for_vfio_are_made_without_drivers_and_bound_one_by_one() {
    let kernel = Kernel::new(true, true);
    let plan = create(&kernel, 1, Some(&vfio())).unwrap();
    let wanted = [
        "0000:01:00.0: write sriov_drivers_autoprobe \"0\"",
        "0000:01:00.0: write sriov_numvfs \"1\"",
        "0000:01:00.0: wait for 1 virtfn links",
        "0000:01:00.0 VF 0: write driver_override \"vfio-pci\"",
        "0000:01:00.0 VF 0: write drivers_probe Some(\"vfio-pci\")",
        "0000:01:00.0 VF 0: wait for the group node in /dev/vfio",
        "0000:01:00.0 VF 0: wait for the device node in /dev/vfio/devices",
        "0000:01:00.0: write sriov_drivers_autoprobe \"1\"",
    ];
    assert_eq!(text(&plan), wanted);
    assert_eq!(plan.warnings, [""; 0]);
}

#[test]
fn device_nodes_are_awaited_only_where_the_kernel_makes_them() {
    let kernel = Kernel::new(true, false);
    let plan = create(&kernel, 2, Some(&vfio())).unwrap();
    assert!(!text(&plan).iter().any(|line| line.contains("/dev/vfio/devices")));
    kernel.apply(&plan).unwrap();
}

#[test]
fn autoprobe_that_is_off_already_stays_off() {
    let kernel = Kernel::new(true, true);
    kernel.set_autoprobe("0");
    let plan = create(&kernel, 1, Some(&vfio())).unwrap();
    assert!(!text(&plan).iter().any(|line| line.contains("autoprobe")));
    kernel.apply(&plan).unwrap();
    assert_eq!(kernel.state().autoprobe, "0");
}

#[test]
fn native_vfs_need_autoprobe_for_a_moment() {
    let kernel = Kernel::new(true, true);
    kernel.set_autoprobe("0");
    let plan = create(&kernel, 2, Some(&WantedDriver::Native)).unwrap();
    kernel.apply(&plan).unwrap();
    assert_eq!(kernel.driver_of(Kernel::vf(1)).as_deref(), Some("igbvf"));
    assert_eq!(kernel.state().autoprobe, "0");
}

#[test]
fn vfs_without_a_driver_and_without_autoprobe_are_warned_of() {
    let kernel = Kernel::new(true, true);
    kernel.set_autoprobe("0");
    let plan = create(&kernel, 2, None).unwrap();
    assert_eq!(plan.steps.len(), 2);
    assert_eq!(
        plan.warnings,
        ["sriov_drivers_autoprobe of 0000:01:00.0 is 0: the VFs get no driver"]
    );
}

#[test]
fn a_pf_whose_interface_is_down_is_warned_of() {
    let kernel = Kernel::new(true, true);
    kernel.tree.file("sys/class/net/eth0/flags", "0x1002\n");
    let plan = create(&kernel, 1, None).unwrap();
    assert!(plan.warnings[0].starts_with("eth0 is down"), "{:?}", plan.warnings);
}

#[test]
fn vfs_cannot_be_made_of_every_function_nor_in_every_number() {
    let kernel = Kernel::new(true, true);
    let kind = |result: Result<Plan, Error>| result.unwrap_err().kind;
    assert_eq!(
        kind(create(&kernel, 9, None)),
        ErrorKind::TooManyVfs { wanted: 9, total: 8 }
    );
    let other = create_vfs(&machine(&kernel), bdf("00:01.0"), count(1), None);
    assert_eq!(kind(other), ErrorKind::NotPf);
    let gone = create_vfs(&machine(&kernel), bdf("7f:00.0"), count(1), None);
    assert_eq!(kind(gone), ErrorKind::Gone);
    let unknown = create(&kernel, 1, Some(&WantedDriver::Named("vfio_pci".to_owned())));
    let similar = vec!["vfio-pci".to_owned()];
    assert_eq!(
        kind(unknown),
        ErrorKind::UnknownDriver {
            name: "vfio_pci".to_owned(),
            similar
        }
    );
    kernel.apply(&create(&kernel, 3, None).unwrap()).unwrap();
    assert_eq!(kind(create(&kernel, 4, None)), ErrorKind::VfsExist { enabled: 3 });
    kernel
        .apply(&delete_vfs(&machine(&kernel), Kernel::pf()).unwrap())
        .unwrap();
    kernel
        .apply(&unbind(&machine(&kernel), &[Kernel::pf()]).unwrap())
        .unwrap();
    assert_eq!(kind(create(&kernel, 1, None)), ErrorKind::NoDriver { driver: None });
}

#[test]
fn a_count_that_cannot_be_read_is_an_error_with_the_file() {
    let kernel = Kernel::new(true, true);
    kernel
        .tree
        .file("sys/bus/pci/devices/0000:01:00.0/sriov_totalvfs", "many\n");
    let error = create(&kernel, 1, None).unwrap_err();
    assert!(
        matches!(&error.kind, ErrorKind::Malformed { found, .. } if found == "many"),
        "{error}"
    );
}

#[test]
fn vfio_needs_an_iommu_and_other_drivers_do_not() {
    let kernel = Kernel::new(false, false);
    assert_eq!(create(&kernel, 1, Some(&vfio())).unwrap_err().kind, ErrorKind::NoIommu);
    let error = bind(&machine(&kernel), &[Kernel::pf()], &vfio()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoIommu);
    kernel
        .apply(&create(&kernel, 1, Some(&WantedDriver::Named("igbvf".to_owned()))).unwrap())
        .unwrap();
    assert_eq!(kernel.driver_of(Kernel::vf(0)).as_deref(), Some("igbvf"));
}

#[test]
fn a_vf_that_a_process_holds_keeps_all_vfs() {
    let kernel = Kernel::new(true, true);
    kernel.apply(&create(&kernel, 3, Some(&vfio())).unwrap()).unwrap();
    kernel.tree.process(4711, "qemu", &[(9, "/dev/vfio/21")]);
    let error = delete_vfs(&machine(&kernel), Kernel::pf()).unwrap_err();
    let holder = Holder {
        function: Some(Kernel::vf(1)),
        pid: 4711,
        command: "qemu".to_owned(),
        command_line: "/usr/bin/qemu -m 1G".to_owned(),
        path: PathBuf::from("/dev/vfio/21"),
    };
    assert_eq!(
        error,
        Error::new(
            Kernel::pf(),
            "write sriov_numvfs",
            ErrorKind::Held { holders: vec![holder] }
        )
    );
    // The one beside it is free.
    release(&machine(&kernel), &[Kernel::vf(0)]).unwrap();
    let error = release(&machine(&kernel), &[Kernel::vf(0), Kernel::vf(1)]).unwrap_err();
    assert_eq!(error.device, Some(Kernel::vf(1)));
    assert!(matches!(error.kind, ErrorKind::Held { .. }));
}

#[test]
fn a_device_that_nobody_can_name_keeps_what_is_on_vfio() {
    let kernel = Kernel::new(true, true);
    kernel.apply(&create(&kernel, 2, Some(&vfio())).unwrap()).unwrap();
    kernel.tree.process(4711, "dpdk", &[(9, "anon_inode:[vfio-device]")]);
    assert!(matches!(
        delete_vfs(&machine(&kernel), Kernel::pf()).unwrap_err().kind,
        ErrorKind::Held { .. }
    ));
}

#[test]
#[cfg(target_endian = "little")]
fn a_refusal_names_everything_that_is_in_the_way() {
    let kernel = Kernel::new(true, true);
    kernel.apply(&create(&kernel, 2, None).unwrap()).unwrap();
    kernel
        .apply(&bind(&machine(&kernel), &[Kernel::vf(1)], &vfio()).unwrap())
        .unwrap();
    kernel.tree.process(4711, "qemu", &[(9, "/dev/vfio/devices/vfio129")]);
    kernel.tree.file(
        "proc/net/route",
        "Iface\nif128 00000000 010200C0 0003 0 0 0 00000000 0 0 0\n",
    );
    let error = delete_vfs(&machine(&kernel), Kernel::pf()).unwrap_err();
    let uses = [
        "0000:01:10.1: held by qemu (pid 4711) through /dev/vfio/devices/vfio129",
        "0000:01:10.0: if128 carries the route default",
    ];
    assert_eq!(
        error.kind,
        ErrorKind::InUse {
            uses: uses.map(str::to_owned).into()
        }
    );
}

#[test]
fn a_pf_with_vfs_and_a_bridge_stay_where_they_are() {
    let kernel = Kernel::new(true, true);
    kernel.apply(&create(&kernel, 2, None).unwrap()).unwrap();
    let machine = machine(&kernel);
    let wanted = ErrorKind::VfsExist { enabled: 2 };
    assert_eq!(bind(&machine, &[Kernel::pf()], &vfio()).unwrap_err().kind, wanted);
    assert_eq!(unbind(&machine, &[Kernel::pf()]).unwrap_err().kind, wanted);
    let error = unbind(&machine, &[bdf("00:01.0")]).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::InUse { .. }));
}

#[test]
fn an_override_for_another_driver_is_corrected() {
    let kernel = Kernel::new(true, true);
    kernel
        .tree
        .file("sys/bus/pci/devices/0000:01:00.0/driver_override", "pci-stub\n");
    let plan = bind(
        &machine(&kernel),
        &[Kernel::pf()],
        &WantedDriver::Named("igb".to_owned()),
    )
    .unwrap();
    assert_eq!(text(&plan), ["0000:01:00.0: write driver_override \"igb\""]);
}

#[test]
fn a_release_forgets_the_override_and_keeps_a_native_driver() {
    let kernel = Kernel::new(true, true);
    kernel
        .tree
        .file("sys/bus/pci/devices/0000:01:00.0/driver_override", "igb\n");
    let plan = release(&machine(&kernel), &[Kernel::pf()]).unwrap();
    assert_eq!(text(&plan), ["0000:01:00.0: write driver_override \"\""]);
}

#[test]
fn vfs_are_released_although_autoprobe_is_off() {
    let kernel = Kernel::new(true, true);
    kernel.set_autoprobe("0");
    kernel.apply(&create(&kernel, 2, Some(&vfio())).unwrap()).unwrap();
    let plan = release(&machine(&kernel), &[Kernel::vf(0), Kernel::vf(1)]).unwrap();
    let wanted = [
        "0000:01:00.0: write sriov_drivers_autoprobe \"1\"",
        "0000:01:10.0: write driver/unbind",
        "0000:01:10.0: write driver_override \"\"",
        "0000:01:10.0: write drivers_probe None",
        "0000:01:10.1: write driver/unbind",
        "0000:01:10.1: write driver_override \"\"",
        "0000:01:10.1: write drivers_probe None",
        "0000:01:00.0: write sriov_drivers_autoprobe \"0\"",
    ];
    assert_eq!(text(&plan), wanted);
    kernel.apply(&plan).unwrap();
    assert_eq!(kernel.driver_of(Kernel::vf(1)).as_deref(), Some("igbvf"));
    assert_eq!(kernel.state().autoprobe, "0");
}

#[test]
fn a_group_with_another_function_on_a_host_driver_is_warned_of() {
    let kernel = Kernel::new(true, true);
    let sibling = bdf("01:00.1");
    kernel.tree.function(sibling, "0x010802\n", Some(10));
    kernel.tree.bind(sibling, "nvme");
    let plan = bind(&machine(&kernel), &[Kernel::pf()], &vfio()).unwrap();
    assert_eq!(
        plan.warnings,
        ["VFIO will not hand out IOMMU group 10 yet: 0000:01:00.1 is on nvme"]
    );
    let plan = bind(&machine(&kernel), &[Kernel::pf(), sibling], &vfio()).unwrap();
    assert_eq!(plan.warnings, [""; 0]);
}

#[test]
fn a_pf_without_a_driver_but_with_vfs_gets_its_own_driver_back_and_no_other() {
    let kernel = Kernel::new(true, true);
    kernel.apply(&create(&kernel, 2, None).unwrap()).unwrap();
    kernel.tree.remove("sys/bus/pci/devices/0000:01:00.0/driver");
    let error = bind(&machine(&kernel), &[Kernel::pf()], &vfio()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::VfsExist { enabled: 2 });
    kernel
        .apply(&release(&machine(&kernel), &[Kernel::pf()]).unwrap())
        .unwrap();
    assert_eq!(kernel.driver_of(Kernel::pf()).as_deref(), Some("igb"));
}

#[test]
fn a_function_in_a_held_group_goes_to_vfio_and_not_to_the_host() {
    let kernel = Kernel::new(true, true);
    kernel.apply(&create(&kernel, 1, None).unwrap()).unwrap();
    kernel
        .apply(&unbind(&machine(&kernel), &[Kernel::vf(0)]).unwrap())
        .unwrap();
    kernel.tree.process(4711, "qemu", &[(9, "/dev/vfio/20")]);
    assert!(matches!(
        release(&machine(&kernel), &[Kernel::vf(0)]).unwrap_err().kind,
        ErrorKind::Held { .. }
    ));
    kernel
        .apply(&bind(&machine(&kernel), &[Kernel::vf(0)], &vfio()).unwrap())
        .unwrap();
}

#[test]
fn what_weakens_isolation_is_said() {
    let kernel = Kernel::new(true, true);
    let tree = &kernel.tree;
    tree.file("sys/bus/pci/devices/0000:01:00.0/reset_method", "\n");
    tree.file(
        "sys/kernel/iommu_groups/10/reserved_regions",
        "0x0000000000000000 0x0000000000ffffff direct\n",
    );
    tree.file("sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts", "Y\n");
    tree.file("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "N\n");
    tree.file("proc/cmdline", "quiet pcie_acs_override=downstream\n");
    let plan = bind(&machine(&kernel), &[Kernel::pf()], &vfio()).unwrap();
    let wanted = [
        "VFIO will refuse IOMMU group 10: the firmware demands a 1:1 mapping (RMRR or IVMD)",
        "0000:01:00.0: the kernel has no way to reset it: each user finds it as the last one left it",
        "allow_unsafe_interrupts is set: a guest can forge interrupts of the host",
        "pcie_acs_override is set: functions in different IOMMU groups may reach each other",
    ];
    assert_eq!(plan.warnings, wanted);
    assert_eq!(create(&kernel, 1, Some(&vfio())).unwrap().warnings, wanted[2..]);
    assert_eq!(
        bind(&machine(&kernel), &[Kernel::pf()], &WantedDriver::Native).unwrap(),
        Plan::default()
    );
}

#[test]
fn what_could_not_be_seen_is_said() {
    let kernel = Kernel::new(true, true);
    kernel.tree.remove("proc");
    let plan = unbind(&machine(&kernel), &[Kernel::pf()]).unwrap();
    assert!(
        plan.warnings[0].starts_with("who holds the function is not known"),
        "{:?}",
        plan.warnings
    );
    assert!(
        plan.warnings[1].starts_with("whether the machine uses"),
        "{:?}",
        plan.warnings
    );
}

#[test]
fn a_nic_whose_interface_is_elsewhere_is_warned_of() {
    let kernel = Kernel::new(true, true);
    kernel.tree.remove("sys/class/net/eth0");
    let plan = unbind(&machine(&kernel), &[Kernel::pf()]).unwrap();
    assert!(plan.warnings[0].contains("network namespace"), "{:?}", plan.warnings);
}

#[test]
fn plain_vfs_are_deleted_in_one_step() {
    let kernel = Kernel::new(true, true);
    kernel.apply(&create(&kernel, 3, None).unwrap()).unwrap();
    let plan = delete_vfs(&machine(&kernel), Kernel::pf()).unwrap();
    assert_eq!(text(&plan), ["0000:01:00.0: write sriov_numvfs \"0\""]);
}

/// How one VF is before the wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vf {
    Native,
    Unbound,
    Vfio,
    OverrideOnly,
}

/// A wish.
#[derive(Debug, Clone)]
enum Wish {
    Create(u16, Option<WantedDriver>),
    Delete,
    Bind(Vec<u16>, WantedDriver),
    Unbind(Vec<u16>),
    Release(Vec<u16>),
}

fn kernel_with(autoprobe: bool, device_nodes: bool, vfs: &[Vf]) -> Kernel {
    let kernel = Kernel::new(true, device_nodes);
    let count = vfs.len().to_string();
    let mut steps = vec![set(Target::Function(Kernel::pf()), Attribute::NumVfs, count)];
    for (function, vf) in (0..).map(Kernel::vf).zip(vfs) {
        let target = Target::Function(function);
        let to_vfio = set(target, Attribute::DriverOverride, "vfio-pci");
        steps.extend((*vf != Vf::Native).then(|| step(target, Action::Unbind)));
        steps.extend(matches!(vf, Vf::Vfio | Vf::OverrideOnly).then_some(to_vfio));
        steps.extend((*vf == Vf::Vfio).then(|| step(target, Action::Probe { driver: None })));
    }
    steps.push(set_autoprobe(Kernel::pf(), autoprobe));
    let warnings = Vec::new();
    kernel.apply(&Plan { steps, warnings }).unwrap();
    kernel
}

fn plan_for(kernel: &Kernel, wish: &Wish) -> Result<Plan, Error> {
    let machine = machine(kernel);
    let functions = |vfs: &[u16]| vfs.iter().map(|vf| Kernel::vf(*vf)).collect::<Vec<_>>();
    match wish {
        Wish::Create(n, driver) => create_vfs(&machine, Kernel::pf(), count(*n), driver.as_ref()),
        Wish::Delete => delete_vfs(&machine, Kernel::pf()),
        Wish::Bind(vfs, driver) => bind(&machine, &functions(vfs), driver),
        Wish::Unbind(vfs) => unbind(&machine, &functions(vfs)),
        Wish::Release(vfs) => release(&machine, &functions(vfs)),
    }
}

fn is_granted(before: &State, after: &State, wish: &Wish) -> bool {
    let driver = |vf: u16| {
        after
            .functions
            .get(&Kernel::vf(vf))
            .and_then(|(driver, _)| driver.as_deref())
    };
    let has = |vfs: &[u16], wanted: &WantedDriver| match wanted {
        WantedDriver::Named(name) => vfs.iter().all(|vf| driver(*vf) == Some(name)),
        WantedDriver::Native => vfs.iter().all(|vf| driver(*vf) == Some("igbvf")),
    };
    let all = |n: u16| (0..n).collect::<Vec<_>>();
    let is_so = match wish {
        Wish::Create(n, None) => after.numvfs == n.to_string(),
        Wish::Create(n, Some(driver)) => after.numvfs == n.to_string() && has(&all(*n), driver),
        Wish::Delete => after.numvfs == "0" && after.functions.len() == 1,
        Wish::Bind(vfs, driver) => has(vfs, driver),
        Wish::Unbind(vfs) => vfs.iter().all(|vf| driver(*vf).is_none()),
        Wish::Release(vfs) => has(vfs, &WantedDriver::Native),
    };
    is_so && after.autoprobe == before.autoprobe
}

fn vfs() -> impl Strategy<Value = Vec<Vf>> {
    let vf = prop_oneof![
        Just(Vf::Native),
        Just(Vf::Unbound),
        Just(Vf::Vfio),
        Just(Vf::OverrideOnly)
    ];
    prop::collection::vec(vf, 0..=4)
}

fn wish() -> impl Strategy<Value = Wish> {
    let driver = prop_oneof![
        Just(WantedDriver::Native),
        Just(vfio()),
        Just(WantedDriver::Named("igbvf".to_owned()))
    ];
    let some = || prop::collection::btree_set(0..4u16, 1..=4).prop_map(|vfs| vfs.into_iter().collect::<Vec<_>>());
    prop_oneof![
        (1..=5u16, prop::option::of(driver.clone())).prop_map(|(n, driver)| Wish::Create(n, driver)),
        Just(Wish::Delete),
        (some(), driver).prop_map(|(vfs, driver)| Wish::Bind(vfs, driver)),
        some().prop_map(Wish::Unbind),
        some().prop_map(Wish::Release),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_plan_grants_the_wish_and_has_nothing_left_to_do(
        autoprobe: bool, device_nodes: bool, vfs in vfs(), wish in wish(),
    ) {
        let kernel = kernel_with(autoprobe, device_nodes, &vfs);
        let before = kernel.state();
        let Ok(plan) = plan_for(&kernel, &wish) else { return Ok(()) };
        let done = kernel.apply(&plan);
        prop_assert!(done.is_ok(), "{done:?} in {:#?}", text(&plan));
        let after = kernel.state();
        prop_assert!(is_granted(&before, &after, &wish), "{after:#?} after {:#?}", text(&plan));
        prop_assert_eq!(plan_for(&kernel, &wish).unwrap().steps, []);
    }

    #[test]
    fn undoing_a_plan_brings_everything_back(autoprobe: bool, vfs in vfs(), wish in wish()) {
        // With autoprobe off the kernel gives a VF without an override to nobody, so such a VF cannot be had back.
        prop_assume!(autoprobe || !vfs.contains(&Vf::Native));
        let kernel = kernel_with(autoprobe, true, &vfs);
        let before = kernel.state();
        let Ok(plan) = plan_for(&kernel, &wish) else { return Ok(()) };
        let done = kernel.apply(&plan).unwrap();
        let undone = kernel.undo(&done);
        prop_assert!(undone.is_ok(), "{undone:?} in {:#?}", text(&plan));
        prop_assert_eq!(kernel.state(), before, "after {:#?}", text(&plan));
    }

    #[test]
    fn the_count_goes_only_from_none_and_to_none_and_never_from_held_vfs(
        vfs in vfs(), wish in wish(), held in prop::option::of(0..4u16),
    ) {
        let kernel = kernel_with(true, true, &vfs);
        let on_vfio = held.filter(|vf| vfs.get(usize::from(*vf)) == Some(&Vf::Vfio));
        if let Some(vf) = on_vfio {
            kernel.tree.process(4711, "qemu", &[(3, &format!("/dev/vfio/{}", 20 + vf))]);
        }
        let Ok(plan) = plan_for(&kernel, &wish) else { return Ok(()) };
        match counts(&plan)[..] {
            [] => {}
            ["0"] => prop_assert!(!vfs.is_empty() && on_vfio.is_none()),
            [_] => prop_assert!(vfs.is_empty()),
            _ => prop_assert!(false, "{:#?}", text(&plan)),
        }
    }
}
