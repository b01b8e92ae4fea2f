//! Identify: what a controller is (Base §5.1.13.2.1, CNS 01h; NVM §4.1.5, CNS 06h). Fields have the
//! specification's names.

pub use super::ability::{AdminCommands, NvmCommands, SanitizeCapabilities};

use super::text;
use zerocopy::little_endian::{U16, U32, U64, U128};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of every structure of Identify.
pub const LEN: usize = 4096;

/// What Identify is asked for: CNS of CDW10.
pub mod cns {
    /// A namespace, by the NVM command set.
    pub const NAMESPACE: u8 = 0x00;
    /// The controller.
    pub const CONTROLLER: u8 = 0x01;
    /// Active namespaces.
    pub const ACTIVE_NAMESPACES: u8 = 0x02;
    /// Descriptors of a namespace's identity.
    pub const NAMESPACE_DESCRIPTORS: u8 = 0x03;
    /// The controller, by a command set.
    pub const CONTROLLER_OF_SET: u8 = 0x06;
    /// Allocated namespaces, attached or not.
    pub const ALLOCATED_NAMESPACES: u8 = 0x10;
    /// An allocated namespace, by the NVM command set.
    pub const ALLOCATED_NAMESPACE: u8 = 0x11;
    /// Controllers that a namespace is attached to.
    pub const ATTACHED_CONTROLLERS: u8 = 0x12;
    /// Controllers of the subsystem.
    pub const CONTROLLERS: u8 = 0x13;
    /// What a primary controller can give to secondary ones.
    pub const PRIMARY_CAPABILITIES: u8 = 0x14;
    /// Secondary controllers.
    pub const SECONDARY_CONTROLLERS: u8 = 0x15;
}

/// Identify Controller.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IdentifyController {
    /// PCI vendor.
    pub vid: U16,
    /// PCI subsystem vendor.
    pub ssvid: U16,
    /// Serial number: ASCII, padded with spaces.
    pub sn: [u8; 20],
    /// Model number: ASCII, padded with spaces.
    pub mn: [u8; 40],
    /// Firmware revision: ASCII, padded with spaces.
    pub fr: [u8; 8],
    /// Recommended arbitration burst: 1 << this commands.
    pub rab: u8,
    /// The vendor's IEEE identifier, least byte first.
    pub ieee: [u8; 3],
    /// Whether the subsystem has several ports, controllers, or virtual functions.
    pub cmic: u8,
    /// Longest transfer: 1 << this pages of CAP.MPSMIN; 0 is no limit.
    pub mdts: u8,
    /// Identifier of this controller in its subsystem.
    pub cntlid: U16,
    /// The version, as in VS.
    pub ver: U32,
    /// Typical time in microseconds to come back from power state D3.
    pub rtd3r: U32,
    /// Typical time in microseconds to shut down for power state D3.
    pub rtd3e: U32,
    /// Asynchronous events that can be enabled.
    pub oaes: U32,
    /// Attributes of the controller.
    pub ctratt: U32,
    /// Read recovery levels.
    pub rrls: U16,
    reserved_102: [u8; 9],
    /// Kind: 0 not said, 1 I/O, 2 discovery, 3 administration.
    pub cntrltype: u8,
    /// GUID of the device that holds the subsystem.
    pub fguid: [u8; 16],
    /// Delays of a retry, in 100 ms: those that a status' CRD names 1, 2 and 3.
    pub crdt: [U16; 3],
    reserved_134: [u8; 119],
    /// Report of the subsystem: bit 0 that it is storage.
    pub nvmsr: u8,
    /// Vital product data's write cycles.
    pub vwci: u8,
    /// Management endpoints.
    pub mec: u8,
    /// Optional admin commands.
    pub oacs: U16,
    /// Abort commands at a time, less one.
    pub acl: u8,
    /// Asynchronous event requests at a time, less one.
    pub aerl: u8,
    /// Firmware: bit 0 that slot 1 is read-only, bits 3:1 slots, bit 4 activation without reset.
    pub frmw: u8,
    /// Attributes of log pages.
    pub lpa: u8,
    /// Entries of the error log, less one.
    pub elpe: u8,
    /// Power states, less one.
    pub npss: u8,
    /// Vendor's admin commands have the standard format.
    pub avscc: u8,
    /// Autonomous power state transitions.
    pub apsta: u8,
    /// Temperature in kelvin above which it warns; 0 if not said.
    pub wctemp: U16,
    /// Temperature in kelvin above which it is critical; 0 if not said.
    pub cctemp: U16,
    /// Longest time that activating firmware may stop processing, in 100 ms.
    pub mtfa: U16,
    /// Preferred size of a host memory buffer, in 4 KiB.
    pub hmpre: U32,
    /// Least size of a host memory buffer, in 4 KiB.
    pub hmmin: U32,
    /// Bytes of the subsystem's memory.
    pub tnvmcap: U128,
    /// Bytes of it that no namespace has.
    pub unvmcap: U128,
    /// Replay protected memory block.
    pub rpmbs: U32,
    /// Minutes of an extended self-test.
    pub edstt: U16,
    /// Device self-test.
    pub dsto: u8,
    /// Granularity of firmware updates, in 4 KiB.
    pub fwug: u8,
    /// Granularity of the keep-alive time, in 100 ms.
    pub kas: U16,
    /// Host-controlled thermal management.
    pub hctma: U16,
    /// Least temperature of thermal management, in kelvin.
    pub mntmt: U16,
    /// Greatest temperature of thermal management, in kelvin.
    pub mxtmt: U16,
    /// Sanitize.
    pub sanicap: U32,
    /// Least size of a descriptor of a host memory buffer, in 4 KiB.
    pub hmminds: U32,
    /// Most descriptors of a host memory buffer.
    pub hmmaxd: U16,
    /// Greatest NVM set.
    pub nsetidmax: U16,
    /// Greatest endurance group.
    pub endgidmax: U16,
    /// Seconds of an asymmetric access transition.
    pub anatt: u8,
    /// Asymmetric access.
    pub anacap: u8,
    /// Greatest asymmetric access group.
    pub anagrpmax: U32,
    /// Asymmetric access groups.
    pub nanagrpid: U32,
    /// Size of the persistent event log, in 64 KiB.
    pub pels: U32,
    /// Domain.
    pub domainid: U16,
    reserved_358: [u8; 10],
    /// Most bytes of an endurance group.
    pub megcap: U128,
    reserved_384: [u8; 128],
    /// Entries of submission queues: bits 3:0 the least size, 7:4 the greatest, as powers of two.
    pub sqes: u8,
    /// Entries of completion queues: bits 3:0 the least size, 7:4 the greatest, as powers of two.
    pub cqes: u8,
    /// Most commands at a time on a queue; 0 if not said.
    pub maxcmd: U16,
    /// Greatest namespace identifier.
    pub nn: U32,
    /// Optional commands of the NVM command set.
    pub oncs: U16,
    /// Fused operations: bit 0 compare and write.
    pub fuses: U16,
    /// Format NVM: bit 0 formats all namespaces, bit 1 erases all, bit 2 can erase cryptographically, bit 3 not all at once.
    pub fna: u8,
    /// Volatile write cache: bit 0 that there is one, bits 2:1 what Flush does for all namespaces.
    pub vwc: u8,
    /// Logical blocks of an atomic write, less one.
    pub awun: U16,
    /// Logical blocks of a write that is atomic over power loss, less one.
    pub awupf: U16,
    /// Vendor's commands have the standard format.
    pub icsvscc: u8,
    /// Namespace write protection.
    pub nwpc: u8,
    /// Logical blocks of an atomic compare and write, less one.
    pub acwu: U16,
    /// Formats of Copy.
    pub ocfs: U16,
    /// SGLs.
    pub sgls: U32,
    /// Most namespaces; 0 if it is `nn`.
    pub mnan: U32,
    /// Most namespaces attached in the domain.
    pub maxdna: U128,
    /// Most namespaces attached to this controller; 0 if not said.
    pub maxcna: U32,
    reserved_564: [u8; 204],
    /// NVMe qualified name of the subsystem: UTF-8, ended by 0.
    pub subnqn: [u8; 256],
    reserved_1024: [u8; 768],
    fabrics: [u8; 256],
    /// Power states.
    pub psd: [PowerState; 32],
    /// The vendor's.
    pub vs: [u8; 1024],
}

/// A power state (Base §5.1.13.2.1, figure of the power state descriptor).
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PowerState {
    /// Most power, in 0.01 W or, with bit 0 of `flags`, 0.0001 W.
    pub mp: U16,
    reserved_2: u8,
    /// Bit 0: the scale of `mp`. Bit 1: no I/O in this state.
    pub flags: u8,
    /// Microseconds to enter it at most.
    pub enlat: U32,
    /// Microseconds to leave it at most.
    pub exlat: U32,
    /// Relative read throughput.
    pub rrt: u8,
    /// Relative read latency.
    pub rrl: u8,
    /// Relative write throughput.
    pub rwt: u8,
    /// Relative write latency.
    pub rwl: u8,
    /// Typical power when idle.
    pub idlp: U16,
    /// The scale of `idlp`.
    pub ips: u8,
    reserved_19: u8,
    /// Power when busy.
    pub actp: U16,
    /// The workload and scale of `actp`.
    pub apws: u8,
    reserved_23: [u8; 9],
}

const _: () = assert!(size_of::<IdentifyController>() == LEN && size_of::<PowerState>() == 32);

/// A controller's limits for the NVM command set: CNS 06h of it. 0 is no limit, or not said.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct IdentifyNvmController {
    /// Verify: 1 << this pages of CAP.MPSMIN.
    pub vsl: u8,
    /// Write Zeroes: 1 << this pages of CAP.MPSMIN.
    pub wzsl: u8,
    /// Write Uncorrectable: 1 << this pages of CAP.MPSMIN.
    pub wusl: u8,
    /// Dataset Management: ranges.
    pub dmrl: u8,
    /// Dataset Management: logical blocks of a range.
    pub dmrsl: U32,
    /// Dataset Management: logical blocks of a command.
    pub dmsl: U64,
    reserved_16: [u8; 4080],
}

const _: () = assert!(size_of::<IdentifyNvmController>() == LEN);

impl IdentifyController {
    /// Serial number.
    #[must_use]
    pub fn serial(&self) -> String {
        text(&self.sn)
    }

    /// Model.
    #[must_use]
    pub fn model(&self) -> String {
        text(&self.mn)
    }

    /// Firmware revision.
    #[must_use]
    pub fn firmware(&self) -> String {
        text(&self.fr)
    }

    /// NVMe qualified name of the subsystem; empty if it has none.
    #[must_use]
    pub fn subsystem(&self) -> String {
        text(&self.subnqn)
    }

    /// Bytes of the longest transfer, with a least page of `page` bytes; `None` for no limit.
    #[must_use]
    pub fn max_transfer(&self, page: u64) -> Option<u64> {
        limit(self.mdts, page)
    }

    /// Optional admin commands.
    #[must_use]
    pub fn admin_commands(&self) -> AdminCommands {
        AdminCommands::from_bits_retain(self.oacs.get())
    }

    /// Optional commands.
    #[must_use]
    pub fn nvm_commands(&self) -> NvmCommands {
        NvmCommands::from_bits_retain(self.oncs.get())
    }

    /// Sanitize operations.
    #[must_use]
    pub fn sanitize(&self) -> SanitizeCapabilities {
        SanitizeCapabilities::from_bits_retain(self.sanicap.get())
    }

    /// Whether Compare and Write can be fused.
    #[must_use]
    pub fn can_fuse(&self) -> bool {
        self.fuses.get() & 1 != 0
    }

    /// Whether SGLs can be used for commands, and whether they have to be aligned to dwords (SGLS bits 1:0).
    #[must_use]
    pub fn sgl(&self) -> Option<SglAlignment> {
        match self.sgls.get() & 3 {
            1 => Some(SglAlignment::Byte),
            2 => Some(SglAlignment::Dword),
            _ => None,
        }
    }

    /// Whether there is a volatile write cache: without Flush, what was written may be lost with the power.
    #[must_use]
    pub fn has_write_cache(&self) -> bool {
        self.vwc & 1 != 0
    }

    /// The power states that there are.
    #[must_use]
    pub fn power_states(&self) -> &[PowerState] {
        let count = usize::from(self.npss) + 1;
        self.psd.get(..count).unwrap_or(&self.psd)
    }
}

/// How data that an SGL names must lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SglAlignment {
    /// As it likes.
    Byte,
    /// At multiples of 4 bytes.
    Dword,
}

/// 1 << `power` pages; `None` if there is no limit.
fn limit(power: u8, page: u64) -> Option<u64> {
    let pages = (power != 0).then(|| 1_u64.checked_shl(u32::from(power)))?;
    // A limit that does not fit is none.
    pages.and_then(|pages| pages.checked_mul(page))
}

impl IdentifyNvmController {
    /// Bytes of the longest Verify and the longest Write Zeroes, with a least page of `page` bytes; `None` for no limit.
    #[must_use]
    pub fn max_verify_and_zeroes(&self, page: u64) -> (Option<u64>, Option<u64>) {
        (limit(self.vsl, page), limit(self.wzsl, page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::mem::offset_of;
    use zerocopy::FromZeros;

    #[test]
    fn fields_lie_where_the_specification_has_them() {
        let places = [
            (offset_of!(IdentifyController, mdts), 77),
            (offset_of!(IdentifyController, ver), 80),
            (offset_of!(IdentifyController, ctratt), 96),
            (offset_of!(IdentifyController, cntrltype), 111),
            (offset_of!(IdentifyController, crdt), 128),
            (offset_of!(IdentifyController, oacs), 256),
            (offset_of!(IdentifyController, wctemp), 266),
            (offset_of!(IdentifyController, tnvmcap), 280),
            (offset_of!(IdentifyController, rpmbs), 312),
            (offset_of!(IdentifyController, sanicap), 328),
            (offset_of!(IdentifyController, anagrpmax), 344),
            (offset_of!(IdentifyController, megcap), 368),
            (offset_of!(IdentifyController, sqes), 512),
            (offset_of!(IdentifyController, nn), 516),
            (offset_of!(IdentifyController, vwc), 525),
            (offset_of!(IdentifyController, sgls), 536),
            (offset_of!(IdentifyController, subnqn), 768),
            (offset_of!(IdentifyController, psd), 2048),
            (offset_of!(IdentifyController, vs), 3072),
        ];
        for (place, expected) in places {
            assert_eq!(place, expected);
        }
    }

    #[test]
    fn a_transfer_limit_counts_in_least_pages() {
        let mut identity = IdentifyController::new_zeroed();
        assert_eq!(identity.max_transfer(4096), None);
        identity.mdts = 7;
        assert_eq!(identity.max_transfer(4096), Some(512 << 10));
        identity.mdts = 200;
        assert_eq!(identity.max_transfer(4096), None);
        identity.mdts = 63;
        assert_eq!(identity.max_transfer(4096), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_identity(bytes in proptest::collection::vec(any::<u8>(), LEN)) {
            let identity = IdentifyController::ref_from_bytes(&bytes).unwrap();
            prop_assert!(identity.serial().len() <= 4 * 20);
            prop_assert!(identity.model().chars().all(|char| !char.is_control()));
            prop_assert!(identity.subsystem().len() <= 4 * 256);
            prop_assert!((1..=32).contains(&identity.power_states().len()));
            let _limit: Option<u64> = identity.max_transfer(4096 << (identity.rab & 15));
            prop_assert_eq!(identity.admin_commands().bits(), identity.oacs.get());
        }
    }
}
