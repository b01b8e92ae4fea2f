//! Threads, futures and interrupts.

use crate::{Bench, Queue, both, one};
use drivers::Backing;
use drivers::fake::nvme::{Event, Interrupts, Options};
use drivers::nvme::spec::Status;
use drivers::nvme::{Command, Interrupt, QueueOptions};
use drivers::wait::Reactor;
use iommu::buffer::{Both, DmaBuffer};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

#[test]
fn each_way_of_hearing_works_with_each_kind_of_interrupt() {
    both(|interface| {
        for interrupts in [Interrupts::Msix(3), Interrupts::Msi(4), Interrupts::Intx] {
            let options = Options {
                interrupts,
                latency: 40..60,
                ..Options::default()
            };
            let bench = Bench::new(interface, options);
            let namespace = bench.controller.namespace(1).unwrap();
            let vector = u16::from(interrupts != Interrupts::Intx);
            for interrupt in [
                Interrupt::Off,
                Interrupt::Vector(vector),
                Interrupt::Adaptive {
                    vector,
                    poll: Duration::from_micros(100),
                },
                Interrupt::Adaptive {
                    vector,
                    poll: Duration::from_secs(1),
                },
            ] {
                let mut queue: Queue = bench.queue(QueueOptions {
                    interrupt,
                    ..QueueOptions::default()
                });
                let before = bench.nvme.counts().interrupts;
                for _ in 0..5 {
                    queue.read(&namespace, 0, 1, bench.buffer(512)).unwrap();
                    assert_eq!(one(&mut queue).status, Status::SUCCESS, "{interrupt:?}");
                }
                assert!(queue.wait(Some(Duration::from_micros(300))).unwrap().is_none());
                let count = bench.nvme.counts().interrupts - before;
                match interrupt {
                    Interrupt::Off => assert_eq!(count, 0),
                    _ => assert!(count > 0, "{interrupt:?}: {count}"),
                }
            }
            bench.end();
        }
    });
}

#[test]
fn doorbells_are_rung_for_many_at_a_time() {
    let abilities = drivers::fake::nvme::Abilities::all() - drivers::fake::nvme::Abilities::DOORBELL_BUFFERS;
    let bench = Bench::new(
        drivers::fake::Interface::Iommufd,
        Options {
            abilities,
            ..Options::default()
        },
    );
    let namespace = bench.controller.namespace(1).unwrap();
    let mut queue: Queue = bench.queue(QueueOptions {
        depth: 64,
        ..QueueOptions::default()
    });
    bench.backing.poke();
    let before = bench.nvme.counts();
    for _ in 0..64 {
        queue.submit(&Command::flush(&namespace), None).unwrap();
    }
    bench.backing.poke();
    assert_eq!(bench.nvme.counts(), before, "nothing before the doorbell");
    for _ in 0..64 {
        drop(one(&mut queue));
    }
    // One for all submissions; the controller has more room for completions than there can be, so it need not hear of each.
    assert_eq!(bench.nvme.counts().doorbells - before.doorbells, 1);
    for _ in 0..1000 {
        queue.submit(&Command::flush(&namespace), None).unwrap();
        drop(one(&mut queue));
    }
    let rung = bench.nvme.counts().doorbells - before.doorbells - 1;
    assert!((1000..1010).contains(&rung), "{rung}");
    drop(queue);
    bench.end();
}

#[test]
fn every_thread_has_a_queue_of_its_own() {
    let bench = Bench::usual();
    let namespace = bench.controller.namespace(1).unwrap();
    let _device = bench.backing.run().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let interrupt = if thread % 2 == 0 {
                Interrupt::Off
            } else {
                Interrupt::Vector(thread.into())
            };
            let mut queue: Queue = bench.queue(QueueOptions {
                depth: 8,
                interrupt,
                ..QueueOptions::default()
            });
            let mut buffers: Vec<_> = (0..8).map(|_| bench.filled(&[thread; 1024])).collect();
            let namespace = &namespace;
            scope.spawn(move || {
                let (mut submitted, mut done) = (0_u64, 0);
                while done < 500 {
                    while submitted < 500
                        && let Some(buffer) = buffers.pop()
                    {
                        let lba = u64::from(thread) * 10_000 + submitted * 2;
                        queue.write(namespace, lba, 2, buffer).unwrap();
                        submitted += 1;
                    }
                    let completion = queue.wait(None).unwrap().unwrap();
                    assert_eq!(completion.status, Status::SUCCESS);
                    buffers.extend(completion.payload);
                    done += 1;
                }
            });
        }
    });
    drop(_device);
    for thread in 0..4_u8 {
        let blocks = bench.nvme.blocks(1, u64::from(thread) * 10_000, 1000).unwrap();
        assert!(blocks.iter().all(|byte| *byte == thread));
    }
    bench.end();
}

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return value;
        }
        std::thread::park();
    }
}

#[test]
fn a_future_is_woken_for_completions() {
    for interrupts in [Interrupts::Msix(3), Interrupts::Intx] {
        let bench = Bench::new(
            drivers::fake::Interface::Iommufd,
            Options {
                interrupts,
                ..Options::default()
            },
        );
        let namespace = bench.controller.namespace(1).unwrap();
        let reactor = Reactor::new().unwrap();
        let vector = u16::from(interrupts != Interrupts::Intx);
        let options = QueueOptions {
            interrupt: Interrupt::Vector(vector),
            ..QueueOptions::default()
        };
        let mut queue: Queue = bench.queue(options);
        let mut signals = reactor.watch(queue.event().unwrap()).unwrap();
        let device = bench.backing.run().unwrap();
        for round in 0..200_u8 {
            let buffers = [bench.filled(&[round; 512]), bench.filled(&[round; 512])];
            for (lba, buffer) in (0..).zip(buffers) {
                queue.write(&namespace, lba, 1, buffer).unwrap();
            }
            block_on(async {
                for _ in 0..2 {
                    let written = queue.next(&mut signals).await.unwrap();
                    assert_eq!(written.status, Status::SUCCESS);
                }
            });
        }
        assert_eq!(bench.nvme.blocks(1, 0, 2).unwrap(), [199; 1024]);
        drop((device, queue, signals));
        bench.end();
    }
}

#[test]
fn a_queue_without_an_interrupt_has_no_event() {
    let bench = Bench::usual();
    let queue: Queue<DmaBuffer<Both>> = bench.queue(QueueOptions::default());
    assert!(queue.event().is_none());
    assert!(bench.backing.bdf().is_some());
    drop(queue);
    bench.end();
}

struct Tell(mpsc::Sender<()>);

impl Wake for Tell {
    fn wake(self: Arc<Self>) {
        // A task that is over is woken in vain.
        self.0.send(()).unwrap_or_default();
    }
}

fn teller() -> (Waker, mpsc::Receiver<()>) {
    let (sender, woken) = mpsc::channel();
    (Waker::from(Arc::new(Tell(sender))), woken)
}

/// Long enough for any machine.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn a_future_is_woken_for_a_removal() {
    let bench = Bench::usual();
    let reactor = Reactor::new().unwrap();
    let mut queue: Queue = bench.queue(QueueOptions {
        interrupt: Interrupt::Vector(1),
        ..QueueOptions::default()
    });
    let mut signals = queue.signals(&reactor).unwrap();
    let (waker, woken) = teller();
    let mut context = Context::from_waker(&waker);
    assert!(queue.poll_next(&mut context, &mut signals).is_pending());
    bench.backing.machine().request_release(bench.backing.bdf().unwrap());
    woken.recv_timeout(SOON).unwrap();
    let ended = queue.poll_next(&mut context, &mut signals);
    assert!(matches!(ended, Poll::Ready(Err(error)) if error.is_gone()));
    drop((queue, signals));
    bench.end();
}

#[test]
fn a_future_of_a_queue_whose_vector_was_off_is_woken() {
    let bench = Bench::new(
        drivers::fake::Interface::Iommufd,
        Options {
            latency: 100..101,
            ..Options::default()
        },
    );
    let namespace = bench.controller.namespace(1).unwrap();
    let reactor = Reactor::new().unwrap();
    let mut queue: Queue = bench.queue(QueueOptions {
        interrupt: Interrupt::Adaptive {
            vector: 1,
            poll: Duration::from_micros(50),
        },
        ..QueueOptions::default()
    });
    // Blocked, and polls again: the vector is off.
    queue.read(&namespace, 0, 1, bench.buffer(512)).unwrap();
    drop(one(&mut queue));
    let mut signals = queue.signals(&reactor).unwrap();
    let (waker, woken) = teller();
    let mut context = Context::from_waker(&waker);
    // What was signalled before.
    while queue.poll_next(&mut context, &mut signals).is_pending() && woken.try_recv().is_ok() {}
    queue.read(&namespace, 0, 1, bench.buffer(512)).unwrap();
    assert!(queue.poll_next(&mut context, &mut signals).is_pending());
    for _ in 0..200 {
        bench.backing.poke();
    }
    woken.recv_timeout(SOON).unwrap();
    assert!(matches!(
        queue.poll_next(&mut context, &mut signals),
        Poll::Ready(Ok(completion)) if completion.status.is_success()
    ));
    drop((queue, signals));
    bench.end();
}

#[test]
fn a_vector_has_one_queue_and_the_first_none() {
    let bench = Bench::usual();
    let with = |vector| QueueOptions {
        interrupt: Interrupt::Vector(vector),
        ..QueueOptions::default()
    };
    let refused = |vector| {
        bench
            .controller
            .queue_pair::<DmaBuffer<Both>>(with(vector))
            .map(drop)
            .unwrap_err()
    };
    assert!(refused(0).to_string().contains("admin"));
    let queue: Queue = bench.queue(with(1));
    assert!(refused(1).to_string().contains("another queue"));
    drop(queue);
    drop(bench.queue::<DmaBuffer<Both>>(with(1)));
    bench.end();
}

#[test]
fn a_pin_that_an_event_has_asserted_is_let_go_by_who_waits_for_it() {
    let bench = Bench::new(
        drivers::fake::Interface::Iommufd,
        Options {
            interrupts: Interrupts::Intx,
            ..Options::default()
        },
    );
    let mut queue: Queue = bench.queue(QueueOptions {
        interrupt: Interrupt::Vector(0),
        ..QueueOptions::default()
    });
    bench.nvme.report(Event::SANITIZED);
    for _ in 0..5 {
        bench.backing.poke();
    }
    let before = bench.nvme.counts().doorbells;
    assert!(queue.wait(Some(Duration::from_millis(1))).unwrap().is_none());
    assert!(bench.nvme.counts().doorbells > before, "its completion was taken");
    let event = bench.controller.next_event(Duration::from_millis(1)).unwrap();
    assert_eq!(event, Some(drivers::nvme::Event::Sanitize));
    drop(queue);
    bench.end();
}
