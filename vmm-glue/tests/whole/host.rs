//! The host: functions that check what reaches them, and how the guest is given them.

use crate::script::Script;
use pci::{Bdf, GroupId};
use vfio_core::fake::{Copier, Description, Machine, Plain, Region};
use vfio_core::iommufd::Iommufd;
use vfio_core::{CdevFile, Container, ContainerPath, Group, Iova};
use vmm_glue::functions::{Backend, File, Opened};

pub(super) fn bdf(number: u8) -> Bdf {
    format!("0000:{number:02x}:00.0").parse().unwrap()
}

/// Bytes of BAR 0, and where MSI-X is in it.
const BAR: u64 = 64 << 10;
const TABLE: u64 = 0x8000;
const VECTORS: u16 = 8;

/// Functions 1 to 4, of which the last is in no slot at first.
pub(super) fn machine(script: &mut Script<'_>) -> Machine {
    let mut builder = Machine::builder().device(bdf(1), GroupId(1), Copier::new());
    for number in 2..=4 {
        let how = script.byte();
        let bar = Region::bar(0, BAR);
        let bar = if how & 1 == 0 { bar } else { bar.without_mmap() };
        let mut description = Description::new(0x1AF4, 0x10F0)
            .region(bar)
            .region(Region::bar(2, 0x1_0000 << (how >> 5)))
            .region(Region::rom(2048))
            .msix(VECTORS, 0, 0x8000)
            .msi(4)
            .intx();
        if how & 2 != 0 {
            description = description.without_dynamic_msix();
        }
        if how & 4 != 0 {
            description = description.without_reset();
        }
        builder = builder.device(bdf(number), GroupId(number.into()), plain(description));
    }
    builder.build()
}

/// Raises any interrupt, also of vectors that there are not, and does DMA anywhere. Its own MSI-X table is the host's.
fn plain(description: Description) -> Plain {
    let device = Plain::new(description).on_write(|_, write, bus| {
        if write.region == 0 {
            let end = write.offset + u64::from(write.width);
            assert!(end <= BAR, "{write:?}");
            assert!(
                end <= TABLE || write.offset >= TABLE + 16 * u64::from(VECTORS),
                "{write:?}"
            );
        }
        let vector = u32::try_from(write.value & 0x1F).unwrap_or_default();
        match write.offset % 32 {
            0..8 => bus.msix(vector),
            8..16 => bus.msi(vector),
            16..24 => bus.intx(vector & 1 != 0),
            // Refused by the IOMMU, if it is no memory of the guest.
            _ => drop(bus.dma_write(Iova(write.value), &[0xDA; 16])),
        }
    });
    device.on_poke(|_, bus| {
        bus.intx(true);
        bus.msi(0);
        bus.msix(1);
    })
}

pub(super) fn backend(host: &Machine, is_type1: bool) -> Backend {
    let system = host.system();
    if is_type1 {
        Backend::Type1(Container::open(&system, ContainerPath::Vfio).unwrap())
    } else {
        Backend::Iommufd(Iommufd::open(&system).unwrap())
    }
}

pub(super) fn is_type1(backend: &Backend) -> bool {
    matches!(backend, Backend::Type1(_))
}

pub(super) fn open(host: &Machine, is_type1: bool, number: u8) -> Opened {
    try_open(host, is_type1, number).unwrap()
}

/// `None` while the guest has it, or when a call was to fail.
pub(super) fn try_open(host: &Machine, is_type1: bool, number: u8) -> Option<Opened> {
    let (system, bdf) = (host.system(), bdf(number));
    let file = if is_type1 {
        File::Group(Group::open(&system, GroupId(number.into())).ok()?)
    } else {
        File::Device(CdevFile::open(&system, host.cdev_path(bdf)?).ok()?)
    };
    Some(Opened { bdf, file, token: None })
}
