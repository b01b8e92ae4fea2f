//! A device file of the running kernel.

use super::{DependentDevice, DeviceCalls, GroupCalls, IrqData, Result, ask, place, real, request, word, words};
use crate::Access;
use crate::sys::bitmap::{self, Bounce};
use crate::sys::ioctl;
use crate::sys::iommufd::Id;
use crate::sys::mmio::Map;
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use vfio_bindings::bindings::vfio::{
    VFIO_DEVICE_ATTACH_PASID, VFIO_DEVICE_BIND_FLAG_TOKEN, VFIO_DEVICE_DETACH_PASID, VFIO_DEVICE_FEATURE_DMA_BUF,
    VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, VFIO_DEVICE_FEATURE_DMA_LOGGING_START, VFIO_DEVICE_FEATURE_GET,
    VFIO_DEVICE_FEATURE_MASK, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, VFIO_DEVICE_FEATURE_PROBE, VFIO_DEVICE_FEATURE_SET,
    VFIO_IRQ_SET_DATA_BOOL, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_IRQ_SET_DATA_NONE, vfio_device_attach_iommufd_pt,
    vfio_device_bind_iommufd, vfio_device_detach_iommufd_pt, vfio_device_feature_dma_logging_control,
    vfio_device_feature_dma_logging_range, vfio_device_feature_dma_logging_report, vfio_device_feature_mig_state,
    vfio_device_info, vfio_device_ioeventfd, vfio_irq_info, vfio_pci_hot_reset, vfio_pci_hot_reset_info,
    vfio_precopy_info, vfio_region_info,
};
use zerocopy::IntoBytes;

/// `/dev/vfio/devices/vfioN`, or a descriptor from a group.
#[derive(Debug)]
pub(crate) struct Device {
    file: OwnedFd,
}

/// `VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2` of Linux 7.1.
const FEATURE_MIG_PRECOPY_INFO_V2: u32 = 12;

/// `struct vfio_device_feature` with the structure of one feature behind it.
#[repr(C)]
struct Feature<T> {
    argsz: u32,
    flags: u32,
    data: T,
}

impl Device {
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self { file }
    }

    /// `VFIO_DEVICE_FEATURE` for a structure that holds addresses.
    ///
    /// # Safety
    ///
    /// `T` is the feature's structure of plain numbers, and addresses in it are valid for what the kernel does with them.
    unsafe fn typed_feature<T>(&self, flags: u32, data: T) -> Result<T> {
        let mut feature = Feature {
            argsz: word(size_of::<Feature<T>>())?,
            flags,
            data,
        };
        // SAFETY: VFIO_DEVICE_FEATURE reads and writes this structure; the rest is promised by the caller.
        unsafe { ioctl::call(self.file.as_fd(), request(17), &mut feature) }?;
        Ok(feature.data)
    }

    /// `VFIO_DEVICE_FEATURE` for bytes. Returns what the call returned.
    fn plain_feature(&self, flags: u32, data: &mut [u8]) -> Result<i32> {
        if flags & VFIO_DEVICE_FEATURE_PROBE == 0 && !is_plain(flags) {
            return Err(Errno::INVAL);
        }
        let len = size_of::<Feature<()>>() + data.len();
        let mut buffer = words(len);
        let header = [word(len)?, flags];
        let bytes = buffer.as_mut_bytes();
        if let Some((head, tail)) = bytes.split_at_mut_checked(size_of_val(&header)) {
            head.copy_from_slice(header.as_bytes());
            for (to, from) in tail.iter_mut().zip(data.iter()) {
                *to = *from;
            }
        }
        // SAFETY: VFIO_DEVICE_FEATURE reads and writes no more than `argsz` says, which is at most the buffer's length. What is not
        // known to hold no addresses, and no descriptors that the call opens, was refused above; a probe reads no data.
        let value = unsafe { ioctl::call(self.file.as_fd(), request(17), buffer.as_mut_slice()) }?;
        let answer = buffer.as_bytes().get(size_of_val(&header)..).unwrap_or_default();
        for (to, from) in data.iter_mut().zip(answer) {
            *to = *from;
        }
        Ok(value)
    }
}

impl DeviceCalls for Device {
    fn bind_iommufd(&self, iommufd: i32, token: Option<[u8; 16]>) -> Result<Id> {
        let mut bind = vfio_device_bind_iommufd {
            // Kernels before the token know the structure without it.
            argsz: word(std::mem::offset_of!(vfio_device_bind_iommufd, token_uuid_ptr))?,
            iommufd: real(iommufd)?,
            ..Default::default()
        };
        if let Some(token) = &token {
            bind.argsz = word(size_of_val(&bind))?;
            bind.flags = VFIO_DEVICE_BIND_FLAG_TOKEN;
            bind.token_uuid_ptr = token.as_ptr().expose_provenance() as u64;
        }
        // SAFETY: VFIO_DEVICE_BIND_IOMMUFD reads and writes this structure and reads 16 bytes of `token`, which lives until the end.
        unsafe { ioctl::call(self.file.as_fd(), request(18), &mut bind) }?;
        Ok(bind.out_devid)
    }

    fn attach(&self, table: Id, pasid: Option<u32>) -> Result<Id> {
        let mut attach = vfio_device_attach_iommufd_pt {
            argsz: word(std::mem::offset_of!(vfio_device_attach_iommufd_pt, pasid))?,
            flags: 0,
            pt_id: table,
            pasid: 0,
        };
        if let Some(pasid) = pasid {
            attach.argsz = word(size_of_val(&attach))?;
            attach.flags = VFIO_DEVICE_ATTACH_PASID;
            attach.pasid = pasid;
        }
        // SAFETY: VFIO_DEVICE_ATTACH_IOMMUFD_PT reads and writes this structure of plain numbers.
        unsafe { ioctl::call(self.file.as_fd(), request(19), &mut attach) }?;
        Ok(attach.pt_id)
    }

    fn detach(&self, pasid: Option<u32>) -> Result<()> {
        let mut detach = vfio_device_detach_iommufd_pt {
            argsz: word(std::mem::offset_of!(vfio_device_detach_iommufd_pt, pasid))?,
            flags: 0,
            pasid: 0,
        };
        if let Some(pasid) = pasid {
            detach.argsz = word(size_of_val(&detach))?;
            detach.flags = VFIO_DEVICE_DETACH_PASID;
            detach.pasid = pasid;
        }
        // SAFETY: VFIO_DEVICE_DETACH_IOMMUFD_PT reads this structure of plain numbers.
        unsafe { ioctl::call(self.file.as_fd(), request(20), &mut detach) }?;
        Ok(())
    }

    fn info(&self) -> Result<Vec<u8>> {
        ask(size_of::<vfio_device_info>(), &[], |buffer| {
            // SAFETY: VFIO_DEVICE_GET_INFO writes no more than `argsz` says, which is at most the buffer's length.
            unsafe { ioctl::call(self.file.as_fd(), request(7), buffer) }?;
            Ok(())
        })
    }

    fn region_info(&self, index: u32) -> Result<Vec<u8>> {
        ask(size_of::<vfio_region_info>(), &[0, index], |buffer| {
            // SAFETY: VFIO_DEVICE_GET_REGION_INFO writes no more than `argsz` says, which is at most the buffer's length.
            unsafe { ioctl::call(self.file.as_fd(), request(8), buffer) }?;
            Ok(())
        })
    }

    fn irq_info(&self, index: u32) -> Result<(u32, u32)> {
        let mut info = vfio_irq_info {
            argsz: word(size_of::<vfio_irq_info>())?,
            index,
            ..Default::default()
        };
        // SAFETY: VFIO_DEVICE_GET_IRQ_INFO reads and writes this structure of plain numbers.
        unsafe { ioctl::call(self.file.as_fd(), request(9), &mut info) }?;
        Ok((info.flags, info.count))
    }

    fn set_irqs(&self, index: u32, start: u32, action: u32, data: IrqData<'_>) -> Result<()> {
        let (kind, count, bytes) = match data {
            IrqData::None(count) => (VFIO_IRQ_SET_DATA_NONE, count, Vec::new()),
            IrqData::Bool(flags) => (VFIO_IRQ_SET_DATA_BOOL, word(flags.len())?, flags.to_vec()),
            IrqData::Event(events) => {
                let numbers = events.iter().map(|event| event.map_or(-1, |event| event.as_raw_fd()));
                let bytes = numbers.flat_map(i32::to_ne_bytes).collect();
                (VFIO_IRQ_SET_DATA_EVENTFD, word(events.len())?, bytes)
            }
        };
        let header = [0, kind | action, index, start, count];
        let len = size_of_val(&header) + bytes.len();
        let mut buffer = words(len);
        let content = header.as_bytes().iter().chain(&bytes);
        for (to, from) in buffer.as_mut_bytes().iter_mut().zip(content) {
            *to = *from;
        }
        for (to, from) in buffer.as_mut_bytes().iter_mut().zip(word(len)?.to_ne_bytes()) {
            *to = from;
        }
        // SAFETY: VFIO_DEVICE_SET_IRQS reads as much as `argsz` says, which is at most the buffer's length; the kernel takes a reference
        // of its own to each eventfd.
        unsafe { ioctl::call(self.file.as_fd(), request(10), buffer.as_mut_slice()) }?;
        Ok(())
    }

    fn reset(&self) -> Result<()> {
        // SAFETY: VFIO_DEVICE_RESET has no argument.
        unsafe { ioctl::call_number(self.file.as_fd(), request(11), 0) }?;
        Ok(())
    }

    fn hot_reset_info(&self) -> Result<(u32, Vec<DependentDevice>)> {
        let bytes = ask(size_of::<vfio_pci_hot_reset_info>(), &[], |buffer| {
            // SAFETY: VFIO_DEVICE_GET_PCI_HOT_RESET_INFO writes no more than `argsz` says, which is at most the buffer's length.
            let result = unsafe { ioctl::call(self.file.as_fd(), request(12), &mut *buffer) };
            let wanted = hot_reset_len(buffer.as_bytes());
            if result == Err(Errno::NOSPC) {
                // Unlike the others it says in `count`, not in `argsz`, how much there is.
                for (to, from) in buffer.as_mut_bytes().iter_mut().zip(word(wanted)?.to_ne_bytes()) {
                    *to = from;
                }
            }
            result.map(|_| ())
        })?;
        let field = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let flags = field(4).ok_or(Errno::MSGSIZE)?;
        let count = field(8).ok_or(Errno::MSGSIZE)? as usize;
        let entries = bytes.get(size_of::<vfio_pci_hot_reset_info>()..).unwrap_or_default();
        let (entries, _) = entries.as_chunks::<8>();
        let devices = entries
            .iter()
            .take(count)
            .map(|[a, b, c, d, e, f, bus, devfn]| DependentDevice {
                id: u32::from_ne_bytes([*a, *b, *c, *d]),
                segment: u16::from_ne_bytes([*e, *f]),
                bus: *bus,
                devfn: *devfn,
            });
        Ok((flags, devices.collect()))
    }

    fn hot_reset(&self, groups: &[&dyn GroupCalls]) -> Result<()> {
        let numbers: Vec<_> = groups.iter().map(|group| real(group.number())).collect::<Result<_>>()?;
        let numbers = numbers.into_iter().flat_map(i32::to_ne_bytes);
        let len = size_of::<vfio_pci_hot_reset>() + groups.len() * size_of::<i32>();
        let mut buffer = words(len);
        let header = [word(len)?, 0, word(groups.len())?];
        let content = header.as_bytes().iter().copied().chain(numbers);
        for (to, from) in buffer.as_mut_bytes().iter_mut().zip(content) {
            *to = from;
        }
        // SAFETY: VFIO_DEVICE_PCI_HOT_RESET reads as many numbers as `count` says, which are in the buffer.
        unsafe { ioctl::call(self.file.as_fd(), request(13), buffer.as_mut_slice()) }?;
        Ok(())
    }

    fn ioeventfd(&self, offset: u64, width: u32, value: u64, event: Option<BorrowedFd<'_>>) -> Result<()> {
        let mut ioeventfd = vfio_device_ioeventfd {
            argsz: word(size_of::<vfio_device_ioeventfd>())?,
            // VFIO_DEVICE_IOEVENTFD_8 to _64 are the widths in bytes.
            flags: width,
            offset,
            data: value,
            fd: event.map_or(-1, |event| event.as_raw_fd()),
            reserved: 0,
        };
        // SAFETY: VFIO_DEVICE_IOEVENTFD reads this structure; the kernel takes a reference of its own to the eventfd.
        unsafe { ioctl::call(self.file.as_fd(), request(16), &mut ioeventfd) }?;
        Ok(())
    }

    fn feature(&self, flags: u32, data: &mut [u8]) -> Result<()> {
        self.plain_feature(flags, data).map(|_| ())
    }

    fn feature_descriptor(&self, flags: u32, data: &mut [u8]) -> Result<OwnedFd> {
        if flags != VFIO_DEVICE_FEATURE_DMA_BUF | VFIO_DEVICE_FEATURE_GET {
            return Err(Errno::INVAL);
        }
        let number = self.plain_feature(flags, data)?;
        // SAFETY: the call returned a descriptor that it has just opened.
        Ok(unsafe { ioctl::owned(number) })
    }

    fn set_migration_state(&self, state: u32) -> Result<(u32, Option<OwnedFd>)> {
        let flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE;
        let wanted = vfio_device_feature_mig_state {
            device_state: state,
            data_fd: -1,
        };
        // SAFETY: this is the feature's structure, and it holds no addresses.
        let reached = unsafe { self.typed_feature(flags, wanted) }?;
        // SAFETY: a number other than -1 is a descriptor that the call has just opened.
        let stream = (reached.data_fd >= 0).then(|| unsafe { ioctl::owned(reached.data_fd) });
        Ok((reached.device_state, stream))
    }

    fn precopy_info(&self, stream: BorrowedFd<'_>) -> Result<(u32, u64, u64)> {
        let mut info = vfio_precopy_info {
            argsz: word(size_of::<vfio_precopy_info>())?,
            ..Default::default()
        };
        // SAFETY: VFIO_MIG_GET_PRECOPY_INFO writes this structure of plain numbers.
        unsafe { ioctl::call(stream, request(21), &mut info) }?;
        Ok((info.flags, info.initial_bytes, info.dirty_bytes))
    }

    fn dma_logging_start(&self, page_size: u64, ranges: &[(u64, u64)]) -> Result<u64> {
        let range = |&(iova, length): &(u64, u64)| vfio_device_feature_dma_logging_range { iova, length };
        let ranges: Vec<_> = ranges.iter().map(range).collect();
        let control = vfio_device_feature_dma_logging_control {
            page_size,
            num_ranges: word(ranges.len())?,
            __reserved: 0,
            ranges: ranges.as_ptr().expose_provenance() as u64,
        };
        let flags = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_DMA_LOGGING_START;
        // SAFETY: this is the feature's structure, and its address is that of `num_ranges` ranges, which the kernel reads during the call.
        let chosen = unsafe { self.typed_feature(flags, control) }?;
        Ok(chosen.page_size)
    }

    fn dma_logging_report(&self, iova: u64, len: u64, page_size: u64, bitmap: &mut [u64]) -> Result<()> {
        let mut found = Bounce::new(bitmap::bits(len, page_size, bitmap)?)?;
        let report = vfio_device_feature_dma_logging_report {
            iova,
            length: len,
            page_size,
            bitmap: found.address(),
        };
        let flags = VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT;
        // SAFETY: this is the feature's structure. The kernel writes to the pages of the bitmap it points to and to one more, which `found` has
        // and which live until after the call.
        unsafe { self.typed_feature(flags, report) }?;
        found.add_to(bitmap);
        Ok(())
    }

    fn read(&self, offset: u64, to: &mut [u8]) -> Result<usize> {
        rustix::io::pread(&self.file, to, offset)
    }

    fn write(&self, offset: u64, from: &[u8]) -> Result<usize> {
        rustix::io::pwrite(&self.file, from, offset)
    }

    fn map(&self, offset: u64, len: usize, access: Access, alignment: usize, beyond: usize) -> Result<Map> {
        place::map(self.file.as_fd(), offset, len, access, alignment, beyond).map(Map::Mapped)
    }

    fn number(&self) -> i32 {
        self.file.as_raw_fd()
    }

    fn descriptor(&self) -> Result<Option<OwnedFd>> {
        rustix::io::fcntl_dupfd_cloexec(&self.file, 0).map(Some)
    }
}

/// Whether a feature's data are known to hold no addresses, and no descriptors that the call opens. A number that has no name yet
/// may be of any.
fn is_plain(flags: u32) -> bool {
    match flags & VFIO_DEVICE_FEATURE_MASK {
        VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE => flags & VFIO_DEVICE_FEATURE_SET == 0,
        VFIO_DEVICE_FEATURE_DMA_LOGGING_START | VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT => false,
        number => number <= FEATURE_MIG_PRECOPY_INFO_V2,
    }
}

/// How long a whole answer of `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO` is by its own `count`.
fn hot_reset_len(answer: &[u8]) -> usize {
    let count = answer.get(8..).and_then(|rest| rest.first_chunk());
    let count = count.map_or(0, |count| u32::from_ne_bytes(*count)) as usize;
    size_of::<vfio_pci_hot_reset_info>().saturating_add(count.saturating_mul(8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_never_stand_for_addresses() {
        // A file that knows no such request: what gets as far as the kernel is ENOTTY.
        let device = Device::new(tempfile::tempfile().unwrap().into());
        let ask = |flags: u32| device.feature(flags, &mut [0; 24]).unwrap_err();
        for number in [
            VFIO_DEVICE_FEATURE_DMA_LOGGING_START,
            VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT,
            13,
            14,
            0xffff,
        ] {
            for way in [VFIO_DEVICE_FEATURE_GET, VFIO_DEVICE_FEATURE_SET] {
                assert_eq!(ask(number | way), Errno::INVAL, "{number}");
            }
            assert_eq!(ask(number | VFIO_DEVICE_FEATURE_PROBE), Errno::NOTTY, "{number}");
        }
        assert_eq!(
            ask(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_SET),
            Errno::INVAL
        );
        assert_eq!(
            ask(VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | VFIO_DEVICE_FEATURE_GET),
            Errno::NOTTY
        );
        assert_eq!(ask(VFIO_DEVICE_FEATURE_SET), Errno::NOTTY, "the token of a PF is plain");
    }
}
