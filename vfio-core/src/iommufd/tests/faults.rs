//! Page requests: reading, answering, and answers that come too late.

use super::super::{FaultQueue, Object, PageRequestGroup, Response};
use super::iommufd;
use super::machine::Machine;
use crate::ErrorKind;
use crate::sys::Result;
use crate::sys::iommufd::Queue;
use proptest::prelude::*;
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};

const RECORD: usize = 40;

/// What the kernel does with groups: it gives the lowest free cookie, and takes an answer for a cookie that is pending.
#[derive(Debug, Default)]
struct Kernel {
    /// Number, which becomes the index, and requests of each group that was not read.
    waiting: VecDeque<(u32, usize)>,
    pending: BTreeMap<u32, u32>,
    answered: Vec<(u32, u32)>,
    /// Read as they are, once nothing waits.
    raw: VecDeque<Vec<u8>>,
}

impl Kernel {
    /// Answers all that is pending, as detaching does.
    fn detach(&mut self) {
        self.pending.clear();
        self.waiting.clear();
    }
}

#[derive(Debug, Clone)]
struct Script {
    kernel: Arc<Mutex<Kernel>>,
    file: Arc<std::fs::File>,
}

impl Script {
    fn new() -> Self {
        Self {
            kernel: Arc::default(),
            file: Arc::new(std::fs::File::open("/dev/null").unwrap()),
        }
    }

    fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap()
    }

    fn queue(&self) -> FaultQueue {
        let iommufd = iommufd(&Machine::new());
        let id = iommufd.calls().ioas_alloc().unwrap();
        FaultQueue::new(Box::new(self.clone()), Object::new(&iommufd, id, "FAULT", Vec::new()))
    }
}

/// A record of a group's only or last request.
fn record(cookie: u32, index: u32, last: bool) -> Vec<u8> {
    let words = [u32::from(last) << 1, 7, 0, index, 1, 0, 0x1000, 0, 0, cookie];
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

impl Queue for Script {
    fn read(&self, to: &mut [u8]) -> Result<usize> {
        let mut kernel = self.kernel();
        if kernel.waiting.is_empty() {
            let raw = kernel.raw.pop_front().unwrap_or_default();
            to[..raw.len()].copy_from_slice(&raw);
            return Ok(raw.len());
        }
        let mut done = 0;
        while let Some((number, requests)) = kernel.waiting.front().copied() {
            if to.len() - done < requests * RECORD {
                return if done == 0 { Err(Errno::INVAL) } else { Ok(done) };
            }
            kernel.waiting.pop_front();
            let cookie = (0..).find(|cookie| !kernel.pending.contains_key(cookie)).unwrap();
            kernel.pending.insert(cookie, number);
            for request in 1..=requests {
                to[done..done + RECORD].copy_from_slice(&record(cookie, number, request == requests));
                done += RECORD;
            }
        }
        Ok(done)
    }

    fn write(&self, from: &[u8]) -> Result<usize> {
        let word = |at: usize| u32::from_ne_bytes(from[at..at + 4].try_into().unwrap());
        let mut kernel = self.kernel();
        let number = kernel.pending.remove(&word(0)).ok_or(Errno::INVAL)?;
        kernel.answered.push((number, word(4)));
        Ok(8)
    }

    fn ready(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn is_late(answered: std::result::Result<(), crate::Error>) -> bool {
    matches!(answered.unwrap_err().kind, ErrorKind::NotFound(_))
}

#[test]
fn an_answer_after_a_detach_meets_no_other_group() {
    let script = Script::new();
    let queue = script.queue();
    script.kernel().waiting.extend([(1, 1), (2, 1)]);
    let (first, second) = (queue.read().unwrap().unwrap(), queue.read().unwrap().unwrap());
    script.kernel().detach();
    script.kernel().waiting.push_back((3, 1));
    let third = queue.read().unwrap().unwrap();
    assert_eq!(
        script.kernel().pending,
        BTreeMap::from([(0, 3)]),
        "the first group's cookie"
    );
    assert!(is_late(first.respond(Response::Success)));
    assert!(is_late(second.respond(Response::Success)));
    assert_eq!(script.kernel().answered, []);
    third.respond(Response::Success).unwrap();
    assert_eq!(script.kernel().answered, [(3, 0)]);
}

#[test]
fn a_group_that_is_dropped_is_answered_as_invalid() {
    let script = Script::new();
    let queue = script.queue();
    script.kernel().waiting.extend([(1, 1), (2, 3), (3, 1)]);
    drop(queue.read().unwrap());
    assert_eq!(script.kernel().answered, [(1, 1)]);
    let second = queue.read().unwrap().unwrap();
    // The third was read along, and nobody can ask for it any more.
    drop(queue);
    assert_eq!(script.kernel().answered, [(1, 1), (3, 1)]);
    second.respond(Response::Success).unwrap();
    assert!(script.kernel().pending.is_empty());
}

#[test]
fn a_group_that_needs_more_room_gets_it() {
    let script = Script::new();
    let queue = script.queue();
    script.kernel().waiting.extend([(1, 1000), (2, 1)]);
    let large = queue.read().unwrap().unwrap();
    assert_eq!((large.index, large.requests.len()), (1, 1000));
    assert_eq!(queue.read().unwrap().unwrap().index, 2);
    assert!(queue.read().unwrap().is_none());
}

#[test]
fn a_group_that_no_room_is_enough_for_says_what_clears_it() {
    let script = Script::new();
    let queue = script.queue();
    script.kernel().waiting.push_back((1, 1 << 20));
    let error = queue.read().unwrap_err();
    assert!(
        matches!(error.kind, ErrorKind::Malformed(how) if how.contains("detaching")),
        "{error}"
    );
}

#[test]
fn a_group_in_two_reads_is_one_group_and_a_cut_one_is_an_error() {
    let script = Script::new();
    let queue = script.queue();
    let cut = record(3, 3, true)[..20].to_vec();
    script
        .kernel()
        .raw
        .extend([record(1, 1, false), record(1, 1, true), cut]);
    assert!(queue.read().unwrap().is_none());
    assert_eq!(queue.read().unwrap().unwrap().requests.len(), 2);
    assert!(matches!(queue.read().unwrap_err().kind, ErrorKind::Malformed(_)));
    assert!(queue.read().unwrap().is_none());
}

#[test]
fn a_group_of_another_source_is_answered_once() {
    let answers = Arc::new(Mutex::new(Vec::new()));
    let group = || {
        let answers = Arc::clone(&answers);
        PageRequestGroup::new(5, Vec::new(), move |response| {
            answers.lock().unwrap().push(response);
            Ok(())
        })
    };
    group().respond(Response::Success).unwrap();
    drop(group());
    assert_eq!(*answers.lock().unwrap(), [Response::Success, Response::Invalid]);
}

proptest! {
    /// Whatever is read, answered, dropped and detached in whatever order: no group gets the answer of another, and none two.
    #[test]
    fn every_answer_is_for_its_own_group(steps in prop::collection::vec((0_u8..6, any::<prop::sample::Index>()), 1..80)) {
        let script = Script::new();
        let queue = script.queue();
        let mut held: Vec<PageRequestGroup> = Vec::new();
        let (mut next, mut said_yes) = (0, Vec::new());
        for (step, index) in steps {
            match step {
                0 | 1 => {
                    next += 1;
                    script.kernel().waiting.push_back((next, 1 + index.index(3)));
                }
                2 | 3 => held.extend(queue.read().unwrap()),
                4 if !held.is_empty() => {
                    let group = held.swap_remove(index.index(held.len()));
                    let number = group.index;
                    let waits = script.kernel().pending.values().any(|pending| *pending == number);
                    prop_assert_eq!(group.respond(Response::Success).is_ok(), waits);
                    said_yes.extend(waits.then_some(number));
                }
                _ => script.kernel().detach(),
            }
        }
        drop((held, queue));
        let kernel = script.kernel();
        prop_assert!(kernel.pending.is_empty());
        let yes: Vec<u32> = kernel.answered.iter().filter(|(_, code)| *code == 0).map(|(number, _)| *number).collect();
        prop_assert_eq!(yes, said_yes);
    }
}
