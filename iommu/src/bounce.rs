//! Copy or map: two ways to let a device at memory that is not mapped.
//!
//! Mapping costs system calls and an invalidation of the IOMMU's cache whatever the length; copying costs by the byte. Below some
//! length a copy into memory that is mapped for ever is cheaper, and shows the device those bytes only, not the rest of their page. A
//! [`BouncePool`] decides by a [`Crossover`].

use crate::buffer::{BufferOptions, DmaBuffer, FromDevice, ToDevice};
use crate::pool::DmaPool;
use crate::space::{AddressSpace, DmaMapping, MapOptions};
use crate::{Error, Iova, Result};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_core::{Access, Memory, MemoryOptions};

/// Up to which length bytes are copied. What is longer is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crossover(usize);

impl Crossover {
    /// Everything is copied.
    pub const ALWAYS_COPY: Self = Self(usize::MAX);

    /// Copies up to `bytes`.
    #[must_use]
    pub const fn at(bytes: usize) -> Self {
        Self(bytes)
    }

    /// The length in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.0
    }

    /// Measures on this machine, in this space: copies and maps of lengths from 64 bytes to 1 MiB, and takes the longest up to which
    /// copying was not slower. What counts is the dearer direction: what a device writes is cleared before and copied after. Takes a few
    /// milliseconds. A device must be attached for the answer to mean anything, because its IOMMU's cache is what unmapping has to wait for.
    ///
    /// # Errors
    ///
    /// Those of mapping.
    pub fn measure(space: &AddressSpace) -> Result<Self> {
        let memory = Arc::new(Memory::new(LONGEST, MemoryOptions::default())?);
        memory.populate(0..LONGEST)?;
        let bounce = Memory::new(LONGEST, MemoryOptions::default())?;
        bounce.populate(0..LONGEST)?;
        Self::of(|len| {
            let copied = best(|| {
                let cleared = bounce.fill(0, len, 0);
                debug_assert!(cleared.is_some(), "it is long enough");
                copy(&bounce, 0, len, |at, bytes| memory.write(at, bytes));
                Ok(())
            })?;
            let mapped = best(|| map::<FromDevice>(space, &memory, &(0..len), MapOptions::new(Access::WRITE))?.end())?;
            Ok((copied, mapped))
        })
    }

    /// From what it costs to copy, and to map, a length.
    fn of(mut costs: impl FnMut(usize) -> Result<(Duration, Duration)>) -> Result<Self> {
        let mut longest = Self(0);
        let mut len = SHORTEST;
        while len <= LONGEST {
            let (copied, mapped) = costs(len)?;
            if copied > mapped {
                break;
            }
            longest = Self(len);
            len *= 2;
        }
        Ok(longest)
    }
}

/// What is measured: from the smallest slot of a pool on.
const SHORTEST: usize = 64;
const LONGEST: usize = 1 << 20;

/// The shortest of a few times.
fn best(mut work: impl FnMut() -> Result<()>) -> Result<Duration> {
    let mut shortest = Duration::MAX;
    for _ in 0..8 {
        let start = Instant::now();
        work()?;
        shortest = shortest.min(start.elapsed());
    }
    Ok(shortest)
}

/// Lets devices at any memory of the process, by copy or by map. Belongs to one owner, as its pools do.
///
/// ```no_run
/// use iommu::bounce::{BouncePool, Crossover};
/// use iommu::buffer::BufferOptions;
/// use iommu::space::AddressSpace;
/// use std::sync::Arc;
/// use vfio_core::Memory;
///
/// fn receive(space: &AddressSpace, memory: &Arc<Memory>) -> Result<(), iommu::Error> {
///     let crossover = Crossover::measure(space)?;
///     let mut pool = BouncePool::new(space, 2 << 20, BufferOptions::default(), crossover)?;
///     let incoming = pool.incoming(memory, 100..1600)?;
///     println!("the device writes at {}", incoming.iova());
///     incoming.finish(1500)
/// }
/// ```
#[derive(Debug)]
pub struct BouncePool {
    to_device: DmaPool<ToDevice>,
    from_device: DmaPool<FromDevice>,
    crossover: Crossover,
    /// Address bits of the device.
    width: u32,
}

/// Bytes that a device may read.
#[derive(Debug)]
#[must_use = "the device must be done with it when it is dropped"]
pub struct Outgoing {
    way: Way<ToDevice>,
}

/// Bytes that a device writes. They are in their place after [`finish`](Self::finish).
#[derive(Debug)]
#[must_use = "bytes in a bounce buffer are lost when it is dropped"]
pub struct Incoming {
    way: Way<FromDevice>,
    memory: Arc<Memory>,
    part: Range<usize>,
}

#[derive(Debug)]
enum Way<D: crate::buffer::Direction> {
    Copied(DmaBuffer<D>),
    /// With where in its first page the bytes begin.
    Mapped(DmaMapping, u64),
}

impl BouncePool {
    /// Makes pools with chunks of `chunk_len` bytes. They grow as needed and stay mapped. What is mapped is within reach of the
    /// device's [`width`](BufferOptions::width) too; the other options are for the pools.
    ///
    /// # Errors
    ///
    /// Those of [`DmaPool::new`].
    pub fn new(space: &AddressSpace, chunk_len: usize, options: BufferOptions, crossover: Crossover) -> Result<Self> {
        Ok(Self {
            to_device: DmaPool::new(space, chunk_len, options)?,
            from_device: DmaPool::new(space, chunk_len, options)?,
            crossover,
            width: options.width,
        })
    }

    /// Lets a device read a part of memory. If it is mapped, the device sees all of the pages it lies on.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a part that lies outside the memory; those of [`DmaPool::take`] and of [`AddressSpace::map`].
    pub fn outgoing(&mut self, memory: &Arc<Memory>, part: Range<usize>) -> Result<Outgoing> {
        let len = checked(memory, &part)?;
        let way = if len <= self.crossover.0 {
            let mut buffer = self.to_device.take(len)?;
            copy(memory, part.start, len, |at, bytes| buffer.write(at, bytes));
            Way::Copied(buffer)
        } else {
            map(
                self.to_device.space(),
                memory,
                &part,
                MapOptions::new(Access::READ).within(self.width),
            )?
        };
        Ok(Outgoing { way })
    }

    /// Lets a device write a part of memory. If it is mapped, the device can write all of the pages it lies on.
    ///
    /// # Errors
    ///
    /// As [`outgoing`](Self::outgoing).
    pub fn incoming(&mut self, memory: &Arc<Memory>, part: Range<usize>) -> Result<Incoming> {
        let len = checked(memory, &part)?;
        let way = if len <= self.crossover.0 {
            let mut buffer = self.from_device.take(len)?;
            // A device that writes less leaves zeros, not what was there for another.
            buffer.clear();
            Way::Copied(buffer)
        } else {
            map(
                self.from_device.space(),
                memory,
                &part,
                MapOptions::new(Access::WRITE).within(self.width),
            )?
        };
        let memory = Arc::clone(memory);
        Ok(Incoming { way, memory, part })
    }

    /// Up to which length bytes are copied.
    #[must_use]
    pub fn crossover(&self) -> Crossover {
        self.crossover
    }
}

impl Outgoing {
    /// Where the device finds the first byte.
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.way.iova()
    }

    /// Whether the bytes were copied.
    #[must_use]
    pub fn is_copied(&self) -> bool {
        matches!(self.way, Way::Copied(_))
    }
}

impl Incoming {
    /// Where the device writes the first byte.
    #[must_use]
    pub fn iova(&self) -> Iova {
        self.way.iova()
    }

    /// Whether the bytes are to be copied.
    #[must_use]
    pub fn is_copied(&self) -> bool {
        matches!(self.way, Way::Copied(_))
    }

    /// Puts the first `len` bytes in their place; the device is done.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if that is more than was asked for, in which case nothing is put in its place: a device that says so cannot be
    /// believed. Those of unmapping.
    pub fn finish(self, len: usize) -> Result<()> {
        let Self { way, memory, part } = self;
        if len > part.len() {
            return Err(Error::Invalid("more bytes than the device was given room for"));
        }
        match way {
            Way::Mapped(mapping, _) => mapping.unmap(),
            Way::Copied(buffer) => {
                let mut bytes = [0; 4096];
                for at in (0..len).step_by(bytes.len()) {
                    let step = (len - at).min(bytes.len());
                    let copied = bytes.get_mut(..step).and_then(|piece| {
                        buffer.read(at, piece)?;
                        memory.write(part.start + at, piece)
                    });
                    debug_assert!(copied.is_some(), "both are long enough");
                }
                Ok(())
            }
        }
    }
}

impl<D: crate::buffer::Direction> Way<D> {
    fn end(self) -> Result<()> {
        match self {
            Self::Mapped(mapping, _) => mapping.unmap(),
            Self::Copied(_) => Ok(()),
        }
    }

    fn iova(&self) -> Iova {
        match self {
            Self::Copied(buffer) => buffer.iova(),
            // Inside the mapping's first page.
            Self::Mapped(mapping, inside) => mapping.iova().checked_add(*inside).unwrap_or(mapping.iova()),
        }
    }
}

fn checked(memory: &Memory, part: &Range<usize>) -> Result<usize> {
    let is_inside = part.start < part.end && part.end <= memory.len();
    is_inside
        .then(|| part.len())
        .ok_or(Error::Invalid("no part of the memory"))
}

/// Maps the pages that a part lies on.
fn map<D: crate::buffer::Direction>(
    space: &AddressSpace,
    memory: &Arc<Memory>,
    part: &Range<usize>,
    options: MapOptions,
) -> Result<Way<D>> {
    let page = usize::try_from(space.granule()).map_err(|_too_large| Error::Invalid("pages larger than the memory"))?;
    let start = part.start / page * page;
    let end = part.end.next_multiple_of(page).min(memory.len());
    let mapping = space.map(memory, start..end, options)?;
    Ok(Way::Mapped(mapping, (part.start - start) as u64))
}

/// Copies out of memory in pieces.
fn copy(memory: &Memory, start: usize, len: usize, mut write: impl FnMut(usize, &[u8]) -> Option<()>) {
    let mut bytes = [0; 4096];
    for at in (0..len).step_by(bytes.len()) {
        let step = (len - at).min(bytes.len());
        let copied = bytes.get_mut(..step).and_then(|piece| {
            memory.read(start + at, piece)?;
            write(at, piece)
        });
        debug_assert!(copied.is_some(), "both are long enough");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where copying costs so much a byte and mapping so much a page, in nanoseconds.
    fn crossover(byte: u64, page: u64) -> (usize, Vec<usize>) {
        let mut measured = vec![];
        let found = Crossover::of(|len| {
            measured.push(len);
            let cost = |each: u64, count: usize| Duration::from_nanos(each * count as u64);
            Ok((cost(byte, len), cost(page, len.div_ceil(4096))))
        });
        (found.unwrap().bytes(), measured)
    }

    #[test]
    fn copying_goes_up_to_where_it_is_dearer() {
        assert_eq!(crossover(1, 1000).0, 512, "less than a page too");
        assert_eq!(crossover(1, 64).0, 64);
        assert_eq!(crossover(1, 63), (0, vec![64]), "mapping is always cheaper");
        let (longest, measured) = crossover(1, 4096);
        assert_eq!((longest, measured.len()), (1 << 20, 15), "copying is never dearer");
        assert!(Crossover::of(|_| Err(Error::Invalid("failed"))).is_err());
    }
}
