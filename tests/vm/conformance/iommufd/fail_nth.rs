//! Beside `tools/testing/selftests/iommu/iommufd_fail_nth.c`: every allocation that the kernel makes for a sequence of calls fails in
//! turn (`Documentation/fault-injection`, fail-nth). The kernel's suite looks for a kernel that breaks; this one also sees that a
//! failure is an error here, and that nothing stays pinned.

use super::bench::{APERTURE, PAGE, READ_WRITE, range, selftest_data};
use crate::PASSED;
use crate::harness::Case;
use crate::machine::write;
use anyhow::{Context, Result, bail, ensure};
use lab::case::Outcome;
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use vfio_core::iommufd::selftest::{
    HW_QUEUE, IOTLB_DEFAULT, MockAccess, MockDevice, MockFlags, VEVENT, VIOMMU, check_refs, nested_data,
    set_temp_memory_limit,
};
use vfio_core::iommufd::{
    HwQueue, Hwpt, HwptData, HwptFlags, HwptParent, Ioas, Iommufd, Placement, Vdevice, VeventQueue, Viommu,
};
use vfio_core::{Access, Backing, Error, IovaRange, Memory, MemoryOptions, System};

/// Bytes of the memory, and of a part of it.
const BUFFER: u64 = 2 << 20;
const PART: u64 = 256 << 10;

/// A sequence of calls; from where it calls the second argument on, an allocation is made to fail.
type Sequence = fn(&Bench, &dyn Fn()) -> Result<(), Error>;

pub(super) fn cases() -> Vec<Case> {
    let sequences: [(&str, Sequence); 8] = [
        ("basic", basic),
        ("map_domain", map_domain),
        ("map_file_domain", map_file_domain),
        ("map_two_domains", map_two_domains),
        ("access_rw", access_rw),
        ("access_pin", access_pin),
        ("access_pin_domain", access_pin_domain),
        ("device", device),
    ];
    let case = |(name, sequence): (&str, Sequence)| {
        Case::new(format!("conf_iommufd_basic_fail_nth.{name}"), move |_| sweep(sequence))
    };
    sequences.into_iter().map(case).collect()
}

/// Memory that is there before anything fails.
struct Bench {
    anonymous: Arc<Memory>,
    shared: Memory,
    part: IovaRange,
}

/// `/proc/thread-self/fail-nth`: the Nth allocation from now fails; reads as 0 once it has.
struct FailNth(File);

impl FailNth {
    fn open() -> Result<Option<Self>> {
        let path = Path::new("/proc/thread-self/fail-nth");
        if !path.exists() {
            return Ok(None);
        }
        // By default only allocations that may not sleep fail, and each failure is logged with a trace.
        write("/sys/kernel/debug/failslab/ignore-gfp-wait", "N")?;
        for kind in ["failslab", "fail_iommufd"] {
            write(Path::new("/sys/kernel/debug").join(kind).join("verbose"), "0")?;
        }
        Ok(Some(Self(OpenOptions::new().read(true).write(true).open(path)?)))
    }

    fn arm(&self, nth: u32) {
        // One that fails arms nothing: the sequence runs through, and the sweep ends too early, which the least count finds.
        drop(self.0.write_at(nth.to_string().as_bytes(), 0));
    }

    /// Disarms it; whether the failure had happened.
    fn disarm(&self) -> Result<bool> {
        let mut text = [0; 16];
        // Reading and writing allocate too, and then fail with EFAULT in place of the sequence.
        let mut happened = match self.0.read_at(&mut text, 0) {
            Ok(len) => text.get(..len) == Some(b"0\n".as_slice()),
            Err(error) if error.raw_os_error() == Some(Errno::FAULT.raw_os_error()) => false,
            Err(error) => return Err(error.into()),
        };
        if self.0.write_at(b"0", 0).is_err() {
            happened = false;
            self.0.write_at(b"0", 0)?;
        }
        Ok(happened)
    }
}

/// Runs the sequence with the first allocation failing, then with the second, until it runs through before its turn comes.
fn sweep(sequence: Sequence) -> Result<Outcome> {
    let Some(fail) = FailNth::open()? else {
        return Ok(Outcome::Skipped("the kernel cannot inject failures".to_owned()));
    };
    let options = MemoryOptions {
        backing: Backing::Shared,
        ..MemoryOptions::default()
    };
    let bench = Bench {
        anonymous: Arc::new(Memory::new(usize::try_from(BUFFER)?, MemoryOptions::default())?),
        shared: Memory::new(usize::try_from(BUFFER)?, options)?,
        part: range(APERTURE, PAGE)?,
    };
    for memory in [&*bench.anonymous, &bench.shared] {
        memory.populate(0..memory.len())?;
    }
    let watch = Iommufd::open(&System::host())?;
    sequence(&bench, &|| ()).context("without any failure")?;
    let mut failures = 0;
    for nth in 1..1000 {
        let result = sequence(&bench, &|| fail.arm(nth));
        let happened = fail.disarm()?;
        for memory in [&*bench.anonymous, &bench.shared] {
            check_refs(&watch, memory, 0..memory.len(), 0)
                .with_context(|| format!("pinned after failure {nth}: {result:?}"))?;
        }
        if !happened {
            result.with_context(|| format!("failure {nth} was to come later"))?;
            ensure!(failures > 2, "only {failures} of {nth} failures reached the caller");
            return PASSED;
        }
        failures += u32::from(result.is_err());
    }
    bail!("1000 allocations and no end")
}

fn open() -> Result<Iommufd, Error> {
    let iommufd = Iommufd::open(&System::host())?;
    set_temp_memory_limit(&iommufd, 32)?;
    Ok(iommufd)
}

fn map_part(bench: &Bench, ioas: &Ioas) -> Result<vfio_core::iommufd::Mapping, Error> {
    super::bench::map(ioas, &bench.anonymous, 0, PART, Placement::Any)
}

fn mock(ioas: &Ioas) -> Result<MockDevice, Error> {
    MockDevice::new(ioas, MockFlags::empty())
}

fn basic(bench: &Bench, arm: &dyn Fn()) -> Result<(), Error> {
    arm();
    let iommufd = Iommufd::open(&System::host())?;
    let ioas = iommufd.alloc_ioas()?;
    ioas.iova_ranges()?;
    ioas.allow_iovas(&[bench.part])?;
    ioas.allow_iovas(&[])?;
    let mapping = super::bench::map(&ioas, &bench.anonymous, 0, BUFFER, Placement::Any)?;
    let copy = ioas.copy(&mapping, Placement::Any, Access::READ)?;
    copy.unmap()?;
    mapping.unmap()
}

fn map_domain(bench: &Bench, arm: &dyn Fn()) -> Result<(), Error> {
    let iommufd = open()?;
    let ioas = iommufd.alloc_ioas()?;
    arm();
    let device = mock(&ioas)?;
    let mapping = map_part(bench, &ioas)?;
    drop(device);
    let device = mock(&ioas)?;
    drop(device);
    mapping.unmap()
}

fn map_file_domain(bench: &Bench, arm: &dyn Fn()) -> Result<(), Error> {
    let iommufd = open()?;
    let ioas = iommufd.alloc_ioas()?;
    let Some(file) = bench.shared.file() else { return Ok(()) };
    arm();
    let device = mock(&ioas)?;
    let mapping = ioas.map_file(file, 0, PART, Placement::Any, READ_WRITE)?;
    drop(device);
    let device = mock(&ioas)?;
    drop(device);
    mapping.unmap()
}

fn map_two_domains(bench: &Bench, arm: &dyn Fn()) -> Result<(), Error> {
    let iommufd = open()?;
    let ioas = iommufd.alloc_ioas()?;
    let first = mock(&ioas)?;
    arm();
    let second = mock(&ioas)?;
    let mapping = map_part(bench, &ioas)?;
    drop((first, second));
    let devices = (mock(&ioas)?, mock(&ioas)?);
    drop(devices);
    mapping.unmap()
}

fn access_rw(bench: &Bench, arm: &dyn Fn()) -> Result<(), Error> {
    let iommufd = open()?;
    let ioas = iommufd.alloc_ioas()?;
    let mapping = map_part(bench, &ioas)?;
    let mut small = [0; 64];
    let mut big = vec![0; 32 << 10];
    arm();
    let access = MockAccess::new(&ioas, false)?;
    for slow in [false, true] {
        access.read(mapping.iova(), &mut small, slow)?;
        access.write(mapping.iova(), &small, slow)?;
    }
    access.read(mapping.iova(), &mut big, true)?;
    drop(access);
    mapping.unmap()
}

fn access_pin(bench: &Bench, arm: &dyn Fn()) -> Result<(), Error> {
    let iommufd = open()?;
    let ioas = iommufd.alloc_ioas()?;
    pin(bench, &ioas, arm)
}

fn access_pin_domain(bench: &Bench, arm: &dyn Fn()) -> Result<(), Error> {
    let iommufd = open()?;
    let ioas = iommufd.alloc_ioas()?;
    let device = mock(&ioas)?;
    pin(bench, &ioas, arm)?;
    drop(device);
    Ok(())
}

fn pin(bench: &Bench, ioas: &Ioas, arm: &dyn Fn()) -> Result<(), Error> {
    let mapping = super::bench::map(ioas, &bench.anonymous, 0, BUFFER, Placement::Any)?;
    let access = MockAccess::new(ioas, true)?;
    arm();
    let pinned = access.pin(mapping.range(), false, Some((&*bench.anonymous, 0)))?;
    drop(pinned);
    drop(access);
    mapping.unmap()
}

fn device(bench: &Bench, arm: &dyn Fn()) -> Result<(), Error> {
    let iommufd = Iommufd::open(&System::host())?;
    let spaces = (iommufd.alloc_ioas()?, iommufd.alloc_ioas()?);
    let map = |ioas| super::bench::map(ioas, &bench.anonymous, 0, PAGE, Placement::Fixed(APERTURE));
    let mappings = (map(&spaces.0)?, map(&spaces.1)?);
    let data = nested_data(IOTLB_DEFAULT, false);
    let ioas = &spaces.0;
    arm();
    let device = MockDevice::new(ioas, MockFlags::PASID)?;
    iommufd.hw_info(&device)?;
    let make = |flags| Hwpt::alloc(&device, HwptParent::Ioas(ioas), flags, HwptData::None, None);
    let first = make(HwptFlags::PASID)?;
    device.replace(&spaces.1)?;
    device.replace(&first)?;
    let parent = make(HwptFlags::NEST_PARENT | HwptFlags::PASID)?;
    let viommu = Viommu::alloc(&device, &parent, VIOMMU, &mut [])?;
    let vdevice = Vdevice::alloc(&viommu, &device, 0)?;
    let hw_queue = HwQueue::alloc(&viommu, HW_QUEUE, 0, bench.part)?;
    let faults = iommufd.alloc_fault_queue()?;
    let nested = Hwpt::alloc(
        &device,
        HwptParent::Hwpt(&parent),
        HwptFlags::empty(),
        selftest_data(&data),
        Some(&faults),
    )?;
    let events = VeventQueue::alloc(&viommu, VEVENT, 2)?;
    let other = make(HwptFlags::PASID)?;
    device.attach_pasid(200, &parent)?;
    device.replace_pasid(200, &other)?;
    device.detach_pasid(200)?;
    drop((hw_queue, vdevice, events, nested));
    drop(mappings);
    Ok(())
}
