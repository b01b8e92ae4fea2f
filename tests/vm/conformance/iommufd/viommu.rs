//! Fixture `iommufd_viommu`: a slice of an IOMMU for a virtual machine, its devices, events, caches and queues.

use super::bench::{APERTURE, PAGE, map, memory, nested, over, range, refused, selftest_data, stranger};
use super::nested::{page_request, stopped};
use super::no_viommu;
use crate::PASSED;
use anyhow::{Context, Result, ensure};
use lab::case::Outcome;
use rustix::io::Errno;
use vfio_core::iommufd::selftest::{
    DEVICE_CACHE_DEFAULT, DEVICE_CACHE_ENTRIES, HW_QUEUE, IOTLB_DEFAULT, MockDevice, MockFlags, VEVENT, VIOMMU,
    VIOMMU_INVALIDATE_DATA, nested_data,
};
use vfio_core::iommufd::{
    HwQueue, HwQueueKind, Hwpt, HwptFlags, HwptParent, Invalidation, Ioas, Iommufd, Placement, Vdevice, Vevent,
    VeventQueue, Viommu, ViommuKind,
};
use vfio_core::{Iova, System};

/// The most events that a queue can hold.
const MAX_DEPTH: u32 = 1 << 19;

pub(super) const VARIANTS: [&str; 2] = ["no_viommu", "mock_viommu"];

struct Bench {
    nested: Hwpt,
    viommu: Viommu,
    parent: Hwpt,
    device: MockDevice,
    ioas: Ioas,
    iommufd: Iommufd,
}

impl Bench {
    /// `None` for the variant without: its cases are about what is not there.
    fn new(variant: &str) -> Result<Option<Self>> {
        if variant == "no_viommu" {
            return Ok(None);
        }
        let iommufd = Iommufd::open(&System::host())?;
        let ioas = iommufd.alloc_ioas()?;
        let device = MockDevice::new(&ioas, MockFlags::empty())?;
        let parent = table(&device, &ioas, HwptFlags::NEST_PARENT)?;
        let viommu = Viommu::alloc(&device, &parent, VIOMMU, &mut [])?;
        Ok(Some(Self {
            nested: nested(&device, HwptParent::Viommu(&viommu), HwptFlags::empty())?,
            viommu,
            parent,
            device,
            ioas,
            iommufd,
        }))
    }
}

fn table(device: &MockDevice, ioas: &Ioas, flags: HwptFlags) -> Result<Hwpt> {
    Ok(over(device, ioas, flags)?)
}

pub(super) fn viommu_auto_destroy(variant: &str) -> Result<Outcome> {
    drop(Bench::new(variant)?);
    PASSED
}

pub(super) fn viommu_negative_tests(variant: &str) -> Result<Outcome> {
    let Some(bench) = Bench::new(variant)? else {
        let (stranger, parent) = (stranger()?, Iommufd::open(&System::host())?.alloc_ioas()?);
        let device = MockDevice::new(&parent, MockFlags::empty())?;
        let parent = table(&device, &parent, HwptFlags::NEST_PARENT)?;
        refused(Viommu::alloc(&stranger, &parent, VIOMMU, &mut []), Errno::INVAL)?;
        return PASSED;
    };
    let plain = table(&bench.device, &bench.ioas, HwptFlags::empty())?;
    refused(Viommu::alloc(&bench.device, &plain, VIOMMU, &mut []), Errno::INVAL)?;
    let unknown = Viommu::alloc(&bench.device, &bench.parent, ViommuKind(0xdead), &mut []);
    refused(unknown, Errno::OPNOTSUPP)?;
    // What something nests under, or was made from, outlives its handle.
    let Bench {
        viommu, parent, nested, ..
    } = bench;
    drop((parent, viommu));
    drop(nested);
    PASSED
}

pub(super) fn viommu_alloc_nested_iopf(variant: &str) -> Result<Outcome> {
    let Some(bench) = Bench::new(variant)? else {
        return no_viommu();
    };
    let queue = bench.iommufd.alloc_fault_queue()?;
    let data = nested_data(IOTLB_DEFAULT, false);
    let make = |flags| {
        let parent = HwptParent::Viommu(&bench.viommu);
        Hwpt::alloc(&bench.device, parent, flags, selftest_data(&data), Some(&queue))
    };
    refused(make(HwptFlags::from_bits_retain(1 << 31)), Errno::OPNOTSUPP)?;
    let iopf = make(HwptFlags::empty())?;
    refused(bench.device.replace(&iopf), Errno::NOENT).context("no virtual device yet")?;
    let vdevice = Vdevice::alloc(&bench.viommu, &bench.device, 0x99)?;
    bench.device.replace(&iopf)?;
    page_request(&bench.device, &queue, None)?;
    bench.device.replace(&bench.ioas)?;
    drop((iopf, queue, vdevice));
    PASSED
}

pub(super) fn viommu_alloc_with_data(variant: &str) -> Result<Outcome> {
    let Some(bench) = Bench::new(variant)? else {
        return no_viommu();
    };
    let sent: u32 = 0xbeef;
    let mut data = [0; 24];
    data.iter_mut()
        .zip(sent.to_ne_bytes())
        .for_each(|(to, from)| *to = from);
    let viommu = Viommu::alloc(&bench.device, &bench.parent, VIOMMU, &mut data)?;
    let word = |at: usize| data.get(at..).and_then(|rest| rest.first_chunk());
    let long = |at: usize| word(at).map(|bytes| u64::from_ne_bytes(*bytes));
    let returned = data
        .get(4..)
        .and_then(|rest| rest.first_chunk())
        .map(|bytes| u32::from_ne_bytes(*bytes));
    ensure!(returned == Some(sent), "{returned:x?} came back");
    let (offset, len) = (
        long(8).context("offset")?,
        usize::try_from(long(16).context("length")?)?,
    );
    for (offset, len) in [
        (offset + PAGE, len),
        (offset + 2 * PAGE, len),
        (offset, len / 2),
        (offset, len * 2),
    ] {
        let mapped = viommu.map(offset, len);
        refused(mapped, Errno::NXIO).with_context(|| format!("{len} bytes at {offset:#x}"))?;
    }
    let shown = viommu.map(offset, len)?;
    // The map keeps its owner.
    drop(viommu);
    ensure!(shown.read_u32(0) == Some(sent), "{:x?} is shown", shown.read_u32(0));
    PASSED
}

/// The next events are these, in order and none lost.
fn events(queue: &VeventQueue, device: u32, sequences: &[u32]) -> Result<()> {
    for expected in sequences {
        let Some(Vevent::Event { sequence, data }) = queue.read()? else {
            anyhow::bail!("no event {expected}")
        };
        ensure!(sequence == *expected, "event {sequence}, not {expected}");
        ensure!(data == device.to_ne_bytes(), "of device {data:x?}");
    }
    Ok(())
}

pub(super) fn vdevice_alloc(variant: &str) -> Result<Outcome> {
    let Some(bench) = Bench::new(variant)? else {
        let ioas = Iommufd::open(&System::host())?.alloc_ioas()?;
        let device = MockDevice::new(&ioas, MockFlags::empty())?;
        let viommu = Viommu::alloc(
            &device,
            &table(&device, &ioas, HwptFlags::NEST_PARENT)?,
            VIOMMU,
            &mut [],
        )?;
        refused(Vdevice::alloc(&viommu, &stranger()?, 0x99), Errno::INVAL)?;
        return PASSED;
    };
    let (device, viommu) = (&bench.device, &bench.viommu);
    refused(device.replace(&bench.nested), Errno::NOENT)?;
    for depth in [0, MAX_DEPTH + 1] {
        refused(VeventQueue::alloc(viommu, VEVENT, depth), Errno::INVAL)?;
    }
    drop(VeventQueue::alloc(viommu, VEVENT, MAX_DEPTH)?);
    let queue = VeventQueue::alloc(viommu, VEVENT, 2)?;
    refused(VeventQueue::alloc(viommu, VEVENT, 2), Errno::EXIST)?;
    ensure!(queue.read()?.is_none(), "an event of nobody");

    let vdevice = Vdevice::alloc(viommu, device, 0x99)?;
    device.replace(&bench.nested)?;
    device.report_event()?;
    events(&queue, 0x99, &[0])?;
    refused(Vdevice::alloc(viommu, device, 0x99), Errno::EXIST)?;
    device.replace(&bench.ioas)?;
    drop(vdevice);

    let vdevice = Vdevice::alloc(viommu, device, 0x88)?;
    device.replace(&bench.nested)?;
    for _ in 0..3 {
        device.report_event()?;
    }
    events(&queue, 0x88, &[1, 2])?;
    let lost = queue.read()?;
    ensure!(
        matches!(lost, Some(Vevent::Lost { .. })),
        "{lost:?}, and one event was lost"
    );
    ensure!(queue.read()?.is_none(), "more than there was");
    device.report_event()?;
    let Some(Vevent::Event { data, .. }) = queue.read()? else {
        anyhow::bail!("no event after the overflow")
    };
    ensure!(data == 0x88_u32.to_ne_bytes());
    device.replace(&bench.ioas)?;
    drop((vdevice, queue));
    PASSED
}

/// `struct iommu_viommu_invalidate_selftest`: flags, virtual device, entry of its cache.
fn requests(entries: &[(u32, u32, u32)]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|(flags, device, entry)| [flags, device, entry].map(|word| word.to_ne_bytes()).concat())
        .collect()
}

pub(super) fn vdevice_cache(variant: &str) -> Result<Outcome> {
    let Some(bench) = Bench::new(variant)? else {
        return no_viommu();
    };
    let (none, all, other) = (0, 1, u32::MAX);
    let device = 0x99;
    let vdevice = Vdevice::alloc(&bench.viommu, &bench.device, device.into())?;
    let check = |expected: [u32; 4]| {
        (0..DEVICE_CACHE_ENTRIES)
            .zip(expected)
            .try_for_each(|(entry, value)| bench.device.check_cache(entry, value))
            .with_context(|| format!("the device's cache is not {expected:x?}"))
    };
    let run = |kind, entry_len, entries: &[u8]| {
        bench.viommu.invalidate(Invalidation::Raw {
            kind,
            entry_len,
            entries,
        })
    };
    let selftest = |entries: &[(u32, u32, u32)]| run(VIOMMU_INVALIDATE_DATA, 12, &requests(entries));
    let rest = DEVICE_CACHE_DEFAULT;
    check([rest; 4])?;
    ensure!(selftest(&[])? == 0, "no entries");
    stopped(run(0xdad_beef, 12, &[0; 12]), Errno::INVAL, 0).context("another kind")?;
    stopped(run(VIOMMU_INVALIDATE_DATA, 13, &[0; 13]), Errno::INVAL, 0).context("entries too long")?;
    stopped(run(VIOMMU_INVALIDATE_DATA, 1, &[0]), Errno::INVAL, 0).context("entries too short")?;
    stopped(run(VIOMMU_INVALIDATE_DATA, 0, &[0; 12]), Errno::INVAL, 0).context("entries of no bytes")?;
    stopped(selftest(&[(other, device, 0)]), Errno::OPNOTSUPP, 0).context("unknown flags")?;
    stopped(selftest(&[(none, device, DEVICE_CACHE_ENTRIES)]), Errno::INVAL, 0).context("no such entry")?;
    stopped(selftest(&[(none, 0x9, 0)]), Errno::INVAL, 0).context("no such device")?;

    let half = selftest(&[(none, device, 0), (other, device, 1)]);
    stopped(half, Errno::OPNOTSUPP, 1)?;
    check([0, rest, rest, rest])?;
    let half = selftest(&[(none, device, 0), (none, device, DEVICE_CACHE_ENTRIES)]);
    stopped(half, Errno::INVAL, 1)?;
    check([0, rest, rest, rest])?;
    ensure!(selftest(&[(none, device, 1)])? == 1);
    check([0, 0, rest, rest])?;
    ensure!(selftest(&[(none, device, 2), (none, device, 3)])? == 2);
    check([0; 4])?;
    ensure!(selftest(&[(all, device, 0)])? == 1);
    check([0; 4])?;
    drop(vdevice);
    PASSED
}

pub(super) fn hw_queue(variant: &str) -> Result<Outcome> {
    let Some(bench) = Bench::new(variant)? else {
        return no_viommu();
    };
    let memory = memory(2 * PAGE)?;
    let make = |kind, index, start, len| {
        let queue = range(start, len)?;
        anyhow::Ok(HwQueue::alloc(&bench.viommu, kind, index, queue))
    };
    refused(make(HwQueueKind(0), 0, APERTURE, PAGE)?, Errno::OPNOTSUPP)?;
    // A queue of no bytes, or past the last address, is no range.
    ensure!(make(HW_QUEUE, 0, APERTURE, 0).is_err() && make(HW_QUEUE, 0, Iova(u64::MAX), PAGE).is_err());
    refused(make(HW_QUEUE, 0, APERTURE, PAGE)?, Errno::NOENT)?;

    let first = map(&bench.ioas, &memory, 0, PAGE, Placement::Any)?;
    let second = map(&bench.ioas, &memory, PAGE, PAGE, Placement::Any)?;
    let iova = first.iova();
    refused(make(HW_QUEUE, 1, iova, PAGE)?, Errno::IO).context("the second before the first")?;
    refused(make(HW_QUEUE, 2, iova, PAGE)?, Errno::INVAL).context("a third")?;
    let queue = make(HW_QUEUE, 0, iova, PAGE)??;
    refused(make(HW_QUEUE, 0, iova, PAGE)?, Errno::EXIST)?;
    refused(bench.ioas.unmap(first.range()), Errno::BUSY)?;
    second.unmap()?;
    let other = make(HW_QUEUE, 1, Iova(iova.0 + PAGE / 2), PAGE / 2)??;
    drop(other);
    drop(queue);
    first.unmap()?;
    PASSED
}

/// The virtual device holds the device, so that it is never left without one.
pub(super) fn vdevice_tombstone(variant: &str) -> Result<Outcome> {
    let Some(bench) = Bench::new(variant)? else {
        return no_viommu();
    };
    let vdevice = Vdevice::alloc(&bench.viommu, &bench.device, 0x99)?;
    let Bench { device, iommufd, .. } = bench;
    drop(device);
    drop(vdevice);
    drop(iommufd);
    PASSED
}
