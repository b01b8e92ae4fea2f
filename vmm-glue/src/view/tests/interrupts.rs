//! INTx, MSI and MSI-X.

use super::*;
use crate::interrupt::MsiMessage;

const MSI: u16 = 0x50;
const MSIX: u16 = 0xB2;
const MSIX_ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
const TABLE: u64 = 0x1000;
const PENDING: u64 = 0x1800;

fn message(data: u32) -> MsiMessage {
    MsiMessage {
        address: 0xFEE0_1000,
        data,
    }
}

fn program(view: &mut ConfigView, number: u64, data: u32, control: u32) -> Option<u16> {
    let msix = view.msix_mut().unwrap();
    let at = TABLE + 16 * number;
    msix.write(0, at, &0xFEE0_1000_u64.to_le_bytes());
    let high = u64::from(control) << 32 | u64::from(data);
    msix.write(0, at + 8, &high.to_le_bytes())
}

fn pending(view: &ConfigView) -> u8 {
    let mut byte = [0];
    assert!(view.msix().unwrap().read(0, PENDING, &mut byte));
    byte[0]
}

#[test]
fn the_kind_of_interrupts_is_what_the_guest_has_enabled() {
    let mut view = usual().view();
    assert_eq!((view.interrupts(), view.interrupt_pin()), (Interrupts::Intx, Some(1)));
    assert_eq!(
        write16(&mut view, 4, 1 << 10),
        [Effect::Command(1 << 10), Effect::Interrupts]
    );
    assert_eq!(view.interrupts(), Interrupts::None);
    assert_eq!(write16(&mut view, MSI + 2, 1), [Effect::Interrupts]);
    assert_eq!(view.interrupts(), Interrupts::Msi);
    assert_eq!(write16(&mut view, MSIX, MSIX_ENABLE), [Effect::Interrupts]);
    assert_eq!(view.interrupts(), Interrupts::Msix);
    assert_eq!(write16(&mut view, MSI + 2, 0), []);
    assert_eq!(write16(&mut view, 4, 0), [Effect::Command(0)]);
    assert_eq!(write16(&mut view, MSIX, 0), [Effect::Interrupts]);
    assert_eq!(view.interrupts(), Interrupts::Intx);
}

#[test]
fn a_function_whose_pin_leads_nowhere_has_none() {
    let mut made = usual();
    made.options.has_intx = false;
    let view = made.view();
    assert_eq!((view.interrupts(), view.interrupt_pin()), (Interrupts::None, None));
    assert_eq!(read(&view, 0x3D), [0]);
    assert_eq!(read(&view, 0x06), [OWN & !8 | 0x10], "nor is one asserted");
    made.options.has_intx = true;
    for pin in [0, 5, 0xFF] {
        made.poke(0x3D, &[pin]);
        assert_eq!(made.view().interrupt_pin(), None);
    }
}

#[test]
fn each_vector_of_msi_has_the_message_and_its_number() {
    let mut view = usual().view();
    assert_eq!(u16_at(&view, MSI + 2), 0x0186);
    write32(&mut view, MSI + 4, 0xFEE0_1003);
    write32(&mut view, MSI + 8, 0);
    write16(&mut view, MSI + 0xC, 0x4F);
    assert_eq!(view.vectors(), 0);
    write16(&mut view, MSI + 2, 0x0021);
    assert_eq!(view.vectors(), 4);
    let live: Vec<_> = (0..5).map(|number| view.vector(number)).collect();
    let expected = [0x4C, 0x4D, 0x4E, 0x4F].map(|data| Vector::Live(message(data)));
    assert_eq!(live[..4], expected);
    assert_eq!(live[4], Vector::Off);
    assert_eq!(write16(&mut view, MSI + 0xC, 0x51), [Effect::Msi]);
    assert_eq!(write16(&mut view, MSI + 0xC, 0x51), []);
    // More than the function has.
    write16(&mut view, MSI + 2, 0x0071);
    assert_eq!((view.vectors(), u16_at(&view, MSI + 2) & 0x70), (8, 0x70));
}

#[test]
fn masked_vectors_of_msi_are_pending_as_their_holder_says() {
    let mut view = usual().view();
    write16(&mut view, MSI + 2, 0x0031);
    assert_eq!(write32(&mut view, MSI + 0x10, 0xFFFF_FFFE), [Effect::Msi]);
    assert_eq!(u32_at(&view, MSI + 0x10), 0xFE, "eight vectors");
    assert_eq!(
        (view.vector(0), view.vector(1)),
        (Vector::Live(MsiMessage::default()), Vector::Masked)
    );
    view.set_pending(1, true);
    view.set_pending(7, true);
    view.set_pending(8, true);
    view.set_pending(u16::MAX, true);
    assert_eq!(u32_at(&view, MSI + 0x14), 0x82);
    assert!(is_nothing(view.write(MSI + 0x14, &[0xFF; 4])));
    assert_eq!(u32_at(&view, MSI + 0x14), 0x82, "pending bits are read-only");
    assert_eq!(write32(&mut view, MSI + 0x10, 0), [Effect::Msi]);
    view.set_pending(1, false);
    assert_eq!(u32_at(&view, MSI + 0x14), 0x80);
}

#[test]
fn nothing_is_pending_after_a_reset() {
    let mut view = usual().view();
    write16(&mut view, MSI + 2, 0x0031);
    write32(&mut view, MSI + 0x10, 0xFF);
    view.set_pending(3, true);
    assert!(!is_nothing(view.reset()));
    assert_eq!([u32_at(&view, MSI + 0x10), u32_at(&view, MSI + 0x14)], [0, 0]);
    write16(&mut view, MSI + 2, 0x0031);
    assert_eq!(u32_at(&view, MSI + 0x14), 0);
}

#[test]
fn every_layout_of_msi_has_its_registers_and_no_others() {
    for (control, len) in [(0x0000_u16, 10), (0x0080, 14), (0x0100, 20), (0x0180, 24), (0x060E, 10)] {
        let [low, high] = control.to_le_bytes();
        let view = |end: u8| {
            let made = Made::new()
                .with(0x40, &[0x05, 0, low, high])
                .with(0x40 + end, &[0x09, 0, 4]);
            made.view()
        };
        let mut fits = view((len + 2) & !3);
        write16(&mut fits, 0x42, 0xFFFF);
        assert_eq!(fits.interrupts(), Interrupts::Msi, "{control:#x}");
        let capable = control & 0x0E;
        assert_eq!(u16_at(&fits, 0x42), control & 0x0180 | capable.min(10) | 0x71);
        assert_eq!(fits.vectors(), 1 << (capable.min(10) >> 1));
        // Extended data are not offered.
        let cut_off = view((len - 1) & !3);
        assert_eq!(read(&cut_off, 0x40), [0; 4], "{control:#x}");
    }
}

#[test]
fn a_vector_of_msix_lives_while_nothing_masks_it() {
    let mut view = usual().view();
    assert_eq!(program(&mut view, 2, 0x33, 0), None, "MSI-X is off");
    assert_eq!(view.vector(2), Vector::Off);
    assert_eq!(
        write16(&mut view, MSIX, MSIX_ENABLE | FUNCTION_MASK),
        [Effect::Interrupts]
    );
    assert_eq!((view.vectors(), view.vector(2)), (4, Vector::Masked));
    view.set_pending(2, true);
    assert_eq!(pending(&view), 4);
    assert_eq!(write16(&mut view, MSIX, MSIX_ENABLE), [Effect::Msix]);
    assert_eq!(view.vector(2), Vector::Live(message(0x33)));
    view.set_pending(2, false);
    view.set_pending(4, true);
    assert_eq!(pending(&view), 0);
    assert_eq!([0, 1, 3].map(|number| view.vector(number)), [Vector::Masked; 3]);
    assert_eq!(view.vector(4), Vector::Off);
    // A change of the message is one, a mask is one, a message behind a mask is none.
    assert_eq!(program(&mut view, 2, 0x34, 0), Some(2));
    assert_eq!(program(&mut view, 2, 0x34, 0), None);
    assert_eq!(program(&mut view, 2, 0x34, 1), Some(2));
    assert_eq!(program(&mut view, 2, 0x35, 1), None);
    assert_eq!(u16_at(&view, MSIX), MSIX_ENABLE | 3);
}

#[test]
fn only_whole_words_of_the_table_are_written() {
    let mut view = usual().view();
    write16(&mut view, MSIX, MSIX_ENABLE);
    let msix = view.msix_mut().unwrap();
    for (offset, len) in [
        (0, 1),
        (0, 2),
        (1, 4),
        (2, 4),
        (4, 8),
        (12, 8),
        (0, 3),
        (0, 16),
        (0, 0),
        (64, 4),
    ] {
        assert_eq!(msix.write(0, TABLE + offset, &vec![0xFF; len]), None);
    }
    assert_eq!(msix.write(1, TABLE, &[0xFF; 4]), None, "another BAR");
    assert_eq!(msix.write(0, PENDING, &[0xFF; 4]), None);
    assert_eq!(msix.write(0, 0, &[0xFF; 4]), None);
    assert_eq!(msix.write(0, u64::MAX, &[0xFF; 4]), None);
    let mut entry = [0; 16];
    assert!(msix.read(0, TABLE, &mut entry));
    assert_eq!(entry, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(msix.write(0, TABLE + 12, &[0; 4]), Some(0));
    msix.write(0, TABLE, &[0xFF; 8]);
    msix.write(0, TABLE + 8, &[0xFF; 8]);
    assert!(msix.read(0, TABLE, &mut entry));
    let ones = [
        0xFC, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0,
    ];
    assert_eq!(entry, ones);
    assert!(!msix.read(0, 0, &mut entry) && !msix.read(1, TABLE, &mut entry));
    assert_eq!(entry, ones, "what is not MSI-X's is left alone");
    // Across its beginning: what is not the table's reads as zeros.
    let mut across = [9; 8];
    assert!(msix.read(0, TABLE - 4, &mut across));
    assert_eq!(across, [0, 0, 0, 0, 0xFC, 0xFF, 0xFF, 0xFF]);
}

#[test]
fn a_table_that_is_not_in_a_bar_is_no_msix() {
    let has_msix = |table: u32, pending: u32, vectors: u16| {
        let mut made = Made::new()
            .with(0x40, &[0x11, 0])
            .with_bar(0, 0x00, 0x4000)
            .with_bar(2, 0x04, 0x1000);
        made.poke(0x42, &(vectors - 1).to_le_bytes());
        made.poke(0x44, &table.to_le_bytes());
        made.poke(0x48, &pending.to_le_bytes());
        let view = made.view();
        assert_eq!(read::<1>(&view, 0x40)[0] == 0x11, view.msix().is_some());
        view.msix().is_some()
    };
    assert!(has_msix(0, 0x3FF8, 64));
    assert!(has_msix(0, 0x3F00, 1008), "up to the pending bits");
    assert!(!has_msix(0, 0x3F00, 1009), "over them");
    assert!(!has_msix(0, 0x3FF8, 65), "two words of pending bits beyond the end");
    assert!(!has_msix(0x3FF8, 0, 1));
    assert!(!has_msix(0, 0, 1));
    assert!(has_msix(2, 0, 256), "a BAR of 64 bits");
    assert!(!has_msix(2, 0, 257));
    for none in [1, 3, 4, 5, 6, 7] {
        assert!(!has_msix(none, 0x1000, 1), "BAR {none}");
        assert!(!has_msix(0, none, 1), "BAR {none}");
    }
    assert!(!has_msix(0xFFFF_FFF8, 0, 2048));
}

#[test]
fn a_write_to_the_table_touches_one_vector() {
    let mut made = usual();
    made.poke(0xB2, &2047_u16.to_le_bytes());
    made.poke(0xB4, &[0, 0, 1, 0, 0, 0, 0, 0]);
    made.device.bar_sizes[0] = 1 << 20;
    let mut view = made.view();
    write16(&mut view, MSIX, MSIX_ENABLE);
    let msix = view.msix_mut().unwrap();
    for number in 0..2048 {
        let at = 0x1_0000 + 16 * u64::from(number);
        assert_eq!(msix.write(0, at + 12, &[0; 4]), Some(number));
        let live = (0..2048).filter(|number| msix.vector(*number) != Vector::Masked);
        assert_eq!(live.count(), usize::from(number) + 1);
    }
}
