//! Where buses, windows and BARs are when the guest starts, as firmware would have placed them. Linux keeps what it finds in order.
//!
//! Every slot gets one bus and two windows: for memory below 4 GiB, and for 64-bit prefetchable memory, with room for what is plugged in later.

use super::Windows;
use crate::{Error, ErrorKind, Result};
use pci::BarIndex;
use std::ops::Range;

/// Memory that a function asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// For which BAR.
    pub index: BarIndex,
    /// How much, in bytes; a power of two, which is also what it has to be aligned to.
    pub len_bytes: u64,
    /// Its address can be above 4 GiB.
    pub is_64: bool,
    /// Reads have no side effects. Only such memory can be in a window above 4 GiB.
    pub is_prefetchable: bool,
}

/// The least that a slot gets, in bytes, so that there is room for what is plugged in later. Where there is not so much, it is halved until all
/// fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Below 4 GiB.
    pub memory: u64,
    /// 64-bit and prefetchable.
    pub prefetchable: u64,
}

impl Default for Room {
    /// 16 MiB and 1 GiB.
    fn default() -> Self {
        Self {
            memory: 16 << 20,
            prefetchable: 1 << 30,
        }
    }
}

/// What one slot gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotPlan {
    /// First and last bus behind its port.
    pub buses: [u8; 2],
    /// What its port forwards.
    pub windows: Windows,
    /// The addresses of each function in the order in which they were given.
    pub addresses: Vec<Vec<(BarIndex, u64)>>,
}

const MIB: u64 = 1 << 20;
/// No two BARs share a page, which could not be mapped then.
const PAGE: u64 = 4096;

/// Places the functions of all slots, `slots[n][m]` being what function m of slot n needs, in the memory and in the 64-bit prefetchable memory of
/// `apertures`. Without the latter all is in the former. Buses are numbered from 1.
///
/// # Errors
///
/// [`ErrorKind::Exhausted`] when it does not fit, [`ErrorKind::Invalid`] for a length that is not a power of two and for more than 255 slots.
pub fn plan(apertures: Windows, room: Room, slots: &[Vec<Vec<Need>>]) -> Result<Vec<SlotPlan>> {
    let mut room = room;
    loop {
        match place(apertures, room, slots) {
            Err(error) if matches!(error.kind, ErrorKind::Exhausted(PREFETCHABLE)) && room.prefetchable > MIB => {
                room.prefetchable /= 2;
            }
            Err(error) if matches!(error.kind, ErrorKind::Exhausted(MEMORY)) && room.memory > MIB => room.memory /= 2,
            result => return result,
        }
    }
}

const STEP: &str = "place the functions";
const MEMORY: &str = "32-bit memory of the PCI bus";
const PREFETCHABLE: &str = "64-bit memory of the PCI bus";

fn place(apertures: Windows, room: Room, slots: &[Vec<Vec<Need>>]) -> Result<Vec<SlotPlan>> {
    let has_high = !apertures.prefetchable().is_empty();
    let is_high = |need: &Need| has_high && need.is_64 && need.is_prefetchable;
    let packed = |least, high| {
        let packs = slots
            .iter()
            .map(|functions| Pack::new(least, functions, |need| is_high(need) == high));
        packs.collect::<Result<Vec<_>>>()
    };
    let low = spread(&apertures.memory(), packed(room.memory, false)?, MEMORY)?;
    let least = if has_high { room.prefetchable } else { 0 };
    let high = spread(&apertures.prefetchable(), packed(least, true)?, PREFETCHABLE)?;
    let mut plans = Vec::new();
    for (bus, ((low, high), functions)) in (1_usize..).zip(low.into_iter().zip(high).zip(slots)) {
        let Ok(bus) = u8::try_from(bus) else {
            return Err(Error::new(STEP, ErrorKind::Invalid("more than 255 slots")));
        };
        let mut addresses = vec![Vec::new(); functions.len()];
        for placed in [&low, &high] {
            for (function, index, offset) in &placed.pack.places {
                if let Some(list) = addresses.get_mut(*function) {
                    list.push((*index, placed.start + offset));
                }
            }
        }
        addresses.iter_mut().for_each(|list: &mut Vec<_>| list.sort_unstable());
        plans.push(SlotPlan {
            buses: [bus, bus],
            windows: Windows::new(low.range(), high.range()),
            addresses,
        });
    }
    Ok(plans)
}

/// The memory of one kind that one slot needs.
struct Pack {
    len: u64,
    align: u64,
    /// Function, BAR, offset.
    places: Vec<(usize, BarIndex, u64)>,
}

impl Pack {
    /// Largest first, so that each is aligned and nothing is lost between them.
    fn new(least: u64, functions: &[Vec<Need>], is_meant: impl Fn(&Need) -> bool) -> Result<Self> {
        let functions = functions.iter().enumerate();
        let mut needs: Vec<_> = functions
            .flat_map(|(function, needs)| needs.iter().map(move |need| (function, *need)))
            .filter(|(_, need)| is_meant(need))
            .collect();
        needs.sort_by_key(|(function, need)| (std::cmp::Reverse(need.len_bytes), *function, need.index));
        let mut pack = Self {
            len: 0,
            align: MIB,
            places: Vec::new(),
        };
        for (function, need) in needs {
            if !need.len_bytes.is_power_of_two() {
                return Err(Error::new(STEP, ErrorKind::Invalid("a length is not a power of two")));
            }
            let len = need.len_bytes.max(PAGE);
            pack.align = pack.align.max(len);
            pack.places.push((function, need.index, pack.len));
            let sum = pack.len.checked_add(len);
            pack.len = sum.ok_or_else(|| Error::new(STEP, ErrorKind::Exhausted("address")))?;
        }
        let len = pack.len.max(least).checked_next_multiple_of(MIB);
        pack.len = len.ok_or_else(|| Error::new(STEP, ErrorKind::Exhausted("address")))?;
        if least > 0 {
            // What is plugged in later has to be aligned, too.
            pack.align = pack.align.max(1 << least.ilog2());
        }
        Ok(pack)
    }
}

struct Placed {
    start: u64,
    pack: Pack,
}

impl Placed {
    const fn range(&self) -> Range<u64> {
        // Both were added before, when it was placed.
        self.start..self.start.saturating_add(self.pack.len)
    }
}

/// Gives every slot a window; those with the largest alignment first. They come back in the order of the slots.
fn spread(aperture: &Range<u64>, packs: Vec<Pack>, what: &'static str) -> Result<Vec<Placed>> {
    let exhausted = || Error::new(STEP, ErrorKind::Exhausted(what));
    let mut packs: Vec<(usize, Pack)> = packs.into_iter().enumerate().collect();
    packs.sort_by_key(|(slot, pack)| (std::cmp::Reverse(pack.align), *slot));
    let mut free = aperture.start;
    let mut placed = Vec::new();
    for (slot, pack) in packs {
        if pack.len == 0 {
            placed.push((slot, Placed { start: 0, pack }));
            continue;
        }
        let start = free.checked_next_multiple_of(pack.align).ok_or_else(exhausted)?;
        let end = start.checked_add(pack.len).filter(|end| *end <= aperture.end);
        free = end.ok_or_else(exhausted)?;
        placed.push((slot, Placed { start, pack }));
    }
    placed.sort_by_key(|(slot, _)| *slot);
    Ok(placed.into_iter().map(|(_, placed)| placed).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn need(index: u8, len_bytes: u64, is_wide: bool) -> Need {
        Need {
            index: BarIndex::Bar(index),
            len_bytes,
            is_64: is_wide,
            is_prefetchable: is_wide,
        }
    }

    fn apertures() -> Windows {
        Windows::new(3 * GIB..3 * GIB + GIB / 2, 64 * GIB..1024 * GIB)
    }

    #[test]
    fn each_slot_has_a_bus_two_windows_and_room_for_more() {
        let nvme = vec![vec![need(0, 16 << 10, false)]];
        let gpu = vec![
            vec![need(0, 16 << 20, false), need(1, 16 * GIB, true)],
            vec![need(0, 16 << 10, false)],
        ];
        let plans = plan(apertures(), Room::default(), &[nvme, gpu, vec![]]).unwrap();
        let buses: Vec<_> = plans.iter().map(|plan| plan.buses).collect();
        assert_eq!(buses, [[1, 1], [2, 2], [3, 3]]);
        assert_eq!(plans[0].windows.memory(), 0xC000_0000..0xC100_0000);
        assert_eq!(plans[1].windows.memory(), 0xC100_0000..0xC210_0000);
        assert_eq!(plans[2].windows.memory(), 0xC300_0000..0xC400_0000);
        // What is aligned to most comes first.
        assert_eq!(plans[1].windows.prefetchable(), 64 * GIB..80 * GIB);
        assert_eq!(plans[0].windows.prefetchable(), 80 * GIB..81 * GIB);
        assert_eq!(plans[0].addresses, [[(BarIndex::Bar(0), 0xC000_0000)]]);
        assert_eq!(
            plans[1].addresses,
            [
                vec![(BarIndex::Bar(0), 0xC100_0000), (BarIndex::Bar(1), 64 * GIB)],
                vec![(BarIndex::Bar(0), 0xC200_0000)]
            ]
        );
    }

    #[test]
    fn room_shrinks_before_something_does_not_fit() {
        let slots = vec![vec![vec![need(0, 4096, false), need(1, 4096, true)]]; 31];
        let narrow = Windows::new(3 * GIB..3 * GIB + (64 << 20), 64 * GIB..72 * GIB);
        let plans = plan(narrow, Room::default(), &slots).unwrap();
        let room = plans[30].windows;
        assert_eq!(room.memory().end - room.memory().start, 2 << 20);
        assert_eq!(room.prefetchable().end - room.prefetchable().start, 256 << 20);
        // Without memory above 4 GiB all is below.
        let plans = plan(Windows::new(3 * GIB..4 * GIB, 0..0), Room::default(), &slots).unwrap();
        assert!(plans.iter().all(|plan| plan.windows.prefetchable().is_empty()));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let huge = vec![vec![vec![need(0, 1 << 63, true)]]; 2];
        let error = plan(apertures(), Room::default(), &huge).unwrap_err();
        assert_eq!(
            error.to_string(),
            "place the functions: no 64-bit memory of the PCI bus is left"
        );
        let low = vec![vec![vec![need(0, GIB, false)]]];
        let error = plan(apertures(), Room::default(), &low).unwrap_err();
        assert_eq!(
            error.to_string(),
            "place the functions: no 32-bit memory of the PCI bus is left"
        );
        let odd = vec![vec![vec![need(0, 12288, false)]]];
        assert!(matches!(
            plan(apertures(), Room::default(), &odd).unwrap_err().kind,
            ErrorKind::Invalid(_)
        ));
        assert!(
            plan(
                apertures(),
                Room {
                    memory: 0,
                    prefetchable: 0
                },
                &vec![vec![]; 256]
            )
            .is_err()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn nothing_overlaps_and_all_is_aligned_and_in_its_window(
            slots in prop::collection::vec(prop::collection::vec(prop::collection::vec((0_u32..37, any::<bool>()), 0..6), 0..4), 0..20)
        ) {
            let slots: Vec<Vec<Vec<Need>>> = slots.iter().map(|functions| {
                let needs = |bars: &Vec<(u32, bool)>| (0..).zip(bars).map(|(index, (log, is_wide))| need(index, 1 << log, *is_wide)).collect();
                functions.iter().map(needs).collect()
            }).collect();
            let Ok(plans) = plan(apertures(), Room::default(), &slots) else { return Ok(()) };
            let mut taken: Vec<Range<u64>> = Vec::new();
            for (plan, functions) in plans.iter().zip(&slots) {
                prop_assert_eq!(plan.windows, plan.windows.within(apertures()));
                for (addresses, needs) in plan.addresses.iter().zip(functions) {
                    prop_assert_eq!(addresses.len(), needs.len());
                    for ((index, start), need) in addresses.iter().zip(needs) {
                        prop_assert_eq!(*index, need.index);
                        prop_assert_eq!(start % need.len_bytes, 0);
                        let range = *start..start + need.len_bytes;
                        prop_assert!(plan.windows.contain(&range));
                        if !need.is_prefetchable {
                            prop_assert!(range.end <= 4 * GIB);
                        }
                        taken.push(range.start..range.end.next_multiple_of(PAGE));
                    }
                }
            }
            taken.sort_by_key(|range| range.start);
            prop_assert!(taken.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let mut windows: Vec<_> = plans.iter().flat_map(|plan| [plan.windows.memory(), plan.windows.prefetchable()]).collect();
            windows.retain(|window| !window.is_empty());
            windows.sort_by_key(|window| window.start);
            prop_assert!(windows.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}
