//! What the device counts. A VF's counters have 32 bits, wrap, and start anew when the PF is reset; a PF's are cleared by reading.

use super::function::{Function, Kind};
use super::regs::{self, physical as pf};
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
pub(super) struct Sample {
    counts: [u32; COUNT],
    /// Reading has cleared them.
    is_cleared: bool,
}

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
        for ((total, last), now) in self.totals.iter_mut().zip(self.last.counts).zip(now.counts) {
            *total += u64::from(now.wrapping_sub(last));
        }
        self.rebase(now);
    }

    /// Counts from here: what was counted before this is lost, or was added.
    pub(super) fn rebase(&mut self, now: Sample) {
        // A function that does not answer has been reset: its counters begin at zero.
        let begins_at_zero = now.is_silence() || now.is_cleared;
        self.last = if begins_at_zero { Sample::default() } else { now };
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
        match function.kind {
            Kind::Virtual => Self::read_virtual(function),
            Kind::Physical => Self::read_physical(function),
        }
    }

    fn read_physical<B: Backing>(function: &Function<B>) -> Self {
        let octets = |[low, high]: [usize; 2]| {
            let octets = function.read(low);
            // Less than 4 G since the last time, so there is nothing in it.
            function.read(high);
            octets
        };
        let [rx_frames, rx_octets] = [function.read(pf::GPRC), octets(pf::GORC)];
        let rx_multicast = function.read(pf::MPRC);
        let [tx_frames, tx_octets] = [function.read(pf::GPTC), octets(pf::GOTC)];
        Self {
            counts: [rx_frames, rx_octets, rx_multicast, tx_frames, tx_octets, 0, 0, 0, 0],
            is_cleared: true,
        }
    }

    fn read_virtual<B: Backing>(function: &Function<B>) -> Self {
        fn one<B: Backing, const AT: usize>(function: &Function<B>, register: Reg<u32, ReadOnly, AT>) -> u32 {
            function.registers.read(register)
        }
        let counts = [
            one(function, regs::VFGPRC),
            one(function, regs::VFGORC),
            one(function, regs::VFMPRC),
            one(function, regs::VFGPTC),
            one(function, regs::VFGOTC),
            one(function, regs::VFGPRLBC),
            one(function, regs::VFGORLBC),
            one(function, regs::VFGPTLBC),
            one(function, regs::VFGOTLBC),
        ];
        Self {
            counts,
            is_cleared: false,
        }
    }

    /// All ones: the function does not answer.
    fn is_silence(&self) -> bool {
        let [rx_frames, _, _, tx_frames, ..] = self.counts;
        rx_frames == u32::MAX && tx_frames == u32::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(count: u32, is_cleared: bool) -> Sample {
        Sample {
            counts: [count; COUNT],
            is_cleared,
        }
    }

    #[test]
    fn a_counter_that_wrapped_goes_on() {
        let mut counters = Counters::default();
        counters.add(sample(u32::MAX - 1, false));
        counters.add(sample(3, false));
        assert_eq!(counters.total().rx_frames, u64::from(u32::MAX) + 4);
        counters.rebase(sample(100, false));
        counters.add(sample(u32::MAX, false));
        counters.add(sample(101, false));
        assert_eq!(counters.total().local_tx_octets, u64::from(u32::MAX) + 5);
    }

    #[test]
    fn a_counter_that_reading_clears_is_added_each_time() {
        let mut counters = Counters::default();
        counters.rebase(sample(7, true));
        counters.add(sample(5, true));
        counters.add(sample(5, true));
        counters.add(sample(u32::MAX, true));
        assert_eq!(counters.total().tx_octets, 10);
    }
}
