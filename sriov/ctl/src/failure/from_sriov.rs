//! How an error of the library ends a run: kind, exit code, and which of its facts go where.

use super::Failure;
use crate::exit::Exit;
use sriov::{Error, ErrorKind};

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let unfinished = matches!(error.kind, ErrorKind::Unfinished { .. }).then_some("U01");
        let (code, fix) = (error.code().or(unfinished), error.fix());
        let (exit, kind) = classify(&error.kind);
        let mut failure = match error.kind {
            // What began it is the error; that it was undone is its exit code and a hint.
            ErrorKind::RolledBack { cause, undo_failures } => {
                let mut failure = Self::from(*cause);
                failure
                    .causes
                    .extend(undo_failures.iter().map(|error| format!("not undone: {error}")));
                let restored = "everything that had been changed was restored";
                let left = "not everything could be restored: when nothing is in the way any more, sriovctl undo";
                failure.hint(if undo_failures.is_empty() { restored } else { left })
            }
            ErrorKind::Held { holders } if holders.is_empty() => {
                Self::new(exit, kind, "held by a process that cannot be seen from here")
            }
            ErrorKind::Held { holders } => Self::new(exit, kind, "device or resource busy").held_by(holders),
            ErrorKind::InUse { uses } => Self::new(exit, kind, "the machine itself uses it").causes(uses),
            ErrorKind::NotUndone { failures } => {
                let causes = failures.iter().map(ToString::to_string);
                Self::new(exit, kind, "not everything could be restored").causes(causes)
            }
            ErrorKind::TimedOut { after, holders } => {
                let message = format!("no answer within {:.1} s", after.as_secs_f64());
                Self::new(exit, kind, message).held_by(holders)
            }
            other => Self::new(exit, kind, other.to_string()),
        };
        failure.exit = exit;
        failure.kind = kind;
        failure.code = code;
        failure.device = error.device;
        failure.step = Some(error.step);
        failure.fix = fix;
        failure
    }
}

/// Exit code and name of a kind.
fn classify(kind: &ErrorKind) -> (Exit, &'static str) {
    match kind {
        ErrorKind::Held { .. } => (Exit::Busy, "held"),
        ErrorKind::InUse { .. } => (Exit::Busy, "in_use"),
        ErrorKind::Busy { .. } => (Exit::Busy, "busy"),
        ErrorKind::Denied => (Exit::Denied, "denied"),
        ErrorKind::Gone => (Exit::Failed, "gone"),
        ErrorKind::NotPf => (Exit::Failed, "not_pf"),
        ErrorKind::NotVf => (Exit::Failed, "not_vf"),
        ErrorKind::TooManyVfs { .. } => (Exit::Failed, "too_many_vfs"),
        ErrorKind::VfsExist { .. } => (Exit::Failed, "vfs_exist"),
        ErrorKind::VfsAssigned => (Exit::Busy, "vfs_assigned"),
        ErrorKind::NoRoomForVfs => (Exit::Failed, "no_room_for_vfs"),
        ErrorKind::NoDriver { .. } => (Exit::Failed, "no_driver"),
        ErrorKind::NoIommu => (Exit::Failed, "no_iommu"),
        ErrorKind::UnknownDriver { .. } => (Exit::Failed, "unknown_driver"),
        ErrorKind::NotBound { .. } => (Exit::ReadBack, "not_bound"),
        ErrorKind::TimedOut { holders, .. } if !holders.is_empty() => (Exit::Busy, "timed_out"),
        ErrorKind::TimedOut { .. } => (Exit::Failed, "timed_out"),
        ErrorKind::Unanswered => (Exit::Failed, "unanswered"),
        ErrorKind::ReadBack { .. } => (Exit::ReadBack, "read_back"),
        ErrorKind::Missing(_) => (Exit::Failed, "missing"),
        ErrorKind::Malformed { .. } => (Exit::Failed, "malformed"),
        ErrorKind::Unfinished { .. } => (Exit::Failed, "unfinished"),
        ErrorKind::ChangedSince { .. } => (Exit::Failed, "changed_since"),
        ErrorKind::NoSuchOperation { .. } => (Exit::Failed, "no_such_operation"),
        ErrorKind::SegmentTooLarge { .. } => (Exit::Failed, "segment_too_large"),
        ErrorKind::Unsupported { .. } => (Exit::Failed, "unsupported"),
        ErrorKind::NotUndone { .. } => (Exit::Failed, "not_undone"),
        ErrorKind::RolledBack { undo_failures, .. } if undo_failures.is_empty() => (Exit::RolledBack, "rolled_back"),
        ErrorKind::RolledBack { .. } => (Exit::Failed, "not_rolled_back"),
        ErrorKind::Worker(_) => (Exit::Failed, "worker"),
        ErrorKind::Errno(_) => (Exit::Failed, "errno"),
        _ => (Exit::Failed, "other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain;

    fn failure(kind: ErrorKind) -> Failure {
        Failure::from(Error::new(
            "0000:01:00.0".parse::<pci::Bdf>().unwrap(),
            "write sriov_numvfs",
            kind,
        ))
    }

    #[test]
    fn a_rolled_back_operation_shows_what_began_it() {
        let cause = Error::new(None, "write drivers_probe", ErrorKind::NoRoomForVfs);
        let kind = |undo_failures| ErrorKind::RolledBack {
            cause: Box::new(cause.clone()),
            undo_failures,
        };
        let clean = failure(kind(vec![]));
        assert_eq!(
            (clean.exit, clean.kind, clean.code),
            (Exit::RolledBack, "rolled_back", Some("S03"))
        );
        assert_eq!(clean.message, ErrorKind::NoRoomForVfs.to_string());
        let dirty = failure(kind(vec![Error::new(None, "write sriov_numvfs", ErrorKind::Denied)]));
        assert_eq!((dirty.exit, dirty.causes.len()), (Exit::Failed, 1));
    }

    #[test]
    fn every_code_of_an_error_has_an_entry() {
        let read_back = |found: &str| ErrorKind::ReadBack {
            wanted: "4".to_owned(),
            found: found.to_owned(),
        };
        let kinds = [
            ErrorKind::Held { holders: vec![] },
            ErrorKind::InUse { uses: vec![] },
            ErrorKind::Busy { owner: None },
            ErrorKind::Denied,
            ErrorKind::Gone,
            ErrorKind::NotPf,
            ErrorKind::NotVf,
            ErrorKind::TooManyVfs { wanted: 9, total: 8 },
            ErrorKind::VfsExist { enabled: 2 },
            ErrorKind::VfsAssigned,
            ErrorKind::NoRoomForVfs,
            ErrorKind::NoDriver { driver: None },
            ErrorKind::NoIommu,
            ErrorKind::NotBound {
                wanted: String::new(),
                found: None,
                errno: None,
            },
            ErrorKind::TimedOut {
                after: std::time::Duration::from_secs(1),
                holders: vec![],
            },
            read_back("0"),
            read_back("3"),
            ErrorKind::Unfinished { operation: 1 },
        ];
        let mut carried: Vec<&str> = kinds.into_iter().filter_map(|kind| failure(kind).code).collect();
        let held = Error::new(None, "write driver/unbind", ErrorKind::Held { holders: vec![] });
        carried.extend(Failure::from(held).code);
        carried.sort_unstable();
        for code in &carried {
            assert!(explain::find(code).is_some(), "{code}");
        }
        // And no entry is there for its own sake: the others are those of this program.
        let own = ["C01", "P06"];
        let entries = explain::ENTRIES.iter().map(|entry| entry.code);
        let unused: Vec<&str> = entries
            .filter(|code| !carried.contains(code) && !own.contains(code))
            .collect();
        assert!(unused.is_empty(), "{unused:?}");
    }
}
