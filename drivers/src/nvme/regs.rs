//! Registers of a controller (Base §3.1.4), at the start of BAR 0. Doorbells follow at 1000h and belong to the queues.

use bitfield_struct::bitfield;
use vfio_core::mmio::{ReadOnly, ReadWrite, Reg, Register, WriteOnly};

/// Bytes of the registers, before the doorbells.
pub const LEN: usize = 0x1000;

/// Controller capabilities.
pub const CAP: Reg<Capabilities, ReadOnly, 0x00> = Reg::new();
/// Version.
pub const VS: Reg<Version, ReadOnly, 0x08> = Reg::new();
/// Interrupt mask set, for interrupts that are not MSI-X.
pub const INTMS: Reg<u32, ReadWrite, 0x0c> = Reg::new();
/// Interrupt mask clear.
pub const INTMC: Reg<u32, ReadWrite, 0x10> = Reg::new();
/// Controller configuration.
pub const CC: Reg<Configuration, ReadWrite, 0x14> = Reg::new();
/// Controller status.
pub const CSTS: Reg<Status, ReadOnly, 0x1c> = Reg::new();
/// NVM subsystem reset: [`NSSR_RESET`] resets all controllers of the subsystem.
pub const NSSR: Reg<u32, WriteOnly, 0x20> = Reg::new();
/// Admin queue attributes.
pub const AQA: Reg<AdminQueues, ReadWrite, 0x24> = Reg::new();
/// Address of the admin submission queue.
pub const ASQ: Reg<u64, ReadWrite, 0x28> = Reg::new();
/// Address of the admin completion queue.
pub const ACQ: Reg<u64, ReadWrite, 0x30> = Reg::new();
/// Controller memory buffer: location.
pub const CMBLOC: Reg<MemoryBufferLocation, ReadOnly, 0x38> = Reg::new();
/// Controller memory buffer: size and use.
pub const CMBSZ: Reg<MemoryBufferSize, ReadOnly, 0x3c> = Reg::new();
/// Controller memory buffer: where the controller decodes it.
pub const CMBMSC: Reg<MemoryBufferControl, ReadWrite, 0x50> = Reg::new();
/// Controller memory buffer: bit 0 says that its address cannot be.
pub const CMBSTS: Reg<u32, ReadOnly, 0x58> = Reg::new();
/// Controller ready time-outs.
pub const CRTO: Reg<ReadyTimeouts, ReadOnly, 0x68> = Reg::new();

/// What [`NSSR`] takes: "NVMe".
pub const NSSR_RESET: u32 = 0x4e56_4d65;

macro_rules! register {
    ($($name:ident: $bits:ty),*) => {
        $(
            impl Register for $name {
                type Bits = $bits;

                #[inline]
                fn from_bits(bits: $bits) -> Self {
                    Self::from_bits(bits)
                }

                #[inline]
                fn into_bits(self) -> $bits {
                    self.into_bits()
                }
            }
        )*
    };
}

register!(
    Capabilities: u64,
    Version: u32,
    Configuration: u32,
    Status: u32,
    AdminQueues: u32,
    MemoryBufferLocation: u32,
    MemoryBufferSize: u32,
    MemoryBufferControl: u64,
    ReadyTimeouts: u32
);

/// CAP: what the controller can do (Base §3.1.4.1).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct Capabilities {
    /// Entries of the longest I/O queue, less one.
    pub max_queue_entries: u16,
    /// Queues must be physically contiguous.
    pub contiguous_queues: bool,
    /// Arbitration beside round robin: bit 0 weighted round robin with an urgent class, bit 1 the vendor's.
    #[bits(2)]
    pub arbitrations: u8,
    #[bits(5)]
    __: u8,
    /// How long CSTS.RDY may take to follow CC.EN, in 500 ms.
    pub timeout: u8,
    /// Doorbells are 4 << this bytes apart.
    #[bits(4)]
    pub doorbell_stride: u8,
    /// The subsystem can be reset by NSSR.
    pub subsystem_reset: bool,
    /// Command sets: bit 0 NVM, bit 6 those of Identify, bit 7 none but admin.
    pub command_sets: u8,
    /// There are boot partitions.
    pub boot_partitions: bool,
    /// How far a controller's power goes.
    #[bits(2)]
    pub power_scope: u8,
    /// The smallest page is 4096 << this bytes.
    #[bits(4)]
    pub min_page: u8,
    /// The largest page is 4096 << this bytes.
    #[bits(4)]
    pub max_page: u8,
    /// There is a persistent memory region.
    pub persistent_memory: bool,
    /// There is a controller memory buffer, which CMBMSC enables.
    pub memory_buffer: bool,
    /// The subsystem can be shut down by NSSD.
    pub subsystem_shutdown: bool,
    /// CRTO counts: the controller is ready when its media are.
    pub ready_with_media: bool,
    /// The controller can be ready before its media are.
    pub ready_without_media: bool,
    #[bits(3)]
    __: u8,
}

/// VS: the version of the specification (Base §3.1.4.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Tertiary number.
    pub tertiary: u8,
    /// Minor number.
    pub minor: u8,
    /// Major number.
    pub major: u16,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major(), self.minor())?;
        match self.tertiary() {
            0 => Ok(()),
            tertiary => write!(f, ".{tertiary}"),
        }
    }
}

/// CC: how the controller is to run (Base §3.1.4.5).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Configuration {
    /// The controller processes commands.
    pub enable: bool,
    #[bits(3)]
    __: u8,
    /// Command set: 0 NVM, 6 all of Identify, 7 none but admin.
    #[bits(3)]
    pub command_set: u8,
    /// Pages are 4096 << this bytes.
    #[bits(4)]
    pub page: u8,
    /// Arbitration: 0 round robin, 1 weighted round robin with an urgent class, 7 the vendor's.
    #[bits(3)]
    pub arbitration: u8,
    /// A shutdown is to begin: 1 normal, 2 abrupt.
    #[bits(2)]
    pub shutdown: u8,
    /// Entries of I/O submission queues have 1 << this bytes.
    #[bits(4)]
    pub submission_entry: u8,
    /// Entries of I/O completion queues have 1 << this bytes.
    #[bits(4)]
    pub completion_entry: u8,
    /// Be ready before the media are.
    pub ready_without_media: bool,
    #[bits(7)]
    __: u8,
}

/// CSTS: how the controller is (Base §3.1.4.6).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct Status {
    /// It processes commands.
    pub ready: bool,
    /// It has failed for good, until a reset.
    pub fatal: bool,
    /// Shutdown: 0 none, 1 under way, 2 done.
    #[bits(2)]
    pub shutdown: u8,
    /// The subsystem was reset by NSSR.
    pub subsystem_reset: bool,
    /// It is paused and takes no commands.
    pub paused: bool,
    /// The shutdown is of the whole subsystem.
    pub subsystem_shutdown: bool,
    #[bits(25)]
    __: u32,
}

impl Status {
    /// Whether it reads as what is not there does.
    #[must_use]
    pub const fn is_all_ones(self) -> bool {
        self.into_bits() == u32::MAX
    }
}

/// Value of CC.SHN and CSTS.SHST.
pub mod shutdown {
    /// CC.SHN: let caches be written.
    pub const NORMAL: u8 = 1;
    /// CC.SHN: at once.
    pub const ABRUPT: u8 = 2;
    /// CSTS.SHST: done.
    pub const COMPLETE: u8 = 2;
}

/// AQA: lengths of the admin queues (Base §3.1.4.8).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct AdminQueues {
    /// Entries of the submission queue, less one.
    #[bits(12)]
    pub submission: u16,
    #[bits(4)]
    __: u8,
    /// Entries of the completion queue, less one.
    #[bits(12)]
    pub completion: u16,
    #[bits(4)]
    __: u8,
}

/// CMBLOC: where the controller memory buffer is (Base §3.1.4.11).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct MemoryBufferLocation {
    /// The BAR: 0, 2, 3, 4 or 5.
    #[bits(3)]
    pub bar: u8,
    /// Queues may be partly in it.
    pub mixed_queues: bool,
    /// Queues need not be contiguous in it.
    pub discontiguous_queues: bool,
    /// A PRP list or an SGL may be partly in it.
    pub mixed_pointers: bool,
    /// PRP lists and SGLs may be in it whose command is not.
    pub independent_pointers: bool,
    /// Data and metadata may be partly in it.
    pub mixed_data: bool,
    /// Queues in it need only be aligned to dwords.
    pub dwords: bool,
    #[bits(3)]
    __: u8,
    /// Its offset in the BAR, in units of its size.
    #[bits(20)]
    pub offset: u32,
}

/// CMBSZ: how large the controller memory buffer is and what may be in it (Base §3.1.4.12).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct MemoryBufferSize {
    /// Submission queues.
    pub submission_queues: bool,
    /// Completion queues.
    pub completion_queues: bool,
    /// PRP lists and SGLs.
    pub lists: bool,
    /// Data that the controller writes.
    pub read_data: bool,
    /// Data that the controller reads.
    pub write_data: bool,
    #[bits(3)]
    __: u8,
    /// Offset and size count in 4096 << (4 * this) bytes; above 6 is reserved.
    #[bits(4)]
    pub unit: u8,
    /// Its size in units; 0 if there is none.
    #[bits(20)]
    pub size: u32,
}

impl MemoryBufferSize {
    /// Bytes of a unit; `None` of a reserved value.
    #[must_use]
    pub const fn unit_bytes(self) -> Option<u64> {
        match self.unit() {
            unit @ 0..=6 => Some(4096 << (4 * unit as u32)),
            _ => None,
        }
    }
}

/// CMBMSC: whether and where the controller finds its buffer (Base §3.1.4.16).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct MemoryBufferControl {
    /// CMBLOC and CMBSZ count.
    pub capabilities: bool,
    /// The controller takes addresses from the base on for its buffer.
    pub enable: bool,
    #[bits(10)]
    __: u16,
    /// The base, in 4096 bytes.
    #[bits(52)]
    pub base: u64,
}

/// CRTO: how long becoming ready may take (Base §3.1.4.21).
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ReadyTimeouts {
    /// With media, in 500 ms.
    pub with_media: u16,
    /// Without media, in 500 ms.
    pub without_media: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_specification_has_them() {
        // A real controller's: MQES 1023, CQR, TO 20 s, DSTRD 0, CSS NVM, MPS 4 KiB to 64 KiB.
        let cap = Capabilities::from_bits(0x0040_0020_2801_03ff);
        assert_eq!(cap.max_queue_entries(), 1023);
        assert!(cap.contiguous_queues());
        assert_eq!((cap.timeout(), cap.doorbell_stride()), (40, 0));
        assert_eq!((cap.command_sets(), cap.min_page(), cap.max_page()), (1, 0, 4));
        assert!(Capabilities::from_bits(1 << 57).memory_buffer());
        assert!(Capabilities::from_bits(1 << 59).ready_with_media());
        let cc = Configuration::new()
            .with_enable(true)
            .with_submission_entry(6)
            .with_completion_entry(4);
        assert_eq!(cc.into_bits(), 0x0046_0001);
        assert_eq!(cc.with_shutdown(shutdown::NORMAL).into_bits(), 0x0046_4001);
        let aqa = AdminQueues::new().with_submission(31).with_completion(63);
        assert_eq!(aqa.into_bits(), 0x003f_001f);
        let control = MemoryBufferControl::new().with_base(0x12).with_enable(true);
        assert_eq!(control.into_bits(), 0x12002);
        assert_eq!(Version::from_bits(0x0001_0400).to_string(), "1.4");
        assert_eq!(Version::from_bits(0x0001_0201).to_string(), "1.2.1");
    }

    #[test]
    fn a_memory_buffer_counts_in_its_units() {
        let unit = |unit| MemoryBufferSize::new().with_unit(unit).unit_bytes();
        assert_eq!(unit(0), Some(4 << 10));
        assert_eq!(unit(6), Some(64 << 30));
        assert_eq!(unit(7), None);
    }
}
