//! Devices that lie.

use super::*;
use crate::fake::virtio::Fault;
use crate::virtio::data::segments;
use crate::virtio::spec::{Features, block, net};
use crate::virtio::{Block, BlockOptions, Data, Frame, Net, NetOptions, Request};
use crate::{Error, ErrorKind};
use iommu::Iova;
use proptest::prelude::*;
use vfio_core::Access;

#[test]
fn every_lie_about_a_chain_ends_the_device_and_keeps_the_buffers() {
    for fault in [Fault::UnknownChain, Fault::DoneTwice, Fault::TooLong, Fault::IndexJumps] {
        each(
            || Virtio::block(64).faulty(fault),
            |backing, _| {
                let (disk, mut queues) = Block::open(backing.clone(), BlockOptions::default()).unwrap();
                let queue = &mut queues[0];
                for sector in 0..2 {
                    let data = buffer(&backing, &[0; 512]);
                    queue.submit(Request::Read { sector }, Some(data)).unwrap();
                }
                queue.kick();
                backing.poke();
                let mut came_back = 0;
                let error = loop {
                    match queue.pop() {
                        Ok(Some(_)) => came_back += 1,
                        Ok(None) => panic!("{fault:?} was not noticed"),
                        Err(error) => break error,
                    }
                };
                assert!(matches!(error.kind, ErrorKind::Failed(_)), "{fault:?}: {error}");
                assert!(queue.submit(Request::Flush, None).is_err());
                disk.stop().unwrap();
                assert_eq!(queue.take_back().unwrap().len() + came_back, 2, "{fault:?}");
            },
        );
    }
}

#[test]
fn a_disk_without_sense_is_refused() {
    let bytes = |offset: usize, value: u32| value.to_le_bytes().into_iter().zip(offset..).collect::<Vec<_>>();
    for wrong in [
        bytes(block::BLK_SIZE, 0),
        bytes(block::BLK_SIZE, 1),
        bytes(block::BLK_SIZE, 4095),
        bytes(block::CAPACITY + 4, u32::MAX),
    ] {
        let device = Virtio::block(64);
        for (byte, offset) in wrong {
            device.handle().configure(offset, byte);
        }
        let backing = FakeBacking::new(device).unwrap();
        let error = Block::open::<DmaBuffer<Both>>(backing, BlockOptions::default()).unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Failed(_)), "{error}");
    }
}

/// Says that it has memory which it does not have.
#[derive(Debug)]
struct Claims(Vec<u64>);

impl Data for Claims {
    fn access(&self) -> Access {
        Access::READ | Access::WRITE
    }

    fn segment(&self, index: usize) -> Option<(Iova, u64)> {
        Some((Iova(0), *self.0.get(index)?))
    }
}

#[test]
fn a_request_never_has_4_gib() {
    let device = Virtio::block(64);
    device.handle().configure(block::CAPACITY + 3, 1);
    let (_disk, mut queues) = Block::open(FakeBacking::new(device).unwrap(), BlockOptions::default()).unwrap();
    for request in [Request::Write { sector: 0 }, Request::Read { sector: 0 }] {
        for claims in [vec![1 << 31, 1 << 31], vec![1 << 40], vec![0xffff_fe00, 0x200]] {
            let refused = queues[0].submit(request, Some(Claims(claims))).unwrap_err();
            assert!(matches!(refused.error.kind, ErrorKind::Invalid(_)));
        }
    }
}

#[test]
fn no_piece_of_a_part_is_lost() {
    let parts = vec![
        Claims(vec![1, 2]),
        Claims(vec![]),
        Claims(vec![3]),
        Claims(vec![4, 5, 6]),
    ];
    let lens: Vec<u64> = segments(&parts).map(|(_, len)| len).collect();
    assert_eq!(lens, [1, 2, 3, 4, 5, 6]);
    assert_eq!(parts.segment(6), None);
}

fn features() -> impl Strategy<Value = Features> {
    prop_oneof![
        Just(Features::empty()),
        Just(Features::INDIRECT_DESC),
        Just(Features::EVENT_IDX),
        Just(Features::INDIRECT_DESC | Features::EVENT_IDX),
    ]
}

/// Mostly near to the truth.
fn lies() -> impl Strategy<Value = Vec<(u32, u32, u16)>> {
    let id = prop_oneof![8 => 0..70_u32, 1 => any::<u32>()];
    let len = prop_oneof![8 => 0..1600_u32, 1 => any::<u32>()];
    let step = prop_oneof![8 => Just(1_u16), 2 => 0..4_u16, 1 => any::<u16>()];
    prop::collection::vec((id, len, step), 1..40)
}

fn is_an_answer(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Failed(_) | ErrorKind::Refused(_))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn no_used_ring_panics_the_disk_or_loses_a_buffer(without in features(), lies in lies()) {
        let device = Virtio::block(64).without(without.bits());
        let handle = device.handle();
        let backing = FakeBacking::new(device).unwrap();
        let (disk, mut queues) = Block::open(backing.clone(), BlockOptions { depth: 16, ..BlockOptions::default() }).unwrap();
        handle.script(lies);
        let queue = &mut queues[0];
        let (mut submitted, mut came_back) = (0, 0);
        for round in 0..30_u64 {
            let data = buffer(&backing, &[0; 512]);
            submitted += usize::from(queue.submit(Request::Read { sector: round % 64 }, Some(data)).is_ok());
            queue.kick();
            backing.poke();
            match queue.pop() {
                Ok(Some(done)) => {
                    came_back += 1;
                    prop_assert!(done.data.is_some());
                    prop_assert!(done.result.as_ref().err().is_none_or(is_an_answer));
                }
                Ok(None) => {}
                Err(error) => prop_assert!(is_an_answer(&error)),
            }
        }
        disk.stop().unwrap();
        prop_assert_eq!(queue.take_back().unwrap().len() + came_back, submitted);
    }

    #[test]
    fn no_used_ring_panics_the_card(mergeable: bool, lies in lies()) {
        let device = Virtio::net(MAC);
        let handle = device.handle();
        let backing = FakeBacking::new(device).unwrap();
        let options = NetOptions { depth: 8, mergeable, ..NetOptions::default() };
        let (net, mut rx, mut tx) = Net::open(backing.clone(), options).unwrap();
        handle.script(lies);
        for _ in 0..30 {
            if rx.room() > 0 {
                let _refused = rx.post(buffer(&backing, &[0; 2048]));
                rx.kick();
            }
            if tx.room() > 0 {
                let frame = Frame { buffer: buffer(&backing, &[1; 64]), start: 0, len: 64, header: net::Header::default() };
                let _refused = tx.push(frame);
                tx.kick();
            }
            backing.poke();
            for error in [rx.pop().err(), tx.reap().err()].into_iter().flatten() {
                prop_assert!(is_an_answer(&error));
            }
        }
        net.stop().unwrap();
        rx.take_back().unwrap();
        tx.take_back().unwrap();
    }
}
