//! `struct vfio_device_info`.

use super::{Chain, u32_at};
use crate::ErrorKind;

bitflags::bitflags! {
    /// What kind of device it is, and what it can do.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct DeviceFlags: u32 {
        /// It can be reset by itself.
        const RESET = 1 << 0;
        /// It is a PCI function.
        const PCI = 1 << 1;
        /// It is a platform device.
        const PLATFORM = 1 << 2;
        /// It is an AMBA device.
        const AMBA = 1 << 3;
        /// It is a channel of an s390 channel subsystem.
        const CCW = 1 << 4;
        /// It is an s390 crypto adapter.
        const AP = 1 << 5;
        /// It is on NXP's management complex bus.
        const FSL_MC = 1 << 6;
        /// The answer has capabilities.
        const CAPABILITIES = 1 << 7;
        /// It is on AMD's CDX bus.
        const CDX = 1 << 8;
        const _ = !0;
    }

    /// Widths of atomic operations that the root port completes for the function (PCIe 6.0 §6.15).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct AtomicCompleter: u32 {
        /// 32 bits.
        const BITS_32 = 1 << 0;
        /// 64 bits.
        const BITS_64 = 1 << 1;
        /// 128 bits: compare and swap only.
        const BITS_128 = 1 << 2;
        const _ = !0;
    }
}

/// What VFIO tells about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[doc(alias = "vfio_device_info")]
pub struct DeviceInfo {
    /// Kind and abilities.
    pub flags: DeviceFlags,
    /// Region indexes below this may exist. Not how many do: any of them may be absent.
    pub num_regions: u32,
    /// Interrupt indexes below this may exist.
    pub num_irqs: u32,
    /// Atomic operations that the root port completes; none where the kernel does not tell.
    pub atomic_completer: AtomicCompleter,
    /// The numbers of its capabilities, in the kernel's order.
    pub capabilities: Vec<u16>,
}

/// `VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP`.
const ATOMIC_COMPLETER: u16 = 5;

impl DeviceInfo {
    /// Reads the answer of `VFIO_DEVICE_GET_INFO`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Malformed`] when the structure or its chain of capabilities is not whole.
    pub fn parse(bytes: &[u8]) -> Result<Self, ErrorKind> {
        let flags = DeviceFlags::from_bits_retain(u32_at(bytes, 4)?);
        let mut info = Self {
            flags,
            num_regions: u32_at(bytes, 8)?,
            num_irqs: u32_at(bytes, 12)?,
            atomic_completer: AtomicCompleter::empty(),
            capabilities: Vec::new(),
        };
        // Kernels without capabilities end the structure before the offset.
        let first = if flags.contains(DeviceFlags::CAPABILITIES) {
            u32_at(bytes, 16)?
        } else {
            0
        };
        for capability in Chain::new(bytes, first) {
            let capability = capability?;
            info.capabilities.push(capability.id);
            if (capability.id, capability.version) == (ATOMIC_COMPLETER, 1) {
                info.atomic_completer = AtomicCompleter::from_bits_retain(u32_at(capability.data, 0)?);
            }
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn an_answer_of_an_old_kernel_has_no_capabilities() {
        let info = DeviceInfo::parse(&answer(&[16, 0b11, 9, 5])).unwrap();
        assert_eq!(info.flags, DeviceFlags::RESET | DeviceFlags::PCI);
        assert_eq!((info.num_regions, info.num_irqs), (9, 5));
        assert!(info.capabilities.is_empty());
    }

    #[test]
    fn atomic_completion_is_told_by_a_capability() {
        let header = u32::from_ne_bytes([5, 0, 1, 0]);
        let info = DeviceInfo::parse(&answer(&[40, 0x82, 9, 5, 24, 0, header, 0, 0b011, 0])).unwrap();
        assert_eq!(
            info.atomic_completer,
            AtomicCompleter::BITS_32 | AtomicCompleter::BITS_64
        );
        assert_eq!(info.capabilities, [5]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer_or_an_error(bytes: Vec<u8>) {
            if let Ok(info) = DeviceInfo::parse(&bytes) {
                prop_assert!(info.capabilities.len() <= bytes.len() / 8);
            }
        }
    }
}
