//! Formatting and sanitizing: what destroys data, behind a confirmation.

use super::controller::Controller;
use super::spec::identify::{AdminCommands, SanitizeCapabilities};
use super::spec::{Opcode, Sqe};
use crate::{Backing, ErrorKind, Result};
use std::time::Duration;

/// The word of somebody who knows that data will be destroyed, and on which controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestroyData {
    serial: String,
}

impl DestroyData {
    /// Data of the controller with this serial number ([`IdentifyController::serial`](super::spec::identify::IdentifyController::serial)) may
    /// be destroyed.
    #[must_use]
    pub fn on(serial: &str) -> Self {
        Self {
            serial: serial.to_owned(),
        }
    }
}

/// What a namespace is formatted as (NVM §4.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Format {
    /// Number of the LBA format.
    pub lba_format: u8,
    /// Metadata follow the data of each block in the same buffer.
    pub is_extended: bool,
    /// Type of protection information; 0 for none.
    pub protection: u8,
    /// Protection information comes first in the metadata.
    pub protection_first: bool,
    /// What becomes of the data that was there.
    pub erase: Erase,
}

/// What a format does to data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Erase {
    /// Nothing is promised.
    #[default]
    No,
    /// It is erased.
    UserData,
    /// Its key is.
    Key,
}

/// A Sanitize operation (Base §5.1.22).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sanitize {
    /// Leaves the state that a failed one has led to.
    ExitFailure,
    /// Erases all blocks.
    BlockErase,
    /// Writes a pattern over everything, 1 to 16 times.
    Overwrite {
        /// How often; 16 for 0.
        passes: u8,
        /// The pattern.
        pattern: u32,
        /// The pattern is inverted from pass to pass.
        is_inverted: bool,
    },
    /// Forgets the key.
    CryptoErase,
}

/// A format of a large medium takes long.
const FORMAT: Duration = Duration::from_secs(3600);

impl<B: Backing> Controller<B> {
    /// Formats a namespace; `None` for all of them. All that was known of it must be asked again.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when the confirmation is of another controller; [`Unsupported`](ErrorKind::Unsupported); as
    /// [`execute`](Self::execute).
    pub fn format(&self, confirmation: &DestroyData, namespace: Option<u32>, format: Format) -> Result<()> {
        let step = "Format NVM";
        self.confirm(step, confirmation)?;
        self.require(step, AdminCommands::FORMAT)?;
        let erase = match format.erase {
            Erase::No => 0,
            Erase::UserData => 1,
            Erase::Key => 2,
        };
        let number = u32::from(format.lba_format);
        let cdw10 = number & 0xf
            | u32::from(format.is_extended) << 4
            | u32::from(format.protection & 7) << 5
            | u32::from(format.protection_first) << 8
            | erase << 9
            | (number >> 4 & 3) << 12;
        let sqe = Sqe::new(Opcode::FORMAT, namespace.unwrap_or(u32::MAX)).with_cdw10(cdw10);
        // However it ends: an event for this controller need not come (Base §5.1.2.1).
        self.changing_namespaces(|| self.admin.run(step, sqe, FORMAT.max(self.admin.admin_limit())))
            .map(drop)
    }

    /// Begins to sanitize the whole subsystem. It goes on over resets and power losses until it is done:
    /// [`sanitize_status`](Self::sanitize_status). Until then most commands are refused.
    ///
    /// # Errors
    ///
    /// As [`format`](Self::format).
    pub fn sanitize(&self, confirmation: &DestroyData, operation: Sanitize) -> Result<()> {
        let step = "Sanitize";
        self.confirm(step, confirmation)?;
        let (cdw10, pattern, needed) = match operation {
            Sanitize::ExitFailure => (1, 0, SanitizeCapabilities::empty()),
            Sanitize::BlockErase => (2, 0, SanitizeCapabilities::BLOCK_ERASE),
            Sanitize::Overwrite {
                passes,
                pattern,
                is_inverted,
            } => {
                let passes = u32::from(passes & 0xf) << 4 | u32::from(is_inverted) << 8;
                (3 | passes, pattern, SanitizeCapabilities::OVERWRITE)
            }
            Sanitize::CryptoErase => (4, 0, SanitizeCapabilities::CRYPTO_ERASE),
        };
        if !self.identity().sanitize().contains(needed) {
            let what = format!("{operation:?} (SANICAP)");
            return Err(self.failed(step, ErrorKind::Unsupported(what.into())));
        }
        let sqe = Sqe::new(Opcode::SANITIZE, 0).with_cdw10(cdw10).with_cdw11(pattern);
        self.execute(step, sqe).map(drop)
    }

    /// What is known of namespaces is not true any more: from when the controller may have begun, and again once it has ended, of what was
    /// asked meanwhile.
    pub(crate) fn changing_namespaces<T>(&self, change: impl FnOnce() -> Result<T>) -> Result<T> {
        self.shared.epoch.namespaces_changed();
        let done = change();
        self.shared.epoch.namespaces_changed();
        done
    }

    pub(crate) fn confirm(&self, step: &'static str, confirmation: &DestroyData) -> Result<()> {
        let serial = self.identity().serial();
        if confirmation.serial == serial {
            return Ok(());
        }
        let why = format!(
            "data of controller {} may be destroyed, but this is {serial}",
            confirmation.serial
        );
        Err(self.failed(step, ErrorKind::Invalid(why.into())))
    }

    pub(crate) fn require(&self, step: &'static str, commands: AdminCommands) -> Result<()> {
        if self.identity().admin_commands().contains(commands) {
            return Ok(());
        }
        let what = "the controller does not have this command (OACS)";
        Err(self.failed(step, ErrorKind::Unsupported(what.into())))
    }
}
