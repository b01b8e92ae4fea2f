//! Planning 256 VFs, each for a driver of VFIO.

use super::{OURS, Operation, Subject, metered};
use crate::record::Clock;
use anyhow::{Context, Result, ensure};
use pci::{Bdf, RoutingId, Segment};
use sriov::{Deadlines, Machine, WantedDriver, fake, plan};
use std::hint::black_box;
use std::num::NonZeroU16;
use system_tests::tree::{Node, Tree};

const VFS: u16 = 256;

pub(super) fn operations() -> Vec<Operation> {
    // valgrind before 3.20 knows no openat2, by which the machine is read.
    vec![Operation::new("plan", "256 VFs for vfio-pci", OURS, 1, subject).by(&[Clock::Wall])]
}

fn subject() -> Result<Subject> {
    let bdf = |bus, devfn| Bdf::new(Segment(0), RoutingId::new(bus, devfn));
    let pf = bdf(1, 0);
    let port = Node::port(bdf(0, 8), None, 1, 3);
    let nic = Node {
        group: Some(1),
        ..Node::nic(pf, port.bdf, "eth0").with_room_for(VFS, 1, 0x1889)
    };
    let files = crate::in_memory()?;
    let tree = Tree::of(files.path(), &[port, nic])?;
    let mut access = fake::Machine::new().with_pf(pf, VFS, "ice", Some("iavf"));
    let machine = Machine::read(&tree.sysfs(), &mut access, &Deadlines::default(), &[pf])?;
    let driver = WantedDriver::Named("vfio-pci".to_owned());
    let count = NonZeroU16::new(VFS).context("no VFs")?;
    let steps = plan::create_vfs(&machine, pf, count, Some(&driver))?.steps.len();
    ensure!(steps >= usize::from(VFS), "{steps} steps");
    let cycle = move || {
        metered(|| black_box(plan::create_vfs(black_box(&machine), pf, count, Some(&driver)))).map(drop)?;
        Ok(())
    };
    Ok(Subject::new(cycle).on(files))
}
