//! Every wish on every state: granted, then nothing left to do, then undone.

use super::*;
use proptest::prelude::*;

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
