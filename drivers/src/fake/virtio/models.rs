//! What each kind of device does with its requests.

use super::queue::Chain;
use super::registers::{Fault, Registers};
use crate::virtio::spec::block::{self, Header, Range, SECTOR};
use crate::virtio::spec::{NetFeatures, net};
use std::collections::VecDeque;
use vfio_core::fake::Bus;
use zerocopy::{FromBytes, IntoBytes};

#[derive(Debug)]
pub(super) enum Model {
    /// Bytes.
    Disk(Vec<u8>),
    /// Frames on their way to the card.
    Net(VecDeque<Vec<u8>>),
    /// Bytes that were not said yet.
    Console(VecDeque<u8>),
    /// The next byte.
    Entropy(u8),
}

/// The queue that what comes from outside goes to.
const IN: usize = 0;
const NAME: &[u8; block::ID_LEN] = b"a disk in memory\0\0\0\0";

impl Model {
    pub(super) fn disk(sectors: u32) -> Self {
        let len = u64::from(sectors) * SECTOR;
        Self::Disk(vec![0; usize::try_from(len).unwrap_or(0)])
    }

    pub(super) fn net() -> Self {
        Self::Net(VecDeque::new())
    }

    pub(super) fn console() -> Self {
        Self::Console(VecDeque::new())
    }

    /// A queue that the device was told of.
    pub(super) fn serve(&mut self, index: usize, registers: &mut Registers, bus: &Bus<'_>) {
        // Buffers for what comes from outside stay where they are.
        if index == IN && matches!(self, Self::Net(_) | Self::Console(_)) {
            return;
        }
        while let Some(chain) = registers.take(index, bus) {
            let len = match self {
                Self::Disk(disk) => request(disk, &chain, registers, bus),
                Self::Net(frames) => {
                    // Without its header.
                    let sent = chain.read(bus);
                    frames.extend(sent.get(net::HEADER_LEN..).map(<[u8]>::to_vec));
                    0
                }
                Self::Console(bytes) => {
                    bytes.extend(chain.read(bus));
                    0
                }
                Self::Entropy(next) => {
                    let bytes: Vec<u8> = (0..chain.room().min(100)).map(|_| grow(next)).collect();
                    chain.write(&bytes, bus)
                }
            };
            registers.give(index, &chain, len, bus);
        }
    }

    /// What comes from outside.
    pub(super) fn step(&mut self, registers: &mut Registers, bus: &Bus<'_>) {
        match self {
            Self::Net(frames) => {
                while let Some(frame) = frames.pop_front() {
                    if !receive(&frame, registers, bus) {
                        frames.push_front(frame);
                        return;
                    }
                }
            }
            Self::Console(bytes) => {
                while !bytes.is_empty() {
                    let Some(chain) = registers.take(IN, bus) else { return };
                    let now: Vec<u8> = bytes.drain(..bytes.len().min(chain.room())).collect();
                    let len = chain.write(&now, bus);
                    registers.give(IN, &chain, len, bus);
                }
            }
            Self::Disk(_) | Self::Entropy(_) => {}
        }
    }
}

fn grow(next: &mut u8) -> u8 {
    *next = next.wrapping_mul(5).wrapping_add(17);
    *next
}

/// Puts a frame into as many buffers as it takes; false if there are not so many.
fn receive(frame: &[u8], registers: &mut Registers, bus: &Bus<'_>) -> bool {
    let is_mergeable = registers.accepted() & NetFeatures::MRG_RXBUF.bits() != 0;
    let len = net::HEADER_LEN + frame.len();
    let (mut chains, mut room) = (Vec::new(), 0);
    while room < len {
        let Some(chain) = registers.take(IN, bus) else {
            registers.untake(IN, u16::try_from(chains.len()).unwrap_or(0));
            return false;
        };
        room += chain.room();
        chains.push(chain);
        if !is_mergeable {
            break;
        }
    }
    let buffers = if registers.fails(Fault::NoBuffers) {
        0
    } else {
        u16::try_from(chains.len()).unwrap_or(u16::MAX)
    };
    let mut header = net::Header {
        buffers: buffers.into(),
        ..net::Header::default()
    };
    if registers.fails(Fault::StrayHeader) {
        (header.flags, header.segmentation) = (0xff, 1);
        header.checksum_start = 60_000.into();
    }
    let all = [header.as_bytes(), frame].concat();
    let mut rest = all.as_slice();
    for chain in chains {
        let (now, later) = rest.split_at(rest.len().min(chain.room()));
        let written = chain.write(now, bus);
        registers.give(IN, &chain, written, bus);
        rest = later;
    }
    true
}

/// A request to the disk; how many bytes were written.
fn request(disk: &mut [u8], chain: &Chain, registers: &mut Registers, bus: &Bus<'_>) -> u32 {
    let sent = chain.read(bus);
    let Some((header, data)) = sent.split_at_checked(size_of::<Header>()) else {
        registers.mistake("a request without a header");
        return 0;
    };
    let Ok(header) = Header::read_from_bytes(header) else {
        return 0;
    };
    let Some(room) = chain.room().checked_sub(1) else {
        registers.mistake("a request without a place for its status");
        return 0;
    };
    let sector = header.sector.get();
    let mut answer = vec![0; room];
    let mut status = block::OK;
    let mut is_done = true;
    match header.kind.get() {
        block::IN => is_done = place(disk, sector, room).is_some_and(|from| copy(&mut answer, from)),
        block::OUT => is_done = place(disk, sector, data.len()).is_some_and(|to| copy(to, data)),
        block::FLUSH => {}
        block::GET_ID => is_done = copy(&mut answer, NAME),
        kind @ (block::DISCARD | block::WRITE_ZEROES) => {
            let range = Range::read_from_bytes(data).ok();
            let zeroed = range.and_then(|range| {
                let len = u64::from(range.sectors.get()) * SECTOR;
                place(disk, range.sector.get(), usize::try_from(len).ok()?)
            });
            // What was discarded reads as something else, so that nobody relies on it.
            let byte = if kind == block::DISCARD { 0xdd } else { 0 };
            is_done = zeroed.map(|to| to.fill(byte)).is_some();
        }
        _ => status = block::UNSUPP,
    }
    if !is_done || registers.fails(Fault::DiskError) {
        status = block::IOERR;
    }
    if registers.fails(Fault::NoStatus) {
        return chain.write(&answer, bus);
    }
    answer.push(status);
    chain.write(&answer, bus)
}

fn place(disk: &mut [u8], sector: u64, len: usize) -> Option<&mut [u8]> {
    let start = usize::try_from(sector.checked_mul(SECTOR)?).ok()?;
    disk.get_mut(start..start.checked_add(len)?)
}

/// False if they are not of the same length.
fn copy(to: &mut [u8], from: &[u8]) -> bool {
    let fits = to.len() == from.len();
    if fits {
        to.copy_from_slice(from);
    }
    fits
}
