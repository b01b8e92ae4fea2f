//! `include/uapi/linux/vfio.h`: what is asked of a device, a group and a container.
//!
//! Handles are distinct traits because request numbers collide: `VFIO_BASE + 12` is one thing on a container and another on a device.

mod container;
mod device;
mod group;
mod place;

use super::Result;
use super::iommufd::Id;
use super::located::Located;
use super::mmio::Map;
use super::space::Lent;
use crate::Access;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, opcode};
use std::fmt::Debug;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use zerocopy::IntoBytes;

pub(crate) use container::Container;
pub(crate) use device::Device;
pub(crate) use group::Group;

/// A VFIO device file, from `/dev/vfio/devices` or from a group.
pub(crate) trait DeviceCalls: Debug + Send + Sync {
    /// `VFIO_DEVICE_BIND_IOMMUFD`; returns the device's id in the iommufd.
    fn bind_iommufd(&self, iommufd: i32, token: Option<[u8; 16]>) -> Result<Id>;
    /// `VFIO_DEVICE_ATTACH_IOMMUFD_PT`; returns the id of the HWPT in use.
    fn attach(&self, table: Id, pasid: Option<u32>) -> Result<Id>;
    fn detach(&self, pasid: Option<u32>) -> Result<()>;

    /// `struct vfio_device_info` with its capabilities, as the kernel wrote it.
    fn info(&self) -> Result<Vec<u8>>;
    /// `struct vfio_region_info` with its capabilities, as the kernel wrote it.
    fn region_info(&self, index: u32) -> Result<Vec<u8>>;
    /// Flags and count of `struct vfio_irq_info`.
    fn irq_info(&self, index: u32) -> Result<(u32, u32)>;
    /// `VFIO_DEVICE_SET_IRQS`; `action` is one of `VFIO_IRQ_SET_ACTION_*`.
    fn set_irqs(&self, index: u32, start: u32, action: u32, data: IrqData<'_>) -> Result<()>;
    fn reset(&self) -> Result<()>;
    /// Flags and the functions affected.
    fn hot_reset_info(&self) -> Result<(u32, Vec<DependentDevice>)>;
    /// With the descriptors of all groups concerned, or with none for a device that was bound to an iommufd.
    fn hot_reset(&self, groups: &[&dyn GroupCalls]) -> Result<()>;
    /// `offset` counts from the start of the device file; no `event` removes it.
    fn ioeventfd(&self, offset: u64, width: u32, value: u64, event: Option<BorrowedFd<'_>>) -> Result<()>;
    /// `VFIO_DEVICE_FEATURE`: `flags` holds the number and what to do with it.
    fn feature(&self, flags: u32, data: &mut [u8]) -> Result<()>;
    /// A feature whose answer is a new descriptor (dma-buf): the call's return value.
    fn feature_descriptor(&self, flags: u32, data: &mut [u8]) -> Result<OwnedFd>;
    /// `VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE` SET: the new state, and the data stream if it has one.
    fn set_migration_state(&self, state: u32) -> Result<(u32, Option<OwnedFd>)>;
    /// `VFIO_MIG_GET_PRECOPY_INFO` on a data stream: flags, initial and dirty bytes.
    fn precopy_info(&self, stream: BorrowedFd<'_>) -> Result<(u32, u64, u64)>;
    /// `VFIO_DEVICE_FEATURE_DMA_LOGGING_START`; ranges are IOVA and length.
    fn dma_logging_start(&self, page_size: u64, ranges: &[(u64, u64)]) -> Result<u64>;
    /// `VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT`; bits as in an iommufd's dirty bitmap.
    fn dma_logging_report(&self, iova: u64, len: u64, page_size: u64, bitmap: &mut [u64]) -> Result<()>;

    /// `offset` counts from the start of the device file.
    fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize>;
    fn write(&self, offset: u64, from: &[u8]) -> Result<usize>;
    /// Maps a part of the device file, at an address that is a multiple of `alignment` plus `offset_in_alignment`.
    fn map(&self, offset: u64, len: usize, access: Access, alignment: usize, offset_in_alignment: usize)
    -> Result<Map>;

    /// The descriptor's number, for calls that take one.
    #[cfg_attr(not(feature = "kvm"), expect(dead_code, reason = "only KVM takes a device's"))]
    fn number(&self) -> i32;
    /// A duplicate of the descriptor, to hand on; `None` where there is no real one.
    fn descriptor(&self) -> Result<Option<OwnedFd>>;
}

/// A group file, `/dev/vfio/GROUP`.
pub(crate) trait GroupCalls: Debug + Send + Sync {
    fn status(&self) -> Result<u32>;
    fn set_container(&self, container: &dyn ContainerCalls) -> Result<()>;
    fn unset_container(&self) -> Result<()>;
    /// `name` as the kernel has it: `0000:01:10.0`, or with ` vf_token=UUID` behind.
    fn device(&self, name: &str) -> Result<Arc<dyn DeviceCalls>>;
    fn number(&self) -> i32;
    /// A duplicate of the descriptor; `None` where there is no real one.
    fn descriptor(&self) -> Result<Option<OwnedFd>>;
}

/// A container file: `/dev/vfio/vfio`, or `/dev/iommu` in the compatible mode.
pub(crate) trait ContainerCalls: Debug + Send + Sync {
    fn api_version(&self) -> Result<i32>;
    /// What `VFIO_CHECK_EXTENSION` returns, 0 without.
    fn check_extension(&self, extension: u32) -> Result<i32>;
    fn set_iommu(&self, kind: u32) -> Result<()>;
    /// `struct vfio_iommu_type1_info` with its capabilities, as the kernel wrote it.
    fn info(&self) -> Result<Vec<u8>>;
    /// Maps a part of `memory`.
    fn map_dma(&self, memory: &Lent<Located>, part: Range<usize>, iova: u64, access: Access) -> Result<()>;
    /// Returns the bytes unmapped. With `bitmap` the dirty bits of the range are reported, one for each page of the size given.
    fn unmap_dma(&self, iova: u64, len: u64, bitmap: Option<(u64, &mut [u64])>) -> Result<u64>;
    /// `VFIO_DMA_UNMAP_FLAG_ALL`.
    fn unmap_all(&self) -> Result<u64>;
    fn dirty_start(&self) -> Result<()>;
    fn dirty_stop(&self) -> Result<()>;
    fn dirty_get(&self, iova: u64, len: u64, page_size: u64, bitmap: &mut [u64]) -> Result<()>;
    fn number(&self) -> i32;
    /// A duplicate of the descriptor, to hand on; `None` where there is no real one.
    fn descriptor(&self) -> Result<Option<OwnedFd>>;
}

/// What follows `struct vfio_irq_set`.
#[derive(Debug, Clone, Copy)]
pub(crate) enum IrqData<'a> {
    /// Nothing; for this many interrupts (0 with `ACTION_TRIGGER` disables the index).
    None(u32),
    /// Whether to act, one byte each.
    Bool(&'a [u8]),
    /// An eventfd each; none drops the one that is set.
    Event(&'a [Option<BorrowedFd<'a>>]),
}

/// `struct vfio_pci_dependent_device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DependentDevice {
    /// Group id, or id in the iommufd with `VFIO_PCI_HOT_RESET_FLAG_DEV_ID`.
    pub(crate) id: u32,
    pub(crate) segment: u16,
    pub(crate) bus: u8,
    pub(crate) devfn: u8,
}

/// The number of a descriptor of the running kernel; EBADF for that of a machine in memory, which is negative.
fn real(number: i32) -> Result<i32> {
    if number < 0 { Err(Errno::BADF) } else { Ok(number) }
}

/// Opens a file of VFIO.
pub(crate) fn open(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
}

/// The largest answer with capabilities that is taken from a kernel, in bytes: a bus has at most 256 functions of 8 bytes, a region
/// a few areas of 16.
const ANSWER_LIMIT: usize = 1 << 20;

/// `_IO(VFIO_TYPE, VFIO_BASE + number)`.
const fn request(number: u8) -> Opcode {
    opcode::none(b';', 100 + number)
}

/// A length or count as the kernel's structures hold it.
fn word(len: usize) -> Result<u32> {
    u32::try_from(len).ok().ok_or(Errno::INVAL)
}

/// Bytes in 8-byte words, so that every structure of the header is aligned in them.
fn words(bytes: usize) -> Vec<u64> {
    vec![0; bytes.div_ceil(size_of::<u64>())]
}

/// Makes a request for a structure that begins with `argsz` and may be followed by more, in a buffer that is made as long as the kernel
/// wants it. `input` is what follows `argsz`; `fixed` is the length of the structure alone.
fn ask(fixed: usize, input: &[u32], call: impl Fn(&mut [u64]) -> Result<()>) -> Result<Vec<u8>> {
    let mut len = fixed;
    // The answer may grow between two calls, but not for ever.
    for _ in 0..8 {
        let mut buffer = words(len);
        let argsz = word(len)?;
        for (to, from) in buffer
            .as_mut_bytes()
            .chunks_exact_mut(4)
            .zip([argsz].iter().chain(input))
        {
            to.copy_from_slice(&from.to_ne_bytes());
        }
        let result = call(&mut buffer);
        let wanted = buffer
            .as_bytes()
            .first_chunk()
            .map_or(0, |argsz| u32::from_ne_bytes(*argsz)) as usize;
        match result {
            // ENOSPC: hot reset information fails where the others cut the answer short.
            Ok(()) | Err(Errno::NOSPC) if wanted > len => {
                if wanted > ANSWER_LIMIT {
                    return Err(Errno::MSGSIZE);
                }
                len = wanted;
            }
            Ok(()) => {
                let mut bytes = buffer.as_bytes().to_vec();
                bytes.truncate(len);
                return Ok(bytes);
            }
            Err(errno) => return Err(errno),
        }
    }
    Err(Errno::MSGSIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Writes `argsz` as a kernel does that has so much to say.
    fn say(buffer: &mut [u64], argsz: u32) {
        buffer.as_mut_bytes()[..4].copy_from_slice(&argsz.to_ne_bytes());
    }

    fn argsz(buffer: &[u64]) -> u32 {
        u32::from_ne_bytes(*buffer.as_bytes().first_chunk().unwrap())
    }

    #[test]
    fn an_answer_is_asked_for_again_until_it_is_whole() {
        let lengths = Cell::new(0);
        let answer = ask(20, &[0, 7], |buffer| {
            lengths.set(lengths.get() + 1);
            assert_eq!(
                buffer.as_bytes()[8..12],
                7_u32.to_ne_bytes(),
                "the input is there each time"
            );
            match argsz(buffer) {
                20 => say(buffer, 52),
                52 => buffer[6] = u64::MAX,
                other => panic!("{other}"),
            }
            Ok(())
        });
        let answer = answer.unwrap();
        assert_eq!((answer.len(), lengths.get()), (52, 2));
        assert_eq!(answer[48..], [0xff; 4]);
    }

    #[test]
    fn an_answer_without_end_is_an_error() {
        let growing = ask(20, &[], |buffer| {
            let len = argsz(buffer);
            say(buffer, len + 8);
            Ok(())
        });
        assert_eq!(growing, Err(Errno::MSGSIZE));
        let huge = ask(20, &[], |buffer| {
            say(buffer, u32::MAX);
            Ok(())
        });
        assert_eq!(huge, Err(Errno::MSGSIZE));
        assert_eq!(ask(20, &[], |_| Err(Errno::NOSPC)), Err(Errno::NOSPC));
        let shrunk = ask(20, &[], |buffer| {
            say(buffer, 0);
            Ok(())
        });
        assert_eq!(shrunk.unwrap().len(), 20, "never less than the structure");
    }
}
