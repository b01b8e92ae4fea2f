//! QEMU's edu in memory (`docs/specs/edu.rst`).

use vfio_core::Iova;
use vfio_core::fake::{Bus, Description, Device, Region};

/// An edu: computes factorials and copies 4 KiB to and fro. It works when it is poked.
#[derive(Debug)]
pub struct Edu {
    is_mute: bool,
    state: State,
}

#[derive(Debug)]
struct State {
    liveness: u32,
    factorial: u32,
    is_computing: bool,
    wants_interrupt: bool,
    interrupt: u32,
    source: u64,
    target: u64,
    len: u64,
    command: u64,
    memory: Vec<u8>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            liveness: 0,
            factorial: 0,
            is_computing: false,
            wants_interrupt: false,
            interrupt: 0,
            source: 0,
            target: 0,
            len: 0,
            command: 0,
            memory: vec![0; LEN],
        }
    }
}

const LEN: usize = 4096;
const INSIDE: u64 = 0x4_0000;

impl Default for Edu {
    fn default() -> Self {
        Self::new()
    }
}

impl Edu {
    /// As QEMU has it, with all address bits.
    #[must_use]
    pub fn new() -> Self {
        Self {
            is_mute: false,
            state: State::default(),
        }
    }

    /// It never finishes anything.
    #[must_use]
    pub fn mute(self) -> Self {
        Self { is_mute: true, ..self }
    }

    fn raise(&mut self, reasons: u32, bus: &Bus<'_>) {
        self.state.interrupt |= reasons;
        bus.msi(0);
    }

    fn compute(&mut self, bus: &Bus<'_>) {
        let numbers = 1..=self.state.factorial;
        // From 34 on it is 0 modulo 2³².
        self.state.factorial = numbers.take(40).fold(1, u32::wrapping_mul);
        self.state.is_computing = false;
        if self.state.wants_interrupt {
            self.raise(1, bus);
        }
    }

    /// DMA; outside its own memory it does nothing, as a fault of the IOMMU would.
    fn copy(&mut self, bus: &Bus<'_>) {
        let is_out = self.state.command & 2 != 0;
        let (place, iova) = if is_out {
            (self.state.source, self.state.target)
        } else {
            (self.state.target, self.state.source)
        };
        let start = usize::try_from(place.wrapping_sub(INSIDE)).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::try_from(self.state.len).unwrap_or(usize::MAX));
        if let Some(part) = self.state.memory.get_mut(start..end) {
            // The machine notes what faults; the device does not know.
            let _fault = if is_out {
                bus.dma_write(Iova(iova), part)
            } else {
                bus.dma_read(Iova(iova), part)
            };
        }
        self.state.command &= !1;
        if self.state.command & 4 != 0 {
            self.raise(0x100, bus);
        }
    }
}

impl Device for Edu {
    fn description(&self) -> Description {
        Description::new(0x1234, 0x11e8)
            .class(0x00_ff00)
            .region(Region::bar(0, 1 << 20))
            .intx()
            .msi(1)
            .without_reset()
    }

    fn read(&mut self, _: u32, offset: u64, _: u32, _: &Bus<'_>) -> u64 {
        let state = &self.state;
        match offset {
            0x00 => 0x0100_00ed,
            0x04 => (!state.liveness).into(),
            0x08 => state.factorial.into(),
            0x20 => u64::from(state.is_computing) | u64::from(state.wants_interrupt) << 7,
            0x24 => state.interrupt.into(),
            0x80 => state.source,
            0x88 => state.target,
            0x90 => state.len,
            0x98 => state.command,
            _ => u64::MAX,
        }
    }

    fn write(&mut self, _: u32, offset: u64, _: u32, value: u64, bus: &Bus<'_>) {
        let low = u32::try_from(value & u64::from(u32::MAX)).unwrap_or_default();
        let state = &mut self.state;
        match offset {
            0x04 => state.liveness = low,
            0x08 if !state.is_computing => (state.factorial, state.is_computing) = (low, true),
            0x20 => state.wants_interrupt = low & 0x80 != 0,
            0x60 => self.raise(low, bus),
            0x64 => state.interrupt &= !low,
            // While it copies, QEMU ignores these.
            0x80 if state.command & 1 == 0 => state.source = value,
            0x88 if state.command & 1 == 0 => state.target = value,
            0x90 if state.command & 1 == 0 => state.len = value,
            0x98 if state.command & 1 == 0 => state.command = value & 7,
            _ => {}
        }
    }

    fn poke(&mut self, bus: &Bus<'_>) {
        if self.is_mute {
            return;
        }
        if self.state.is_computing {
            self.compute(bus);
        }
        if self.state.command & 1 != 0 {
            self.copy(bus);
        }
    }

    fn reset(&mut self) {
        self.state = State::default();
    }
}
