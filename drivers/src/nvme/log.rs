//! Log pages (Base §5.1.12).

use super::controller::Controller;
use super::spec::identify::LEN;
use super::spec::log::{Commands, ErrorEntry, FirmwareSlots, Health, SanitizeStatus, lid};
use super::spec::namespace::namespace_list;
use super::spec::{Opcode, Sqe};
use crate::{Backing, ErrorKind, Result};
use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout};

/// What a log page is about, where it is about several things.
pub const ALL_NAMESPACES: u32 = u32::MAX;
/// Identify Controller, LPA bit 2: offsets and longer lengths.
const EXTENDED: u8 = 1 << 2;
/// Identify Controller, LPA bit 1: commands supported and effects.
const COMMANDS: u8 = 1 << 1;

impl<B: Backing> Controller<B> {
    /// Entries of the error log, newest first.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn error_log(&self) -> Result<Vec<ErrorEntry>> {
        let step = "Get Log Page: errors";
        let count = usize::from(self.identity().elpe) + 1;
        let mut log = vec![0; count * size_of::<ErrorEntry>()];
        self.log_page(step, lid::ERROR, ALL_NAMESPACES, &mut log)?;
        let entries = <[ErrorEntry]>::ref_from_bytes(&log).unwrap_or_default();
        Ok(entries.iter().filter(|entry| entry.is_valid()).cloned().collect())
    }

    /// SMART and health information of the controller.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn health(&self) -> Result<Health> {
        self.log("Get Log Page: health", lid::HEALTH, ALL_NAMESPACES)
    }

    /// Firmware slots.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn firmware_slots(&self) -> Result<FirmwareSlots> {
        self.log("Get Log Page: firmware slots", lid::FIRMWARE, ALL_NAMESPACES)
    }

    /// Namespaces that have changed since this was last asked; `None` for more than the list holds.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); a controller without that event may refuse.
    pub fn changed_namespaces(&self) -> Result<Option<Vec<u32>>> {
        let mut log = vec![0; LEN];
        self.log_page(
            "Get Log Page: changed namespaces",
            lid::CHANGED_NAMESPACES,
            ALL_NAMESPACES,
            &mut log,
        )?;
        let list = <[U32]>::ref_from_bytes(&log).unwrap_or_default();
        let is_too_many = list.first().is_some_and(|first| first.get() == u32::MAX);
        Ok((!is_too_many).then(|| namespace_list(list, 0)))
    }

    /// What commands there are, and what they do beside their own.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) of a controller that does not say; as [`execute`](Self::execute).
    pub fn commands(&self) -> Result<Box<Commands>> {
        let step = "Get Log Page: commands supported and effects";
        if self.identity().lpa & COMMANDS == 0 {
            return Err(self.failed(step, ErrorKind::Unsupported("this log page (LPA bit 1)".into())));
        }
        self.log(step, lid::COMMANDS, 0).map(Box::new)
    }

    /// How the last Sanitize went, or how far it is.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute); a controller without Sanitize refuses.
    pub fn sanitize_status(&self) -> Result<SanitizeStatus> {
        self.log("Get Log Page: sanitize", lid::SANITIZE, ALL_NAMESPACES)
    }

    /// Reads a log page from its start. Events that it is about are acknowledged with it.
    ///
    /// Beyond 4096 bytes it is read in parts. What is in the log may change between them, and what a controller without offsets (LPA bit 2)
    /// has there stays 0.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn log_page(&self, step: &'static str, lid: u8, namespace: u32, to: &mut [u8]) -> Result<()> {
        let mut offset: u64 = 0;
        for part in to.chunks_mut(LEN) {
            if offset != 0 && self.identity().lpa & EXTENDED == 0 {
                break;
            }
            let dwords = u32::try_from(part.len().div_ceil(4)).unwrap_or(1).saturating_sub(1);
            let sqe = Sqe::new(Opcode::GET_LOG_PAGE, namespace)
                .with_cdw10(u32::from(lid) | dwords << 16)
                .with_cdw12(u32::try_from(offset & 0xffff_ffff).unwrap_or(0))
                .with_cdw13(u32::try_from(offset >> 32).unwrap_or(0));
            let bytes = self.read(step, sqe)?;
            for (to, from) in part.iter_mut().zip(bytes) {
                *to = from;
            }
            offset += LEN as u64;
        }
        Ok(())
    }

    fn log<T: FromBytes + KnownLayout + Immutable>(&self, step: &'static str, lid: u8, namespace: u32) -> Result<T> {
        let mut bytes = vec![0; size_of::<T>()];
        self.log_page(step, lid, namespace, &mut bytes)?;
        let short = |_| self.failed(step, ErrorKind::Failed("not a log page".into()));
        T::read_from_bytes(&bytes).map_err(short)
    }
}
