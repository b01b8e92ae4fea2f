//! The guest's memory and its map of physical addresses.
//!
//! [`GuestMemory`] is RAM of the process's own, one [`Memory`] for each NUMA node of the guest, below [`LOW_END`] and from [`HIGH_START`] up. It is on memfds,
//! but where pages are to be joined ([`PageSize::Transparent`]). The space
//! between belongs to PCI ([`WINDOW_32`], [`ECAM`]) and to the interrupt controllers.

use crate::error::HUGE_PAGE;
use crate::{Error, ErrorKind, Result};
use std::ops::Range;
use std::sync::Arc;
use vfio_core::{Backing, Errno, Memory, MemoryOptions, NumaNode, PageSize};

/// Where RAM below 4 GiB ends at the latest.
pub const LOW_END: u64 = 0xC000_0000;
/// Where RAM goes on.
pub const HIGH_START: u64 = 1 << 32;
/// What BARs below 4 GiB are placed in.
pub const WINDOW_32: Range<u64> = LOW_END..0xE000_0000;
/// Configuration space of 256 buses (PCIe 6.0 §7.2.2).
pub const ECAM: Range<u64> = 0xE000_0000..0xF000_0000;
/// The registers of the I/O APIC, 4 KiB.
pub const IOAPIC: u64 = 0xFEC0_0000;
/// The registers of the local APICs, 4 KiB.
pub const LAPIC: u64 = 0xFEE0_0000;
/// Where the window for BARs above 4 GiB begins at the earliest.
const WINDOW_64_START: u64 = 64 << 30;
/// Nodes are whole pages of this size, so that no page lies on both sides of a boundary.
const GRAIN: u64 = 2 << 20;

/// A NUMA node of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Its memory: a multiple of 2 MiB and of the size of pages.
    pub len_bytes: u64,
    /// Its processors.
    pub vcpus: u32,
    /// The node of the host that its memory comes from.
    pub host: Option<NumaNode>,
}

/// RAM of the guest. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GuestMemory {
    /// In ascending order.
    ram: Arc<[Ram]>,
}

/// A contiguous part of RAM.
#[derive(Debug, Clone)]
pub struct Ram {
    /// Guest-physical address of its first byte.
    pub guest: u64,
    /// Where the bytes are.
    pub memory: Arc<Memory>,
    /// Which of them.
    pub part: Range<usize>,
    /// The guest's node that it belongs to.
    pub node: u32,
}

impl GuestMemory {
    /// Sets memory apart. Nothing of it is there yet: a page comes into being when it is first touched.
    ///
    /// On joined pages ([`PageSize::Transparent`]) a guest runs without most faults and misses of translations, and is pinned and mapped for devices in a
    /// fraction of the time; on a kernel that joins none they are its base pages.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for nodes that are no whole pages; the kernel's errno, when there are not enough huge pages, say.
    pub fn new(nodes: &[Node], pages: PageSize) -> Result<Self> {
        let failed = |why| Error::new("lay out the guest's memory", ErrorKind::Invalid(why));
        if nodes.is_empty() {
            return Err(failed("a guest needs memory"));
        }
        let mut ram = Vec::new();
        let mut next = 0;
        for (number, node) in (0..).zip(nodes) {
            let page = u64::try_from(pages.bytes()).unwrap_or(GRAIN).max(GRAIN);
            if node.len_bytes == 0 || node.len_bytes % page != 0 {
                return Err(failed("the memory of a node is whole pages, and at least 2 MiB"));
            }
            let too_large = |_| failed("the memory is larger than any address space");
            let len = usize::try_from(node.len_bytes).map_err(too_large)?;
            let options = MemoryOptions {
                backing: backing(pages),
                pages,
                numa_node: node.host,
            };
            let memory = match Memory::new(len, options) {
                // A kernel that joins no pages.
                Err(error) if pages == PageSize::Transparent && error.errno() == Some(Errno::INVAL) => Memory::new(
                    len,
                    MemoryOptions {
                        pages: PageSize::Base,
                        ..options
                    },
                ),
                Err(error) if is_huge(pages) && error.errno() == Some(Errno::NOMEM) => {
                    return Err(Error::new(
                        "lay out the guest's memory",
                        ErrorKind::Exhausted(HUGE_PAGE),
                    ));
                }
                made => made,
            };
            let memory = Arc::new(memory?);
            let mut start = 0;
            while start < len {
                let room = if next < LOW_END { LOW_END - next } else { u64::MAX };
                let end = len.min(start.saturating_add(usize::try_from(room).unwrap_or(usize::MAX)));
                ram.push(Ram {
                    guest: next,
                    memory: Arc::clone(&memory),
                    part: start..end,
                    node: number,
                });
                let taken = u64::try_from(end - start).unwrap_or(u64::MAX);
                next = next.checked_add(taken).ok_or_else(|| failed("addresses overflow"))?;
                if next == LOW_END {
                    next = HIGH_START;
                }
                start = end;
            }
        }
        Ok(Self { ram: ram.into() })
    }

    /// Its parts, by ascending address.
    #[must_use]
    pub fn ram(&self) -> &[Ram] {
        &self.ram
    }

    /// All of it, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> u64 {
        self.ram.iter().map(|ram| ram.range().end - ram.guest).sum()
    }

    /// Where RAM below 4 GiB ends.
    #[must_use]
    pub fn low_end(&self) -> u64 {
        let low = self.ram.iter().filter(|ram| ram.guest < LOW_END);
        low.map(|ram| ram.range().end).max().unwrap_or(0)
    }

    /// Where RAM ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.ram.last().map_or(0, |ram| ram.range().end)
    }

    /// What BARs above 4 GiB are placed in, where addresses have `bits` bits. Empty where there is no room.
    #[must_use]
    pub fn window_64(&self, bits: u32) -> Range<u64> {
        let start = self.end().max(WINDOW_64_START);
        let start = start.checked_next_multiple_of(1 << 30).unwrap_or(u64::MAX);
        // Linux knows 52 bits at the most.
        let end = 1 << bits.min(52);
        start..start.max(end)
    }

    /// Copies out of the guest's memory.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] for addresses that are not all in one part of RAM.
    pub fn read(&self, guest: u64, to: &mut [u8]) -> Result<()> {
        let (memory, offset) = self.find(guest, to.len())?;
        memory.read(offset, to).ok_or_else(outside)
    }

    /// Copies into the guest's memory.
    ///
    /// # Errors
    ///
    /// As [`read`](Self::read).
    pub fn write(&self, guest: u64, from: &[u8]) -> Result<()> {
        let (memory, offset) = self.find(guest, from.len())?;
        memory.write(offset, from).ok_or_else(outside)
    }

    fn find(&self, guest: u64, len: usize) -> Result<(&Memory, usize)> {
        let mut ram = self.ram.iter();
        let ram = ram.find(|ram| ram.range().contains(&guest)).ok_or_else(outside)?;
        let offset = usize::try_from(guest - ram.guest).map_err(|_too_large| outside())?;
        if len > ram.part.len() - offset {
            return Err(outside());
        }
        Ok((&ram.memory, ram.part.start + offset))
    }
}

impl Ram {
    /// Its guest-physical addresses.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        let len = u64::try_from(self.part.len()).unwrap_or(u64::MAX);
        self.guest..self.guest.saturating_add(len)
    }
}

/// Kernels join pages of memfds only when they are told to for all (`shmem_enabled`), and those of private memory by default.
fn backing(pages: PageSize) -> Backing {
    match pages {
        PageSize::Transparent => Backing::Anonymous,
        _ => Backing::Shared,
    }
}

fn is_huge(pages: PageSize) -> bool {
    matches!(pages, PageSize::Huge2M | PageSize::Huge1G)
}

fn outside() -> Error {
    Error::new("reach the guest's memory", ErrorKind::Invalid("no RAM is there"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::view;
    use vm_memory::{Bytes, GuestAddress};

    fn node(len_bytes: u64) -> Node {
        Node {
            len_bytes,
            vcpus: 1,
            host: None,
        }
    }

    #[test]
    fn ram_leaves_room_for_pci_and_goes_on_above() {
        let memory = GuestMemory::new(&[node(2 << 30), node(3 << 30)], PageSize::Base).unwrap();
        let parts: Vec<_> = memory
            .ram()
            .iter()
            .map(|ram| (ram.range(), ram.part.clone(), ram.node))
            .collect();
        let expected = [
            (0..2 << 30, 0..2 << 30, 0),
            (2 << 30..3 << 30, 0..1 << 30, 1),
            (4 << 30..6 << 30, 1 << 30..3 << 30, 1),
        ];
        assert_eq!(parts, expected);
        assert_eq!((memory.len_bytes(), memory.low_end()), (5 << 30, 3 << 30));
        assert_eq!(memory.window_64(40), 64 << 30..1 << 40);
        assert!(memory.window_64(36).is_empty());
        let high = 4 << 30;
        memory.write(high + 5, b"above").unwrap();
        let mut seen = [0; 5];
        memory.ram()[2].memory.read((1 << 30) + 5, &mut seen).unwrap();
        assert_eq!(&seen, b"above");
        let looked = view::with(memory.ram(), |view| {
            view.read_slice(&mut seen, GuestAddress(high + 5)).unwrap();
            Ok(())
        });
        looked.unwrap();
        assert_eq!(&seen, b"above");
        assert!(
            memory.write(LOW_END - 2, &[0; 4]).is_err(),
            "what follows lies elsewhere"
        );
    }

    #[test]
    fn what_is_no_ram_is_not_reached() {
        let memory = GuestMemory::new(&[node(4 << 20)], PageSize::Base).unwrap();
        assert!(memory.read(4 << 20, &mut [0]).is_err());
        assert!(memory.write((4 << 20) - 1, &[0; 2]).is_err());
        assert!(memory.write(u64::MAX, &[0; 2]).is_err());
        assert_eq!(memory.low_end(), 4 << 20);
    }

    #[test]
    fn nodes_are_whole_pages() {
        for nodes in [&[][..], &[node(0)], &[node(4096)], &[node(4 << 20), node(3 << 20)]] {
            assert!(GuestMemory::new(nodes, PageSize::Base).is_err(), "{nodes:?}");
        }
        let huge = GuestMemory::new(&[node(2 << 20)], PageSize::Huge1G);
        assert!(huge.is_err());
        // More than any machine has reserved.
        let few = GuestMemory::new(&[node(1 << 45)], PageSize::Huge2M).err().unwrap();
        assert!(matches!(few.kind, ErrorKind::Exhausted(HUGE_PAGE)), "{few}");
        assert!(few.fix().unwrap().contains("nr_hugepages"), "{few}");
    }
}
