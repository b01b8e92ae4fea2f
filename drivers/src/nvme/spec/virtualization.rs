//! Primary and secondary controllers (Base §8.2.6): what Identify says of them (Base §5.2.6 and CNS 14h and 15h), and what
//! Virtualization Management takes. Fields have the specification's names.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// What a primary controller can give to secondary ones: CNS 14h. A VQ resource is a pair of queues, admin or I/O; a VI resource is an
/// interrupt vector.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct PrimaryCapabilities {
    /// The primary controller.
    pub cntlid: U16,
    /// Its port.
    pub portid: U16,
    /// Kinds of resources: bit 0 VQ, bit 1 VI.
    pub crt: u8,
    reserved_5: [u8; 27],
    /// VQ: flexible, in all.
    pub vqfrt: U32,
    /// VQ: flexible, assigned to secondary controllers.
    pub vqrfa: U32,
    /// VQ: flexible, allocated to the primary controller.
    pub vqrfap: U16,
    /// VQ: private to the primary controller.
    pub vqprt: U16,
    /// VQ: most for a secondary controller.
    pub vqfrsm: U16,
    /// VQ: preferred granularity.
    pub vqgran: U16,
    reserved_48: [u8; 16],
    /// VI: flexible, in all.
    pub vifrt: U32,
    /// VI: flexible, assigned to secondary controllers.
    pub virfa: U32,
    /// VI: flexible, allocated to the primary controller.
    pub virfap: U16,
    /// VI: private to the primary controller.
    pub viprt: U16,
    /// VI: most for a secondary controller.
    pub vifrsm: U16,
    /// VI: preferred granularity.
    pub vigran: U16,
    reserved_80: [u8; 4016],
}

/// A secondary controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SecondaryController {
    /// Its identifier.
    pub scid: U16,
    /// Its primary controller.
    pub pcid: U16,
    /// State: bit 0 that it is online.
    pub scs: u8,
    reserved_5: [u8; 3],
    /// Number of its virtual function, from 1; 0 of one that is no virtual function.
    pub vfn: U16,
    /// VQ resources that it has.
    pub nvq: U16,
    /// VI resources that it has.
    pub nvi: U16,
    reserved_14: [u8; 18],
}

/// Secondary controllers: CNS 15h.
#[derive(Debug, Clone, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct SecondaryControllers {
    /// How many follow.
    pub count: u8,
    reserved_1: [u8; 31],
    /// They, by identifier.
    pub entries: [SecondaryController; 127],
}

const _: () = assert!(
    size_of::<PrimaryCapabilities>() == 4096
        && size_of::<SecondaryController>() == 32
        && size_of::<SecondaryControllers>() == 4096
);

/// A kind of resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resource {
    /// VQ: queue pairs.
    Queues,
    /// VI: interrupt vectors.
    Interrupts,
}

impl Resource {
    /// CDW10.RT of Virtualization Management.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Queues => 0,
            Self::Interrupts => 1,
        }
    }
}

/// What Virtualization Management is to do: CDW10.ACT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Allocate flexible resources to the primary controller, from its next reset on.
    AllocatePrimary,
    /// Take a secondary controller offline.
    Offline,
    /// Assign flexible resources to a secondary controller that is offline.
    Assign,
    /// Take a secondary controller online.
    Online,
}

impl Action {
    /// Its number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::AllocatePrimary => 1,
            Self::Offline => 7,
            Self::Assign => 8,
            Self::Online => 9,
        }
    }
}

impl PrimaryCapabilities {
    /// Whether it has flexible resources of a kind.
    #[must_use]
    pub const fn has(&self, resource: Resource) -> bool {
        self.crt >> resource.number() & 1 != 0
    }

    /// Most flexible resources of a kind that a secondary controller can have.
    #[must_use]
    pub fn most(&self, resource: Resource) -> u16 {
        match resource {
            Resource::Queues => self.vqfrsm.get(),
            Resource::Interrupts => self.vifrsm.get(),
        }
    }

    /// Flexible resources of a kind that nobody has.
    #[must_use]
    pub fn free(&self, resource: Resource) -> u32 {
        let (total, assigned, primary) = match resource {
            Resource::Queues => (self.vqfrt, self.vqrfa, self.vqrfap),
            Resource::Interrupts => (self.vifrt, self.virfa, self.virfap),
        };
        let had = assigned.get().saturating_add(u32::from(primary.get()));
        total.get().saturating_sub(had)
    }
}

impl SecondaryController {
    /// Whether it is online: can be enabled.
    #[must_use]
    pub const fn is_online(&self) -> bool {
        self.scs & 1 != 0
    }

    /// Resources of a kind that it has.
    #[must_use]
    pub fn resources(&self, resource: Resource) -> u16 {
        match resource {
            Resource::Queues => self.nvq.get(),
            Resource::Interrupts => self.nvi.get(),
        }
    }
}

impl SecondaryControllers {
    /// Those that there are.
    #[must_use]
    pub fn list(&self) -> &[SecondaryController] {
        self.entries.get(..usize::from(self.count)).unwrap_or(&self.entries)
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
            (offset_of!(PrimaryCapabilities, vqfrt), 32),
            (offset_of!(PrimaryCapabilities, vqfrsm), 44),
            (offset_of!(PrimaryCapabilities, vifrt), 64),
            (offset_of!(PrimaryCapabilities, vigran), 78),
            (offset_of!(SecondaryController, vfn), 8),
            (offset_of!(SecondaryController, nvi), 12),
            (offset_of!(SecondaryControllers, entries), 32),
        ];
        for (place, expected) in places {
            assert_eq!(place, expected);
        }
    }

    #[test]
    fn what_is_free_is_what_neither_primary_nor_secondaries_have() {
        let mut capabilities = PrimaryCapabilities::new_zeroed();
        capabilities.vqfrt = 16.into();
        capabilities.vqrfap = 4.into();
        capabilities.vqrfa = 5.into();
        assert_eq!(capabilities.free(Resource::Queues), 7);
        capabilities.vqrfa = u32::MAX.into();
        assert_eq!(capabilities.free(Resource::Queues), 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_capabilities_and_lists(bytes in proptest::collection::vec(any::<u8>(), 4096)) {
            let list = SecondaryControllers::ref_from_bytes(&bytes).unwrap();
            prop_assert_eq!(list.list().len(), usize::from(bytes[0]).min(127));
            let capabilities = PrimaryCapabilities::ref_from_bytes(&bytes).unwrap();
            for resource in [Resource::Queues, Resource::Interrupts] {
                prop_assert!(capabilities.free(resource) <= capabilities.vqfrt.get().max(capabilities.vifrt.get()));
            }
        }
    }
}
