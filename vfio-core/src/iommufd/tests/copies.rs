//! Copies of mappings: of whose memory they are.

use super::super::{PageTable, Placement};
use super::machine::Piece;
use super::mappings::{PAGE, holders, map, range, set_up};
use super::{RW, memory};
use crate::sys::space::NotLent;
use crate::{ErrorKind, Iova, IovaRange};
use rustix::io::Errno;

#[test]
fn what_another_iommufd_has_mapped_is_not_copied() {
    let (_, ioas, memory) = set_up();
    let (_, other, _) = set_up();
    let source = map(&ioas, &memory, 0x1000).unwrap();
    // The same numbers, of something else.
    let theirs = map(&other, &memory, 0x1000).unwrap();
    let copied = other.space().copy(source.loan().unwrap(), Some(0x8000), RW);
    assert_eq!(copied.unwrap_err(), NotLent::Kernel(Errno::XDEV));
    drop((source, theirs));
    assert_eq!(holders(&memory), 0);
}

#[test]
fn a_copy_holds_the_same_memory() {
    let (_, ioas, memory) = set_up();
    let other = ioas.object().iommufd().alloc_ioas().unwrap();
    let source = map(&ioas, &memory, 0x1000).unwrap();
    let copies = [
        ioas.copy(&source, Placement::Fixed(Iova(0x5000)), RW).unwrap(),
        other.copy(&source, Placement::Fixed(Iova(0x1000)), RW).unwrap(),
    ];
    drop(source);
    assert_eq!(holders(&memory), 2);
    drop(copies);
    assert_eq!(holders(&memory), 0);
}

#[test]
fn a_stale_guard_is_not_copied() {
    let (_, ioas, first) = set_up();
    let stale = map(&ioas, &first, 0x1000).unwrap();
    ioas.unmap(IovaRange::ALL).unwrap();
    let second = memory(1);
    let next = map(&ioas, &second, 0x1000).unwrap();
    let copied = ioas.copy(&stale, Placement::Fixed(Iova(0x8000)), RW);
    assert_eq!(copied.unwrap_err().kind, ErrorKind::NotMapped(range(0x1000, 1)));
    drop((stale, next));
}

#[test]
fn what_others_may_have_replaced_is_not_copied() {
    let (machine, ioas, first) = set_up();
    let stale = map(&ioas, &first, 0x1000).unwrap();
    let iommufd = ioas.object().iommufd();
    iommufd.set_vfio_ioas(&ioas).unwrap();
    // A container on the same iommufd unmaps it and maps memory of its own, which goes when it unmaps that.
    let theirs = Piece {
        len: PAGE,
        memory: 0x5000,
    };
    machine.state().mappings.insert((ioas.id().0, PAGE), theirs);
    for target in [ioas.clone(), iommufd.alloc_ioas().unwrap()] {
        let copied = target.copy(&stale, Placement::Fixed(Iova(0x8000)), RW);
        assert!(matches!(copied.unwrap_err().kind, ErrorKind::Invalid(_)));
    }
    let left: Vec<_> = machine.state().mappings.values().copied().collect();
    assert_eq!(left, [theirs]);
    stale.unmap().unwrap();
    assert_eq!(holders(&first), 0);
}

#[test]
fn nobody_joins_while_a_copy_is_made() {
    let (machine, ioas, memory) = set_up();
    let source = map(&ioas, &memory, 0x1000).unwrap();
    let iommufd = ioas.object().iommufd().clone();
    let joined = iommufd.clone();
    machine.observe(move |call| assert_eq!(joined.sharing().may_begin(), call != "ioas_copy"));
    let copy = ioas.copy(&source, Placement::Fixed(Iova(0x8000)), RW).unwrap();
    iommufd.set_vfio_ioas(&ioas).unwrap();
    drop((source, copy));
    assert_eq!(holders(&memory), 0);
}
