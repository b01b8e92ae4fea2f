//! Configuration space: the image of a device, and what of it can be written (`vfio_pci_config.c`).

use crate::fake::device::{Abilities, Description, Region};

const COMMAND: usize = 0x04;
const BARS: usize = 0x10;
const PM: usize = 0x40;
const MSI: usize = 0x48;
const MSIX: usize = 0x60;
const EXPRESS: usize = 0x70;
/// Behind the 60 bytes of `EXPRESS`.
const MORE: usize = 0xac;
const ATS: usize = 0x100;
const PRI: usize = 0x108;

const IO: u16 = 1 << 0;
const MEMORY: u16 = 1 << 1;
const MASTER: u16 = 1 << 2;
const INTX_DISABLE: u16 = 1 << 10;
const INITIATE_FLR: u16 = 1 << 15;

/// Bytes of the configuration space of a PCI Express function.
const LEN: usize = 4096;
/// Those that the list of capabilities can be in.
const STANDARD_LEN: usize = 256;

/// A device's configuration space.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    bytes: Vec<u8>,
    /// Bits that can be written.
    mask: Vec<u8>,
    image: Vec<u8>,
}

/// What a write of configuration space sets off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    /// The Command register changed.
    Command,
    /// A function level reset was asked for.
    Reset,
}

impl Config {
    pub(crate) fn new(description: &Description) -> Self {
        let mut config = Self {
            bytes: vec![0; LEN],
            mask: vec![0; LEN],
            image: Vec::new(),
        };
        config.header(description);
        config.capabilities(description);
        config.image = config.bytes.clone();
        config
    }

    fn header(&mut self, description: &Description) {
        self.put(0x00, &description.vendor.to_le_bytes());
        self.put(0x02, &description.device.to_le_bytes());
        self.allow(
            COMMAND,
            &(0x0143_u16 | IO | MEMORY | MASTER | INTX_DISABLE).to_le_bytes(),
        );
        // A list of capabilities.
        self.put(0x06, &0x0010_u16.to_le_bytes());
        let [low, middle, high, _] = description.class.to_le_bytes();
        self.put(0x09, &[low, middle, high]);
        self.allow(0x0c, &[0xff, 0xff]);
        for region in &description.regions {
            self.bar(region);
        }
        self.put(0x34, &[0x40]);
        self.allow(0x3c, &[0xff]);
        self.put(0x3d, &[u8::from(description.has(Abilities::INTX))]);
    }

    /// A 32-bit memory BAR, or the ROM's.
    fn bar(&mut self, region: &Region) {
        let at = match region.index {
            index @ 0..=5 => BARS + 4 * usize::try_from(index).unwrap_or_default(),
            6 => 0x30,
            _ => return,
        };
        let size = u32::try_from(region.size.max(16)).unwrap_or(1 << 31);
        let enable = u32::from(region.index == 6);
        self.allow(at, &(!(size - 1) | enable).to_le_bytes());
        // Somewhere in the lower 4 GiB, aligned to its size.
        let base = 0x8000_0000_u32 & !(size - 1);
        self.put(at, &base.to_le_bytes());
    }

    fn capabilities(&mut self, description: &Description) {
        let msi = description.msi > 0;
        let after_pm = if msi { MSI } else { self.after_msi(description) };
        self.put(PM, &[0x01, low(after_pm), 0x03, 0x00]);
        self.allow(PM + 4, &[0x03, 0x01]);
        // No soft reset.
        self.put(PM + 4, &[0x08]);
        if msi {
            let capable = u16::try_from(description.msi.trailing_zeros() << 1).unwrap_or_default() | 0x0080;
            let [first, second] = capable.to_le_bytes();
            self.put(MSI, &[0x05, low(self.after_msi(description)), first, second]);
            self.allow(MSI + 2, &[0x71, 0]);
            self.allow(MSI + 4, &[0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        }
        if let Some(msix) = description.msix {
            let [first, second] = (msix.vectors - 1).to_le_bytes();
            self.put(MSIX, &[0x11, low(EXPRESS), first, second]);
            self.allow(MSIX + 3, &[0xc0]);
            let table = msix.offset | u32::from(msix.bar);
            self.put(MSIX + 4, &table.to_le_bytes());
            let pending = (msix.offset + 16 * u32::from(msix.vectors)).next_multiple_of(8);
            self.put(MSIX + 8, &(pending | u32::from(msix.bar)).to_le_bytes());
        }
        self.put(EXPRESS, &[0x10, 0x00, 0x02, 0x00]);
        let capable = if description.has(Abilities::RESET) {
            1_u32 << 28
        } else {
            0
        };
        self.put(EXPRESS + 4, &capable.to_le_bytes());
        self.allow(EXPRESS + 8, &[0xff, 0xff]);
        let mut link = EXPRESS + 1;
        let mut at = MORE;
        for (id, body) in &description.capabilities {
            let end = at + 2 + body.len();
            if end > STANDARD_LEN {
                break;
            }
            self.put(link, &[low(at)]);
            self.put(at, &[*id, 0]);
            self.put(at + 2, body);
            link = at + 1;
            at = end.next_multiple_of(4);
        }
        if description.has(Abilities::PAGE_REQUESTS) {
            // ATS and PRI show; the kernel hides PASID (`vfio_pci_config.c`), and keeps the enable bits to itself.
            self.put(ATS, &[0x0f, 0x00, 0x81, 0x10]);
            self.put(ATS + 4, &[0x20, 0x00]);
            self.put(PRI, &[0x13, 0x00, 0x01, 0x00]);
            self.put(PRI + 6, &[0x00, 0x81]);
        }
    }

    fn after_msi(&self, description: &Description) -> usize {
        if description.msix.is_some() { MSIX } else { EXPRESS }
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        for (to, from) in self.bytes.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }

    fn allow(&mut self, at: usize, bits: &[u8]) {
        for (to, from) in self.mask.iter_mut().skip(at).zip(bits) {
            *to = *from;
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Everything as after power-on, but with memory and I/O decoded: the state in which a driver gets the device.
    pub(crate) fn enable(&mut self) {
        self.bytes.clone_from(&self.image);
        self.put(COMMAND, &(IO | MEMORY).to_le_bytes());
    }

    pub(crate) fn read(&self, offset: usize, to: &mut [u8]) {
        for (to, from) in to.iter_mut().zip(self.bytes.iter().skip(offset)) {
            *to = *from;
        }
    }

    pub(crate) fn write(&mut self, offset: usize, from: &[u8]) -> Effect {
        let (command, control) = (self.command(), EXPRESS + 8);
        let places = self.bytes.iter_mut().zip(&self.mask).skip(offset);
        for ((to, mask), from) in places.zip(from) {
            *to = (*to & !mask) | (from & mask);
        }
        let asks = self.word(control) & INITIATE_FLR != 0;
        let kept = self.word(control) & !INITIATE_FLR;
        self.put(control, &kept.to_le_bytes());
        match () {
            () if asks => Effect::Reset,
            () if self.command() != command => Effect::Command,
            () => Effect::Nothing,
        }
    }

    fn word(&self, at: usize) -> u16 {
        let byte = |at: usize| self.bytes.get(at).copied().unwrap_or_default();
        u16::from_le_bytes([byte(at), byte(at + 1)])
    }

    fn command(&self) -> u16 {
        self.word(COMMAND)
    }

    pub(crate) fn bus_master(&self) -> bool {
        self.command() & MASTER != 0
    }

    pub(crate) fn memory(&self) -> bool {
        self.command() & MEMORY != 0
    }

    pub(crate) fn intx_disabled(&self) -> bool {
        self.command() & INTX_DISABLE != 0
    }
}

fn low(value: usize) -> u8 {
    u8::try_from(value).unwrap_or_default()
}
