//! What protects functions while they are taken away: claims of their groups, and care after accesses without an answer.

#![cfg(test)]

mod common;

use common::{Lab, create, machine, pf, plan, set, unbind};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use sriov::fake::{Effect, Fault};
use sriov::{Access, Attribute, Error, ErrorKind, Executor, Failure, Target};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

fn pf_target() -> Target {
    Target::Function(pf())
}

#[test]
fn a_group_that_somebody_has_open_is_left_alone_although_no_process_was_seen() {
    let mut lab = Lab::new(machine());
    lab.apply(&create(pf(), 2)).unwrap();
    let vf = lab.machine.vf(pf(), 1).unwrap();
    lab.machine.open_groups.extend(lab.machine.functions[&vf].group);
    let before = lab.machine.clone();
    let free = lab.machine.vf(pf(), 0).unwrap();
    for step in [unbind(Target::Function(vf)), set(pf_target(), Attribute::NumVfs, "0")] {
        let error = lab.apply(&plan(vec![step.clone()])).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Held { holders: Vec::new() });
        assert_eq!(error.step, step.action.to_string());
        assert_eq!(lab.machine.functions, before.functions);
    }
    lab.apply(&plan(vec![unbind(Target::Function(free))])).unwrap();
    // Undoing creation asks the kernel as well.
    let error = lab.with(|executor| executor.undo(Some(1))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Held { holders: Vec::new() });
    assert!(lab.machine.vf(pf(), 1).is_some());
}

/// Grants claims, and notes at each write how many are kept.
#[derive(Debug)]
struct Claims<'a> {
    machine: &'a mut sriov::fake::Machine,
    /// Each hangs up when its claim is given up.
    granted: Vec<OwnedFd>,
    /// Nodes that are not to be had, and why.
    refused: Vec<(String, Errno)>,
    kept: Vec<(String, usize)>,
}

impl Access for Claims<'_> {
    fn read(&mut self, path: &Path, limit: Duration) -> Result<String, Failure> {
        self.machine.read(path, limit)
    }

    fn write(&mut self, path: &Path, value: &str, limit: Duration) -> Result<(), Failure> {
        let is_kept = |claim: &&OwnedFd| {
            let mut fds = [PollFd::new(*claim, PollFlags::empty())];
            poll(&mut fds, Some(&Timespec::default())).unwrap();
            !fds[0].revents().contains(PollFlags::HUP)
        };
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        // Which only asks for the device's lock.
        if file != "control" {
            self.kept.push((file, self.granted.iter().filter(is_kept).count()));
        }
        self.machine.write(path, value, limit)
    }

    fn is_claimed(&mut self, path: &Path, limit: Duration) -> Result<bool, Failure> {
        self.machine.is_claimed(path, limit)
    }

    fn policy_routes(&mut self, limit: Duration) -> Result<Vec<sriov::PolicyRoutes>, Failure> {
        self.machine.policy_routes(limit)
    }

    fn link(&mut self, path: &Path) -> Result<Option<String>, Failure> {
        self.machine.link(path)
    }

    fn names(&mut self, path: &Path) -> Result<Vec<String>, Failure> {
        self.machine.names(path)
    }

    fn exists(&mut self, path: &Path) -> Result<bool, Failure> {
        self.machine.exists(path)
    }

    fn claim(&mut self, path: &Path) -> Result<OwnedFd, Failure> {
        if let Some((_, errno)) = self.refused.iter().find(|(node, _)| path.ends_with(node)) {
            return Err((*errno).into());
        }
        let (ours, theirs) = rustix::pipe::pipe().unwrap();
        self.granted.push(ours);
        Ok(theirs)
    }
}

#[test]
fn groups_are_claimed_while_functions_are_taken_away_and_no_longer() {
    let mut lab = Lab::new(machine());
    lab.apply(&create(pf(), 3)).unwrap();
    let vf = Target::Function(lab.machine.vf(pf(), 0).unwrap());
    let steps = vec![
        unbind(vf),
        set(vf, Attribute::DriverOverride, ""),
        set(pf_target(), Attribute::NumVfs, "0"),
    ];
    let mut access = Claims {
        machine: &mut lab.machine,
        granted: Vec::new(),
        refused: Vec::new(),
        kept: Vec::new(),
    };
    let (mut guard, mut progress) = (|_| Ok(()), |_: sriov::Progress<'_>| {});
    let mut executor = Executor::new(&mut access, &lab.journal, &mut guard, &mut progress);
    executor.apply(&plan(steps), "test").unwrap();
    // The first VF is on no driver of VFIO any more when all go.
    let wanted = [("unbind", 1), ("driver_override", 0), ("sriov_numvfs", 2)];
    assert_eq!(access.kept, wanted.map(|(file, count)| (file.to_owned(), count)));
}

#[test]
fn what_keeps_a_claim_from_being_tried_keeps_the_function_from_being_taken() {
    let held = || ErrorKind::Held { holders: Vec::new() };
    let errno = |errno: Errno| ErrorKind::Errno(errno.raw_os_error());
    // Of the group, of the group without an IOMMU; what comes of it.
    let cases = [
        (Some(Errno::NOENT), Some(Errno::NOENT), Ok(0)),
        (Some(Errno::ACCESS), Some(Errno::NOENT), Ok(0)),
        (Some(Errno::NOENT), None, Ok(1)),
        (Some(Errno::NOENT), Some(Errno::BUSY), Err(held())),
        (Some(Errno::BUSY), None, Err(held())),
        (Some(Errno::INTR), None, Err(errno(Errno::INTR))),
        (Some(Errno::MFILE), None, Err(errno(Errno::MFILE))),
    ];
    for (with, without, wanted) in cases {
        let mut lab = Lab::new(machine());
        lab.apply(&create(pf(), 1)).unwrap();
        let vf = lab.machine.vf(pf(), 0).unwrap();
        let group = lab.machine.functions[&vf].group.unwrap();
        let refused = [(format!("{group}"), with), (format!("noiommu-{group}"), without)];
        let refused = refused.into_iter().filter_map(|(node, errno)| Some((node, errno?)));
        let mut access = Claims {
            refused: refused.collect(),
            machine: &mut lab.machine,
            granted: Vec::new(),
            kept: Vec::new(),
        };
        let (mut guard, mut progress) = (|_| Ok(()), |_: sriov::Progress<'_>| {});
        let mut executor = Executor::new(&mut access, &lab.journal, &mut guard, &mut progress);
        let outcome = executor.apply(&plan(vec![unbind(Target::Function(vf))]), "test");
        let outcome = outcome.map_err(|error| error.kind).map(|_| access.kept[0].1);
        assert_eq!(outcome, wanted, "{with:?} {without:?}");
        assert_eq!(access.kept.is_empty(), wanted.is_err());
    }
}

#[test]
fn vfs_are_not_removed_while_an_access_to_one_may_be_under_way() {
    for file in ["bind", "driver_override"] {
        let mut lab = Lab::new(machine());
        lab.machine.faults = vec![Fault {
            file: file.to_owned(),
            write: true,
            after: 1,
            effect: Effect::Hang,
        }];
        let mut access = Claims {
            machine: &mut lab.machine,
            granted: Vec::new(),
            refused: Vec::new(),
            kept: Vec::new(),
        };
        let (mut guard, mut progress) = (|_| Ok(()), |_: sriov::Progress<'_>| {});
        let mut executor = Executor::new(&mut access, &lab.journal, &mut guard, &mut progress);
        let error = executor.apply(&create(pf(), 3), "test").unwrap_err();
        // What it was created with, and nothing after the access that hung.
        let counts = access.kept.iter().filter(|(file, _)| file == "sriov_numvfs").count();
        assert_eq!(counts, 1, "{error}");
        assert_eq!(access.kept.last().unwrap().0, file);
        let ErrorKind::RolledBack { cause, undo_failures } = &error.kind else {
            panic!("{error}")
        };
        assert!(matches!(cause.kind, ErrorKind::TimedOut { .. }), "{error}");
        let vf = lab.machine.vf(pf(), 1);
        assert_eq!(
            undo_failures,
            &[Error::new(vf, "write sriov_numvfs", ErrorKind::Unanswered)]
        );
        assert_eq!(lab.journal.unfinished().unwrap().map(|o| o.id), Some(1));
        assert_eq!(lab.machine.functions[&pf()].driver.as_deref(), Some("igb"));
        lab.undo().unwrap();
        assert_eq!(lab.machine.functions, machine().functions);
    }
}

#[test]
fn claims_of_a_write_without_an_answer_are_kept() {
    let mut lab = Lab::new(machine());
    lab.apply(&create(pf(), 1)).unwrap();
    lab.machine.faults = vec![Fault {
        file: "unbind".to_owned(),
        write: true,
        after: 0,
        effect: Effect::Hang,
    }];
    let vf = Target::Function(lab.machine.vf(pf(), 0).unwrap());
    let mut access = Claims {
        machine: &mut lab.machine,
        granted: Vec::new(),
        refused: Vec::new(),
        kept: Vec::new(),
    };
    let (mut guard, mut progress) = (|_| Ok(()), |_: sriov::Progress<'_>| {});
    let mut executor = Executor::new(&mut access, &lab.journal, &mut guard, &mut progress);
    let steps = vec![set(pf_target(), Attribute::DriversAutoprobe, "0"), unbind(vf)];
    executor.apply(&plan(steps), "test").unwrap_err();
    // What comes after the write that got no answer is the undoing of the first step.
    let autoprobe = "sriov_drivers_autoprobe";
    let wanted = [(autoprobe, 0), ("unbind", 1), (autoprobe, 1)];
    assert_eq!(access.kept, wanted.map(|(file, count)| (file.to_owned(), count)));
}

#[test]
fn vfs_are_not_removed_while_one_is_stuck_in_an_access_of_another_process() {
    let mut lab = Lab::new(machine());
    lab.apply(&create(pf(), 3)).unwrap();
    let created = lab.machine.functions.clone();
    let vf = lab.machine.vf(pf(), 1).unwrap();
    lab.machine.stuck.insert(vf);
    let is_about_vf = |error: &Error| {
        assert_eq!(error.device, Some(vf), "{error}");
        assert!(matches!(error.kind, ErrorKind::TimedOut { .. }), "{error}");
    };
    is_about_vf(&lab.undo().unwrap_err());
    // Nothing was written, so the operation stands.
    assert_eq!(lab.machine.functions, created);
    assert_eq!(lab.journal.unfinished().unwrap(), None);

    let delete = plan(vec![set(pf_target(), Attribute::NumVfs, "0")]);
    is_about_vf(&lab.apply(&delete).unwrap_err());
    assert_eq!(lab.machine.functions, created);
    // The PF, whose lock a write would have kept, still answers.
    assert_eq!(lab.machine.stuck.iter().collect::<Vec<_>>(), [&vf]);

    lab.machine.stuck.clear();
    lab.with(|executor| executor.undo(Some(1))).unwrap();
    assert_eq!(lab.machine.functions, machine().functions);
}
