//! Operations taken back: what comes back, what is refused, what is left alone.

#![cfg(test)]

mod common;

use common::{Lab, bdf, bind, create, machine, pf, plan, set, unbind};
use pci::VfIndex;
use sriov::fake::Role;
use sriov::{Attribute, Error, ErrorKind, Holder, Loss, Status, Target};

fn pf_target() -> Target {
    Target::Function(pf())
}

#[test]
fn an_operation_can_be_undone_and_undone_again() {
    let mut lab = Lab::new(machine());
    let before = lab.machine.functions.clone();
    lab.apply(&create(pf(), 7)).unwrap();
    let undone = lab.undo().unwrap();
    assert_eq!(lab.machine.functions, before);
    assert_eq!(undone.operation, 1);
    // Two writes of autoprobe and one of the count; the VFs went with it.
    assert_eq!(undone.restored, 3);
    assert_eq!(lab.asked, [Loss::VirtualFunctions(pf())]);
    let again = lab.with(|executor| executor.undo(Some(1))).unwrap();
    assert_eq!(again.restored, 0);
    let none = lab.undo().unwrap_err();
    assert_eq!(none.kind, ErrorKind::NoSuchOperation { operation: None });
}

#[test]
fn undo_brings_back_a_driver_that_no_probe_would_find() {
    let mut lab = Lab::new(machine());
    let function = bdf("0000:03:00.0");
    // Bound by an override that was cleared afterwards, as some tools do.
    lab.machine
        .functions
        .get_mut(&function)
        .unwrap()
        .driver_override
        .clear();
    let before = lab.machine.functions.clone();
    lab.apply(&plan(bind(Target::Function(function), "vfio-pci"))).unwrap();
    assert_eq!(lab.machine.driver_of(function), Some("vfio-pci"));
    lab.undo().unwrap();
    assert_eq!(lab.machine.functions, before);
}

#[test]
fn undoing_a_deletion_makes_the_vfs_again_with_their_drivers() {
    let mut lab = Lab::new(machine());
    lab.apply(&create(pf(), 2)).unwrap();
    let before = lab.machine.functions.clone();
    let mut steps = Vec::new();
    for index in 0..2 {
        let target = Target::VirtualFunction {
            pf: pf(),
            index: VfIndex(index),
        };
        steps.push(unbind(target));
        steps.push(set(target, Attribute::DriverOverride, ""));
    }
    steps.push(set(pf_target(), Attribute::NumVfs, "0"));
    lab.apply(&plan(steps)).unwrap();
    assert_eq!(lab.machine.vf(pf(), 0), None);
    // The kernel gives the new VFs to their native driver first: autoprobe is on.
    lab.undo().unwrap();
    assert_eq!(lab.machine.functions, before);
}

#[test]
fn undo_never_takes_what_the_guard_protects() {
    let mut lab = Lab::new(machine());
    lab.apply(&create(pf(), 3)).unwrap();
    let after = lab.machine.functions.clone();
    let vf = lab.machine.vf(pf(), 1).unwrap();
    let holder = Holder {
        function: Some(vf),
        pid: 4711,
        command: "qemu-system-x86".to_owned(),
        command_line: String::new(),
        path: "/dev/vfio/devices/vfio1".into(),
    };
    let held = ErrorKind::Held { holders: vec![holder] };
    lab.refusal = Some(Error::new(vf, "write sriov_numvfs", held.clone()));
    let error = lab.undo().unwrap_err();
    assert_eq!(error.kind, held);
    assert_eq!(lab.machine.functions, after);
    // A refusal leaves the operation as it was: others may go on, and it can be undone later.
    assert_eq!(lab.journal.operation(Some(1)).unwrap().status, Status::Done);
    assert_eq!(lab.journal.unfinished().unwrap(), None);

    lab.refusal = None;
    lab.undo().unwrap();
    assert_eq!(lab.machine.functions, machine().functions);
    assert!(lab.apply(&create(bdf("0000:02:00.0"), 1)).is_ok());
}

#[test]
fn undo_asks_before_it_takes_a_function_from_its_driver() {
    let mut lab = Lab::new(machine());
    let function = bdf("0000:03:00.0");
    lab.apply(&plan(bind(Target::Function(function), "vfio-pci"))).unwrap();
    let in_use = ErrorKind::InUse {
        uses: vec!["nvme0n1 is mounted".to_owned()],
    };
    lab.refusal = Some(Error::new(function, "write driver/unbind", in_use.clone()));
    let after = lab.machine.functions.clone();
    assert_eq!(lab.undo().unwrap_err().kind, in_use);
    assert_eq!(lab.asked, [Loss::Driver(function)]);
    // Nothing was written, the override neither, so the operation stands.
    assert_eq!(lab.machine.functions, after);
    assert_eq!(lab.journal.operation(Some(1)).unwrap().status, Status::Done);
}

#[test]
fn an_undo_that_wrote_something_before_it_failed_is_not_finished() {
    let mut lab = Lab::new(machine());
    lab.apply(&create(pf(), 2)).unwrap();
    let before = lab.machine.functions.clone();
    lab.apply(&plan(vec![set(pf_target(), Attribute::NumVfs, "0")]))
        .unwrap();
    lab.machine.functions.get_mut(&pf()).unwrap().driver = None;
    let error = lab.undo().unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoDriver { driver: None });
    let Role::Physical(sriov) = &lab.machine.functions[&pf()].role else {
        panic!("no PF")
    };
    assert!(sriov.autoprobe);
    assert_eq!(lab.journal.unfinished().unwrap().map(|o| o.id), Some(2));
    lab.machine.functions.get_mut(&pf()).unwrap().driver = Some("igb".to_owned());
    lab.undo().unwrap();
    assert_eq!(lab.machine.functions, before);
}

#[test]
fn undo_never_takes_a_pf_from_its_driver_while_it_has_vfs() {
    let mut lab = Lab::new(machine());
    lab.apply(&plan(bind(pf_target(), "other").into_iter().take(3).collect()))
        .unwrap();
    lab.apply(&plan(vec![set(pf_target(), Attribute::NumVfs, "2")]))
        .unwrap();
    let error = lab.with(|executor| executor.undo(Some(1))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::VfsExist { enabled: 2 });
    assert!(lab.machine.vf(pf(), 1).is_some());
    assert_eq!(lab.machine.driver_of(pf()), Some("other"));
}

#[test]
fn undo_leaves_alone_what_others_have_changed_since() {
    let mut lab = Lab::new(machine());
    let function = bdf("0000:03:00.0");
    lab.apply(&plan(bind(Target::Function(function), "vfio-pci"))).unwrap();
    lab.machine.functions.get_mut(&function).unwrap().driver = Some("pci-stub".to_owned());
    let after = lab.machine.functions.clone();
    let error = lab.undo().unwrap_err();
    let kind = ErrorKind::ChangedSince {
        left: "vfio-pci".to_owned(),
        found: "pci-stub".to_owned(),
    };
    assert_eq!(error.kind, kind);
    assert_eq!(lab.machine.functions, after);

    lab.journal.abandon(1).unwrap();
    assert_eq!(lab.journal.unfinished().unwrap(), None);
    assert_eq!(lab.journal.operation(Some(1)).unwrap().status, Status::Abandoned);
}

#[test]
fn undo_leaves_a_function_to_the_driver_that_somebody_gave_it_since() {
    let mut lab = Lab::new(machine());
    let function = bdf("0000:03:00.0");
    lab.apply(&plan(vec![unbind(Target::Function(function))])).unwrap();
    lab.machine.functions.get_mut(&function).unwrap().driver = Some("pci-stub".to_owned());
    let kind = ErrorKind::ChangedSince {
        left: String::new(),
        found: "pci-stub".to_owned(),
    };
    assert_eq!(lab.undo().unwrap_err().kind, kind);
    assert_eq!(lab.machine.driver_of(function), Some("pci-stub"));
}

#[test]
fn functions_that_are_gone_have_nothing_to_undo() {
    let mut lab = Lab::new(machine());
    lab.apply(&create(pf(), 2)).unwrap();
    let vf = lab.machine.vf(pf(), 1).unwrap();
    lab.apply(&plan(vec![unbind(Target::Function(vf))])).unwrap();
    lab.machine.functions.remove(&vf);
    assert_eq!(lab.undo().unwrap().restored, 0);
}

#[test]
fn one_stuck_function_does_not_keep_others_from_being_undone() {
    let mut lab = Lab::new(machine());
    let (first, second) = (bdf("0000:03:00.0"), bdf("0000:04:00.0"));
    lab.machine = lab.machine.clone().with_function(second, "e1000e");
    let before = lab.machine.functions.clone();
    let mut steps = bind(Target::Function(second), "vfio-pci");
    steps.extend(bind(Target::Function(first), "vfio-pci"));
    lab.apply(&plan(steps)).unwrap();
    lab.machine.held.insert(first);
    let error = lab.undo().unwrap_err();
    assert!(matches!(error.kind, ErrorKind::TimedOut { .. }), "{error}");
    assert_eq!(error.device, Some(first));
    assert_eq!(lab.machine.functions[&second], before[&second]);
    assert_ne!(lab.machine.functions[&first], before[&first]);

    lab.machine.held.clear();
    lab.machine.stuck.clear();
    lab.undo().unwrap();
    assert_eq!(lab.machine.functions, before);
}
