//! Devices of the fake machine are saved and loaded; whatever fails, the one that was to be saved runs on and the other is reset.

use super::{DirtyRam, Limits, Loading, Saving, format, save};
use crate::{ErrorKind, Result};
use iommu::space::{AddressSpace, MapOptions};
use pci::{Bdf, GroupId};
use std::io::Cursor;
use std::sync::Arc;
use vfio_core::fake::{Copier, Description, Machine, MigrationSupport, Plain, Region};
use vfio_core::iommufd::Iommufd;
use vfio_core::migration::MigrationState;
use vfio_core::{Access, BoundDevice, CdevFile, Errno, Memory, MemoryOptions, RegionIndex};

const ALL: MigrationSupport = MigrationSupport {
    p2p: true,
    pre_copy: true,
};

fn bdf(number: u8) -> Bdf {
    format!("0000:{number:02x}:00.0").parse().unwrap()
}

fn plain(device: u16, support: MigrationSupport) -> Plain {
    Plain::new(
        Description::new(0x4348, device)
            .region(Region::bar(0, 4096))
            .migration(support),
    )
}

fn machine(support: MigrationSupport) -> Machine {
    let builder = Machine::builder().device(bdf(1), GroupId(1), plain(1, support));
    let builder = builder.device(bdf(2), GroupId(2), plain(1, support));
    builder.device(bdf(3), GroupId(3), plain(2, support)).build()
}

fn open(machine: &Machine, number: u8) -> Result<BoundDevice> {
    let system = machine.system();
    let iommufd = Iommufd::open(&system)?;
    let path = machine.cdev_path(bdf(number)).unwrap();
    Ok(CdevFile::open(&system, path)?.bind(&iommufd, None)?)
}

fn state(device: &BoundDevice) -> MigrationState {
    device.migration().unwrap().unwrap().state().unwrap()
}

fn register(device: &BoundDevice) -> u64 {
    device.region(RegionIndex::BAR0).unwrap().read_u64(0x10).unwrap()
}

#[test]
fn a_state_goes_from_one_device_to_another_through_a_file() {
    // A fake device with pre-copy writes its state twice, which its `restore` takes for one: only those without are compared.
    for p2p in [false, true] {
        let machine = machine(MigrationSupport { p2p, pre_copy: false });
        let [from, to] = [open(&machine, 1).unwrap(), open(&machine, 2).unwrap()];
        from.region(RegionIndex::BAR0)
            .unwrap()
            .write_u64(0x10, 0x1122_3344_5566)
            .unwrap();
        let mut saved = save([(from.clone(), Vec::new())], Limits::default(), || Ok(())).unwrap();
        let saved = saved.pop().unwrap();
        assert_eq!((state(&from), saved.total), (MigrationState::Stop, 8 * 13));
        let loading = Loading::new(&to, &mut Cursor::new(&saved.file)).unwrap();
        assert_eq!((state(&to), loading.total()), (MigrationState::Stop, saved.total));
        loading.answer().unwrap();
        loading.run().unwrap();
        assert_eq!((state(&to), register(&to)), (MigrationState::Running, 0x1122_3344_5566));
        saved.resume().unwrap();
        assert_eq!(state(&from), MigrationState::Running);
    }
}

#[test]
fn devices_are_copied_while_they_run_and_stopped_together() {
    let machine = machine(ALL);
    let [first, second] = [open(&machine, 1).unwrap(), open(&machine, 2).unwrap()];
    let devices = [(first.clone(), Vec::new()), (second.clone(), Vec::new())];
    let stopped = || {
        assert_eq!(
            [state(&first), state(&second)],
            [MigrationState::PreCopy; 2],
            "the guest stops while they run"
        );
        Ok(())
    };
    let saved = save(devices, Limits::default(), stopped).unwrap();
    assert_eq!([state(&first), state(&second)], [MigrationState::Stop; 2]);
    assert_eq!(saved.len(), 2);
}

#[test]
fn a_device_that_is_not_saved_runs_on() {
    let machine = machine(ALL);
    let device = open(&machine, 1).unwrap();
    let mut saving = Saving::begin(&device, Vec::new(), Limits::default()).unwrap();
    saving.copy().unwrap();
    saving.quiesce().unwrap();
    assert_eq!(state(&device), MigrationState::PreCopyP2p);
    drop(saving);
    assert_eq!(state(&device), MigrationState::Running);
    let failed = save([(device.clone(), Vec::new())], Limits::default(), || {
        Err(crate::Error::new("stop the guest", ErrorKind::TimedOut))
    });
    assert!(failed.is_err());
    assert_eq!(state(&device), MigrationState::Running);
    let limits = Limits {
        total: 3,
        ..Limits::default()
    };
    device.region(RegionIndex::BAR0).unwrap().write_u64(0x10, 7).unwrap();
    let error = save([(device.clone(), Vec::new())], limits, || Ok(())).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Exhausted(_)), "{error}");
    assert_eq!(state(&device), MigrationState::Running);
}

/// A file on a disk that is full when its end is written.
struct Full(bool);

impl std::io::Write for Full {
    fn write(&mut self, from: &[u8]) -> std::io::Result<usize> {
        Ok(from.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self.0 {
            true => Err(std::io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

#[test]
fn all_devices_run_on_when_the_file_of_one_cannot_be_ended() {
    let machine = machine(ALL);
    let [first, second] = [open(&machine, 1).unwrap(), open(&machine, 2).unwrap()];
    let devices = [(first.clone(), Full(false)), (second.clone(), Full(true))];
    assert!(save(devices, Limits::default(), || Ok(())).is_err());
    assert_eq!([state(&first), state(&second)], [MigrationState::Running; 2]);
}

#[test]
fn a_state_of_another_kind_or_one_that_was_changed_is_refused_and_touches_nothing() {
    let machine = machine(ALL);
    let [from, other] = [open(&machine, 1).unwrap(), open(&machine, 3).unwrap()];
    let file = save([(from, Vec::new())], Limits::default(), || Ok(()))
        .unwrap()
        .pop()
        .unwrap()
        .file;
    machine.forget_calls();
    let error = Loading::new(&other, &mut Cursor::new(&file)).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the state of 4348:0001, and the device is 4348:0002"),
        "{error}"
    );
    let mut changed = file.clone();
    changed[20] ^= 1;
    assert!(Loading::new(&other, &mut Cursor::new(&changed)).is_err());
    assert_eq!(state(&other), MigrationState::Running);
    assert!(machine.calls().iter().all(|call| call.as_str() != "VFIO_DEVICE_RESET"));
}

#[test]
fn a_device_that_does_not_take_a_state_is_reset() {
    let machine = machine(ALL);
    let device = open(&machine, 1).unwrap();
    let kind = format::Kind {
        vendor: 0x4348,
        device: 1,
    };
    let mut writer = format::Writer::new(Vec::new(), kind).unwrap();
    writer.write(b"no record of registers").unwrap();
    let file = writer.finish().unwrap();
    machine.forget_calls();
    assert!(Loading::new(&device, &mut Cursor::new(file)).is_err());
    assert!(machine.calls().iter().any(|call| call.as_str() == "VFIO_DEVICE_RESET"));
    assert_eq!(state(&device), MigrationState::Running, "after the reset");
}

#[test]
fn what_cannot_be_migrated_is_said() {
    let plain = Plain::new(Description::new(1, 2).region(Region::bar(0, 4096)));
    let machine = Machine::builder().device(bdf(1), GroupId(1), plain).build();
    let device = open(&machine, 1).unwrap();
    let error = Saving::begin(&device, Vec::new(), Limits::default()).unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Unsupported(_)), "{error}");
}

#[test]
fn each_call_that_fails_leaves_a_device_that_runs_or_was_reset() {
    for (support, nth) in [ALL, MigrationSupport::default()]
        .into_iter()
        .flat_map(|support| (0..200).map(move |nth| (support, nth)))
    {
        let machine = machine(support);
        let device = open(&machine, 1).unwrap();
        machine.fail_nth(nth, Errno::IO);
        let saved = save([(device.clone(), Vec::new())], Limits::default(), || Ok(()));
        let failed = machine.failed();
        machine.forget_calls();
        match saved {
            // The last call of all: letting it run again.
            Err(_) => assert!(
                matches!(state(&device), MigrationState::Running),
                "{failed:?} left it in {:?}",
                state(&device)
            ),
            Ok(mut saved) => {
                let target = open(&machine, 2).unwrap();
                let file = saved.pop().unwrap().file;
                machine.fail_nth(nth, Errno::IO);
                let loaded = Loading::new(&target, &mut Cursor::new(&file)).and_then(Loading::run);
                let failed = machine.failed();
                machine.forget_calls();
                if loaded.is_err() && !support.pre_copy {
                    assert_eq!(state(&target), MigrationState::Running, "{failed:?}");
                }
            }
        }
        drop(device);
        assert_eq!(machine.leaks(), Vec::<String>::new());
    }
}

#[test]
fn what_a_device_writes_is_known_by_its_guest_address() {
    let description = Copier::new();
    let machine = Machine::builder().device(bdf(1), GroupId(1), description).build();
    let device = open(&machine, 1).unwrap();
    let iommufd = device.iommufd_device().unwrap();
    let space = AddressSpace::iommufd(vfio_core::iommufd::IommuDevice::iommufd(&iommufd)).unwrap();
    let _attached = space.attach(&device).unwrap();
    let memory = Arc::new(Memory::new(1 << 16, MemoryOptions::default()).unwrap());
    let options = MapOptions::new(Access::READ | Access::WRITE).at(iommu::Iova(0));
    let _ram = space.map(&memory, 0..1 << 16, options).unwrap();
    match DirtyRam::new(&space, std::slice::from_ref(&device)) {
        Ok(mut log) => assert_eq!(log.take().unwrap(), []),
        Err(error) => assert!(matches!(error.kind, ErrorKind::Unsupported(_)), "{error}"),
    }
}
