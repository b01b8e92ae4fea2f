//! Fixture `iommufd_ioas`, part 4: a guest's own table nested under one of ours, its caches, and its page requests.

use super::bench::{Bench, Variant, nested, over, refused, selftest_data, stranger};
use crate::PASSED;
use anyhow::{Context, Result, ensure};
use lab::case::Outcome;
use rustix::io::Errno;
use vfio_core::iommufd::selftest::{
    HWPT_DATA, INVALIDATE_DATA, IOTLB_DEFAULT, IOTLB_ENTRIES, MockDevice, check_iotlb, nested_data,
};
use vfio_core::iommufd::{
    FaultQueue, Hwpt, HwptData, HwptFlags, HwptParent, InvalidateError, Invalidation, IommuDevice, PageAccess, Response,
};
use vfio_core::{Error, Iova};

/// The flag that invalidates all.
const ALL: u32 = 1;

pub(super) fn alloc_hwpt_nested(variant: &Variant) -> Result<Outcome> {
    let bench = Bench::new(variant)?;
    let Some(device) = bench.device() else {
        let stranger = stranger()?;
        refused(over(&stranger, &bench.ioas, HwptFlags::NEST_PARENT), Errno::INVAL)?;
        refused(stranger.replace(&bench.ioas), Errno::INVAL)?;
        return PASSED;
    };
    let over_ioas = |flags| over(device, &bench.ioas, flags);
    let queue = bench.iommufd.alloc_fault_queue()?;
    let with_queue = Hwpt::alloc(
        device,
        HwptParent::Ioas(&bench.ioas),
        HwptFlags::NEST_PARENT,
        HwptData::None,
        Some(&queue),
    );
    refused(with_queue, Errno::OPNOTSUPP)?;
    let parent = over_ioas(HwptFlags::NEST_PARENT)?;
    let no_parent = over_ioas(HwptFlags::empty())?;

    let data = nested_data(IOTLB_DEFAULT, false);
    let under = |parent: &Hwpt, flags, kind, bytes: &[u8]| {
        let data = HwptData::Raw { kind, bytes };
        Hwpt::alloc(device, HwptParent::Hwpt(parent), flags, data, None)
    };
    let none = HwptFlags::empty();
    refused(under(&parent, none, 0, &data), Errno::INVAL).context("data of no kind")?;
    refused(under(&parent, none, HWPT_DATA + 1, &data), Errno::OPNOTSUPP).context("data of another kind")?;
    refused(under(&parent, none, HWPT_DATA, &[0; 3]), Errno::INVAL).context("data that is cut off")?;
    let both = under(&parent, HwptFlags::NEST_PARENT, HWPT_DATA, &data);
    refused(both, Errno::OPNOTSUPP).context("nested, and a parent")?;
    refused(under(&no_parent, none, HWPT_DATA, &data), Errno::INVAL).context("under no parent")?;

    let make = || nested(device, HwptParent::Hwpt(&parent), none);
    let (first, second) = (make()?, make()?);
    let data = selftest_data(&data);
    let iopf = Hwpt::alloc(device, HwptParent::Hwpt(&parent), none, data, Some(&queue))?;
    for table in [&first, &second] {
        check_all(table, [IOTLB_DEFAULT; 4])?;
    }
    refused(nested(device, HwptParent::Hwpt(&first), none), Errno::INVAL).context("nested under nested")?;

    invalidations(&parent, &first, &second)?;

    device.replace(&first)?;
    device.replace(&second)?;
    // Its last user is gone, and it with it.
    drop(first);
    device.replace(&iopf)?;
    drop(second);
    page_request(device, &queue, None)?;
    device.replace(&parent)?;
    drop(iopf);
    device.replace(&bench.ioas)?;
    drop((parent, no_parent, queue));
    PASSED
}

/// The page request of a device comes to the queue as it was made, is answered once, and leaves the queue empty.
pub(super) fn page_request(device: &MockDevice, queue: &FaultQueue, pasid: Option<u32>) -> Result<()> {
    let (iova, group) = (Iova(0xdead_beaf), 1);
    device.request_page(pasid, group, PageAccess::READ | PageAccess::WRITE, iova)?;
    let found = queue.read()?.context("no page request came")?;
    ensure!(found.index == group, "group {}", found.index);
    let [request] = found.requests.as_slice() else {
        anyhow::bail!("{} requests", found.requests.len())
    };
    ensure!(
        request.device == device.device_id() && request.iova == iova,
        "{request:?}"
    );
    ensure!(request.pasid == pasid, "PASID {:?}", request.pasid);
    ensure!(
        request.access.contains(PageAccess::READ | PageAccess::WRITE),
        "{:?}",
        request.access
    );
    queue.respond(found.cookie, Response::Success)?;
    ensure!(queue.read()?.is_none(), "a second page request");
    ensure!(
        queue.respond(found.cookie, Response::Success).is_err(),
        "it was answered twice"
    );
    Ok(())
}

/// `struct iommu_hwpt_invalidate_selftest`: flags and the entry of the IOTLB.
fn requests(entries: &[(u32, u32)]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|(flags, id)| [flags.to_ne_bytes(), id.to_ne_bytes()].concat())
        .collect()
}

fn check_all(table: &Hwpt, expected: [u32; 4]) -> Result<()> {
    for (entry, expected) in (0..IOTLB_ENTRIES).zip(expected) {
        check_iotlb(table, entry, expected).with_context(|| format!("entry {entry} is not {expected:#x}"))?;
    }
    Ok(())
}

/// It fails as the kernel fails it, after so many entries.
pub(super) fn stopped(result: Result<u32, InvalidateError>, errno: Errno, handled: u32) -> Result<()> {
    let got = result
        .as_ref()
        .map_or_else(|stopped| stopped.handled, |handled| *handled);
    refused(result.map_err(Error::from), errno)?;
    ensure!(got == handled, "stopped after {got} entries, not {handled}");
    Ok(())
}

fn invalidations(parent: &Hwpt, first: &Hwpt, second: &Hwpt) -> Result<()> {
    let run = |table: &Hwpt, kind, entry_len, entries: &[u8]| {
        table.invalidate(Invalidation::Raw {
            kind,
            entry_len,
            entries,
        })
    };
    let selftest = |table: &Hwpt, entries: &[(u32, u32)]| run(table, INVALIDATE_DATA, 8, &requests(entries));
    stopped(selftest(parent, &[(0, 0)]), Errno::INVAL, 0).context("of a parent")?;
    ensure!(selftest(first, &[])? == 0, "no entries");
    stopped(run(first, 0xdad_beef, 8, &[0; 8]), Errno::INVAL, 0).context("another kind")?;
    stopped(run(first, INVALIDATE_DATA, 9, &[0; 9]), Errno::INVAL, 0).context("entries too long")?;
    stopped(run(first, INVALIDATE_DATA, 1, &[0; 1]), Errno::INVAL, 0).context("entries too short")?;
    stopped(run(first, INVALIDATE_DATA, 4097, &[0; 4097]), Errno::INVAL, 0).context("longer than a page")?;
    let many = requests(&vec![(0, 0); (1 << 19) + 1]);
    stopped(run(first, INVALIDATE_DATA, 8, &many), Errno::INVAL, 0).context("more than 2^19")?;
    stopped(run(first, INVALIDATE_DATA, 0, &[0; 8]), Errno::INVAL, 0).context("entries of no bytes")?;
    stopped(selftest(first, &[(u32::MAX, 0)]), Errno::OPNOTSUPP, 0).context("unknown flags")?;
    stopped(selftest(first, &[(0, IOTLB_ENTRIES)]), Errno::INVAL, 0).context("no such entry")?;

    let rest = IOTLB_DEFAULT;
    stopped(selftest(first, &[(0, 0), (u32::MAX, 1)]), Errno::OPNOTSUPP, 1)?;
    check_all(first, [0, rest, rest, rest])?;
    stopped(selftest(first, &[(0, 0), (0, IOTLB_ENTRIES)]), Errno::INVAL, 1)?;
    check_all(first, [0, rest, rest, rest])?;
    ensure!(selftest(first, &[(0, 1)])? == 1);
    check_all(first, [0, 0, rest, rest])?;
    ensure!(selftest(first, &[(0, 2), (0, 3)])? == 2);
    check_all(first, [0; 4])?;
    ensure!(selftest(second, &[(ALL, 0)])? == 1);
    check_all(second, [0; 4])
}
