//! Where an address space may have mappings.

use super::command;
use super::ioas::Ioas;
use crate::{Error, ErrorKind, Iova, IovaRange};
use rustix::io::Errno;

/// The most ranges that [`Ioas::iova_ranges`] takes from the kernel; an IOMMU with a handful of reserved windows has a handful.
const MAX_RANGES: u32 = 1 << 16;
/// How often they are asked for until they fit.
const MAX_TRIES: u32 = 8;

/// Where mappings may be made, at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IovaRanges {
    /// The ranges, in order. Every attached device may narrow them.
    pub ranges: Vec<IovaRange>,
    /// What an IOVA and a length must be multiples of, in bytes; a power of two.
    pub alignment: u64,
}

impl Ioas {
    /// Where mappings may be made. To be asked again after each attach and detach.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Malformed`] for ranges out of order.
    #[doc(alias = "IOMMU_IOAS_IOVA_RANGES")]
    pub fn iova_ranges(&self) -> Result<IovaRanges, Error> {
        let command = command::IOAS_IOVA_RANGES;
        let mut found = vec![(0, 0); 16];
        let mut tries = 0..MAX_TRIES;
        let (count, alignment) = loop {
            tries
                .next()
                .ok_or_else(|| command.malformed("ranges that grow while they are read"))?;
            let asked = self.calls().ioas_iova_ranges(self.id().0, &mut found);
            let (count, alignment) = asked.map_err(|errno| command.error(errno))?;
            if count > MAX_RANGES {
                return Err(command.malformed("more ranges than there can be"));
            }
            // The number may grow while devices are attached.
            if count as usize <= found.len() {
                break (count, alignment);
            }
            found.resize(count as usize, (0, 0));
        };
        if !alignment.is_power_of_two() {
            return Err(command.malformed("an alignment that is no power of two"));
        }
        let mut ranges: Vec<IovaRange> = Vec::with_capacity(count as usize);
        for &(start, last) in found.iter().take(count as usize) {
            let range = IovaRange::from_bounds(Iova(start), Iova(last));
            let range = range.ok_or_else(|| command.malformed("a range that ends before it begins"))?;
            if ranges.last().is_some_and(|before| before.last() >= range.start()) {
                return Err(command.malformed("ranges that are out of order"));
            }
            ranges.push(range);
        }
        Ok(IovaRanges { ranges, alignment })
    }

    /// Keeps ranges free for mappings: no device that would reserve one can be attached any more, and [`Placement::Any`](super::Placement::Any) uses these only. Replaces
    /// what was set before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotAllowed`] for a range that an attached device reserves already; [`ErrorKind::Os`] with EINVAL for ranges that overlap or of one byte.
    #[doc(alias = "IOMMU_IOAS_ALLOW_IOVAS")]
    pub fn allow_iovas(&self, ranges: &[IovaRange]) -> Result<(), Error> {
        let command = command::IOAS_ALLOW_IOVAS;
        let bounds: Vec<_> = ranges.iter().map(|range| (range.start().0, range.last().0)).collect();
        let allowed = self.calls().ioas_allow_iovas(self.id().0, &bounds);
        allowed.map_err(|errno| match (errno, self.iova_ranges()) {
            (Errno::ADDRINUSE, Ok(now)) => {
                let culprit = ranges.iter().find(|range| !now.contains(range));
                command.fail(culprit.map_or(ErrorKind::Os(errno), |range| ErrorKind::NotAllowed(*range)))
            }
            _ => command.error(errno),
        })
    }
}

impl IovaRanges {
    /// Whether all of a range may be mapped.
    #[must_use]
    pub fn contains(&self, range: &IovaRange) -> bool {
        self.ranges.iter().any(|allowed| allowed.contains(range))
    }
}
