//! Data pointers: where a command's data is, as PRP entries or an SGL.
//!
//! Lists lie in memory that is made with the queue, a piece of it for each command that can be outstanding.

mod prp;
mod sgl;

use super::memory::Memory;
use super::payload::Payload;
use super::shared::Sgl;
use super::spec::{DataPointer, Sqe};
use crate::ErrorKind;
use iommu::space::AddressSpace;
use std::sync::atomic::AtomicU64;

/// Memory for the lists of a queue's commands.
#[derive(Debug)]
pub(crate) struct Lists {
    memory: Memory,
    /// Words of the list of a command: a power of two, or whole pages.
    words: usize,
    page_bytes: u64,
    /// Bytes of data that a command can have.
    transfer_bytes: u64,
    sgl: Sgl,
    form: DataForm,
}

/// How a queue's commands say where their data is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DataForm {
    /// Two PRP entries where they suffice. Else, where the controller takes SGLs: one descriptor for data in one piece, and for data in pieces
    /// that are not whole pages. Else a PRP list.
    #[default]
    Shortest,
    /// PRP entries always.
    Prp,
    /// SGLs always.
    Sgl,
}

/// Why data cannot be pointed at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    /// Its pieces are shorter than it says.
    Short,
    /// A piece begins off the alignment that the controller wants.
    Alignment,
    /// Pieces inside begin or end within a page.
    Pieces,
    /// More pieces than a list has room for.
    TooMany,
}

impl Lists {
    /// For `count` commands at a time.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](ErrorKind::Unsupported) for SGLs where there are none; those of memory.
    pub(crate) fn new(
        space: &AddressSpace,
        count: u16,
        page_bytes: u64,
        transfer_bytes: u64,
        (sgl, form): (Sgl, DataForm),
    ) -> Result<Self, ErrorKind> {
        if form == DataForm::Sgl && sgl == Sgl::No {
            return Err(ErrorKind::Unsupported("the controller takes no SGLs".into()));
        }
        let too_large = || ErrorKind::Invalid("transfers of that length need lists that are too large".into());
        let words = usize::try_from(prp::list_words(page_bytes, transfer_bytes)).map_err(|_too_large| too_large())?;
        let len = words.checked_mul(8 * usize::from(count)).ok_or_else(too_large)?;
        Ok(Self {
            memory: Memory::new(space, page_bytes, len)?,
            words,
            page_bytes,
            transfer_bytes,
            sgl,
            form,
        })
    }

    /// Bytes of data that a command can have.
    #[inline]
    pub(crate) fn transfer_bytes(&self) -> u64 {
        self.transfer_bytes
    }

    /// The entry with a pointer to the first `bytes` of a payload, at least one; its list, if it needs one, is that of the `index`th command.
    #[inline]
    pub(crate) fn point<P: Payload>(&self, sqe: Sqe, index: u16, payload: &P, bytes: u64) -> Result<Sqe, Unfit> {
        let (iova, len) = payload.segment(0).ok_or(Unfit::Short)?;
        let is_whole = len >= bytes;
        if self.form != DataForm::Sgl {
            if is_whole && let Some((first, second)) = prp::pair(iova.0, bytes, self.page_bytes) {
                return Ok(sqe.with_data(DataPointer::Prp, first, second));
            }
            if self.form == DataForm::Prp || self.sgl == Sgl::No {
                let (first, second) = self.prp_list(index, payload, bytes)?;
                return Ok(sqe.with_data(DataPointer::Prp, first, second));
            }
        }
        let (first, second) = if is_whole && bytes <= sgl::MOST {
            sgl::block(iova.0, bytes, self.sgl)?
        } else {
            match self.sgl_list(index, payload, bytes) {
                // What has too many pieces for an SGL may be whole pages.
                Err(Unfit::TooMany) if self.form != DataForm::Sgl => {
                    let (first, second) = self.prp_list(index, payload, bytes)?;
                    return Ok(sqe.with_data(DataPointer::Prp, first, second));
                }
                pointer => pointer?,
            }
        };
        Ok(sqe.with_data(DataPointer::Sgl, first, second))
    }

    /// The list of a command, and where the controller finds it.
    fn list(&self, index: u16) -> (&[AtomicU64], u64) {
        let start = usize::from(index) * self.words;
        let list = self.memory.words().get(start..start + self.words);
        (list.unwrap_or_default(), self.memory.iova().0 + start as u64 * 8)
    }

    /// Never gives its memory back: a controller may still read it.
    pub(crate) fn leak(&mut self) {
        self.memory.leak();
    }
}

/// The pieces of the first `bytes` of a payload, each with its length.
struct Pieces<'a, P> {
    payload: &'a P,
    index: usize,
    left: u64,
}

impl<'a, P: Payload> Pieces<'a, P> {
    fn new(payload: &'a P, bytes: u64) -> Self {
        Self {
            payload,
            index: 0,
            left: bytes,
        }
    }

    /// The next one that is not empty; `None` after `bytes` of them.
    fn next(&mut self) -> Result<Option<(u64, u64)>, Unfit> {
        while self.left != 0 {
            let (iova, len) = self.payload.segment(self.index).ok_or(Unfit::Short)?;
            self.index += 1;
            let len = len.min(self.left);
            self.left -= len;
            if len != 0 {
                return Ok(Some((iova.0, len)));
            }
        }
        Ok(None)
    }
}

impl From<Unfit> for ErrorKind {
    fn from(unfit: Unfit) -> Self {
        Self::Invalid(
            match unfit {
                Unfit::Short => "the payload's pieces are shorter than it says",
                Unfit::Alignment => "the data does not begin where the controller can take it: at a multiple of 4",
                Unfit::Pieces => "pieces of data that begin or end within a page; only SGLs have such",
                Unfit::TooMany => "the data has more pieces than a list of this queue holds",
            }
            .into(),
        )
    }
}

#[cfg(test)]
mod tests;
