//! One operation as the journal remembers it, and the lines that make it up.
//!
//! [`Operation`] is what the lines of a file, the [`Record`]s, add up to; the files are in [`journal`](crate::journal).

use crate::{Action, Attribute, Step};
use pci::Bdf;
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One operation as the journal remembers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its number, from 1, rising.
    pub id: u64,
    /// When it began.
    pub started: SystemTime,
    /// The command line it was started with.
    pub command: String,
    /// What was planned.
    pub steps: Vec<Step>,
    /// What was begun of it, in order. Steps that found everything as wanted and steps that only wait are not there.
    pub changes: Vec<Change>,
    /// How far it came.
    pub status: Status,
    /// When it came to that: was done, undone or abandoned. `None` for an unfinished one.
    pub ended: Option<SystemTime>,
}

/// One step that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Index into [`Operation::steps`].
    pub step: usize,
    /// How it was before.
    pub former: Former,
    /// How far it came.
    pub stage: Stage,
}

/// A state that can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Former {
    /// Of an attribute.
    Value(String),
    /// Of a function's driver.
    Binding(Binding),
    /// Of the VFs of a PF that has some.
    VirtualFunctions(VirtualFunctions),
}

/// All VFs of a PF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VirtualFunctions {
    /// The PF's `sriov_drivers_autoprobe`.
    pub autoprobe: String,
    /// Each VF's, by index.
    pub bindings: Vec<Binding>,
}

/// What a function is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Its driver.
    pub driver: Option<String>,
    /// The `driver_override` in force; empty for none.
    pub driver_override: String,
}

/// How far a change came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It was about to begin: whether it happened must be looked up on the machine.
    Intended,
    /// It happened and was read back.
    Done,
    /// The former state was restored.
    Undone,
}

/// How far an operation came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Neither done nor undone: under way, or interrupted, or its undoing failed.
    Unfinished,
    /// All steps are done.
    Done,
    /// The former state was restored.
    Undone,
    /// The user keeps the machine as the interrupted operation left it.
    Abandoned,
}

impl Former {
    /// The attribute's value, if it was one.
    pub(crate) fn value(&self) -> Option<String> {
        match self {
            Self::Value(value) => Some(value.clone()),
            Self::VirtualFunctions(vfs) => Some(vfs.bindings.len().to_string()),
            Self::Binding(_) => None,
        }
    }
}

impl Operation {
    /// What is not restored yet, in order.
    pub(crate) fn pending(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.stage != Stage::Undone)
    }

    /// The steps that created VFs where there were none, and on which PF: undoing them removes the VFs.
    pub(crate) fn creations(&self) -> impl Iterator<Item = (usize, Bdf)> + '_ {
        self.changes.iter().filter_map(|change| {
            let step = self.steps.get(change.step)?;
            let created = step.action.sets(Attribute::NumVfs) && matches!(change.former, Former::Value(_));
            created.then(|| (change.step, step.target.anchor()))
        })
    }

    pub(crate) fn begin(record: Record) -> Option<Self> {
        let Record::Begin {
            id,
            time,
            command,
            steps,
        } = record
        else {
            return None;
        };
        Some(Self {
            id,
            started: UNIX_EPOCH.checked_add(Duration::from_secs(time))?,
            command,
            steps,
            changes: Vec::new(),
            status: Status::Unfinished,
            ended: None,
        })
    }

    /// Takes in the next line; `None` when it does not fit.
    pub(crate) fn follow(&mut self, record: Record) -> Option<()> {
        match record {
            Record::Begin { .. } => return None,
            Record::Intent { step, former } => {
                let fits = match (&self.steps.get(step)?.action, &former) {
                    (Action::Set { .. }, Former::Value(_)) => true,
                    (action, Former::VirtualFunctions(_)) => action.sets(Attribute::NumVfs),
                    (Action::Unbind | Action::Probe { .. }, Former::Binding(_)) => true,
                    (Action::Set { .. } | Action::Unbind | Action::Probe { .. } | Action::Wait { .. }, _) => false,
                };
                fits.then_some(())?;
                self.changes.push(Change {
                    step,
                    former,
                    stage: Stage::Intended,
                });
            }
            Record::Done { step } => self.change_mut(step)?.stage = Stage::Done,
            Record::Undo => {
                self.status = Status::Unfinished;
                self.ended = None;
            }
            Record::Undone { step } => self.change_mut(step)?.stage = Stage::Undone,
            Record::End { status, time } => {
                self.status = status;
                self.ended = time.and_then(|time| UNIX_EPOCH.checked_add(Duration::from_secs(time)));
            }
        }
        Some(())
    }

    fn change_mut(&mut self, step: usize) -> Option<&mut Change> {
        self.changes.iter_mut().rev().find(|change| change.step == step)
    }
}

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(crate) enum Record {
    Begin {
        id: u64,
        /// Seconds since 1970.
        time: u64,
        command: String,
        steps: Vec<Step>,
    },
    Intent {
        step: usize,
        former: Former,
    },
    Done {
        step: usize,
    },
    /// The undoing begins.
    Undo,
    Undone {
        step: usize,
    },
    End {
        status: Status,
        /// Seconds since 1970.
        #[serde(default)]
        time: Option<u64>,
    },
}
