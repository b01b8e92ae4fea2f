//! Many small buffers from few large mappings.
//!
//! A [`DmaPool`] belongs to one owner: a queue, or a thread. Chunks of memory are mapped as a whole and stay so; a buffer costs neither a
//! system call nor a lock. The owner takes free slots from lists of its own. A buffer that is dropped, on whatever thread, goes onto a
//! stack with one exchange, and the owner takes that whole stack when its own list is empty. Nobody ever waits for anybody. The lists
//! are kept outside the memory that devices reach.
//!
//! Slots have sizes of 64 bytes times powers of two, and are aligned to their size for the process and the device alike, so a slot of
//! up to a page never crosses one. All slots of a span of 64 KiB or more have one size. A span keeps its size, and a chunk its memory,
//! until the pool and all of its buffers are gone.

mod returned;

use crate::buffer::{BufferOptions, Chunk, Direction, DmaBuffer, some};
use crate::space::AddressSpace;
use crate::sync::{AtomicU32, Ordering};
use crate::{Error, Iova, Result};
use returned::{END, Returned};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use vfio_core::{Access, PageSize};

/// Gives buffers of any size, for one direction and one owner.
///
/// ```no_run
/// use iommu::buffer::{BufferOptions, ToDevice};
/// use iommu::{pool::DmaPool, space::AddressSpace};
///
/// fn send(space: &AddressSpace, packets: &[&[u8]]) -> Result<(), iommu::Error> {
///     let mut pool = DmaPool::<ToDevice>::new(space, 2 << 20, BufferOptions::default())?;
///     for packet in packets {
///         // One system call for the first of them, none for the others.
///         let mut buffer = pool.take(packet.len())?;
///         buffer.write(0, packet).ok_or(iommu::Error::Invalid("a buffer shorter than its packet"))?;
///         println!("the device reads {} bytes at {}", buffer.len(), buffer.iova());
///     }
///     Ok(())
/// }
/// ```
pub struct DmaPool<D: Direction> {
    chunks: Chunks,
    classes: Vec<Class>,
    direction: PhantomData<D>,
}

/// Where spans come from.
#[derive(Debug)]
struct Chunks {
    space: AddressSpace,
    options: BufferOptions,
    /// Of each chunk.
    len: usize,
    access: Access,
    /// What is left of chunks: pieces of [`SPAN`] bytes, of twice as many, and so on, each at a multiple of its length.
    left: Vec<Vec<(Arc<Chunk>, usize)>>,
    count: usize,
    /// Of the newest chunk.
    pages: Option<PageSize>,
}

/// Slots of one size.
#[derive(Debug)]
struct Class {
    slot_len: usize,
    per_span: u32,
    spans: Vec<Arc<Span>>,
    /// Free slots that the owner holds, linked.
    free: u32,
    /// Slots that nobody has had yet.
    fresh: Range<u32>,
    returned: Arc<Returned>,
}

/// Slots of one size in one piece of a chunk.
#[derive(Debug)]
struct Span {
    chunk: Arc<Chunk>,
    offset: usize,
    /// Of its first byte: not to be looked for with each slot.
    iova: Iova,
    /// Number in its class of its first slot.
    first: u32,
    /// The free slot that follows, for each that is free.
    links: Box<[AtomicU32]>,
    returned: Arc<Returned>,
}

/// A slot that is in use.
#[derive(Debug)]
pub(crate) struct Slot {
    span: Arc<Span>,
    /// In the span.
    index: u32,
}

/// The smallest slot: a cache line, so that no two buffers share one.
const SMALLEST: usize = 64;
/// The smallest span.
const SPAN: usize = 64 << 10;
const TOO_MANY: Error = Error::Invalid("a pool has at most 2^32 slots of a size");

impl<D: Direction> DmaPool<D> {
    /// Maps nothing yet. Chunks will have `chunk_len` bytes, rounded up to a power of two of at least 64 KiB: 2 MiB and 1 GiB fit huge
    /// pages.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if the length overflows.
    pub fn new(space: &AddressSpace, chunk_len: usize, options: BufferOptions) -> Result<Self> {
        let chunk_len = chunk_len.max(SPAN).checked_next_power_of_two();
        let chunk_len = chunk_len.ok_or(Error::Invalid("the length of a chunk overflows"))?;
        let lengths = (0..usize::BITS)
            .map_while(|power| SMALLEST.checked_shl(power))
            .take_while(|&len| len <= chunk_len);
        Ok(Self {
            chunks: Chunks {
                space: space.clone(),
                options,
                len: chunk_len,
                access: D::ACCESS,
                left: vec![Vec::new(); size_of_span(chunk_len) + 1],
                count: 0,
                pages: None,
            },
            classes: lengths.map(Class::new).collect(),
            direction: PhantomData,
        })
    }

    /// A buffer of `len` bytes with whatever its last user left in it. What is longer than a chunk gets a mapping of its own.
    ///
    /// # Errors
    ///
    /// When a new chunk is needed, those of [`DmaBuffer::new`]; [`Error::Invalid`] for no bytes.
    #[inline]
    pub fn take(&mut self, len: usize) -> Result<DmaBuffer<D>> {
        let bytes = some(len)?;
        if len > self.chunks.len {
            return DmaBuffer::new(&self.chunks.space, len, &self.chunks.options);
        }
        let index = len.div_ceil(SMALLEST).next_power_of_two().trailing_zeros();
        let Some(class) = self.classes.get_mut(index as usize) else {
            return Err(Error::Invalid("the length of a buffer overflows"));
        };
        let slot_len = class.slot_len;
        let (number, span) = match class.pop() {
            Some(slot) => slot,
            None => {
                class.add_span(self.chunks.cut(SPAN.max(slot_len))?)?;
                class.pop().ok_or(TOO_MANY)?
            }
        };
        let index = number - span.first;
        let inside = index as usize * slot_len;
        let (iova, offset) = (Iova(span.iova.0 + inside as u64), span.offset + inside);
        let slot = Slot {
            span: Arc::clone(span),
            index,
        };
        Ok(DmaBuffer::in_slot(iova, offset, bytes, slot))
    }

    /// Maps chunks ahead, so that `count` buffers of `len` bytes can be taken without a system call.
    ///
    /// # Errors
    ///
    /// Those of [`take`](Self::take).
    pub fn prepare(&mut self, len: usize, count: usize) -> Result<()> {
        let buffers: Result<Vec<_>> = (0..count).map(|_| self.take(len)).collect();
        buffers.map(drop)
    }

    /// How many chunks are mapped.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.chunks.count
    }

    /// The pages of the newest chunk, as the kernel says; `None` before the first.
    #[must_use]
    pub fn pages(&self) -> Option<PageSize> {
        self.chunks.pages
    }

    /// The space that its buffers are mapped in.
    #[must_use]
    pub fn space(&self) -> &AddressSpace {
        &self.chunks.space
    }
}

impl Chunks {
    /// A piece of a chunk, at a multiple of its length, which is [`SPAN`] times a power of two and at most a chunk's.
    fn cut(&mut self, len: usize) -> Result<(Arc<Chunk>, usize)> {
        let wanted = size_of_span(len);
        let found = self.left.iter().skip(wanted).position(|pieces| !pieces.is_empty());
        let (chunk, offset, mut size) = match found.and_then(|above| {
            let (chunk, offset) = self.left.get_mut(wanted + above)?.pop()?;
            Some((chunk, offset, wanted + above))
        }) {
            Some(piece) => piece,
            None => {
                let chunk = Arc::new(Chunk::new(&self.space, self.len, self.access, &self.options)?);
                self.count += 1;
                self.pages = Some(chunk.pages());
                (chunk, 0, size_of_span(self.len))
            }
        };
        while size > wanted {
            size -= 1;
            // The upper half is left.
            if let Some(pieces) = self.left.get_mut(size) {
                pieces.push((Arc::clone(&chunk), offset + (SPAN << size)));
            }
        }
        Ok((chunk, offset))
    }
}

/// How often the smallest span is doubled to get this length.
fn size_of_span(len: usize) -> usize {
    (len / SPAN).checked_ilog2().unwrap_or(0) as usize
}

impl Span {
    /// Of a free slot, by its index in the span.
    #[inline]
    fn following(&self, index: u32) -> u32 {
        // Acquired with the list.
        self.links
            .get(index as usize)
            .map_or(END, |link| link.load(Ordering::Relaxed))
    }
}

impl Slot {
    #[inline]
    pub(crate) fn chunk(&self) -> &Chunk {
        &self.span.chunk
    }

    /// Lets the pool give it to others: nobody uses it from here on.
    pub(crate) fn give_back(&self) {
        if let Some(link) = self.span.links.get(self.index as usize) {
            self.span.returned.push(self.span.first + self.index, link);
        }
    }
}

impl<D: Direction> fmt::Debug for DmaPool<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaPool")
            .field("chunk_len", &self.chunks.len)
            .field("chunks", &self.chunks.count)
            .finish_non_exhaustive()
    }
}

impl Class {
    fn new(slot_len: usize) -> Self {
        let per_span = SPAN.max(slot_len) / slot_len;
        Self {
            slot_len,
            // At most 1024, the smallest slots in the smallest span.
            per_span: u32::try_from(per_span).unwrap_or(u32::MAX),
            spans: Vec::new(),
            free: END,
            fresh: 0..0,
            returned: Arc::new(Returned::new()),
        }
    }

    /// A free slot's number, and its span.
    #[inline]
    fn pop(&mut self) -> Option<(u32, &Arc<Span>)> {
        if self.free == END {
            self.free = self.returned.take();
        }
        if self.free == END {
            let number = self.fresh.next()?;
            return Some((number, self.span(number)?));
        }
        let number = self.free;
        let span = self.spans.get((number / self.per_span) as usize)?;
        self.free = span.following(number - span.first);
        Some((number, span))
    }

    fn span(&self, number: u32) -> Option<&Arc<Span>> {
        self.spans.get((number / self.per_span) as usize)
    }

    fn add_span(&mut self, (chunk, offset): (Arc<Chunk>, usize)) -> Result<()> {
        let first = self.fresh.end;
        let end = first.checked_add(self.per_span);
        let end = end.ok_or(TOO_MANY)?;
        self.spans.push(Arc::new(Span {
            iova: chunk.iova(offset),
            chunk,
            offset,
            first,
            links: (first..end).map(|_| AtomicU32::new(END)).collect(),
            returned: Arc::clone(&self.returned),
        }));
        self.fresh = first..end;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
