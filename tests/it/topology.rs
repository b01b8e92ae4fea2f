//! The topology of generated machines.

use pci::{Fields, Topology};
use std::time::Instant;
use system_tests::tree::{Role, Tree, server};

#[test]
fn timing() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = server(4096);
    let t = Instant::now();
    let tree = Tree::of(dir.path(), &nodes).unwrap();
    eprintln!("generate {:?}", t.elapsed());
    for _ in 0..3 {
        let t = Instant::now();
        let top = Topology::read_fields(
            &tree.sysfs(),
            Fields::ID | Fields::DRIVER | Fields::GROUP | Fields::SRIOV | Fields::NUMA,
        )
        .unwrap();
        eprintln!("list {:?}", t.elapsed());
        assert_eq!(top.functions().len(), 4096);
        let t = Instant::now();
        let _all = Topology::read(&tree.sysfs()).unwrap();
        eprintln!("all {:?}", t.elapsed());
    }
    let _ = Role::Plain;
}
