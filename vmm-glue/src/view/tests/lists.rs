//! What is hidden is not there, whatever the image looks like.

use super::*;

#[test]
fn a_hidden_capability_reads_as_zeros_and_cannot_be_written() {
    // A capability that nobody knows, between two that are shown.
    let mut made = usual()
        .with(0xC8, &[0x77, 0, 1, 2, 3, 4, 5, 6])
        .with(0xD8, &[0x09, 0, 8, 1, 2, 3, 4, 5]);
    let mut view = made.view();
    for offset in (0xC8..0xD8).step_by(4) {
        assert_eq!(read::<4>(&view, offset), [0; 4]);
        assert!(is_nothing(view.write(offset, &[0xFF; 4])));
    }
    assert_eq!(read(&view, 0xB1), [0xD8], "MSI-X leads past it");
    // The vendor's is the function's own, but for its header.
    assert_eq!(read(&view, 0xD8), [0x09, 0, OWN, OWN]);
    assert!(is_nothing(view.write(0xDC, &[1, 2, 3, 4])));
    made.options.are_vendor_registers_writable = true;
    let mut view = made.view();
    let forwarded = view.write(0xDC, &[1, 2, 3, 4]).into_iter().collect::<Vec<_>>();
    let Some(Effect::Forward(forward)) = forwarded.first() else {
        panic!("{forwarded:?}")
    };
    assert_eq!((forward.offset(), forward.bytes()), (0xDC, [1, 2, 3, 4].as_slice()));
    // It says that it has 8 bytes.
    assert_eq!(read(&view, 0xE0), [0; 4]);
}

#[test]
fn what_is_in_no_capability_is_shown_only_when_asked_for() {
    let mut made = usual();
    assert_eq!(read(&made.view(), 0xF0), [0; 4]);
    made.options.unlisted = Unlisted::Shown;
    let mut view = made.view();
    assert_eq!(read(&view, 0xF0), [OWN; 4]);
    assert_eq!(write32(&mut view, 0xF0, 7).len(), 1);
    // Not so what is hidden.
    made.options.shown.remove(&CapabilityId::MSI);
    let view = made.view();
    assert_eq!(read(&view, 0x50), [0; 4]);
    assert_eq!(read(&view, 0x64), [0; 4]);
    assert_eq!(read(&view, 0x68), [OWN; 4]);
}

#[test]
fn a_capability_ends_where_its_own_registers_end() {
    let mut made = usual();
    made.poke(0x100, &[0x01, 0, 0x02, 0x20]);
    made.poke(0x200, &[0x03, 0, 0x01, 0]);
    let shown_up_to = |made: &Made, from: u16| {
        let mut view = made.view();
        let is_shown = |view: &ConfigView, offset: &u16| read::<1>(view, *offset) != [0];
        let end = (from..4096).find(|offset| !is_shown(&view, offset)).unwrap();
        assert!(is_nothing(view.write(end, &[0xFF])));
        end
    };
    assert_eq!(shown_up_to(&made, 0x104), 0x12C);
    assert_eq!(shown_up_to(&made, 0x204), 0x20C);
    made.poke(0x119, &[0x08]);
    assert_eq!(shown_up_to(&made, 0x104), 0x148);
    // Version 1 of PCI Express, in a function of its own.
    for (version, end) in [(1, 0x54), (2, 0x7C)] {
        let made = Made::new().with(0x40, &[0x10, 0, version, 0]);
        assert_eq!(shown_up_to(&made, 0x48), end);
    }
    for (capability, end) in [
        ([0x12, 0, 0, 0], 0x48),
        ([0x07, 0, 0, 0], 0x48),
        ([0x07, 0, 0, 0x10], 0x58),
        ([0x09, 0, 0x11, 0], 0x51),
        ([0x03, 0, 0, 0], 0x48),
    ] {
        assert_eq!(
            shown_up_to(&Made::new().with(0x40, &capability), 0x44),
            end,
            "{capability:x?}"
        );
    }
}

#[test]
fn of_two_capabilities_of_a_kind_the_first_is_shown() {
    let made = usual()
        .with(0xC0, &[0x05, 0, 0x00, 0x00])
        .with(0xD0, &[0x11, 0, 1, 0])
        .with(0xE0, &[0x01, 0, 3]);
    let view = made.view();
    for offset in [0xC0, 0xD0, 0xE0] {
        assert_eq!(read(&view, offset), [0; 4]);
    }
    assert_eq!(read(&view, 0xB1), [0], "MSI-X is the last");
}

#[test]
fn an_extended_list_in_a_function_that_is_not_express_is_not_there() {
    let mut made = usual();
    made.poke(0x100, &[0x03, 0, 1, 0, 1, 2, 3, 4]);
    assert_eq!(u32_at(&made.view(), 0x100), 0x0001_0003);
    made.options.shown.remove(&CapabilityId::EXPRESS);
    assert_eq!(u32_at(&made.view(), 0x100), 0);
}

#[test]
fn lists_that_lead_anywhere_end() {
    // Every pair of links of two capabilities, of a few that are interesting.
    let places = [0x00, 0x04, 0x34, 0x3C, 0x40, 0x41, 0x44, 0x48, 0x50, 0xFC, 0xFF];
    for (first, second) in places.iter().flat_map(|first| places.map(|second| (*first, second))) {
        let mut made = Made::new();
        made.poke(0x06, &[0x10]);
        made.poke(0x34, &[first]);
        made.poke(0x40, &[0x09, second, 4, 0, 0x05, first, 0xFF, 0xFF]);
        made.poke(0x50, &[0x10, 0x41, 0x02, 0x00]);
        made.poke(0xFC, &[0x11, second, 0xFF, 0xFF]);
        let view = made.view();
        let mut image = vec![0; 256];
        for (offset, byte) in (0..).zip(&mut image) {
            [*byte] = read(&view, offset);
        }
        let space = ConfigSpace::new(image);
        assert!(space.capabilities().end.is_complete(), "{first:#x} {second:#x}");
    }
}

#[test]
fn extended_lists_that_lead_anywhere_end() {
    let places = [0, 0x004, 0x0FC, 0x100, 0x101, 0x140, 0x180, 0xFFC, 0xFFF];
    for (first, second) in places.iter().flat_map(|first| places.map(|second| (*first, second))) {
        let mut made = usual();
        for (at, id, next) in [
            (0x100, 0x10, first),
            (0x140, 0x01, second),
            (0x180, 0x0B, first),
            (0xFFC, 0x03, second),
        ] {
            let header: u32 = next << 20 | 1 << 16 | id;
            made.poke(at, &header.to_le_bytes());
        }
        let view = made.view();
        let mut image = vec![0; 4096];
        for (offset, byte) in (0..).zip(&mut image) {
            [*byte] = read(&view, offset);
        }
        let walk = ConfigSpace::new(image);
        assert!(walk.extended_capabilities().end.is_complete(), "{first:#x} {second:#x}");
    }
}

#[test]
fn identity_and_links_cannot_be_written() {
    let mut view = usual().view();
    let image: Vec<u8> = (0..=255).map(|offset| read::<1>(&view, offset)[0]).collect();
    for offset in (0..256)
        .step_by(4)
        .filter(|offset| ![0x04, 0x0C, 0x10, 0x3C].contains(offset))
    {
        let effects = view.write(offset, &[0xFF; 4]);
        assert!(!effects.iter().any(|effect| effect == Effect::Bars));
    }
    for (offset, before) in (0..).zip(image) {
        let is_control = (0x40..0xC0).contains(&offset) || (0x0C..0x10).contains(&offset);
        let is_link = [0x40, 0x41, 0x50, 0x51, 0x70, 0x71, 0xB0, 0xB1].contains(&offset);
        if is_link || !is_control {
            assert_eq!(read(&view, offset), [before], "{offset:#x}");
        }
    }
    let mut view = usual().view();
    assert!(is_nothing(view.write(0x0C, &[0x10, 0xFF, 0xFF, 0xFF])));
    assert_eq!(
        read(&view, 0x0C),
        [0x10, 0, 0, 0],
        "no latency timer, no other type, no self test"
    );
    assert!(is_nothing(view.write(0x3C, &[0x0B, 0xFF, 0xFF, 0xFF])));
    assert_eq!(read(&view, 0x3C), [0x0B, 1, 0, 0]);
}

#[test]
fn a_set_of_functions_says_so_whatever_the_device_says() {
    let mut made = usual();
    made.poke(0x0E, &[0x80]);
    assert_eq!(read(&made.view(), 0x0E), [0]);
    made.options.is_multi_function = true;
    made.poke(0x0E, &[0]);
    assert_eq!(read(&made.view(), 0x0E), [0x80]);
}

#[test]
fn a_read_of_what_is_answered_here_does_not_ask_the_function() {
    let view = usual().view();
    for offset in [0x00, 0x08, 0x10, 0x2C, 0x34, 0x3C, 0x40, 0x50, 0x54, 0xB0] {
        view.read(offset, &mut [0; 4], |_| panic!("{offset:#x}"));
    }
    // Errors in the status register are the function's.
    assert_eq!(read(&view, 0x06), [OWN & !0x10 | 0x10, OWN]);
}

#[test]
fn reads_beyond_the_end_are_ones() {
    let view = usual().view();
    assert_eq!(read(&view, 4094), [0, 0, 0xFF, 0xFF]);
    assert_eq!(read(&view, u16::MAX), [0xFF; 4]);
}

#[test]
fn the_link_is_read_and_not_written() {
    // PCI Express of 60 bytes at 70.
    let mut view = usual().view();
    for offset in [0x80, 0x82, 0x84, 0x88, 0x8A, 0x8C, 0x94, 0x9C, 0xA0, 0xA2, 0xA4, 0xA8] {
        assert!(is_nothing(view.write(offset, &[0xFF; 2])), "{offset:#x}");
        assert_eq!(read(&view, offset), [OWN; 2], "{offset:#x}");
    }
    // Device Status and Device Control 2 are written.
    for offset in [0x7A, 0x98] {
        assert_eq!(write16(&mut view, offset, 0xFFFF).len(), 1, "{offset:#x}");
    }
}

#[test]
fn vital_product_data_are_read_and_not_written() {
    let mut view = usual().with(0xC8, &[0x03, 0, 0, 0]).view();
    assert_eq!(read(&view, 0xCA), [OWN; 6]);
    let effects = write16(&mut view, 0xCA, 0x8004);
    let [Effect::Forward(forward)] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(forward.bytes(), [0x04, 0x00], "it is a read");
    assert!(is_nothing(view.write(0xCC, &[1, 2, 3, 4])));
}

#[test]
fn a_short_express_capability_leaves_the_next_one_alone() {
    let made = |end: u8| {
        let made = Made::new()
            .with(0x40, &[0x10, 0, 0x42, 0])
            .with(0x40 + end, &[0x09, 0, 8, 0]);
        made.view()
    };
    let view = made(0x10);
    assert_eq!(read(&view, 0x42), [0x02, 0], "an endpoint");
    assert_eq!(read(&view, 0x50), [0x09, 0, OWN, OWN]);
    assert_eq!(read(&view, 0x4C), [OWN; 4]);
    let view = made(0x14);
    assert_eq!(read(&view, 0x4C), [0x11, 0, 0, 0]);
    assert_eq!(read(&view, 0x54), [0x09, 0, OWN, OWN]);
    let view = made(0x08);
    assert_eq!(read(&view, 0x40), [0; 8], "too short for any function");
}
