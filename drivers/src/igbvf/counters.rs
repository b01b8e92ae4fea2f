//! What the device counts. Its counters have 32 bits, wrap, and start anew when the PF is reset.

use super::function::Function;
use super::regs;
use crate::Backing;
use vfio_core::mmio::{ReadOnly, Reg};

/// Frames and octets since the port was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Frames received.
    pub rx_frames: u64,
    /// Octets received.
    pub rx_octets: u64,
    /// Multicast frames received.
    pub rx_multicast: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Octets sent.
    pub tx_octets: u64,
    /// Frames received from functions of the same port.
    pub local_rx_frames: u64,
    /// Octets received from functions of the same port.
    pub local_rx_octets: u64,
    /// Frames sent to functions of the same port.
    pub local_tx_frames: u64,
    /// Octets sent to functions of the same port.
    pub local_tx_octets: u64,
}

/// What the device has counted at a time.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample([u32; COUNT]);

/// Totals, and what the device had counted when they were last looked at.
#[derive(Debug, Default)]
pub(super) struct Counters {
    totals: [u64; COUNT],
    last: Sample,
}

const COUNT: usize = 9;

impl Counters {
    /// Adds what was counted since. To be called before a counter has gone round: 34 s at 1 Gb/s for octets.
    pub(super) fn add(&mut self, now: Sample) {
        if now.is_silence() {
            return;
        }
        for ((total, last), now) in self.totals.iter_mut().zip(&mut self.last.0).zip(now.0) {
            *total += u64::from(now.wrapping_sub(*last));
            *last = now;
        }
    }

    /// Counts from here: what was counted before this is lost, or was added.
    pub(super) fn rebase(&mut self, now: Sample) {
        // A function that does not answer has been reset: its counters begin at zero.
        self.last = if now.is_silence() { Sample::default() } else { now };
    }

    pub(super) fn total(&self) -> Statistics {
        let [
            rx_frames,
            rx_octets,
            rx_multicast,
            tx_frames,
            tx_octets,
            local_rx_frames,
            local_rx_octets,
            local_tx_frames,
            local_tx_octets,
        ] = self.totals;
        Statistics {
            rx_frames,
            rx_octets,
            rx_multicast,
            tx_frames,
            tx_octets,
            local_rx_frames,
            local_rx_octets,
            local_tx_frames,
            local_tx_octets,
        }
    }
}

impl Sample {
    pub(super) fn read<B: Backing>(function: &Function<B>) -> Self {
        fn one<B: Backing, const AT: usize>(function: &Function<B>, register: Reg<u32, ReadOnly, AT>) -> u32 {
            function.registers.read(register)
        }
        Self([
            one(function, regs::VFGPRC),
            one(function, regs::VFGORC),
            one(function, regs::VFMPRC),
            one(function, regs::VFGPTC),
            one(function, regs::VFGOTC),
            one(function, regs::VFGPRLBC),
            one(function, regs::VFGORLBC),
            one(function, regs::VFGPTLBC),
            one(function, regs::VFGOTLBC),
        ])
    }

    /// All ones: the function does not answer.
    fn is_silence(&self) -> bool {
        self.0 == [u32::MAX; COUNT]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_wrapped_goes_on() {
        let mut counters = Counters::default();
        counters.add(Sample([u32::MAX - 1; COUNT]));
        counters.add(Sample([3; COUNT]));
        assert_eq!(counters.total().rx_frames, u64::from(u32::MAX) + 4);
        counters.rebase(Sample([100; COUNT]));
        counters.add(Sample([u32::MAX; COUNT]));
        counters.add(Sample([101; COUNT]));
        assert_eq!(counters.total().local_tx_octets, u64::from(u32::MAX) + 5);
    }
}
