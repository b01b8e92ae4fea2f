use super::*;
use crate::fake::{self, Role};
use crate::testing::{Tree, bdf};
use crate::{Executor, Holder, Journal, Loss, Plan, Progress, WantedDriver};
use pci::{RoutingId, Segment};
use proptest::prelude::*;
use std::num::NonZeroU16;
use std::path::PathBuf;

/// A machine with a NIC of 8 VFs, and what it takes to change it.
struct Lab {
    fake: fake::Machine,
    has_device_nodes: bool,
    journal: Journal,
    _directory: tempfile::TempDir,
}

fn pf() -> Bdf {
    bdf("01:00.0")
}

fn vf(index: u16) -> Bdf {
    Bdf::new(Segment(0), RoutingId(0x0101 + index))
}

fn vfio() -> WantedDriver {
    WantedDriver::Named("vfio-pci".to_owned())
}

fn igbvf() -> WantedDriver {
    WantedDriver::Named("igbvf".to_owned())
}

impl Lab {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            fake: fake::Machine::new().with_pf(pf(), 8, "igb", Some("igbvf")),
            has_device_nodes: true,
            journal: Journal::at(directory.path()),
            _directory: directory,
        }
    }

    /// With VFs, each bound to `driver`.
    fn with_vfs(count: u16, driver: Option<&WantedDriver>) -> Self {
        let mut lab = Self::new();
        let plan = lab.create(count, driver).unwrap();
        lab.apply(&plan);
        lab
    }

    fn tree(&self) -> Tree {
        let tree = Tree::of(&self.fake);
        if self.has_device_nodes {
            tree.directory("sys/class/vfio-dev");
        }
        tree
    }

    fn machine(&mut self) -> Machine {
        let tree = self.tree();
        self.machine_in(&tree)
    }

    fn machine_in(&mut self, tree: &Tree) -> Machine {
        tree.machine(&mut self.fake).unwrap()
    }

    fn create(&mut self, count: u16, driver: Option<&WantedDriver>) -> Result<Plan, Error> {
        create_vfs(&self.machine(), pf(), NonZeroU16::new(count).unwrap(), driver)
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Executor<'_>) -> T) -> T {
        let mut guard = |_: Loss| Ok(());
        let mut progress = |_: Progress<'_>| {};
        work(&mut Executor::new(
            &mut self.fake,
            &self.journal,
            &mut guard,
            &mut progress,
        ))
    }

    fn apply(&mut self, plan: &Plan) {
        self.with(|executor| executor.apply(plan, "test")).unwrap();
    }

    fn driver_of(&self, function: Bdf) -> Option<&str> {
        self.fake.driver_of(function)
    }

    fn sriov(&mut self) -> &mut fake::Sriov {
        match &mut self.fake.functions.get_mut(&pf()).unwrap().role {
            Role::Physical(sriov) => sriov,
            other => panic!("{other:?}"),
        }
    }
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
    let mut lab = Lab::new();
    let plan = lab.create(1, Some(&vfio())).unwrap();
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
    assert_eq!(
        Machine::check_loss(&tree.sysfs(), Loss::VirtualFunctions(pf())),
        Err(wanted)
    );
    // The one beside it is free.
    release(&machine, &[vf(0)]).unwrap();
    let wanted = Error::new(vf(1), "write driver/unbind", held);
    assert_eq!(release(&machine, &[vf(0), vf(1)]).unwrap_err(), wanted);
    assert_eq!(Machine::check_loss(&tree.sysfs(), Loss::Driver(vf(1))), Err(wanted));
    assert_eq!(Machine::check_loss(&tree.sysfs(), Loss::Driver(vf(0))), Ok(()));
    assert_eq!(Machine::check_loss(&tree.sysfs(), Loss::Driver(bdf("7f:00.0"))), Ok(()));
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
    assert_eq!(text(&plan), ["0000:01:00.0: write driver_override \"igb\""]);
}

#[test]
fn a_release_forgets_the_override_and_keeps_a_native_driver() {
    let mut lab = Lab::new();
    lab.fake.functions.get_mut(&pf()).unwrap().driver_override = "igb".to_owned();
    let plan = release(&lab.machine(), &[pf()]).unwrap();
    assert_eq!(text(&plan), ["0000:01:00.0: write driver_override \"\""]);
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
        "0000:01:00.1: write drivers_probe None",
        "0000:01:00.2: write driver/unbind",
        "0000:01:00.2: write driver_override \"\"",
        "0000:01:00.2: write drivers_probe None",
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
        ["VFIO will not hand out IOMMU group 256 yet: 0000:01:02.0 is on nvme"]
    );
    let plan = bind(&machine, &[pf(), sibling], &vfio()).unwrap();
    assert_eq!(plan.warnings, [""; 0]);
}

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
        "VFIO will refuse IOMMU group 256: the firmware demands a 1:1 mapping (RMRR or IVMD)",
        "0000:01:00.0: the kernel has no way to reset it: each user finds it as the last one left it",
        "allow_unsafe_interrupts is set: a guest can forge interrupts of the host",
        "pcie_acs_override is set: functions in different IOMMU groups may reach each other",
    ];
    assert_eq!(plan.warnings, wanted);
    let plan = create_vfs(&machine, pf(), NonZeroU16::MIN, Some(&vfio())).unwrap();
    assert_eq!(plan.warnings, wanted[2..]);
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
fn an_override_that_cannot_be_read_in_time_names_who_holds_the_function() {
    let mut lab = Lab::with_vfs(1, Some(&vfio()));
    lab.fake.stuck.insert(vf(0));
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

fn lab_with(autoprobe: bool, has_device_nodes: bool, vfs: &[Vf]) -> Lab {
    let mut lab = match u16::try_from(vfs.len()).unwrap() {
        0 => Lab::new(),
        count => Lab::with_vfs(count, None),
    };
    for (function, how) in (0..).map(vf).zip(vfs) {
        let function = lab.fake.functions.get_mut(&function).unwrap();
        let (driver, driver_override) = match how {
            Vf::Native => (Some("igbvf"), ""),
            Vf::Unbound => (None, ""),
            Vf::Vfio => (Some("vfio-pci"), "vfio-pci"),
            Vf::OverrideOnly => (None, "vfio-pci"),
        };
        function.driver = driver.map(str::to_owned);
        driver_override.clone_into(&mut function.driver_override);
    }
    lab.sriov().autoprobe = autoprobe;
    lab.has_device_nodes = has_device_nodes;
    lab
}

fn plan_for(machine: &Machine, wish: &Wish) -> Result<Plan, Error> {
    let functions = |vfs: &[u16]| vfs.iter().copied().map(vf).collect::<Vec<_>>();
    match wish {
        Wish::Create(n, driver) => create_vfs(machine, pf(), NonZeroU16::new(*n).unwrap(), driver.as_ref()),
        Wish::Delete => delete_vfs(machine, pf()),
        Wish::Bind(vfs, driver) => bind(machine, &functions(vfs), driver),
        Wish::Unbind(vfs) => unbind(machine, &functions(vfs)),
        Wish::Release(vfs) => release(machine, &functions(vfs)),
    }
}

fn is_granted(lab: &mut Lab, wish: &Wish) -> bool {
    let enabled = lab.sriov().enabled;
    let has = |vfs: &[u16], wanted: &WantedDriver| {
        let name = match wanted {
            WantedDriver::Named(name) => name,
            WantedDriver::Native => "igbvf",
        };
        vfs.iter().all(|index| lab.driver_of(vf(*index)) == Some(name))
    };
    let all = |n: u16| (0..n).collect::<Vec<_>>();
    match wish {
        Wish::Create(n, None) => enabled == *n,
        Wish::Create(n, Some(driver)) => enabled == *n && has(&all(*n), driver),
        Wish::Delete => enabled == 0 && lab.fake.functions.len() == 1,
        Wish::Bind(vfs, driver) => has(vfs, driver),
        Wish::Unbind(vfs) => vfs.iter().all(|index| lab.driver_of(vf(*index)).is_none()),
        Wish::Release(vfs) => has(vfs, &WantedDriver::Native),
    }
}

fn vfs() -> impl Strategy<Value = Vec<Vf>> {
    let vf = prop_oneof![
        Just(Vf::Native),
        Just(Vf::Unbound),
        Just(Vf::Vfio),
        Just(Vf::OverrideOnly)
    ];
    prop::collection::vec(vf, 0..=3)
}

fn wish() -> impl Strategy<Value = Wish> {
    let driver = prop_oneof![Just(WantedDriver::Native), Just(vfio()), Just(igbvf())];
    let some = || prop::collection::btree_set(0..3u16, 1..=3).prop_map(|vfs| vfs.into_iter().collect::<Vec<_>>());
    prop_oneof![
        (1..=4u16, prop::option::of(driver.clone())).prop_map(|(n, driver)| Wish::Create(n, driver)),
        Just(Wish::Delete),
        (some(), driver).prop_map(|(vfs, driver)| Wish::Bind(vfs, driver)),
        some().prop_map(Wish::Unbind),
        some().prop_map(Wish::Release),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_grants_the_wish_and_then_has_nothing_to_do_and_can_be_undone(
        autoprobe: bool, device_nodes: bool, vfs in vfs(), wish in wish(),
    ) {
        let mut lab = lab_with(autoprobe, device_nodes, &vfs);
        let before = lab.fake.functions.clone();
        let Ok(plan) = plan_for(&lab.machine(), &wish) else { return Ok(()) };
        let applied = lab.with(|executor| executor.apply(&plan, "test"));
        prop_assert!(applied.is_ok(), "{applied:?} in {:#?}", text(&plan));
        prop_assert!(is_granted(&mut lab, &wish), "{:#?} after {:#?}", lab.fake, text(&plan));
        prop_assert_eq!(lab.sriov().autoprobe, autoprobe);
        prop_assert_eq!(text(&plan_for(&lab.machine(), &wish).unwrap()), [""; 0]);
        if applied.unwrap().operation.is_some() {
            let undone = lab.with(|executor| executor.undo(None));
            prop_assert!(undone.is_ok(), "{undone:?} in {:#?}", text(&plan));
        }
        prop_assert_eq!(lab.fake.functions, before, "after {:#?}", text(&plan));
    }

    #[test]
    fn the_count_goes_only_from_none_and_to_none_and_never_from_held_vfs(
        vfs in vfs(), wish in wish(), held in 0..3u16,
    ) {
        let mut lab = lab_with(true, true, &vfs);
        let is_held = vfs.get(usize::from(held)) == Some(&Vf::Vfio);
        let tree = lab.tree();
        if is_held {
            tree.process(4711, "qemu", &[(3, &format!("/dev/vfio/{}", vf(held).routing_id.0))]);
        }
        let Ok(plan) = plan_for(&lab.machine_in(&tree), &wish) else { return Ok(()) };
        match counts(&plan)[..] {
            [] => {}
            ["0"] => prop_assert!(!vfs.is_empty() && !is_held),
            [_] => prop_assert!(vfs.is_empty()),
            _ => prop_assert!(false, "{:#?}", text(&plan)),
        }
    }
}
