//! The rings: frames between memory and the network.

use super::{CTRL, Fault, IVAR, State};
use crate::igbvf::regs::{self, physical as port, queue};
use crate::igbvf::spec::{DESCRIPTOR_LEN, Descriptor, RxStatus, TxContext, TxData, TxHeaders};
use crate::igbvf::{MacAddress, finish};
use vfio_core::Iova;
use vfio_core::fake::{Bus, DmaFault};
use zerocopy::{FromZeros, IntoBytes};

/// A transmit queue between two descriptors.
#[derive(Debug, Default)]
pub(super) struct Sending {
    /// Bytes so far of a frame.
    frame: Vec<u8>,
    /// Its first data descriptor.
    first: Option<TxData>,
    /// The context that was set.
    context: [u64; 2],
    /// A frame was shorter than the device can send: it stands still until it is reset.
    is_stuck: bool,
}

/// The registers of a queue.
#[derive(Debug, Clone, Copy)]
struct Ring {
    registers: usize,
    base: u64,
    /// In descriptors.
    len: u32,
    head: u32,
    tail: u32,
}

impl Ring {
    fn at(&self, index: u32) -> Iova {
        Iova(self.base.wrapping_add(u64::from(index) * DESCRIPTOR_LEN as u64))
    }

    fn load(&self, bus: &Bus<'_>) -> Result<[u64; 2], DmaFault> {
        let mut descriptor = Descriptor::new_zeroed();
        bus.dma_read(self.at(self.head), descriptor.as_mut_bytes())?;
        Ok([descriptor.low.get(), descriptor.high.get()])
    }
}

/// Bytes of a frame's check sequence, which are counted but not in memory.
const FCS: usize = 4;
/// A shorter frame stops the device.
const SHORTEST: usize = 17;
/// DD of a transmit descriptor.
const DONE: u64 = 1 << 32;

/// Where frames and octets are counted.
struct Counters {
    tx: [usize; 2],
    rx: [usize; 2],
    multicast: usize,
}

impl Counters {
    fn of(is_physical: bool) -> Self {
        if is_physical {
            let ([rx_octets, _], [tx_octets, _]) = (port::GORC, port::GOTC);
            return Self {
                tx: [port::GPTC, tx_octets],
                rx: [port::GPRC, rx_octets],
                multicast: port::MPRC,
            };
        }
        Self {
            tx: [0x0f14, 0x0f34],
            rx: [0x0f10, 0x0f18],
            multicast: 0x0f3c,
        }
    }
}

impl State {
    /// The ring of a queue that is on and has descriptors.
    fn ring(&self, registers: usize) -> Option<Ring> {
        let get = |register| self.get(registers + register);
        let ring = Ring {
            registers,
            base: u64::from(get(queue::BASE_HIGH)) << 32 | u64::from(get(queue::BASE_LOW)),
            len: get(queue::LEN) / u32::try_from(DESCRIPTOR_LEN).unwrap_or(1),
            head: get(queue::HEAD),
            tail: get(queue::TAIL),
        };
        let may_run = match registers {
            _ if !self.is_physical => self.pf.is_clear,
            regs::RX.. if registers < regs::TX => self.get(port::RCTL) & port::RECEIVE != 0,
            _ => self.get(port::TCTL) & port::SEND != 0,
        };
        let is_on = get(queue::CONTROL) & regs::ENABLE != 0 && may_run;
        (is_on && ring.head != ring.tail && ring.tail < ring.len && ring.head < ring.len).then_some(ring)
    }

    fn advance(&mut self, ring: &mut Ring) {
        ring.head = (ring.head + 1) % ring.len;
        self.set(ring.registers + queue::HEAD, ring.head);
    }

    /// Switches a queue off that reached what it may not.
    fn fail(&mut self, registers: usize) {
        self.change(registers + queue::CONTROL, 0, regs::ENABLE);
    }

    /// Sends what a transmit queue holds, up to a burst of descriptors.
    pub(super) fn transmit(&mut self, number: usize, bus: &Bus<'_>) {
        let registers = regs::TX + regs::QUEUE_STRIDE * number;
        for _ in 0..self.burst {
            let is_stuck = self.sending.get(number).is_some_and(|sending| sending.is_stuck);
            let Some(mut ring) = self.ring(registers).filter(|_| !is_stuck) else {
                return;
            };
            let done = ring.load(bus).and_then(|words| self.transmit_one(number, words, bus));
            let Ok(data) = done else {
                return self.fail(registers);
            };
            let at = ring.at(ring.head);
            self.advance(&mut ring);
            if let Some(data) = data.filter(|data| data.report()) {
                self.report(&ring, at, data, bus);
                let entry = 2 * u32::try_from(number).unwrap_or_default() + 1;
                if self.is_physical {
                    self.raise(IVAR + 4 * number, 1);
                } else {
                    self.raise(IVAR, entry);
                }
            }
        }
    }

    /// Writes the head, or the descriptor at `at`, as the driver wants it.
    fn report(&mut self, ring: &Ring, at: Iova, data: TxData, bus: &Bus<'_>) {
        let get = |register| self.get(ring.registers + register);
        let to = u64::from(get(queue::HEAD_HIGH)) << 32 | u64::from(get(queue::HEAD_LOW));
        let threshold = get(queue::CONTROL) >> 16 & 0x1f;
        // Marks want a threshold of 1, which is the erratum of the VF; the head wants none.
        if self.faults.contains(&Fault::NoReport) || u64::from(threshold) == to & 1 {
            return;
        }
        let written = if to & 1 == 0 {
            bus.dma_write(Iova(at.0 + 8), &(data.into_bits() | DONE).to_le_bytes())
        } else if self.faults.remove(&Fault::WrongHead) {
            bus.dma_write(Iova(to & !3), &(ring.tail + 1).to_le_bytes())
        } else {
            bus.dma_write(Iova(to & !3), &ring.head.to_le_bytes())
        };
        if written.is_err() {
            self.fail(ring.registers);
        }
    }

    fn transmit_one(
        &mut self,
        number: usize,
        [low, high]: [u64; 2],
        bus: &Bus<'_>,
    ) -> Result<Option<TxData>, DmaFault> {
        let Some(sending) = self.sending.get_mut(number) else {
            return Ok(None);
        };
        let data = TxData::from_bits(high);
        if data.kind() == TxContext::CONTEXT {
            sending.context = [low, high];
            return Ok(None);
        }
        let mut piece = vec![0; data.length().into()];
        bus.dma_read(Iova(low), &mut piece)?;
        sending.frame.append(&mut piece);
        let first = *sending.first.get_or_insert(data);
        if data.is_end() {
            let mut frame = std::mem::take(&mut sending.frame);
            let context = sending.context;
            sending.first = None;
            sending.is_stuck = frame.len() < SHORTEST;
            // The device does what it is told, whatever the frame is.
            let _done: Option<()> = finish(&mut frame, first, context);
            if first.with_vlan() {
                let headers = TxHeaders::from_bits(context[0]);
                let [a, b] = headers.vlan().to_be_bytes();
                // Before the type, which ends the header.
                let at = usize::from(headers.mac_len()).saturating_sub(2).min(frame.len());
                frame.splice(at..at, [0x81, 0x00, a, b]);
            }
            let [frames, octets] = Counters::of(self.is_physical).tx;
            self.count(frames, 1);
            self.count(octets, frame.len() + FCS);
            if self.is_loop {
                self.inbound.push_back((frame, true));
            } else {
                self.outbound.push_back(frame);
            }
        }
        Ok(Some(data))
    }

    /// Puts frames into the buffers of receive queue 0, which is where Linux's PF has them all go.
    pub(super) fn receive(&mut self, bus: &Bus<'_>) {
        for _ in 0..self.burst {
            let Some(ring) = self.ring(regs::RX) else { return };
            let Some((frame, is_local)) = self.inbound.pop_front() else {
                return;
            };
            let to = frame.first_chunk().copied().map(MacAddress);
            let longest = if self.is_physical {
                self.longest()
            } else {
                self.pf.granted.frame_len
            };
            let is_short_enough = frame.len() + FCS <= longest as usize || self.faults.contains(&Fault::TakesGiants);
            let is_taken = |to| match self.is_physical {
                true => self.admits(to, tag(&frame)),
                false => self.pf.takes(to),
            };
            if !is_short_enough || !to.is_some_and(is_taken) {
                continue;
            }
            let size = usize::try_from(self.get(regs::RX + queue::SRRCTL) & 0x7f).unwrap_or_default() * 1024;
            let pieces = frame.len().div_ceil(size.max(1));
            let free = (ring.tail + ring.len - ring.head) % ring.len;
            if free as usize <= pieces.saturating_sub(1) {
                // It waits on the wire: there is nobody who would send it again.
                self.inbound.push_front((frame, is_local));
                return;
            }
            if self.receive_one(ring, &frame, size, is_local, bus).is_err() {
                return self.fail(regs::RX);
            }
            let counters = Counters::of(self.is_physical);
            let [frames, octets] = counters.rx;
            self.count(frames, 1);
            self.count(octets, frame.len() + FCS);
            if to.is_some_and(MacAddress::is_group) {
                self.count(counters.multicast, 1);
            }
            self.raise(IVAR, 0);
        }
    }

    fn receive_one(
        &mut self,
        mut ring: Ring,
        frame: &[u8],
        size: usize,
        is_local: bool,
        bus: &Bus<'_>,
    ) -> Result<(), DmaFault> {
        let (vlan, frame) = self.strip(frame);
        let count = frame.len().div_ceil(size);
        for (at, piece) in frame.chunks(size).enumerate() {
            let [address, _] = ring.load(bus)?;
            bus.dma_write(Iova(address), piece)?;
            let mut len = u16::try_from(piece.len()).unwrap_or(u16::MAX);
            if self.faults.remove(&Fault::WrongLength) {
                len = u16::MAX;
            }
            let is_end = at + 1 == count;
            let status = RxStatus::new()
                .with_is_done(true)
                .with_is_end(is_end)
                .with_is_local(is_local)
                .with_is_l4_wrong(self.faults.remove(&Fault::WrongChecksum))
                .with_has_vlan(vlan.is_some())
                .with_vlan(vlan.unwrap_or_default())
                .with_length(len);
            let place = ring.at(ring.head);
            // The word that says so comes last.
            bus.dma_write(place, &0_u64.to_le_bytes())?;
            bus.dma_write(Iova(place.0 + 8), &status.into_bits().to_le_bytes())?;
            self.advance(&mut ring);
        }
        Ok(())
    }

    /// Takes a tag out, if the function is in a VLAN.
    fn strip(&self, frame: &[u8]) -> (Option<u16>, Vec<u8>) {
        let mut frame = frame.to_vec();
        let is_wanted = if self.is_physical {
            self.get(CTRL) & port::VLANS != 0
        } else {
            !self.pf.granted.vlans.is_empty()
        };
        let tag = tag(&frame).filter(|_| is_wanted);
        if tag.is_some() {
            frame.drain(12..16);
        }
        (tag, frame)
    }
}

/// The VLAN tag of a frame.
fn tag(frame: &[u8]) -> Option<u16> {
    match frame.get(12..16)?.first_chunk()? {
        [0x81, 0x00, a, b] => Some(u16::from_be_bytes([*a, *b])),
        _ => None,
    }
}
