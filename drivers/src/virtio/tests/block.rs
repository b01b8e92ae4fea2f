use super::*;
use crate::ErrorKind;
use crate::fake::virtio::Fault;
use crate::virtio::spec::{BlockFeatures, Features};
use crate::virtio::{Block, BlockOptions, BlockQueue, Completed, Request};
use crate::wait::Reactor;
use proptest::prelude::*;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

type Queue<T = DmaBuffer<Both>> = BlockQueue<FakeBacking, T>;

fn open(backing: &FakeBacking, options: BlockOptions) -> (Block<FakeBacking>, Vec<Queue>) {
    Block::open(backing.clone(), options).unwrap()
}

fn submit(queue: &mut Queue, request: Request, data: Option<DmaBuffer<Both>>) -> Completed<DmaBuffer<Both>> {
    queue.submit(request, data).unwrap();
    queue.kick();
    queue.pop_within(SECOND).unwrap().expect("an answer")
}

fn kinds() -> [Virtio; 4] {
    let without = |features: Features| Virtio::block(2048).without(features.bits());
    [
        Virtio::block(2048),
        without(Features::INDIRECT_DESC),
        without(Features::EVENT_IDX),
        without(Features::INDIRECT_DESC | Features::EVENT_IDX | Features::ORDER_PLATFORM),
    ]
}

#[test]
fn what_is_written_is_read_whatever_the_ring_and_the_waiting() {
    for kind in 0..4 {
        for interrupts in [false, true] {
            each(
                || kinds().into_iter().nth(kind).unwrap(),
                |backing, handle| {
                    let options = BlockOptions {
                        interrupts,
                        ..BlockOptions::default()
                    };
                    let (disk, mut queues) = open(&backing, options);
                    assert_eq!((disk.capacity(), disk.limits().block_size), (2048, 512));
                    let queue = &mut queues[0];
                    let wanted = pattern(4096, 3);
                    let done = submit(queue, Request::Write { sector: 16 }, Some(buffer(&backing, &wanted)));
                    done.result.unwrap();
                    assert_eq!(handle.disk()[16 * 512..24 * 512], wanted[..]);
                    submit(queue, Request::Flush, None).result.unwrap();
                    let done = submit(queue, Request::Read { sector: 16 }, Some(buffer(&backing, &[0; 4096])));
                    done.result.unwrap();
                    assert_eq!(bytes(&done.data.unwrap()), wanted);
                    assert_eq!(handle.interrupts() > 0, interrupts);
                },
            );
        }
    }
}

#[test]
fn it_zeroes_discards_and_says_its_name() {
    each(
        || Virtio::block(64),
        |backing, handle| {
            let (_disk, mut queues) = open(&backing, BlockOptions::default());
            let queue = &mut queues[0];
            submit(queue, Request::Write { sector: 0 }, Some(buffer(&backing, &[7; 2048])))
                .result
                .unwrap();
            let zeroes = Request::WriteZeroes {
                sector: 1,
                sectors: 1,
                unmap: true,
            };
            submit(queue, zeroes, None).result.unwrap();
            submit(queue, Request::Discard { sector: 2, sectors: 1 }, None)
                .result
                .unwrap();
            let disk = handle.disk();
            assert_eq!((disk[511], disk[512], disk[1024], disk[1536]), (7, 0, 0xdd, 7));
            let done = submit(queue, Request::Identify, Some(buffer(&backing, &[0xff; 20])));
            assert_eq!(&bytes(&done.data.unwrap()), b"a disk in memory\0\0\0\0");
        },
    );
}

#[test]
fn many_requests_cost_one_notification_and_a_full_queue_says_so() {
    each(
        || Virtio::block(2048),
        |backing, handle| {
            let (_disk, mut queues) = open(&backing, BlockOptions::default());
            let queue = &mut queues[1 - 1];
            let depth = queue.room();
            for index in 0..depth {
                let data = buffer(&backing, &pattern(512, index as u8));
                let request = Request::Write { sector: index as u64 };
                queue.submit(request, Some(data)).unwrap();
            }
            let refused = queue.submit(Request::Flush, None).unwrap_err();
            assert!(matches!(refused.error.kind, ErrorKind::Busy));
            queue.kick();
            queue.kick();
            assert_eq!((handle.notifications(), queue.in_flight()), (1, depth));
            for _ in 0..depth {
                queue.pop_within(SECOND).unwrap().unwrap().result.unwrap();
            }
            assert_eq!(queue.room(), depth);
            assert_eq!(handle.disk()[5 * 512..6 * 512], pattern(512, 5));
        },
    );
}

#[test]
fn queues_work_on_threads_of_their_own() {
    each(
        || Virtio::block(4096),
        |backing, _| {
            let options = BlockOptions {
                queues: 5,
                ..BlockOptions::default()
            };
            let (disk, queues) = open(&backing, options);
            assert_eq!(queues.len(), 2);
            std::thread::scope(|scope| {
                for (nth, mut queue) in queues.into_iter().enumerate() {
                    let backing = &backing;
                    scope.spawn(move || {
                        for round in 0..40 {
                            let sector = (nth * 1000 + round) as u64;
                            let wanted = pattern(512, round as u8);
                            submit(&mut queue, Request::Write { sector }, Some(buffer(backing, &wanted)))
                                .result
                                .unwrap();
                            let done = submit(&mut queue, Request::Read { sector }, Some(buffer(backing, &[0; 512])));
                            assert_eq!(bytes(&done.data.unwrap()), wanted);
                        }
                    });
                }
            });
            disk.check().unwrap();
        },
    );
}

#[test]
fn a_future_is_ready_when_a_request_is_done() {
    each(
        || Virtio::block(64),
        |backing, _| {
            let options = BlockOptions {
                interrupts: true,
                ..BlockOptions::default()
            };
            let (_disk, mut queues) = open(&backing, options);
            let reactor = Reactor::new().unwrap();
            let mut signals = reactor.watch(queues[0].event().unwrap()).unwrap();
            queues[0].submit(Request::Flush, None).unwrap();
            queues[0].kick();
            {
                let mut ready = pin!(queues[0].ready(&mut signals));
                let mut context = Context::from_waker(Waker::noop());
                assert!(ready.as_mut().poll(&mut context).is_pending());
                backing.poke();
                loop {
                    if let Poll::Ready(result) = ready.as_mut().poll(&mut context) {
                        result.unwrap();
                        break;
                    }
                    std::thread::yield_now();
                }
            }
            assert!(queues[0].pop().unwrap().is_some());
        },
    );
}

#[test]
fn what_makes_no_sense_or_is_not_there_is_refused_with_its_data() {
    each(
        || Virtio::block(64).without((BlockFeatures::FLUSH | BlockFeatures::DISCARD).bits()),
        |backing, _| {
            let (disk, mut queues) = open(&backing, BlockOptions::default());
            assert_eq!(disk.limits().pieces, 6);
            for (request, len) in [
                (Request::Read { sector: 63 }, 1024),
                (Request::Read { sector: u64::MAX }, 512),
                (Request::Write { sector: 0 }, 100),
                (Request::Flush, 512),
                (Request::Discard { sector: 0, sectors: 1 }, 0),
                (Request::Identify, 512),
                (Request::Read { sector: 0 }, 0),
                (
                    Request::WriteZeroes {
                        sector: 60,
                        sectors: 5,
                        unmap: false,
                    },
                    0,
                ),
            ] {
                let data = (len > 0).then(|| buffer(&backing, &vec![0; len]));
                let refused = queues[0].submit(request, data).unwrap_err();
                assert_eq!(refused.payload.map_or(0, |data| data.len()), len, "{request:?}");
            }
            assert_eq!(queues[0].in_flight(), 0);
        },
    );
    each(
        || Virtio::block(64).with(BlockFeatures::RO.bits()),
        |backing, _| {
            let (_disk, mut queues) = open(&backing, BlockOptions::default());
            let data = buffer(&backing, &[0; 512]);
            let refused = queues[0].submit(Request::Write { sector: 0 }, Some(data)).unwrap_err();
            assert!(matches!(refused.error.kind, ErrorKind::Unsupported(_)));
        },
    );
}

#[test]
fn a_direction_that_a_buffer_does_not_have_is_refused() {
    let backing = FakeBacking::new(Virtio::block(64)).unwrap();
    let (_disk, mut queues) = Block::open(backing.clone(), BlockOptions::default()).unwrap();
    let data = DmaBuffer::<iommu::buffer::ToDevice>::new(backing.space(), 512, &BufferOptions::default()).unwrap();
    let refused = queues[0].submit(Request::Read { sector: 0 }, Some(data)).unwrap_err();
    queues[0].submit(Request::Write { sector: 0 }, refused.payload).unwrap();
}

#[test]
fn errors_of_the_disk_come_with_the_data() {
    for fault in [Fault::DiskError, Fault::NoStatus] {
        each(
            || Virtio::block(64).faulty(fault),
            |backing, handle| {
                let (_disk, mut queues) = open(&backing, BlockOptions::default());
                let done = submit(
                    &mut queues[0],
                    Request::Read { sector: 0 },
                    Some(buffer(&backing, &[0; 512])),
                );
                assert!(matches!(done.result.unwrap_err().kind, ErrorKind::Refused(_)));
                assert!(done.data.is_some());
                handle.set(fault, false);
                submit(&mut queues[0], Request::Flush, None).result.unwrap();
            },
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn data_in_pieces_is_the_same_data(
        kind in 0..4_usize,
        writes in prop::collection::vec((0..50_u64, prop::collection::vec(1..4_usize, 1..7)), 1..20),
    ) {
        let device = kinds().into_iter().nth(kind).unwrap();
        let handle = device.handle();
        let backing = FakeBacking::new(device).unwrap();
        let (_disk, mut queues) = Block::open::<Vec<DmaBuffer<Both>>>(backing.clone(), BlockOptions::default()).unwrap();
        let mut expected = handle.disk();
        for (seed, (sector, pieces)) in writes.into_iter().enumerate() {
            let all = pattern(512 * pieces.iter().sum::<usize>(), seed as u8);
            let mut rest = all.as_slice();
            let data = pieces.iter().map(|sectors| {
                let (now, later) = rest.split_at(512 * sectors);
                rest = later;
                buffer(&backing, now)
            });
            let data = data.collect();
            queues[0].submit(Request::Write { sector }, Some(data)).unwrap();
            queues[0].kick();
            queues[0].pop_within(SECOND).unwrap().unwrap().result.unwrap();
            let start = sector as usize * 512;
            expected[start..start + all.len()].copy_from_slice(&all);
        }
        prop_assert_eq!(handle.disk(), expected);
        prop_assert_eq!(handle.mistakes(), Vec::<String>::new());
    }
}
