//! BARs: sizing, moving, decoding.

use super::*;

const MEMORY: u16 = 2;

fn decoded(view: &ConfigView) -> Vec<(BarIndex, Range<u64>)> {
    view.decoded().collect()
}

/// BAR 0 of 16 KiB, BAR 2 of 1 MiB with 64 bits, prefetchable, BAR 5 of 16 bytes; a ROM of 64 KiB.
fn made() -> Made {
    let mut made = Made::new()
        .with_bar(0, 0x00, 0x4000)
        .with_bar(2, 0x0C, 1 << 20)
        .with_bar(5, 0x00, 16);
    made.device.rom_size = 0x1_0000;
    made
}

#[test]
fn a_guest_finds_the_sizes() {
    let mut view = made().view();
    for offset in (0x10..0x28).step_by(4).chain([0x30]) {
        assert!(is_nothing(view.write(offset, &[0xFF; 4])));
    }
    let words: Vec<u32> = (0x10..0x28).step_by(4).map(|offset| u32_at(&view, offset)).collect();
    assert_eq!(words, [0xFFFF_C000, 0, 0xFFF0_000C, 0xFFFF_FFFF, 0, 0xFFFF_FFF0]);
    assert_eq!(u32_at(&view, 0x30), 0xFFFF_0001);
    let needs: Vec<_> = view
        .needs()
        .iter()
        .map(|need| (need.index, need.len_bytes, need.is_64))
        .collect();
    let expected = [
        (BarIndex::Bar(0), 0x4000, false),
        (BarIndex::Bar(2), 1 << 20, true),
        (BarIndex::Bar(5), 16, false),
        (BarIndex::Rom, 0x1_0000, false),
    ];
    assert_eq!(needs, expected);
}

#[test]
fn every_size_is_found() {
    for log in 0..64 {
        for kind in [0x00, 0x04, 0x08, 0x0C] {
            let made = Made::new().with_bar(0, kind, 1 << log);
            let mut view = made.view();
            write32(&mut view, 0x10, u32::MAX);
            write32(&mut view, 0x14, u32::MAX);
            let is_64 = kind & 4 != 0;
            let mask = u64::from(u32_at(&view, 0x14)) << 32 | u64::from(u32_at(&view, 0x10));
            if !is_64 && log > 31 {
                assert_eq!((mask, view.needs()), (0, vec![]));
                continue;
            }
            let len = (1_u64 << log).max(16);
            let expected = !(len - 1) | u64::from(kind);
            assert_eq!(
                mask,
                if is_64 { expected } else { expected & 0xFFFF_FFFF },
                "{log} {kind}"
            );
            assert_eq!(view.needs()[0].len_bytes, len);
        }
    }
}

#[test]
fn what_cannot_be_a_bar_is_none() {
    let no_bar = |made: Made| {
        let mut view = made.view();
        for offset in (0x10..0x34).step_by(4) {
            write32(&mut view, offset, u32::MAX);
        }
        assert_eq!(view.needs(), []);
        assert_eq!([0x10, 0x14, 0x20, 0x24].map(|offset| u32_at(&view, offset)), [0; 4]);
    };
    no_bar(Made::new().with_bar(0, 0x01, 256));
    no_bar(Made::new().with_bar(0, 0x02, 4096));
    no_bar(Made::new().with_bar(0, 0x06, 4096));
    no_bar(Made::new().with_bar(5, 0x04, 4096));
    no_bar(Made::new().with_bar(0, 0x00, 0));
    no_bar(Made::new().with_bar(0, 0x04, u64::MAX));
    // The upper half of another one.
    let view = Made::new().with_bar(0, 0x04, 4096).with_bar(1, 0x00, 4096).view();
    assert_eq!(view.needs().len(), 1);
    let view = Made::new().with_bar(0, 0x00, 3000).view();
    assert_eq!(view.needs()[0].len_bytes, 4096);
}

#[test]
fn a_bar_answers_where_firmware_or_the_guest_has_put_it() {
    let mut view = made().view();
    assert_eq!(event(&mut view, windows()), []);
    assert!(is_nothing(view.place(BarIndex::Bar(0), 0xC000_4000)));
    assert!(is_nothing(view.place(BarIndex::Bar(2), 1 << 38)));
    assert!(is_nothing(view.place(BarIndex::Rom, 0xC001_0000)));
    assert_eq!(u32_at(&view, 0x10), 0xC000_4000);
    assert_eq!([u32_at(&view, 0x18), u32_at(&view, 0x1C)], [0x0C, 0x40]);
    assert_eq!(decoded(&view), []);
    assert_eq!(write16(&mut view, 4, MEMORY), [Effect::Command(MEMORY), Effect::Bars]);
    let both = [
        (BarIndex::Bar(0), 0xC000_4000..0xC000_8000),
        (BarIndex::Bar(2), 1 << 38..(1 << 38) + (1 << 20)),
    ];
    assert_eq!(decoded(&view), both, "the ROM is disabled");
    assert_eq!(write32(&mut view, 0x30, 0xC001_0001), [Effect::Bars]);
    assert_eq!(decoded(&view).len(), 3);
    // One byte at a time.
    assert!(is_nothing(view.write(0x10, &[0xFF])));
    assert_eq!(
        view.write(0x11, &[0x80]).into_iter().collect::<Vec<_>>(),
        [Effect::Bars]
    );
    assert_eq!(decoded(&view)[0].1, 0xC000_8000..0xC000_C000);
    assert_eq!(write16(&mut view, 4, 0), [Effect::Bars, Effect::Command(0)]);
    let up = [Effect::Command(MEMORY), Effect::Bars, Effect::Command(MEMORY | 4)];
    assert_eq!(write16(&mut view, 4, MEMORY | 4), up, "bus master comes last");
    assert_eq!(write16(&mut view, 4, 4), [Effect::Bars, Effect::Command(4)]);
    let up = [Effect::Command(MEMORY | 4), Effect::Bars];
    assert_eq!(write16(&mut view, 4, MEMORY | 4), up, "it was bus master before");
    assert_eq!(write16(&mut view, 4, 0), [Effect::Bars, Effect::Command(0)]);
    assert_eq!(decoded(&view), []);
}

#[test]
fn a_bar_answers_nowhere_but_in_a_window() {
    let mut view = made().view();
    event(&mut view, windows());
    write16(&mut view, 4, MEMORY);
    let inside = |view: &mut ConfigView, address: u64| {
        place(view, BarIndex::Bar(2), address);
        !decoded(view).is_empty()
    };
    let [low, high] = WINDOWS;
    for address in [low.start, low.end - (1 << 20), high.start, high.end - (1 << 20)] {
        assert!(inside(&mut view, address), "{address:#x}");
    }
    for address in [
        0,
        0x10_0000,
        0xFEE0_0000,
        low.start - (1 << 20),
        low.end,
        high.start - (1 << 20),
        high.end,
        u64::MAX << 20,
    ] {
        assert!(!inside(&mut view, address), "{address:#x}");
    }
    inside(&mut view, low.start);
    let effects = event(&mut view, BusEvent::Windows(Windows::NONE));
    assert_eq!((effects, decoded(&view)), (vec![Effect::Bars], vec![]));
    let effects = event(&mut view, windows());
    assert_eq!((effects, decoded(&view).len()), (vec![Effect::Bars], 1));
}

#[test]
fn a_bar_of_which_a_part_is_in_a_window_answers_nowhere() {
    let mut view = Made::new().with_bar(0, 0x04, 8 << 20).view();
    write16(&mut view, 4, MEMORY);
    for (low, high) in [
        (0xC000_0000, 0xC07F_FFFF),
        (0xC010_0000, 0xC100_0000),
        (0xC000_0000, 0xC040_0000),
    ] {
        event(&mut view, BusEvent::Windows(Windows::new(low..high, 0..0)));
        place(&mut view, BarIndex::Bar(0), 0xC000_0000);
        assert_eq!(decoded(&view), [], "{low:#x} {high:#x}");
    }
    // Two windows are not one.
    event(
        &mut view,
        BusEvent::Windows(Windows::new(0xC000_0000..0xC040_0000, 0xC040_0000..0xC080_0000)),
    );
    assert_eq!(decoded(&view), []);
    event(
        &mut view,
        BusEvent::Windows(Windows::new(0xC000_0000..0xC080_0000, 0..0)),
    );
    assert_eq!(decoded(&view), [(BarIndex::Bar(0), 0xC000_0000..0xC080_0000)]);
}

#[test]
fn of_two_bars_at_one_place_the_first_answers() {
    let mut view = made().view();
    event(&mut view, windows());
    place(&mut view, BarIndex::Bar(0), 0xC000_0000);
    place(&mut view, BarIndex::Bar(2), 0xC000_0000);
    place(&mut view, BarIndex::Bar(5), 0xC000_3FF0);
    write32(&mut view, 0x30, 0xC000_0001);
    write16(&mut view, 4, MEMORY);
    assert_eq!(decoded(&view), [(BarIndex::Bar(0), 0xC000_0000..0xC000_4000)]);
    // When it goes the next one answers.
    place(&mut view, BarIndex::Bar(0), 0);
    assert_eq!(decoded(&view), [(BarIndex::Bar(2), 0xC000_0000..0xC010_0000)]);
}

#[test]
fn wide_bars_are_prefetchable_when_asked_for() {
    let mut made = Made::new().with_bar(0, 0x04, 4096).with_bar(2, 0x00, 4096);
    assert!(made.view().needs().iter().all(|need| !need.is_prefetchable));
    made.options.are_wide_bars_prefetchable = true;
    let view = made.view();
    let needs: Vec<_> = view.needs().iter().map(|need| need.is_prefetchable).collect();
    assert_eq!(needs, [true, false]);
    assert_eq!(u32_at(&view, 0x10), 0x0C);
}

#[test]
fn ports_are_never_decoded() {
    let mut view = Made::new().with_bar(0, 0x01, 256).view();
    assert!(is_nothing(view.write(4, &[1, 0])));
    assert_eq!(u16_at(&view, 4), 0);
    assert_eq!(write16(&mut view, 4, 0xFFFF), [Effect::Command(0x0546)]);
}
