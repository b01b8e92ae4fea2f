//! Exit codes: the one place that knows them. Help, the manual page and the tests read [`Exit::ALL`].

use std::fmt::Write as _;
use std::process::ExitCode;

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, or nothing to do.
    Ok,
    /// The operation failed and nothing more precise is known.
    Failed,
    /// The command line is wrong.
    Usage,
    /// The reader of standard output went away.
    BrokenPipe,
    /// A privilege is missing.
    Denied,
    /// A guest, a filesystem, a route or another sriovctl has it.
    Busy,
    /// The kernel accepted a change and something else is there.
    ReadBack,
    /// The operation failed and was undone.
    RolledBack,
    /// `plan --check` found something to do.
    PlanNotEmpty,
    /// No selector matched.
    NoMatch,
    /// Some selectors matched and some did not.
    PartialMatch,
    /// A defect of this program.
    Internal,
    /// `run` passes on what the guest's VMM returned.
    Guest(u8),
}

impl Exit {
    /// Every documented code, in numerical order.
    pub(crate) const ALL: [Self; 12] = [
        Self::Ok,
        Self::Failed,
        Self::Usage,
        Self::BrokenPipe,
        Self::Denied,
        Self::Busy,
        Self::ReadBack,
        Self::RolledBack,
        Self::PlanNotEmpty,
        Self::NoMatch,
        Self::PartialMatch,
        Self::Internal,
    ];

    /// The number the shell sees.
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::BrokenPipe => 3,
            Self::Denied => 13,
            Self::Busy => 16,
            Self::ReadBack => 20,
            Self::RolledBack => 21,
            Self::PlanNotEmpty => 22,
            Self::NoMatch => 32,
            Self::PartialMatch => 64,
            Self::Internal => 255,
            Self::Guest(status) => status,
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done, or nothing to do",
            Self::Failed => "the operation failed",
            Self::Usage => "the command line is wrong",
            Self::BrokenPipe => "the reader of standard output went away",
            Self::Denied => "permission denied",
            Self::Busy => "the function is held or in use, or another sriovctl is at work",
            Self::ReadBack => "the kernel accepted a change, but something else is read back",
            Self::RolledBack => "the operation failed and everything it had changed was restored",
            Self::PlanNotEmpty => "plan --check found something to do",
            Self::NoMatch => "no function matched",
            Self::PartialMatch => "some selectors matched and some did not",
            Self::Internal => "a defect of sriovctl",
            Self::Guest(_) => "the status of the VMM",
        }
    }

    /// The table for help and manual page, without its heading.
    pub(crate) fn table() -> String {
        Self::ALL.into_iter().fold(String::new(), |mut table, exit| {
            let line = writeln!(table, "  {:>3}  {}", exit.code(), exit.meaning());
            debug_assert!(line.is_ok(), "writing to a String does not fail");
            table
        })
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_ascending() {
        let codes = Exit::ALL.map(Exit::code);
        assert!(codes.is_sorted_by(|a, b| a < b), "{codes:?}");
    }

    #[test]
    fn table_is_as_documented() {
        insta::assert_snapshot!(Exit::table());
    }
}
