//! Which sizes, on which pages: the same by every interface. All sizes of small pages; the rest at sizes where pages matter.

use crate::record::Clock;
use anyhow::{Context, Result, ensure};
use vfio_core::{Backend, Backing, Memory, MemoryOptions, PageSize};

/// By which interfaces.
pub(super) const BACKENDS: [Backend; 3] = [Backend::Iommufd, Backend::Type1v2, Backend::CompatType1v2];

/// What memory is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Anonymous,
    Transparent,
    Memfd,
    Huge2M,
    Huge1G,
}

/// Memory to map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) bytes: usize,
    pub(super) kind: Kind,
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const GIB: usize = 1 << 30;
/// Above, an operation is millions of instructions.
const LONG: usize = 16 * MIB;

/// What to measure by an interface. A machine that counts instructions is slow: what is long enough for the wall clock is left to that.
pub(super) fn shapes(is_quick: bool, clock: Clock) -> Vec<Shape> {
    let is_fit = |shape: &Shape| clock != Clock::Instructions || shape.bytes <= LONG;
    all(is_quick).into_iter().filter(is_fit).collect()
}

fn all(is_quick: bool) -> Vec<Shape> {
    let of = |kind: Kind, sizes: &[usize]| sizes.iter().map(|&bytes| Shape { bytes, kind }).collect::<Vec<_>>();
    if is_quick {
        return of(Kind::Anonymous, &[4 * KIB, 2 * MIB]);
    }
    [
        of(Kind::Anonymous, &[4 * KIB, 64 * KIB, 2 * MIB, 16 * MIB, 256 * MIB, GIB]),
        of(Kind::Transparent, &[2 * MIB, 16 * MIB]),
        of(Kind::Memfd, &[2 * MIB, 16 * MIB]),
        of(Kind::Huge2M, &[2 * MIB, 16 * MIB]),
        of(Kind::Huge1G, &[GIB]),
    ]
    .concat()
}

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Anonymous => "4 KiB pages",
            Self::Transparent => "transparent huge pages",
            Self::Memfd => "memfd of 4 KiB pages",
            Self::Huge2M => "2 MiB pages",
            Self::Huge1G => "1 GiB pages",
        }
    }

    const fn options(self) -> MemoryOptions {
        let (backing, pages) = match self {
            Self::Anonymous => (Backing::Anonymous, PageSize::Base),
            Self::Transparent => (Backing::Anonymous, PageSize::Transparent),
            Self::Memfd => (Backing::Shared, PageSize::Base),
            Self::Huge2M => (Backing::Anonymous, PageSize::Huge2M),
            Self::Huge1G => (Backing::Anonymous, PageSize::Huge1G),
        };
        MemoryOptions {
            backing,
            pages,
            numa_node: None,
        }
    }
}

impl Shape {
    pub(super) fn name(self) -> String {
        format!("{} of {}", bytes(self.bytes), self.kind.name())
    }

    /// The memory, touched, on the pages that were asked for.
    pub(super) fn memory(self) -> Result<Memory> {
        let options = self.kind.options();
        let memory = Memory::new(self.bytes, options)?;
        memory.populate(0..self.bytes).context("touch it")?;
        let pages = memory.page_size()?;
        ensure!(pages == options.pages, "the kernel made it of {pages:?}");
        Ok(memory)
    }

    pub(super) const fn iterations(self) -> usize {
        match self.bytes / KIB {
            0..=64 => 200,
            65..=4096 => 25,
            4097..=32768 => 5,
            _ => 1,
        }
    }

    pub(super) const fn turns(self, is_quick: bool) -> usize {
        match (is_quick, self.bytes < 100 * MIB) {
            (false, true) => 9,
            _ => 3,
        }
    }
}

/// A number of bytes as people say it.
pub(super) fn bytes(count: usize) -> String {
    match count {
        GIB.. => format!("{} GiB", count / GIB),
        MIB.. => format!("{} MiB", count / MIB),
        _ => format!("{} KiB", count / KIB),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_has_a_name_of_its_own() {
        let mut names: Vec<_> = all(false).into_iter().map(Shape::name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_quick_run_measures_what_a_whole_one_measures_too() {
        let whole = shapes(false, Clock::Instructions);
        assert!(shapes(true, Clock::Wall).iter().all(|shape| whole.contains(shape)));
    }
}
