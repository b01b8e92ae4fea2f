//! The topology of generated machines.

mod captured;
mod damage;
mod drivers;
mod groups;
mod isolation;
mod lspci;
mod relations;

use pci::{Bdf, RoutingId, Segment};
use system_tests::tree::{Node, Tree};
use tempfile::TempDir;

/// An address in segment 0.
fn bdf(bus: u8, devfn: u8) -> Bdf {
    Bdf::new(Segment(0), RoutingId::new(bus, devfn))
}

/// A tree in a directory that goes away with it.
struct Machine {
    tree: Tree,
    _dir: TempDir,
}

impl Machine {
    fn of(nodes: &[Node]) -> Self {
        // Thousands of small files: memory is quicker than a disk.
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        Self {
            tree: Tree::of(dir.path(), nodes).unwrap(),
            _dir: dir,
        }
    }

    fn read(&self) -> pci::Topology {
        pci::Topology::read(&self.tree.sysfs()).unwrap()
    }
}

/// A root port with an SR-IOV NIC of two VFs.
fn small() -> Vec<Node> {
    let port = Node::port(bdf(0, 8), None, 1, 1);
    let pf = Node {
        group: Some(3),
        numa_node: 1,
        ..Node::nic(bdf(1, 0), port.bdf, "ens1").with_room_for(4, 8, 0x1889)
    };
    let vfs = [0, 1].map(|index| Node {
        group: Some(u32::from(index) + 4),
        ..pf.vf(index).unwrap()
    });
    let [first, second] = vfs;
    vec![port, pf, first, second]
}
