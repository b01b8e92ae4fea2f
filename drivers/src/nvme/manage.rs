//! Namespace management: making namespaces, and saying which controllers have them (Base §5.1.20, §5.1.21, §8.1.15).

use super::controller::Controller;
use super::format::DestroyData;
use super::spec::identify::{AdminCommands, LEN};
use super::spec::namespace::NewNamespace;
use super::spec::{Opcode, Sqe};
use crate::{Backing, ErrorKind, Result};
use zerocopy::{FromZeros, IntoBytes};

/// What a new namespace is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Create {
    /// Logical blocks.
    pub blocks: u64,
    /// Logical blocks that can be allocated: fewer of a thin one.
    pub capacity: u64,
    /// Number of the LBA format.
    pub lba_format: u8,
    /// Metadata follow the data of each block in the same buffer.
    pub is_extended: bool,
    /// Several controllers can have it.
    pub is_shared: bool,
}

/// Select of Namespace Management.
const CREATE: u32 = 0;
const DELETE: u32 = 1;
/// Select of Namespace Attachment.
const ATTACH: u32 = 0;
const DETACH: u32 = 1;
/// Most controllers of a list.
const CONTROLLERS: usize = 2047;

impl<B: Backing> Controller<B> {
    /// Makes a namespace, which no controller has yet: its identifier.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) of a controller that cannot; as [`execute`](Self::execute).
    pub fn create_namespace(&self, create: Create) -> Result<u32> {
        let step = "Namespace Management: create";
        self.require(step, AdminCommands::NAMESPACES)?;
        let mut new = NewNamespace::new_zeroed();
        new.nsze = create.blocks.into();
        new.ncap = create.capacity.into();
        new.flbas = create.lba_format & 0xf | u8::from(create.is_extended) << 4 | (create.lba_format & 0x30) << 1;
        new.nmic = create.is_shared.into();
        let sqe = Sqe::new(Opcode::NAMESPACE_MANAGEMENT, 0).with_cdw10(CREATE);
        let limit = self.admin.admin_limit();
        let made = self.changing_namespaces(|| self.admin.write(step, sqe, new.as_bytes(), limit))?;
        Ok(u32::try_from(made & 0xffff_ffff).unwrap_or(0))
    }

    /// Deletes a namespace with all its data; `None` for all namespaces of the subsystem.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) when the confirmation is of another controller; as
    /// [`create_namespace`](Self::create_namespace).
    pub fn delete_namespace(&self, confirmation: &DestroyData, namespace: Option<u32>) -> Result<()> {
        let step = "Namespace Management: delete";
        self.confirm(step, confirmation)?;
        self.require(step, AdminCommands::NAMESPACES)?;
        let sqe = Sqe::new(Opcode::NAMESPACE_MANAGEMENT, namespace.unwrap_or(u32::MAX)).with_cdw10(DELETE);
        self.changing_namespaces(|| self.execute(step, sqe)).map(drop)
    }

    /// Attaches a namespace to controllers, by their identifiers.
    ///
    /// # Errors
    ///
    /// As [`create_namespace`](Self::create_namespace).
    pub fn attach_namespace(&self, namespace: u32, controllers: &[u16]) -> Result<()> {
        self.attachment("Namespace Attachment: attach", ATTACH, namespace, controllers)
    }

    /// Detaches a namespace from controllers. Its data stays.
    ///
    /// # Errors
    ///
    /// As [`create_namespace`](Self::create_namespace).
    pub fn detach_namespace(&self, namespace: u32, controllers: &[u16]) -> Result<()> {
        self.attachment("Namespace Attachment: detach", DETACH, namespace, controllers)
    }

    fn attachment(&self, step: &'static str, select: u32, namespace: u32, controllers: &[u16]) -> Result<()> {
        self.require(step, AdminCommands::NAMESPACES)?;
        if controllers.is_empty() || controllers.len() > CONTROLLERS {
            let why = format!("a list of controllers has 1 to {CONTROLLERS} of them");
            return Err(self.failed(step, ErrorKind::Invalid(why.into())));
        }
        // Their number, and they, ascending (Base §4.6.1).
        let mut sorted = controllers.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let count = u16::try_from(sorted.len()).unwrap_or(0);
        let words = std::iter::once(count).chain(sorted);
        let mut list: Vec<u8> = words.flat_map(u16::to_le_bytes).collect();
        list.resize(LEN, 0);
        let sqe = Sqe::new(Opcode::NAMESPACE_ATTACHMENT, namespace).with_cdw10(select);
        let limit = self.admin.admin_limit();
        self.changing_namespaces(|| self.admin.write(step, sqe, &list, limit))
            .map(drop)
    }
}
