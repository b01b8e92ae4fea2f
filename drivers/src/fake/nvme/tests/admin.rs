//! Identify, features, logs, events, namespaces, format and sanitize.

use super::*;
use crate::fake::nvme::{Event, Format};

fn number(page: &[u8], at: usize, len: usize) -> u64 {
    page[at..at + len]
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

impl Host {
    fn log(&mut self, log: u32, len: usize) -> Vec<u8> {
        let page = buffer(&self.backing, len);
        let words = u32::try_from(len / 4 - 1).unwrap();
        let found = self.admin(0x02, u32::MAX, page.iova().0, 0, [log | words << 16, 0]);
        assert_eq!(found.status, 0);
        let mut bytes = vec![0; len];
        page.read(0, &mut bytes).unwrap();
        bytes
    }

    fn send(&mut self, opcode: u8, namespace: u32, data: &[u8], words: [u32; 2]) -> Found {
        let mut page = buffer(&self.backing, 4096);
        page.write(0, data).unwrap();
        self.admin(opcode, namespace, page.iova().0, 0, words)
    }
}

#[test]
fn identify_tells_what_there_is() {
    let mut host = Host::ready(Options::default());
    let page = host.identify(1, 0).unwrap();
    assert_eq!(number(&page, 77, 1), 7);
    assert_eq!(number(&page, 80, 4), 0x2_0000);
    assert_eq!((page[512], page[513]), (0x66, 0x44));
    assert_eq!(number(&page, 516, 4), 256);
    assert_eq!(&page[4..12], b"FAKE0001");
    let page = host.identify(0, 1).unwrap();
    assert_eq!(
        (number(&page, 0, 8), page[26], number(&page, 128, 4)),
        (2 << 20, 0, 9 << 16)
    );
    assert_eq!((page[25], number(&page, 132, 4)), (3, 12 << 16));
    assert_eq!(host.identify(0, 9).unwrap(), vec![0; 4096], "not active");
    assert_eq!(host.identify(0, 0), Err(0x0b | DNR));
    assert_eq!(host.identify(0, 9999), Err(0x0b | DNR));
    assert_eq!(number(&host.identify(2, 0).unwrap(), 0, 8), 1);
    assert_eq!(host.identify(2, 1).unwrap(), vec![0; 4096]);
    let page = host.identify(3, 1).unwrap();
    assert_eq!(
        (page[0], page[1], page[12], page[13], page[32], page[33]),
        (1, 8, 2, 16, 4, 1)
    );
    assert_eq!(number(&host.identify(0x13, 0).unwrap(), 0, 4), 1);
    assert_eq!(host.identify(0x14, 0), Err(2 | DNR), "no virtual functions");
    assert_eq!(host.identify(0x77, 0), Err(2 | DNR));
}

#[test]
fn features_are_kept_until_a_reset() {
    let mut host = Host::ready(Options::default());
    assert_eq!(host.admin(0x09, 0, 0, 0, [7, 99 | 99 << 16]).result, 15 | 15 << 16);
    assert_eq!(host.admin(0x09, 0, 0, 0, [7, 1 | 2 << 16]).result, 1 | 2 << 16);
    assert_eq!(host.admin(0x0a, 0, 0, 0, [7, 0]).result, 1 | 2 << 16);
    assert_eq!(host.admin(0x09, 0, 0, 0, [7, 0xffff]).status, 2 | DNR);
    host.create(1, 4);
    host.create(2, 4);
    assert_eq!(host.admin(0x09, 0, 0, 0, [7, 1]).status, 0x0c | DNR);
    assert_eq!(host.admin(0x05, 0, 0, 0, [4 | 3 << 16, 1]).status, 0x101 | DNR);
    assert_eq!(host.admin(0x04, 0, 0, 0, [1, 0]).status, 0x10c | DNR);
    assert_eq!(host.admin(0x00, 0, 0, 0, [1, 0]).status, 0);
    assert_eq!(host.admin(0x04, 0, 0, 0, [1, 0]).status, 0);
    assert_eq!(host.nvme.queues(), (1, 1));
    assert_eq!(host.admin(0x09, 0, 0, 0, [4, 333]).status, 0);
    assert_eq!(host.admin(0x0a, 0, 0, 0, [4, 0]).result, 333);
    assert_eq!(host.admin(0x0a, 0, 0, 0, [4 | 1 << 8, 0]).result, 0x157);
    assert_eq!(host.admin(0x09, 0, 0, 0, [4 | 1 << 31, 333]).status, 0x10d | DNR);
    assert_eq!(host.admin(0x0a, 0, 0, 0, [0x55, 0]).status, 2 | DNR);
    host.write(0x14, 0);
    host.poke(10);
    assert!(host.enable());
    assert_eq!(host.admin(0x0a, 0, 0, 0, [4, 0]).result, 0x157);
}

#[test]
fn events_wait_for_a_request_and_for_their_log() {
    let mut host = Host::ready(Options::default());
    let health = Event::new(1, 1, 2);
    host.nvme.report(health);
    let ask = |host: &mut Host| {
        host.push(0, entry(0x0c, 0, 0, 0, [0; 3]));
        host.ring(0);
        host.poke(3);
        host.pop(0)
    };
    assert_eq!(ask(&mut host), None, "not asked for");
    assert_eq!(host.admin(0x09, 0, 0, 0, [0x0b, 0x1ff]).status, 0);
    host.nvme.report(health);
    host.poke(1);
    assert_eq!(host.pop(0).unwrap().result, 1 | 1 << 8 | 2 << 16);
    host.nvme.report(health);
    assert_eq!(ask(&mut host), None, "its log was not read");
    let id = host.push(0, entry(0x02, u32::MAX, 0, 0, [2, 0, 0]));
    host.ring(0);
    host.poke(3);
    assert_eq!(
        host.pop(0).map(|found| (found.id, found.status)),
        Some((id, 4)),
        "nor could it be"
    );
    let page = buffer(&host.backing, 512);
    host.push(0, entry(0x02, u32::MAX, page.iova().0, 0, [2 | 127 << 16, 0, 0]));
    host.ring(0);
    host.poke(3);
    let found = (host.pop(0).unwrap(), host.pop(0).unwrap());
    assert_eq!((found.0.status, found.1.result), (0, 1 | 1 << 8 | 2 << 16));
    for _ in 0..4 {
        assert_eq!(ask(&mut host), None);
    }
    assert_eq!(ask(&mut host).unwrap().status, 0x105 | DNR, "four at a time");
}

#[test]
fn logs_tell_errors_and_what_was_done() {
    let mut host = Host::with_queue(Options::default(), 4);
    let memory = buffer(&host.backing, 4096);
    assert_eq!(host.io(READ, memory.iova().0, 0, 0, 8).status, 0);
    assert_eq!(host.io(READ, memory.iova().0, 0, 3 << 20, 1).status, 0x80 | DNR);
    let log = host.log(1, 1024);
    assert_eq!(
        (number(&log, 0, 8), number(&log, 8, 2), number(&log, 16, 8)),
        (1, 1, 3 << 20)
    );
    assert_eq!(number(&log, 12, 2), (0x80 | u64::from(DNR)) << 1);
    let log = host.log(2, 512);
    assert_eq!(
        (number(&log, 32, 8), number(&log, 64, 8), number(&log, 176, 8)),
        (1, 1, 1)
    );
    let effects = host.log(5, 4096);
    assert_eq!((number(&effects, 4 * 6, 4), number(&effects, 1024 + 4, 4)), (1, 3));
    assert_eq!(host.admin(0x02, 0, memory.iova().0, 0, [0x70, 0]).status, 0x109 | DNR);
}

#[test]
fn namespaces_are_made_attached_and_deleted() {
    let mut host = Host::with_queue(Options::default(), 4);
    host.admin(0x09, 0, 0, 0, [0x0b, 1 << 8]);
    let mut wish = [0; 4096];
    wish[..8].copy_from_slice(&1000_u64.to_le_bytes());
    wish[8..16].copy_from_slice(&1000_u64.to_le_bytes());
    wish[26] = 1;
    let made = host.send(0x0d, 0, &wish, [0, 0]);
    assert_eq!((made.status, made.result), (0, 2));
    assert_eq!(number(&host.identify(2, 0).unwrap(), 0, 8), 1, "not attached");
    assert_eq!(number(&host.identify(0x10, 0).unwrap(), 0, 8), 1 | 2 << 32);
    assert_eq!(number(&host.identify(0x11, 2).unwrap(), 0, 8), 1000);
    let list = [1, 0, 0, 0];
    assert_eq!(host.send(0x15, 2, &list, [0, 0]).status, 0);
    assert_eq!(host.send(0x15, 2, &list, [0, 0]).status, 0x118 | DNR);
    assert_eq!(host.send(0x15, 2, &[1, 0, 9, 0], [0, 0]).status, 0x11c | DNR);
    assert_eq!(number(&host.identify(2, 0).unwrap(), 0, 8), 1 | 2 << 32);
    assert_eq!(number(&host.identify(0x12, 2).unwrap(), 0, 4), 1);
    assert_eq!(number(&host.log(4, 4096), 0, 8), 2);
    let memory = buffer(&host.backing, 4096);
    assert_eq!(host.run(1, entry(WRITE, 2, memory.iova().0, 0, [999, 0, 0])).status, 0);
    assert_eq!(
        host.run(1, entry(WRITE, 2, memory.iova().0, 0, [1000, 0, 0])).status,
        0x80 | DNR
    );
    wish[8] += 1;
    assert_eq!(host.send(0x0d, 0, &wish, [0, 0]).status, 2 | DNR);
    wish[5] = 1;
    wish[13] = 1;
    wish[8] -= 1;
    assert_eq!(host.send(0x0d, 0, &wish, [0, 0]).status, 0x115 | DNR);
    assert_eq!(host.send(0x15, 2, &list, [1, 0]).status, 0);
    assert_eq!(host.send(0x15, 2, &list, [1, 0]).status, 0x11a | DNR);
    assert_eq!(host.admin(0x0d, 2, 0, 0, [1, 0]).status, 0);
    assert_eq!(host.admin(0x0d, 2, 0, 0, [1, 0]).status, 0x0b | DNR);
    assert_eq!(number(&host.identify(0x10, 0).unwrap(), 0, 8), 1);
}

#[test]
fn format_and_sanitize_leave_nothing() {
    let options = Options {
        formats: vec![
            Format {
                lba_bytes: 512,
                metadata: 0,
            },
            Format {
                lba_bytes: 4096,
                metadata: 0,
            },
        ],
        sanitize: 20,
        ..Options::default()
    };
    let mut host = Host::with_queue(options, 4);
    host.nvme.set_blocks(1, 0, &[1; 512]).unwrap();
    assert_eq!(host.admin(0x80, 1, 0, 0, [1, 0]).status, 0);
    assert_eq!(host.nvme.blocks(1, 0, 1), Some(vec![0; 4096]));
    let page = host.identify(0, 1).unwrap();
    assert_eq!((number(&page, 0, 8), page[26]), (1 << 18, 1));
    assert_eq!(host.admin(0x80, 1, 0, 0, [7, 0]).status, 0x10a | DNR);
    host.nvme.set_blocks(1, 5, &[1; 4096]).unwrap();
    let memory = buffer(&host.backing, 4096);
    assert_eq!(host.admin(0x84, 0, 0, 0, [2, 0]).status, 0);
    assert_eq!(host.io(READ, memory.iova().0, 0, 0, 1).status, 0x1d);
    let log = host.log(0x81, 512);
    assert_eq!(number(&log, 2, 2), 2);
    assert!(number(&log, 0, 2) < 0xffff);
    host.poke(20);
    let log = host.log(0x81, 512);
    assert_eq!((number(&log, 0, 2), number(&log, 2, 2)), (0xffff, 1));
    assert_eq!(host.io(READ, memory.iova().0, 0, 0, 1).status, 0);
    assert_eq!(host.nvme.blocks(1, 5, 1), Some(vec![0; 4096]));
}
