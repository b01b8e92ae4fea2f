//! Features: what Get Features tells and Set Features changes.
//!
//! NVM Express Base Specification 2.0 §5.15, §5.27.

use super::Abilities;
use super::bytes::{high16, low8, low16};
use super::command::{Command, Status};
use super::controller::Controller;
use std::collections::BTreeMap;

/// Features that are not as they were at first, by identifier and, for what is set for each vector, by vector.
#[derive(Debug, Default)]
pub(super) struct Features {
    values: BTreeMap<(u8, u16), u32>,
    /// I/O submission and completion queues that the host was given.
    queues: Option<(u16, u16)>,
}

const TEMPERATURE: u8 = 0x04;
const CACHE: u8 = 0x06;
const QUEUES: u8 = 0x07;
const VECTOR: u8 = 0x09;
const EVENTS: u8 = 0x0b;

impl Features {
    /// Asynchronous Event Configuration.
    pub(super) fn events(&self) -> u32 {
        self.values.get(&(EVENTS, 0)).copied().unwrap_or_default()
    }
}

impl Controller {
    /// Most numbers of I/O submission and completion queues.
    pub(super) fn queue_limit(&self) -> (u16, u16) {
        let there = self.most_queues();
        self.features.queues.unwrap_or((there, there))
    }

    fn most_queues(&self) -> u16 {
        let resources = self.subsystem().queues(self.id);
        resources.map_or(self.options.queues, |queues| {
            queues.saturating_sub(1).min(self.options.queues)
        })
    }

    pub(super) fn vector_limit(&self) -> u16 {
        let there = self.options.vectors();
        let resources = self.subsystem().vectors(self.id);
        resources.map_or(there, |vectors| vectors.min(there))
    }

    fn default_of(&self, feature: u8) -> Option<u32> {
        Some(match feature {
            0x01 | 0x02 | 0x05 | 0x08 | 0x0a | EVENTS => 0,
            TEMPERATURE => 0x157,
            CACHE if self.has_ability(Abilities::CACHE) => 1,
            QUEUES => {
                let most = u32::from(self.most_queues().saturating_sub(1));
                most | most << 16
            }
            VECTOR => 0,
            _ => return None,
        })
    }

    pub(super) fn get_feature(&mut self, command: &Command) -> Result<u32, Status> {
        let feature = low8(command.dword(10));
        let default = self.default_of(feature).ok_or(Status::INVALID_FIELD)?;
        let part = self.part(feature, command.dword(11))?;
        let default = if feature == VECTOR { u32::from(part) } else { default };
        let current = match (feature, self.features.queues) {
            (QUEUES, Some((submissions, completions))) => {
                u32::from(submissions.saturating_sub(1)) | u32::from(completions.saturating_sub(1)) << 16
            }
            _ => self.features.values.get(&(feature, part)).copied().unwrap_or(default),
        };
        match command.dword(10) >> 8 & 7 {
            0 => Ok(current),
            1 | 2 => Ok(default),
            // Changeable; neither saveable nor of a namespace.
            3 => Ok(1 << 2),
            _ => Err(Status::INVALID_FIELD),
        }
    }

    pub(super) fn set_feature(&mut self, command: &Command) -> Result<u32, Status> {
        let (feature, value) = (low8(command.dword(10)), command.dword(11));
        self.default_of(feature).ok_or(Status::INVALID_FIELD)?;
        if command.dword(10) >> 31 != 0 {
            return Err(Status::NOT_SAVEABLE);
        }
        if feature == QUEUES {
            return self.set_queues(value);
        }
        let part = self.part(feature, value)?;
        self.features.values.insert((feature, part), value);
        Ok(0)
    }

    fn part(&self, feature: u8, value: u32) -> Result<u16, Status> {
        let vector = if feature == VECTOR { low16(value) } else { 0 };
        if vector < self.vector_limit() {
            Ok(vector)
        } else {
            Err(Status::INVALID_FIELD)
        }
    }

    fn set_queues(&mut self, value: u32) -> Result<u32, Status> {
        let (submissions, completions) = (low16(value), high16(value));
        if submissions == u16::MAX || completions == u16::MAX {
            return Err(Status::INVALID_FIELD);
        }
        if self.completions.len() > 1 || self.submissions.len() > 1 {
            return Err(Status::SEQUENCE);
        }
        let most = self.most_queues();
        let given = ((submissions + 1).min(most), (completions + 1).min(most));
        self.features.queues = Some(given);
        Ok(u32::from(given.0.saturating_sub(1)) | u32::from(given.1.saturating_sub(1)) << 16)
    }
}
