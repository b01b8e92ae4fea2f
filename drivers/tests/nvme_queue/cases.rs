//! What each command does.

use crate::{Bench, both, bytes_of, one};
use drivers::ErrorKind;
use drivers::fake::nvme::{NamespaceOptions, Options};
use drivers::nvme::spec::{BlockRange, DataPointer, Fuse, Opcode, Sqe, Status};
use drivers::nvme::{Command, DataForm, QueueOptions, WithMetadata};
use iommu::buffer::{BufferOptions, DmaBuffer, FromDevice, ToDevice};
use std::sync::Arc;
use zerocopy::IntoBytes;

#[test]
fn what_is_written_is_read_and_compares() {
    both(|interface| {
        let bench = Bench::new(interface, Options::default());
        let namespace = bench.controller.namespace(1).unwrap();
        let mut queue = bench.queue(QueueOptions::default());
        let bytes: Vec<u8> = (0..8192_u32).map(|at| ((at * 7) >> 3) as u8).collect();
        queue.write(&namespace, 100, 16, bench.filled(&bytes)).unwrap();
        let written = one(&mut queue);
        assert_eq!(written.status, Status::SUCCESS);
        assert_eq!(bench.nvme.blocks(1, 100, 16).unwrap(), bytes);

        let tag = queue.read(&namespace, 100, 16, bench.buffer(8192)).unwrap();
        let read = one(&mut queue);
        assert_eq!((read.tag, read.status), (tag, Status::SUCCESS));
        assert_eq!(bytes_of(&read.payload.unwrap()), bytes);

        queue
            .submit(&Command::compare(&namespace, 100, 16), written.payload)
            .unwrap();
        let same = one(&mut queue);
        assert_eq!(same.status, Status::SUCCESS);
        queue
            .submit(&Command::compare(&namespace, 101, 16), same.payload)
            .unwrap();
        assert_eq!(one(&mut queue).status.code(), Status::COMPARE_FAILURE.0);
        drop(queue);
        bench.end();
    });
}

#[test]
fn commands_without_data_need_no_payload() {
    let bench = Bench::usual();
    let namespace = bench.controller.namespace(1).unwrap();
    let mut queue = bench.queue(QueueOptions::default());
    bench.nvme.set_blocks(1, 8, &[0xa5; 4096]).unwrap();
    queue
        .submit(&Command::write_zeroes(&namespace, 9, 2).and_deallocate(), None)
        .unwrap();
    assert_eq!(one(&mut queue).status, Status::SUCCESS);
    assert_eq!(bench.nvme.blocks(1, 9, 2).unwrap(), [0; 1024]);
    assert_eq!(bench.nvme.blocks(1, 8, 1).unwrap(), [0xa5; 512]);
    for command in [Command::flush(&namespace), Command::verify(&namespace, 0, 65536)] {
        queue.submit(&command, None).unwrap();
        assert_eq!(one(&mut queue).status, Status::SUCCESS);
    }
    let ranges = [BlockRange::new(11, 1), BlockRange::new(8, 1)];
    queue
        .submit(
            &Command::deallocate(&namespace, 2),
            Some(bench.filled(ranges.as_bytes())),
        )
        .unwrap();
    assert_eq!(one(&mut queue).status, Status::SUCCESS);
    queue
        .submit(&Command::verify(&namespace, namespace.blocks, 1), None)
        .unwrap();
    assert_eq!(one(&mut queue).status.code(), Status::LBA_OUT_OF_RANGE.0);
    drop(queue);
    bench.end();
}

#[test]
fn a_fused_compare_and_write_is_done_whole_or_not_at_all() {
    let bench = Bench::usual();
    let namespace = bench.controller.namespace(1).unwrap();
    let mut queue = bench.queue(QueueOptions {
        depth: 2,
        ..QueueOptions::default()
    });
    bench.nvme.set_blocks(1, 5, &[1; 512]).unwrap();
    let commands = [Command::compare(&namespace, 5, 1), Command::write(&namespace, 5, 1)];
    for (expected, statuses) in [
        ([2; 512], [Status::COMPARE_FAILURE.0, Status::FAILED_FUSED.0]),
        ([1; 512], [Status::SUCCESS.0, Status::SUCCESS.0]),
    ] {
        let payloads = [bench.filled(&expected), bench.filled(&[3; 512])].map(Some);
        let tags = queue.submit_fused(commands.each_ref(), payloads).unwrap();
        let mut found = [u16::MAX; 2];
        for _ in 0..2 {
            let completion = one(&mut queue);
            found[tags.iter().position(|tag| *tag == completion.tag).unwrap()] = completion.status.code();
        }
        assert_eq!(found, statuses);
    }
    assert_eq!(bench.nvme.blocks(1, 5, 1).unwrap(), [3; 512]);
    // With room for only one of them neither goes.
    queue.submit(&Command::flush(&namespace), None).unwrap();
    let refused = queue.submit_fused(commands.each_ref(), [None, None]).unwrap_err();
    assert!(matches!(refused.error.kind, ErrorKind::Busy));
    drop(one(&mut queue));
    drop(queue);
    bench.end();
}

#[test]
fn metadata_goes_apart_from_the_data_or_with_it() {
    for (extended, form) in [(false, DataForm::Prp), (true, DataForm::Prp), (false, DataForm::Sgl)] {
        let format = NamespaceOptions {
            blocks: 1000,
            format: 2,
            extended,
        };
        let bench = Bench::new(
            drivers::fake::Interface::Iommufd,
            Options {
                namespaces: vec![format],
                ..Options::default()
            },
        );
        let namespace = bench.controller.namespace(1).unwrap();
        assert_eq!((namespace.metadata_bytes, namespace.is_extended), (8, extended));
        let bytes: Vec<u8> = (0..2080_u32).map(|at| (at % 251) as u8).collect();
        bench.nvme.set_blocks(1, 3, &bytes).unwrap();
        if extended {
            let mut queue = bench.queue(QueueOptions {
                form,
                ..QueueOptions::default()
            });
            queue.read(&namespace, 3, 4, bench.buffer(2080)).unwrap();
            assert_eq!(bytes_of(&one(&mut queue).payload.unwrap()), bytes);
        } else {
            let mut queue = bench.queue(QueueOptions {
                form,
                ..QueueOptions::default()
            });
            let payload = WithMetadata {
                data: bench.buffer(2048),
                metadata: bench.buffer(32),
            };
            queue.read(&namespace, 3, 4, payload).unwrap();
            let read = one(&mut queue).payload.unwrap();
            let (data, metadata) = (bytes_of(&read.data), bytes_of(&read.metadata));
            let joined: Vec<u8> = data
                .chunks(512)
                .zip(metadata.chunks(8))
                .flat_map(|(data, more)| [data, more].concat())
                .collect();
            assert_eq!(joined, bytes);
            // Too little of it is refused before the controller hears of it.
            let payload = WithMetadata {
                data: bench.buffer(2048),
                metadata: bench.buffer(24),
            };
            assert!(matches!(
                queue.read(&namespace, 3, 4, payload).unwrap_err().error.kind,
                ErrorKind::Invalid(_)
            ));
        }
        bench.end();
    }
}

#[test]
fn what_makes_no_sense_comes_back_unsubmitted() {
    let bench = Bench::usual();
    let namespace = bench.controller.namespace(1).unwrap();
    let mut queue = bench.queue(QueueOptions {
        depth: 1,
        transfer_bytes: 8192,
        ..QueueOptions::default()
    });
    let refused = |result: Result<_, drivers::nvme::Refused<_>>| result.map(|_| ()).unwrap_err();
    for blocks in [0, 17, 65537, u32::MAX] {
        let refused = refused(queue.read(&namespace, 0, blocks, bench.buffer(8192)));
        assert!(matches!(refused.error.kind, ErrorKind::Invalid(_)), "{blocks}");
        assert!(refused.payload.is_some());
    }
    assert!(matches!(
        refused(queue.read(&namespace, 0, 2, bench.buffer(512))).error.kind,
        ErrorKind::Invalid(_)
    ));
    for command in [
        Command::write(&namespace, 0, 1),
        Command::write_zeroes(&namespace, 0, 0),
        Command::verify(&namespace, 0, 65537),
        Command::deallocate(&namespace, 0),
        Command::deallocate(&namespace, 257),
    ] {
        assert!(
            matches!(refused(queue.submit(&command, None)).error.kind, ErrorKind::Invalid(_)),
            "{command:?}"
        );
    }
    queue.submit(&Command::flush(&namespace), None).unwrap();
    assert!(queue.is_full());
    assert!(matches!(
        refused(queue.submit(&Command::flush(&namespace), None)).error.kind,
        ErrorKind::Busy
    ));
    drop(one(&mut queue));
    // What it was is not what it is.
    bench.nvme.resize(1, 4096);
    bench.backing.poke();
    while bench
        .controller
        .next_event(std::time::Duration::from_millis(1))
        .unwrap()
        .is_none()
    {}
    let stale = refused(queue.submit(&Command::flush(&namespace), None));
    assert!(matches!(stale.error.kind, ErrorKind::Invalid(_)), "{}", stale.error);
    let namespace = bench.controller.namespace(1).unwrap();
    queue.submit(&Command::flush(&namespace), None).unwrap();
    drop(one(&mut queue));
    // A command of the caller's own making.
    queue.submit(&Command::raw(Sqe::new(Opcode(0xc0), 1), 0), None).unwrap();
    assert_eq!(one(&mut queue).status.code(), Status::INVALID_OPCODE.0);
    drop(queue);
    bench.end();
}

#[test]
fn memory_goes_only_the_way_it_was_mapped_for() {
    let bench = Bench::usual();
    let namespace = bench.controller.namespace(1).unwrap();
    let options = BufferOptions::default();
    let space = drivers::Backing::space(&bench.backing);
    let mut into = bench.queue(QueueOptions::default());
    let mut from = bench.queue(QueueOptions::default());
    let buffer = DmaBuffer::<FromDevice>::new(space, 512, &options).unwrap();
    let refused = into.write(&namespace, 0, 1, buffer).unwrap_err();
    assert!(matches!(refused.error.kind, ErrorKind::Invalid(_)));
    into.read(&namespace, 0, 1, refused.payload.unwrap()).unwrap();
    let buffer = Arc::new(DmaBuffer::<ToDevice>::new(space, 512, &options).unwrap());
    let refused = from.read(&namespace, 0, 1, Arc::clone(&buffer)).unwrap_err();
    from.write(&namespace, 0, 1, refused.payload.unwrap()).unwrap();
    assert_eq!(one(&mut into).status, Status::SUCCESS);
    assert_eq!(one(&mut from).status, Status::SUCCESS);
    drop((into, from, buffer));
    bench.end();
}

#[test]
fn queues_that_cannot_be_are_refused_with_what_can() {
    let bench = Bench::new(
        drivers::fake::Interface::Type1,
        Options {
            entries: 8,
            queues: 2,
            ..Options::default()
        },
    );
    let text = |options| {
        let made = bench.controller.queue_pair::<DmaBuffer<ToDevice>>(options);
        made.map(drop).unwrap_err().to_string()
    };
    assert!(
        text(QueueOptions {
            depth: 8,
            ..QueueOptions::default()
        })
        .contains("1 to 7")
    );
    assert!(
        text(QueueOptions {
            depth: 0,
            ..QueueOptions::default()
        })
        .contains("1 to 7")
    );
    let vector = drivers::nvme::Interrupt::Vector(17);
    assert!(
        text(QueueOptions {
            depth: 7,
            interrupt: vector,
            ..QueueOptions::default()
        })
        .contains("17")
    );
    let options = QueueOptions {
        depth: 7,
        ..QueueOptions::default()
    };
    let never = QueueOptions {
        timeout: std::time::Duration::ZERO,
        ..options.clone()
    };
    assert!(text(never).contains("no time"));
    let queues = [
        bench.queue::<DmaBuffer<ToDevice>>(options.clone()),
        bench.queue(options.clone()),
    ];
    assert_ne!(queues[0].id(), queues[1].id());
    text(options.clone());
    drop(queues);
    drop(bench.queue::<DmaBuffer<ToDevice>>(options));
    bench.end();
}

#[test]
fn a_command_of_the_callers_own_has_no_pointers_but_those_to_its_payload() {
    let plain = Sqe::new(Opcode(0xc0), 1).with_cdw10(7);
    let pointing = plain
        .with_data(DataPointer::Sgl, 0x1000, 0x2000)
        .with_metadata(0x3000)
        .with_fuse(Fuse::First);
    assert_eq!(Command::raw(pointing, 0), Command::raw(plain, 0));
    assert_eq!(*Command::raw(plain, 0).sqe(), plain);
}
