//! Commands that are outstanding, by their identifiers.
//!
//! An identifier is the place of a command (bits 11:0) and how often the place was used, modulo 16 (bits 15:12): a completion that comes
//! twice, or late, is not taken for another command's.

use super::super::spec::Sqe;

/// Which command of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub(super) u16);

impl Tag {
    /// Its place, less than the queue's depth: no two outstanding commands have the same.
    #[must_use]
    #[inline]
    pub fn index(self) -> usize {
        usize::from(self.0 & PLACE)
    }

    /// Its identifier (CDW0.CID).
    #[must_use]
    #[inline]
    pub fn cid(self) -> u16 {
        self.0
    }
}

/// All places of a queue.
#[derive(Debug)]
pub(super) struct Trackers<T> {
    slots: Box<[Slot<T>]>,
    /// The first free place; [`NONE`] if there is none.
    free: u16,
    /// What is needed to submit commands again; empty if they never are.
    kept: Box<[Kept]>,
    /// Of commands that were submitted.
    count: u64,
    outstanding: u16,
}

#[derive(Debug)]
struct Slot<T> {
    payload: Option<T>,
    /// The identifier, and [`BUSY`]: what a completion must say.
    live: u32,
    /// When it was submitted, in the queue's scans.
    stamp: u32,
    /// The next free place, while it is free.
    next: u16,
    is_aborted: bool,
}

/// A command as it was submitted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    pub(super) sqe: Sqe,
    /// [`Command::changes`](super::super::Command).
    pub(super) changes: Option<u32>,
    /// How many were submitted before it.
    pub(super) order: u64,
}

/// Most commands: the identifier 0xffff is never given, as the error log uses it for none (Base §5.1.12.1.2).
pub(super) const MOST: u16 = PLACE;

const PLACE: u16 = 0xfff;
const ONE_USE: u16 = PLACE + 1;
const NONE: u16 = u16::MAX;
const BUSY: u32 = 1 << 16;

impl<T> Trackers<T> {
    /// Places for `depth` commands, at most [`MOST`].
    pub(super) fn new(depth: u16, keeps: bool) -> Self {
        let depth = depth.min(MOST);
        let slot = |place: u16| Slot {
            payload: None,
            live: u32::from(place),
            stamp: 0,
            next: if place + 1 == depth { NONE } else { place + 1 },
            is_aborted: false,
        };
        let kept = Kept {
            sqe: Sqe::default(),
            changes: None,
            order: 0,
        };
        Self {
            slots: (0..depth).map(slot).collect(),
            free: if depth == 0 { NONE } else { 0 },
            kept: vec![kept; if keeps { depth.into() } else { 0 }].into(),
            count: 0,
            outstanding: 0,
        }
    }

    pub(super) fn depth(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(MOST)
    }

    #[inline]
    pub(super) fn outstanding(&self) -> u16 {
        self.outstanding
    }

    /// The tag that the next command gets; `None` if all places are taken.
    #[inline]
    pub(super) fn next(&self) -> Option<Tag> {
        self.tag(self.free)
    }

    /// The tag of the command after that.
    pub(super) fn next_but_one(&self) -> Option<Tag> {
        let first = self.slots.get(usize::from(self.free))?;
        self.tag(first.next)
    }

    #[inline]
    fn tag(&self, place: u16) -> Option<Tag> {
        let slot = self.slots.get(usize::from(place))?;
        Some(Tag(low(slot.live)))
    }

    /// Takes the place of [`next`](Self::next).
    #[inline]
    pub(super) fn take(&mut self, payload: Option<T>, stamp: u32, sqe: &Sqe, changes: Option<u32>) {
        let place = usize::from(self.free);
        let Some(slot) = self.slots.get_mut(place) else { return };
        self.free = slot.next;
        slot.payload = payload;
        slot.live |= BUSY;
        slot.stamp = stamp;
        slot.is_aborted = false;
        self.outstanding += 1;
        if let Some(kept) = self.kept.get_mut(place) {
            *kept = Kept {
                sqe: *sqe,
                changes,
                order: self.count,
            };
        }
        self.count += 1;
    }

    /// Frees the place of a command, and gives its payload back; `None` if no outstanding command has that identifier.
    #[inline]
    pub(super) fn finish(&mut self, cid: u16) -> Option<Option<T>> {
        let place = cid & PLACE;
        let slot = self.slots.get_mut(usize::from(place))?;
        if slot.live != u32::from(cid) | BUSY {
            return None;
        }
        slot.live = u32::from(cid.wrapping_add(ONE_USE));
        slot.next = self.free;
        self.free = place;
        self.outstanding -= 1;
        Some(slot.payload.take())
    }

    /// Whether it is an outstanding command's.
    pub(super) fn is_outstanding(&self, tag: Tag) -> bool {
        let slot = self.slots.get(tag.index());
        slot.is_some_and(|slot| slot.live == u32::from(tag.cid()) | BUSY)
    }

    /// Outstanding commands.
    pub(super) fn tags(&self) -> impl Iterator<Item = Tag> {
        let busy = self.slots.iter().filter(|slot| slot.live & BUSY != 0);
        busy.map(|slot| Tag(low(slot.live)))
    }

    /// What was kept of outstanding commands, in the order in which they were submitted.
    pub(super) fn kept(&self) -> Vec<(Tag, Kept)> {
        let kept = self.slots.iter().zip(&self.kept);
        let busy = kept.filter(|(slot, _)| slot.live & BUSY != 0);
        let mut kept: Vec<_> = busy.map(|(slot, kept)| (Tag(low(slot.live)), *kept)).collect();
        kept.sort_unstable_by_key(|(_, kept)| kept.order);
        kept
    }

    /// A command that was submitted `limit` scans ago, or more; and whether it was aborted already.
    pub(super) fn late(&self, scan: u32, limit: u32) -> Option<(Tag, bool)> {
        let is_late = |slot: &&Slot<T>| slot.live & BUSY != 0 && scan.wrapping_sub(slot.stamp) >= limit;
        let late = self.slots.iter().find(is_late)?;
        Some((Tag(low(late.live)), late.is_aborted))
    }

    /// Gives a command that is to be aborted, or was submitted again, its time anew.
    pub(super) fn stamp(&mut self, tag: Tag, scan: u32, is_aborted: bool) {
        let slot = self.slots.get_mut(tag.index());
        if let Some(slot) = slot.filter(|slot| slot.live == u32::from(tag.cid()) | BUSY) {
            (slot.stamp, slot.is_aborted) = (scan, is_aborted);
        }
    }

    /// Never gives back what the controller may still reach.
    pub(super) fn leak(&mut self) {
        for slot in &mut self.slots {
            std::mem::forget(slot.payload.take());
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an identifier has 16 bits")]
fn low(live: u32) -> u16 {
    live as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn take(trackers: &mut Trackers<u32>, payload: u32) -> Option<Tag> {
        let tag = trackers.next()?;
        trackers.take(Some(payload), 0, &Sqe::default(), None);
        Some(tag)
    }

    #[test]
    fn an_identifier_is_never_all_ones_and_not_soon_used_again() {
        let mut trackers = Trackers::new(u16::MAX, false);
        assert_eq!(trackers.depth(), MOST);
        for _ in 0..MOST {
            take(&mut trackers, 0).unwrap();
        }
        assert!(trackers.next().is_none());
        for tag in trackers.tags().collect::<Vec<_>>() {
            let mut tag = tag;
            for _ in 0..15 {
                trackers.finish(tag.cid()).unwrap();
                assert!(trackers.finish(tag.cid()).is_none());
                let next = take(&mut trackers, 0).unwrap();
                assert_eq!(next.index(), tag.index());
                assert!(next != tag && next.cid() != u16::MAX);
                tag = next;
            }
        }
    }

    #[test]
    fn a_command_is_late_after_its_scans_and_anew_after_an_abort() {
        let mut trackers = Trackers::new(4, false);
        trackers.take(Some(1), u32::MAX, &Sqe::default(), None);
        assert_eq!(trackers.late(6, 8), None);
        let (tag, is_aborted) = trackers.late(7, 8).unwrap();
        assert!(!is_aborted);
        trackers.stamp(tag, 7, true);
        assert_eq!(trackers.late(14, 8), None);
        assert_eq!(trackers.late(15, 8), Some((tag, true)));
        trackers.finish(tag.cid()).unwrap();
        assert_eq!(trackers.late(100, 8), None);
        // The next one of its place is another one.
        let next = take(&mut trackers, 2).unwrap();
        trackers.stamp(tag, 100, true);
        assert!(next.index() == tag.index() && !trackers.is_outstanding(tag));
        assert_eq!(trackers.late(100, 8), Some((next, false)));
    }

    proptest! {
        #[test]
        fn payloads_come_back_once_and_to_their_command(depth in 1..70_u16, steps in prop::collection::vec(any::<u16>(), 0..400)) {
            let mut trackers = Trackers::new(depth, true);
            let mut expected = BTreeMap::new();
            for (payload, step) in (0..).zip(steps) {
                if step & 1 == 0 {
                    match take(&mut trackers, payload) {
                        Some(tag) => prop_assert!(expected.insert(tag.cid(), payload).is_none()),
                        None => prop_assert_eq!(expected.len(), usize::from(depth)),
                    }
                } else if let Some(&cid) = expected.keys().nth(usize::from(step >> 1) % expected.len().max(1)) {
                    prop_assert_eq!(trackers.finish(cid), Some(expected.remove(&cid)));
                } else {
                    prop_assert_eq!(trackers.finish(step), None);
                }
                prop_assert_eq!(usize::from(trackers.outstanding()), expected.len());
                let order: Vec<u64> = trackers.kept().iter().map(|(_, kept)| kept.order).collect();
                prop_assert!(order.is_sorted() && order.len() == expected.len());
            }
        }
    }
}
