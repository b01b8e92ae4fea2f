use super::*;
use crate::Backing;
use crate::fake::FakeBacking;
use iommu::Iova;
use proptest::prelude::*;
use std::sync::atomic::Ordering;
use vfio_core::Access;
use vfio_core::fake::Copier;

const PAGE: u64 = 4096;
const MOST: u64 = 5 << 20;

/// Pieces at any addresses: nothing is mapped there.
#[derive(Debug, Clone)]
struct Pointed(Vec<(u64, u64)>);

impl Payload for Pointed {
    fn len(&self) -> u64 {
        self.0.iter().map(|(_, len)| len).sum()
    }

    fn access(&self) -> Access {
        Access::all()
    }

    fn segment(&self, index: usize) -> Option<(Iova, u64)> {
        self.0.get(index).map(|&(iova, len)| (Iova(iova), len))
    }
}

fn lists(sgl: Sgl, form: DataForm) -> Lists {
    let backing = FakeBacking::new(Copier::new()).unwrap();
    Lists::new(backing.space(), 3, PAGE, MOST, (sgl, form)).unwrap()
}

/// A word of the lists, by its address.
fn load(lists: &Lists, iova: u64) -> u64 {
    let index = usize::try_from((iova - lists.memory.iova().0) / 8).unwrap();
    u64::from_le(lists.memory.words()[index].load(Ordering::Relaxed))
}

/// What a controller makes of a data pointer: contiguous pieces.
fn follow(lists: &Lists, sqe: &Sqe, bytes: u64) -> Vec<(u64, u64)> {
    let (first, second) = sqe.data();
    let mut pieces = Vec::new();
    match sqe.data_pointer().unwrap() {
        DataPointer::Prp => {
            assert!(first.is_multiple_of(4));
            let mut left = bytes - bytes.min(PAGE - first % PAGE);
            pieces.push((first, bytes - left));
            match left {
                0 => assert_eq!(second, 0, "reserved"),
                1..=PAGE => pieces.push((second, left)),
                _ => {
                    let mut entry = second;
                    while left > 0 {
                        let in_page = (PAGE - entry % PAGE) / 8;
                        for place in 0..in_page {
                            let value = load(lists, entry + place * 8);
                            if place == in_page - 1 && left > PAGE {
                                assert!(value.is_multiple_of(PAGE), "the next list lies on its own pages here");
                                entry = value;
                                break;
                            }
                            assert!(value.is_multiple_of(PAGE), "{value:#x}");
                            pieces.push((value, left.min(PAGE)));
                            left -= left.min(PAGE);
                            if left == 0 {
                                if place + 1 < in_page && !(pieces.len() as u64 - 1).is_multiple_of(lists.words as u64)
                                {
                                    assert_eq!(load(lists, entry + place * 8 + 8), 0, "what follows is nothing");
                                }
                                break;
                            }
                        }
                    }
                }
            }
        }
        DataPointer::Sgl if second >> 60 == 0 => pieces.push((first, second & 0xffff_ffff)),
        DataPointer::Sgl => {
            assert_eq!(second >> 60, 3);
            for descriptor in 0..(second & 0xffff_ffff) / 16 {
                let word = load(lists, first + descriptor * 16 + 8);
                assert_eq!(word >> 32, 0);
                pieces.push((load(lists, first + descriptor * 16), word));
            }
        }
        DataPointer::SglMetadata => unreachable!(),
    }
    pieces
}

/// Joined where they follow one another.
fn joined(pieces: &[(u64, u64)], mut bytes: u64) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for &(iova, len) in pieces {
        let len = len.min(bytes);
        bytes -= len;
        match joined.last_mut() {
            _ if len == 0 => {}
            Some((last, before)) if *last + *before == iova => *before += len,
            _ => joined.push((iova, len)),
        }
    }
    joined
}

/// A payload of whole pages, but for its ends, and how many bytes of it are wanted.
fn of_pages() -> impl Strategy<Value = (Pointed, u64)> {
    let pages = prop::collection::vec((1_u64..1 << 30, 1_u64..200), 1..6);
    (pages, 0_u64..1024, any::<u64>()).prop_map(|(pages, offset, bytes)| {
        let mut pieces: Vec<_> = pages.iter().map(|&(page, count)| (page * PAGE, count * PAGE)).collect();
        pieces[0].0 += offset * 4;
        pieces[0].1 -= offset * 4;
        let pointed = Pointed(pieces.into_iter().filter(|&(_, len)| len != 0).collect());
        let bytes = if pointed.0.is_empty() {
            0
        } else {
            bytes % pointed.len() + 1
        };
        (pointed, bytes)
    })
}

proptest! {
    #[test]
    fn prp_entries_point_at_the_data_and_at_nothing_else((payload, bytes) in of_pages(), index in 0_u16..3) {
        prop_assume!(bytes != 0);
        let lists = lists(Sgl::Byte, DataForm::Prp);
        let sqe = lists.point(Sqe::default(), index, &payload, bytes).unwrap();
        prop_assert_eq!(sqe.data_pointer(), Some(DataPointer::Prp));
        let followed = follow(&lists, &sqe, bytes);
        prop_assert_eq!(joined(&followed, bytes), joined(&payload.0, bytes));
    }

    #[test]
    fn an_sgl_points_at_pieces_of_any_kind(pieces in prop::collection::vec((0_u64..1 << 50, 0_u64..70000), 1..40), bytes: u64, index in 0_u16..3) {
        let payload = Pointed(pieces);
        prop_assume!(payload.len() != 0);
        let bytes = bytes % payload.len() + 1;
        for form in [DataForm::Sgl, DataForm::Shortest] {
            let lists = lists(Sgl::Byte, form);
            let sqe = lists.point(Sqe::default(), index, &payload, bytes).unwrap();
            let followed = follow(&lists, &sqe, bytes);
            prop_assert_eq!(joined(&followed, bytes), joined(&payload.0, bytes));
            if payload.0[0].1 >= bytes {
                prop_assert!(followed.len() <= 2, "data in one piece needs no list");
            }
        }
    }

    #[test]
    fn whatever_a_payload_says_the_lists_of_others_are_not_touched(pieces in prop::collection::vec((any::<u64>(), any::<u64>()), 0..2000), bytes in 1..=MOST) {
        for (sgl, form) in [(Sgl::No, DataForm::Prp), (Sgl::Dword, DataForm::Shortest), (Sgl::Byte, DataForm::Sgl)] {
            let lists = lists(sgl, form);
            let pointed = lists.point(Sqe::default(), 1, &Pointed(pieces.clone()), bytes);
            prop_assert!(pointed.is_ok() || !pieces.is_empty() || matches!(pointed, Err(Unfit::Short)));
            for other in [0, 2] {
                let (list, _) = lists.list(other);
                prop_assert!(list.iter().all(|word| word.load(Ordering::Relaxed) == 0));
            }
        }
    }
}

#[test]
fn a_list_that_just_fills_its_pages_is_not_continued() {
    let lists = lists(Sgl::No, DataForm::Prp);
    for entries in [1, 2, 511, 512, 513, 1023, 1024, 1025, 1279] {
        let bytes = (entries + 1) * PAGE;
        if bytes > MOST {
            continue;
        }
        let payload = Pointed(vec![(1 << 32, bytes)]);
        let sqe = lists.point(Sqe::default(), 2, &payload, bytes).unwrap();
        assert_eq!(
            joined(&follow(&lists, &sqe, bytes), bytes),
            [(1 << 32, bytes)],
            "{entries}"
        );
    }
}

#[test]
fn what_prp_entries_cannot_say_is_refused() {
    let lists = lists(Sgl::No, DataForm::Prp);
    let point = |pieces: &[(u64, u64)], bytes| lists.point(Sqe::default(), 0, &Pointed(pieces.to_vec()), bytes).err();
    assert_eq!(point(&[(0x1002, 512)], 512), Some(Unfit::Alignment));
    assert_eq!(point(&[(0x1000, 512), (0x8000, 512)], 1024), Some(Unfit::Pieces));
    assert_eq!(point(&[(0x1000, 4096), (0x8200, 512)], 4608), Some(Unfit::Pieces));
    assert_eq!(point(&[(0x1000, 4096)], 4608), Some(Unfit::Short));
    assert_eq!(point(&[], 512), Some(Unfit::Short));
    assert_eq!(point(&[(0x1e00, 512), (0x8000, 512)], 1024), None);
    let dwords = self::lists(Sgl::Dword, DataForm::Sgl);
    let odd = Pointed(vec![(0x1001, 512)]);
    assert_eq!(dwords.point(Sqe::default(), 0, &odd, 512).err(), Some(Unfit::Alignment));
}

#[test]
fn sgls_are_refused_where_there_are_none() {
    let backing = FakeBacking::new(Copier::new()).unwrap();
    let refused = Lists::new(backing.space(), 1, PAGE, MOST, (Sgl::No, DataForm::Sgl));
    assert!(matches!(refused, Err(ErrorKind::Unsupported(_))));
}

#[test]
fn a_piece_that_is_too_long_for_a_descriptor_has_several() {
    const LEN: u64 = 9 << 30;
    for form in [DataForm::Shortest, DataForm::Sgl] {
        let lists = lists(Sgl::Dword, form);
        let payload = Pointed(vec![(1 << 20, LEN)]);
        let sqe = lists.point(Sqe::default(), 1, &payload, LEN).unwrap();
        let pieces = follow(&lists, &sqe, LEN);
        assert_eq!(pieces.len(), 3);
        assert_eq!(joined(&pieces, LEN), payload.0);
    }
}
