//! What a processor of the guest says of itself (CPUID).
//!
//! What KVM can do, with the processor's place among the others written over it. Follows the Intel SDM volume 2 (CPUID), the AMD APM volume 3 appendix E
//! and `Documentation/virt/kvm/x86/cpuid.rst`.

use crate::topology::{Topology, Vcpu};
use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use std::sync::Arc;

const FEATURES: u32 = 1;
const CACHES: u32 = 4;
const TOPOLOGY: u32 = 0xB;
const TOPOLOGY_2: u32 = 0x1F;
const KVM_FEATURES: u32 = 0x4000_0001;
const FEATURES_AMD: u32 = 0x8000_0001;
const SIZES: u32 = 0x8000_0008;
const CACHES_AMD: u32 = 0x8000_001D;
const PLACE_AMD: u32 = 0x8000_001E;

/// A guest has no guests of its own.
const VMX: u32 = 1 << 5;
const SVM: u32 = 1 << 2;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// EDX: there may be other processors in the package.
const HTT: u32 = 1 << 28;
const KVM_FEATURE_MSI_EXT_DEST_ID: u32 = 1 << 15;
const KVM_FEATURE_PV_EOI: u32 = 1 << 6;
/// Who runs this machine, if it is a virtual one.
const HYPERVISOR_SIGNATURE: u32 = 0x4000_0000;
/// Physical addresses of a processor that says nothing of them.
const LEAST_PHYSICAL_BITS: u32 = 36;

/// What KVM can do. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Supported {
    entries: Arc<[kvm_cpuid_entry2]>,
    has_tsc_deadline: bool,
    is_emulated: bool,
}

/// Whether the host is itself a machine of QEMU's, without hardware's help.
pub(super) fn is_emulated() -> bool {
    let said = std::arch::x86_64::__cpuid(HYPERVISOR_SIGNATURE);
    [said.ebx, said.ecx, said.edx].map(u32::to_le_bytes).as_flattened() == b"TCGTCGTCGTCG"
}

impl Supported {
    pub(super) fn new(entries: &[kvm_cpuid_entry2], has_tsc_deadline: bool, is_emulated: bool) -> Self {
        Self {
            entries: entries.into(),
            has_tsc_deadline,
            is_emulated,
        }
    }

    /// Bits of a guest-physical address.
    pub(super) fn physical_bits(&self) -> u32 {
        let sizes = self.entries.iter().find(|entry| entry.function == SIZES);
        let Some(eax) = sizes.map(|sizes| sizes.eax) else {
            return LEAST_PHYSICAL_BITS;
        };
        // What guests can use may be less than what processors have.
        let [of_host, of_guests] = [eax & 0xFF, eax >> 16 & 0xFF];
        if of_guests == 0 {
            of_host
        } else {
            of_host.min(of_guests)
        }
    }

    /// For one processor.
    pub(super) fn of(&self, vcpu: &Vcpu, topology: &Topology) -> Vec<kvm_cpuid_entry2> {
        let is_topology = |entry: &&kvm_cpuid_entry2| [TOPOLOGY, TOPOLOGY_2].contains(&entry.function);
        let entries = self.entries.iter();
        let mut entries: Vec<_> = entries.filter(|entry| !is_topology(entry)).copied().collect();
        for entry in &mut entries {
            self.place(entry, vcpu, topology);
        }
        let last = self.entries.iter().find(|entry| entry.function == 0);
        let last = last.map_or(TOPOLOGY, |entry| entry.eax.max(TOPOLOGY));
        for leaf in [TOPOLOGY, TOPOLOGY_2].into_iter().filter(|leaf| *leaf <= last) {
            entries.extend(levels(leaf, vcpu, topology));
        }
        entries
    }

    fn place(&self, entry: &mut kvm_cpuid_entry2, vcpu: &Vcpu, topology: &Topology) {
        let ids = 1_u32.checked_shl(topology.core_bits()).unwrap_or(u32::MAX);
        match entry.function {
            0 => entry.eax = entry.eax.max(TOPOLOGY),
            FEATURES => {
                entry.ebx = entry.ebx & 0xFFFF | (vcpu.apic_id & 0xFF) << 24 | ids.min(0xFF) << 16;
                entry.ecx = entry.ecx & !VMX | HYPERVISOR;
                entry.ecx = with(entry.ecx, TSC_DEADLINE, self.has_tsc_deadline);
                entry.edx = with(entry.edx, HTT, vcpu.cores > 1);
            }
            // Kinds of caches: 0 is none.
            CACHES if entry.eax & 0x1F != 0 => {
                entry.eax = sharing(entry.eax, ids) & 0x03FF_FFFF | (ids - 1).min(0x3F) << 26;
            }
            CACHES_AMD if entry.eax & 0x1F != 0 => entry.eax = sharing(entry.eax, ids),
            KVM_FEATURES => {
                // A message's destination has 8 bits.
                entry.eax &= !KVM_FEATURE_MSI_EXT_DEST_ID;
                // QEMU's SVM delivers an injected interrupt a second time when its processor's thread is kicked before the guest's next exit
                // (`exception_index` keeps it), which is a deadlock where the guest holds a lock. An EOI that is an exit mostly comes before that.
                if self.is_emulated {
                    entry.eax &= !KVM_FEATURE_PV_EOI;
                }
            }
            FEATURES_AMD => entry.ecx &= !SVM,
            SIZES => entry.ecx = entry.ecx & !0xF0FF | (vcpu.cores - 1).min(0xFF) | topology.core_bits().min(0xF) << 12,
            PLACE_AMD => {
                entry.eax = vcpu.apic_id;
                entry.ebx = vcpu.core & 0xFF;
                entry.ecx = vcpu.package & 0xFF;
            }
            _ => {}
        }
    }
}

fn with(value: u32, bit: u32, is_set: bool) -> u32 {
    if is_set { value | bit } else { value & !bit }
}

/// A cache of level 3 is one of the package, all others are of one core. The field holds identifiers, not processors.
fn sharing(eax: u32, ids: u32) -> u32 {
    let level = eax >> 5 & 0x7;
    let sharers = if level >= 3 { (ids - 1).min(0xFFF) } else { 0 };
    eax & !(0xFFF << 14) | sharers << 14
}

/// The levels of extended topology enumeration: threads, cores, and the end.
fn levels(leaf: u32, vcpu: &Vcpu, topology: &Topology) -> [kvm_cpuid_entry2; 3] {
    const THREAD: u32 = 1;
    const CORE: u32 = 2;
    let level = |index, shift, count, kind: u32| kvm_cpuid_entry2 {
        function: leaf,
        index,
        flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
        eax: shift,
        ebx: count,
        ecx: index | kind << 8,
        edx: vcpu.apic_id,
        ..kvm_cpuid_entry2::default()
    };
    [
        level(0, 0, 1, THREAD),
        level(1, topology.core_bits(), vcpu.cores & 0xFFFF, CORE),
        level(2, 0, 0, 0),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Node;

    fn entry(function: u32, eax: u32) -> kvm_cpuid_entry2 {
        kvm_cpuid_entry2 {
            function,
            eax,
            ..kvm_cpuid_entry2::default()
        }
    }

    #[test]
    fn a_processor_knows_its_place() {
        let node = Node {
            len_bytes: 1 << 30,
            vcpus: 3,
            host: None,
        };
        let topology = Topology::new(&[node, node]).unwrap();
        let caches = [entry(CACHES, 0x21), entry(CACHES, 0x63), entry(CACHES, 0)];
        let entries = [
            entry(0, 0xD),
            entry(1, 0),
            entry(SIZES, 45 << 16 | 48),
            entry(PLACE_AMD, 9),
            entry(TOPOLOGY, 5),
        ];
        let supported = Supported::new(&[&entries[..], &caches].concat(), true, false);
        assert_eq!(supported.physical_bits(), 45);
        let last = topology.vcpus().last().unwrap();
        let of = supported.of(last, &topology);
        let find = |function, index| {
            of.iter()
                .filter(move |entry| entry.function == function)
                .nth(index)
                .unwrap()
        };
        assert_eq!(find(1, 0).ebx, 6 << 24 | 4 << 16);
        assert_eq!(find(1, 0).ecx, TSC_DEADLINE | HYPERVISOR);
        assert_eq!(find(1, 0).edx, HTT);
        assert_eq!(find(SIZES, 0).ecx, 2 | 2 << 12);
        assert_eq!((find(PLACE_AMD, 0).eax, find(PLACE_AMD, 0).ecx), (6, 1));
        let topology: Vec<_> = (0..3)
            .map(|level| find(TOPOLOGY, level))
            .map(|e| (e.eax, e.ebx, e.ecx, e.edx))
            .collect();
        assert_eq!(topology, [(0, 1, 0x100, 6), (2, 3, 0x201, 6), (0, 0, 2, 6)]);
        assert!(
            !of.iter().any(|entry| entry.function == TOPOLOGY_2),
            "beyond the last leaf"
        );
        let sharing = |index| (find(CACHES, index).eax >> 14 & 0xFFF, find(CACHES, index).eax >> 26);
        assert_eq!([sharing(0), sharing(1), sharing(2)], [(0, 3), (3, 3), (0, 0)]);
    }

    #[test]
    fn every_eoi_is_an_exit_where_svm_is_emulated() {
        let node = Node {
            len_bytes: 1 << 30,
            vcpus: 1,
            host: None,
        };
        let topology = Topology::new(&[node]).unwrap();
        let all = KVM_FEATURE_PV_EOI | KVM_FEATURE_MSI_EXT_DEST_ID | 1;
        let features = |is_emulated| {
            let supported = Supported::new(&[entry(KVM_FEATURES, all)], true, is_emulated);
            supported.of(&topology.vcpus()[0], &topology)[0].eax
        };
        assert_eq!([false, true].map(features), [KVM_FEATURE_PV_EOI | 1, 1]);
    }
}
