//! Which parts of a BAR the guest reaches without an exit.

use std::ops::Range;

/// Bytes of a page of the guest, and of this process.
pub(super) const PAGE: u64 = 4096;

/// Whole pages of the areas that can be mapped, without the pages of what is trapped. In order; areas that touch are joined.
pub(super) fn mappable(areas: &[Range<u64>], trapped: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut parts: Vec<Range<u64>> = Vec::new();
    let mut areas = areas.to_vec();
    areas.sort_unstable_by_key(|area| area.start);
    let mut holes: Vec<Range<u64>> = trapped.iter().filter(|hole| !hole.is_empty()).map(pages_of).collect();
    holes.sort_unstable_by_key(|hole| hole.start);
    for area in areas {
        let end = area.end / PAGE * PAGE;
        // What another area has already is not mapped twice.
        let before = parts.last().map_or(0, |part| part.end);
        let mut start = area.start.div_ceil(PAGE).saturating_mul(PAGE).max(before);
        for hole in &holes {
            push(&mut parts, start..hole.start.min(end));
            start = start.max(hole.end);
        }
        push(&mut parts, start..end);
    }
    parts
}

/// Adds a part that is not empty, or makes the last one longer.
fn push(parts: &mut Vec<Range<u64>>, part: Range<u64>) {
    if part.is_empty() {
        return;
    }
    match parts.last_mut() {
        Some(last) if last.end == part.start => last.end = part.end,
        _ => parts.push(part),
    }
}

/// The pages that bytes lie in.
fn pages_of(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / PAGE * PAGE..bytes.end.div_ceil(PAGE).saturating_mul(PAGE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_pages_of_table_and_pending_bits_are_left_out() {
        let parts = |areas: &[(u64, u64)], trapped: &[(u64, u64)]| -> Vec<(u64, u64)> {
            let ranges = |pairs: &[(u64, u64)]| pairs.iter().map(|(start, end)| *start..*end).collect::<Vec<_>>();
            let parts = mappable(&ranges(areas), &ranges(trapped)).into_iter();
            parts.map(|part| (part.start, part.end)).collect()
        };
        let (whole, large) = ([(0, 0x4000)], [(0, 0x1_0000)]);
        assert_eq!(parts(&whole, &[]), whole);
        assert_eq!(parts(&whole, &[(0x2000, 0x2050), (0x3000, 0x3008)]), [(0, 0x2000)]);
        let table = [(0x8000, 0x8080), (0x8080, 0x8088)];
        assert_eq!(parts(&large, &table), [(0, 0x8000), (0x9000, 0x1_0000)]);
        assert_eq!(parts(&whole, &[(0xFF0, 0x1010)]), [(0x2000, 0x4000)]);
        assert_eq!(parts(&[(0x1800, 0x3800)], &[]), [(0x2000, 0x3000)], "whole pages");
        assert_eq!(parts(&[(0, 0x800)], &[]), [], "less than a page");
        assert_eq!(parts(&[(0, 0x1000), (0x1000, 0x2000)], &[]), [(0, 0x2000)]);
    }

    proptest! {
        #[test]
        fn every_page_that_can_be_mapped_is_and_no_other(
            areas in prop::collection::vec((0_u64..40_000, 0_u64..20_000), 0..5),
            trapped in prop::collection::vec((0_u64..60_000, 0_u64..5_000), 0..3),
        ) {
            let ranges = |pairs: &[(u64, u64)]| -> Vec<Range<u64>> {
                pairs.iter().map(|(start, len)| *start..start + len).collect()
            };
            let (areas, trapped) = (ranges(&areas), ranges(&trapped));
            let parts = mappable(&areas, &trapped);
            for page in 0..20 {
                let page = page * PAGE..(page + 1) * PAGE;
                let is_within = |area: &Range<u64>| area.start <= page.start && page.end <= area.end;
                let touches = |hole: &Range<u64>| !hole.is_empty() && hole.start < page.end && page.start < hole.end;
                let wanted = areas.iter().any(is_within) && !trapped.iter().any(touches);
                prop_assert_eq!(parts.iter().any(is_within), wanted, "{:x?} of {:x?}", page, parts);
            }
            prop_assert!(parts.is_sorted_by_key(|part| part.start));
            prop_assert!(parts.iter().all(|part| part.start.is_multiple_of(PAGE) && part.end.is_multiple_of(PAGE)));
        }
    }
}
