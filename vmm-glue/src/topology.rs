//! Which processor is where: one package for each NUMA node that has processors, one thread on each core.

use crate::memory::Node;

/// The processors of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topology {
    vcpus: Vec<Vcpu>,
    /// Bits of an APIC identifier that number the cores of a package.
    core_bits: u32,
}

/// One processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vcpu {
    /// Identifier of its local APIC.
    pub apic_id: u32,
    /// Its NUMA node.
    pub node: u32,
    /// Its package.
    pub package: u32,
    /// Its number in the package.
    pub core: u32,
    /// How many cores the package has.
    pub cores: u32,
}

impl Topology {
    /// Of these nodes, the first processors on the first node. `None` when there is no processor, or more than can be numbered.
    pub(crate) fn new(nodes: &[Node]) -> Option<Self> {
        let most = nodes.iter().map(|node| node.vcpus).max().filter(|most| *most > 0)?;
        let core_bits = most.checked_next_power_of_two()?.trailing_zeros();
        let mut vcpus = Vec::new();
        let with_vcpus = (0..).zip(nodes).filter(|(_, node)| node.vcpus > 0);
        for (package, (number, node)) in (0_u32..).zip(with_vcpus) {
            // The last identifier stands for all.
            let first = package
                .checked_shl(core_bits)
                .filter(|first| first >> core_bits == package)?;
            first.checked_add(node.vcpus).filter(|end| *end < u32::MAX)?;
            vcpus.extend((0..node.vcpus).map(|core| Vcpu {
                apic_id: first + core,
                node: number,
                package,
                core,
                cores: node.vcpus,
            }));
        }
        Some(Self { vcpus, core_bits })
    }

    /// The processors. The first one boots.
    pub(crate) fn vcpus(&self) -> &[Vcpu] {
        &self.vcpus
    }

    /// Bits of an APIC identifier that number the cores of a package.
    pub(crate) fn core_bits(&self) -> u32 {
        self.core_bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(vcpus: &[u32]) -> Vec<Node> {
        let node = |vcpus: &u32| Node {
            len_bytes: 1 << 30,
            vcpus: *vcpus,
            host: None,
        };
        vcpus.iter().map(node).collect()
    }

    #[test]
    fn every_package_has_room_for_the_largest() {
        let ids = |vcpus: &[u32]| {
            let topology = Topology::new(&nodes(vcpus)).unwrap();
            let ids: Vec<_> = topology.vcpus().iter().map(|vcpu| vcpu.apic_id).collect();
            (ids, topology.core_bits())
        };
        assert_eq!(ids(&[1]), (vec![0], 0));
        assert_eq!(ids(&[3, 0, 2]), (vec![0, 1, 2, 4, 5], 2));
        let topology = Topology::new(&nodes(&[3, 0, 2])).unwrap();
        let last = topology.vcpus().last().unwrap();
        assert_eq!((last.node, last.package, last.core, last.cores), (2, 1, 1, 2));
        assert!(Topology::new(&nodes(&[0])).is_none());
        assert!(Topology::new(&nodes(&[u32::MAX])).is_none());
    }
}
