//! Configuration space under arbitrary bytes: nothing panics, nothing runs for ever, nothing is read outside the image.
#![expect(clippy::indexing_slicing, reason = "a test that cannot be set up has failed")]

use pci::{CapabilityId, ConfigSpace, Describe};
use proptest::prelude::*;

/// Images of any length whose lists are likely to be followed: the status bit is set, and capabilities with known identifiers and
/// aligned links are sprinkled over random bytes.
fn images() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![0..=4200_usize, Just(64), Just(256), Just(4096)];
    let standard = prop::collection::vec((0x40..0xff_u8, 0..0x17_u8, any::<u8>()), 0..20);
    let extended = prop::collection::vec((0x100..0x1000_u16, 0..0x3b_u16, any::<u16>()), 0..40);
    let bytes = prop::collection::vec(any::<u8>(), 4200);
    (length, any::<u8>(), bytes, standard, extended).prop_map(|(length, kind, mut image, standard, extended)| {
        image[0x06] = 0x10;
        image[0x0e] = kind & 0x83;
        image[0x34] = standard.first().map_or(0, |place| place.0);
        let starts: Vec<u8> = standard.iter().map(|place| place.0).collect();
        for (index, (offset, id, next)) in standard.into_iter().enumerate() {
            let next = starts.get(index + 1).copied().unwrap_or(next);
            image[usize::from(offset & !3)..][..2].copy_from_slice(&[id, next]);
        }
        let starts: Vec<u16> = extended.iter().map(|place| place.0).collect();
        let first = (0x100, 0, starts.first().copied().unwrap_or(0));
        for (index, (offset, id, next)) in std::iter::once(first).chain(extended).enumerate() {
            let next = starts.get(index).copied().unwrap_or(next);
            let header = u32::from(id) | 1 << 16 | u32::from(next & 0xffc) << 20;
            image[usize::from(offset & !3)..][..4].copy_from_slice(&header.to_le_bytes());
        }
        image.truncate(length);
        image
    })
}

proptest! {
    #[test]
    fn walks_end_and_stay_inside_the_image(bytes in prop_oneof![prop::collection::vec(any::<u8>(), 0..4200), images()]) {
        let space = ConfigSpace::new(bytes);
        let walks = [(space.capabilities(), 0x40, 0x100), (space.extended_capabilities(), 0x100, 0x1000)];
        for (walk, start, end) in walks {
            prop_assert!(walk.items.len() <= usize::from(end - start) / 4);
            let mut offsets: Vec<u16> = walk.items.iter().map(pci::Capability::offset).collect();
            for capability in &walk.items {
                let offset = capability.offset();
                let len = u16::try_from(capability.bytes().len()).unwrap();
                prop_assert!((start..end).contains(&offset) && offset % 4 == 0);
                prop_assert!(len >= 2 && offset + len <= end);
                prop_assert_eq!(capability.bytes(), &space.bytes()[usize::from(offset)..usize::from(offset + len)]);
                let next = offsets.iter().filter(|other| **other > offset).min();
                prop_assert!(next.is_none_or(|next| offset + len <= *next));
            }
            offsets.sort_unstable();
            offsets.dedup();
            prop_assert_eq!(offsets.len(), walk.items.len(), "a place was visited twice");
        }
    }

    #[test]
    fn describing_never_panics(bytes in images(), width in 0..200_usize) {
        let space = ConfigSpace::new(bytes);
        prop_assert!(!space.describe().to_string().is_empty());
        prop_assert!(!space.lines(width).is_empty());
    }

    #[test]
    fn every_decoder_takes_any_bytes(id in 1..0x3b_u8, kind in any::<u8>(), body in prop::collection::vec(any::<u8>(), 4..3840)) {
        let mut image = vec![0; 0x100];
        image[0x06] = 0x10;
        image[0x34] = 0x40;
        image[0x40..0x44].copy_from_slice(&[0x10, 0x80, kind, 0x01]);
        image[0x4c] = 0xff;
        image[0x80] = id;
        image[0x82..].copy_from_slice(&body.repeat(32)[..0x7e]);
        image.extend_from_slice(&body);
        image[0x100..0x104].copy_from_slice(&[id, 0, 1, 0]);
        let space = ConfigSpace::new(image);
        let (standard, extended) = (space.capabilities(), space.extended_capabilities());
        prop_assert_eq!(standard.items[1].id(), CapabilityId::Standard(id));
        prop_assert_eq!(extended.items[0].id(), CapabilityId::Extended(u16::from(id)));
        for capability in standard.items.iter().chain(&extended.items) {
            prop_assert!(!capability.describe().to_string().is_empty());
        }
    }

    #[test]
    fn reads_are_the_bytes_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..4200), offset in 0..4200_u16) {
        let space = ConfigSpace::new(bytes.clone());
        let kept = &bytes[..bytes.len().min(4096)];
        let at = kept.get(usize::from(offset)..).unwrap_or_default();
        prop_assert_eq!(space.u8(offset), at.first().copied());
        prop_assert_eq!(space.u16(offset), at.first_chunk().map(|bytes| u16::from_le_bytes(*bytes)));
        prop_assert_eq!(space.u32(offset), at.first_chunk().map(|bytes| u32::from_le_bytes(*bytes)));
    }
}

#[test]
fn every_image_shorter_than_a_header_is_cut_off() {
    for len in 0..64 {
        assert!(ConfigSpace::new(vec![0; len]).header().is_err(), "{len}");
    }
    assert!(ConfigSpace::new(vec![0; 64]).header().is_ok());
}

#[test]
fn the_longest_possible_lists_are_followed_to_their_end() {
    let mut image = vec![0; 4096];
    image[0x06] = 0x10;
    image[0x34] = 0x40;
    for offset in (0x40..0x100).step_by(4) {
        image[offset] = 0x10;
        image[offset + 1] = u8::try_from(offset + 4).unwrap_or(0);
    }
    for offset in (0x100..0x1000_usize).step_by(4) {
        let next = u32::try_from(offset + 4).unwrap() & 0xfff;
        image[offset..offset + 4].copy_from_slice(&(0x1000f | next << 20).to_le_bytes());
    }
    let space = ConfigSpace::new(image);
    assert_eq!(
        (space.capabilities().items.len(), space.capabilities().end.is_complete()),
        (48, true)
    );
    assert_eq!(
        (
            space.extended_capabilities().items.len(),
            space.extended_capabilities().end.is_complete()
        ),
        (960, true)
    );
}
