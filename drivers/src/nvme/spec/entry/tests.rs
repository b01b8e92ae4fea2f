use super::*;
use proptest::prelude::*;

#[test]
fn fields_lie_where_the_specification_has_them() {
    let sqe = Sqe::new(Opcode::WRITE, 0x0102_0304)
        .with_cid(0xabcd)
        .with_fuse(Fuse::Second)
        .with_data(DataPointer::Sgl, 0x1111_1111_1111_1111, 0x2222_2222_2222_2222)
        .with_metadata(0x3333_3333_3333_3333)
        .with_cdw2(2)
        .with_cdw3(3)
        .with_cdw10(10)
        .with_cdw11(11)
        .with_cdw12(12)
        .with_cdw13(13)
        .with_cdw14(14)
        .with_cdw15(15);
    let bytes = sqe.as_bytes();
    assert_eq!(bytes[..8], [0x01, 0b0100_0010, 0xcd, 0xab, 4, 3, 2, 1]);
    assert_eq!(bytes[8..16], [2, 0, 0, 0, 3, 0, 0, 0]);
    assert_eq!(bytes[16..24], [0x33; 8]);
    assert_eq!(bytes[24..32], [0x11; 8]);
    assert_eq!(bytes[32..40], [0x22; 8]);
    for cdw in 10..16 {
        assert_eq!(bytes[cdw * 4..cdw * 4 + 4], [u8::try_from(cdw).unwrap(), 0, 0, 0]);
    }
    assert_eq!(
        (sqe.opcode(), sqe.nsid(), sqe.cid()),
        (Opcode::WRITE, 0x0102_0304, 0xabcd)
    );
    assert_eq!(
        (sqe.fuse(), sqe.data_pointer()),
        (Some(Fuse::Second), Some(DataPointer::Sgl))
    );
}

#[test]
fn a_completion_lies_where_the_specification_has_it() {
    let cqe = Cqe::new(
        0x0203,
        0x0405,
        0x0607,
        Status::LBA_OUT_OF_RANGE,
        true,
        0x1122_3344_5566_7788,
    );
    let expected = [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 5, 4, 3, 2, 7, 6, 1, 1];
    assert_eq!(cqe.as_bytes(), expected);
    assert!(Cqe::phase_of(cqe.words()[1]));
}

proptest! {
    #[test]
    fn any_completion_is_read_as_it_was_made(sq: u16, head: u16, cid: u16, status in 0..0x8000_u16, phase: bool, result: u64) {
        let cqe = Cqe::from_words(Cqe::new(sq, head, cid, Status(status), phase, result).words());
        prop_assert_eq!((cqe.sq_id(), cqe.sq_head(), cqe.cid()), (sq, head, cid));
        prop_assert_eq!((cqe.status(), cqe.phase(), cqe.result()), (Status(status), phase, result));
    }

    #[test]
    fn changing_a_field_leaves_the_others(words: [u64; 8], value: u32, cid: u16) {
        let sqe = Sqe::from_words(words);
        let changed = sqe.with_cdw12(value).with_cid(cid).with_cdw3(value);
        prop_assert_eq!((changed.cdw12(), changed.cid(), changed.cdw3()), (value, cid, value));
        let back = changed.with_cdw12(sqe.cdw12()).with_cid(sqe.cid()).with_cdw3(sqe.cdw3());
        prop_assert_eq!(back.words(), words);
    }
}
