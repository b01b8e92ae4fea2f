//! What a queue's thread does: operations of one or more commands each, none of which touches blocks that another one changes.

use super::pattern;
use crate::operation::{Kind, Operation, Tally};
use anyhow::{Context, Result, bail};
use drivers::Backing;
use drivers::nvme::spec::Status;
use drivers::nvme::{Command, Completion, Namespace, Part, Policy, QueuePair, Registered};
use std::sync::Arc;
use vfio_core::Memory;

/// What a thread is to do.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an option of the command line or of the device"
)]
pub(crate) struct Plan {
    pub(crate) namespace: Namespace,
    /// Its first block.
    pub(crate) first: u64,
    /// Bytes of an operation at most.
    pub(crate) longest: u64,
    pub(crate) count: u64,
    pub(crate) seed: u64,
    pub(crate) random: u64,
    /// Whether what blocks hold is known; they are zeroed otherwise.
    pub(crate) is_known: bool,
    /// Whether to look for completions rather than wait.
    pub(crate) polls: bool,
    /// Whether somebody resets the controller.
    pub(crate) recovers: bool,
    pub(crate) can_compare: bool,
    /// Of data in memory.
    pub(crate) alignment: usize,
}

/// A thread's own.
pub(crate) struct Worker<'a, B: Backing> {
    queue: QueuePair<B, Part>,
    registered: Registered,
    memory: Arc<Memory>,
    plan: Plan,
    /// Of its blocks.
    versions: &'a mut [u32],
    /// The version that is written next; one for each write.
    version: u32,
    slots: Vec<Slot>,
    /// The slots of the commands that are outstanding, by the indices of their tags.
    owners: Vec<usize>,
    scratch: [Vec<u8>; 2],
    tally: Tally,
}

/// Memory for an operation.
#[derive(Debug)]
struct Slot {
    start: usize,
    operation: Option<Operation>,
}

/// Bytes of a slot besides the longest operation: data begins anywhere in a page, and what lies around it must stay as it is.
pub(crate) const ROOM: usize = 8192;
const AROUND: usize = 64;
const CANARY: u8 = 0x5a;
const POISON: u8 = 0xa5;
/// Of a recovery.
const ATTEMPTS: u32 = 10;

impl<'a, B: Backing> Worker<'a, B> {
    pub(crate) fn new(
        queue: QueuePair<B, Part>,
        registered: Registered,
        memory: Arc<Memory>,
        plan: Plan,
        starts: Vec<usize>,
        versions: &'a mut [u32],
    ) -> Result<Self> {
        let slot = |start| Slot { start, operation: None };
        let lba = usize::try_from(plan.namespace.lba_bytes)?;
        Ok(Self {
            owners: vec![0; queue.depth()],
            slots: starts.into_iter().map(slot).collect(),
            scratch: [vec![0; lba], vec![0; lba]],
            version: versions.iter().max().map_or(1, |most| most + 1),
            tally: Tally::default(),
            queue,
            registered,
            memory,
            plan,
            versions,
        })
    }

    pub(crate) fn run(mut self) -> Result<Tally> {
        if !self.plan.is_known {
            self.all(Kind::Zero)?;
        }
        let mut left = self.plan.count;
        while left > 0 || self.is_busy() {
            while left > 0
                && let Some(slot) = self.free_slot()
            {
                let Some(operation) = self.choose(slot) else { break };
                self.start(slot, operation)?;
                left -= 1;
            }
            self.complete_one()?;
        }
        // What was written last and never read.
        self.all(Kind::Read)?;
        Ok(self.tally)
    }

    /// Does the same to all blocks.
    fn all(&mut self, kind: Kind) -> Result<()> {
        let most = self.most_blocks();
        let mut block = 0;
        while block < self.versions.len() || self.is_busy() {
            while block < self.versions.len()
                && let Some(slot) = self.free_slot()
            {
                let blocks = most.min(self.versions.len() - block);
                let start = self.start_of(slot)? + AROUND;
                self.start(
                    slot,
                    Operation {
                        kind,
                        block,
                        blocks,
                        start,
                        left: 0,
                    },
                )?;
                block += blocks;
            }
            self.complete_one()?;
        }
        Ok(())
    }

    fn is_busy(&self) -> bool {
        self.slots.iter().any(|slot| slot.operation.is_some())
    }

    fn free_slot(&self) -> Option<usize> {
        self.slots.iter().position(|slot| slot.operation.is_none())
    }

    fn start_of(&self, slot: usize) -> Result<usize> {
        Ok(self.slots.get(slot).context("no such slot")?.start)
    }

    fn lba(&self) -> usize {
        self.scratch[0].len()
    }

    fn most_blocks(&self) -> usize {
        usize::try_from(self.plan.longest).map_or(1, |longest| longest / self.lba())
    }

    /// An operation that none under way is in the way of; `None` if chance finds none.
    fn choose(&mut self, slot: usize) -> Option<Operation> {
        let kind = match self.random() % 20 {
            0 => Kind::Flush,
            1 => Kind::Zero,
            2 if self.plan.can_compare => Kind::Compare,
            3..11 => Kind::Write(self.version),
            _ => Kind::Read,
        };
        for _ in 0..8 {
            // Half as often for twice as much would leave out the long ones; 5 of 8 times as often does not.
            let mut most = 1;
            while most < self.most_blocks() && self.random() % 8 < 5 {
                most *= 2;
            }
            let most = most.min(self.most_blocks());
            let blocks = most - self.below(most.div_ceil(2));
            let block = self.below(self.versions.len() - blocks + 1);
            let offset = self.below(4096 / self.plan.alignment) * self.plan.alignment;
            let start = self.slots.get(slot)?.start + AROUND + offset;
            let operation = Operation {
                kind,
                block,
                blocks,
                start,
                left: 0,
            };
            let under_way = self.slots.iter().filter_map(|slot| slot.operation.as_ref());
            if !under_way.into_iter().any(|other| operation.conflicts(other)) {
                return Some(operation);
            }
        }
        None
    }

    fn start(&mut self, slot: usize, mut operation: Operation) -> Result<()> {
        let len = operation.blocks * self.lba();
        match operation.kind {
            Kind::Read => {
                let outside = "memory outside the slot";
                self.memory
                    .fill(operation.start - AROUND, AROUND, CANARY)
                    .context(outside)?;
                self.memory.fill(operation.start, len, POISON).context(outside)?;
                self.memory
                    .fill(operation.start + len, AROUND, CANARY)
                    .context(outside)?;
            }
            Kind::Write(version) => {
                self.version += 1;
                self.versions_of(&operation)?.fill(version);
                self.write_pattern(&operation)?;
            }
            Kind::Compare => self.write_pattern(&operation)?,
            Kind::Zero => self.versions_of(&operation)?.fill(0),
            Kind::Flush => {}
        }
        let at_once = usize::try_from(self.queue.transfer_bytes())? / self.lba();
        let mut done = 0;
        while done < operation.blocks {
            let blocks = at_once.min(operation.blocks - done);
            let lba = self.plan.first + (operation.block + done) as u64;
            let count = u32::try_from(blocks)?;
            let namespace = &self.plan.namespace;
            let command = match operation.kind {
                Kind::Read => Command::read(namespace, lba, count),
                Kind::Write(_) => Command::write(namespace, lba, count),
                Kind::Compare => Command::compare(namespace, lba, count),
                Kind::Zero => Command::write_zeroes(namespace, lba, count),
                Kind::Flush => Command::flush(namespace),
            };
            let start = operation.start + done * self.lba();
            let part = || self.registered.part(start..start + blocks * self.lba());
            let mut part = operation.kind.has_data().then(part).flatten();
            let tag = loop {
                match self.queue.submit(&command, part) {
                    Ok(tag) => break tag,
                    Err(refused) => {
                        part = refused.payload;
                        self.recover(refused.error)?;
                    }
                }
            };
            *self.owners.get_mut(tag.index()).context("a tag that is too large")? = slot;
            operation.left += 1;
            done += if operation.kind == Kind::Flush {
                operation.blocks
            } else {
                blocks
            };
        }
        self.slots.get_mut(slot).context("no such slot")?.operation = Some(operation);
        Ok(())
    }

    /// Waits for a command, and checks its operation if that was the last one of it.
    fn complete_one(&mut self) -> Result<()> {
        if !self.is_busy() {
            return Ok(());
        }
        self.queue.ring();
        let completion = loop {
            match self.next() {
                Ok(Some(completion)) => break completion,
                Ok(None) => {}
                Err(error) => self.recover(error)?,
            }
        };
        let slot = *self
            .owners
            .get(completion.tag.index())
            .context("a tag that is too large")?;
        let operation = self.slots.get_mut(slot).and_then(|slot| slot.operation.as_mut());
        let operation = operation.context("a completion of nothing")?;
        if completion.status == Status::COMPARE_FAILURE {
            bail!(
                "a compare of {} blocks from {} on finds others",
                operation.blocks,
                operation.block
            );
        }
        if !completion.status.is_success() {
            bail!("{:?} failed: {}", operation.kind, completion.status);
        }
        operation.left -= 1;
        self.tally.commands += 1;
        if operation.left > 0 {
            return Ok(());
        }
        let operation = self.slots.get_mut(slot).and_then(|slot| slot.operation.take());
        self.finish(&operation.context("a completion of nothing")?)
    }

    fn next(&mut self) -> drivers::Result<Option<Completion<Part>>> {
        if !self.plan.polls {
            return self.queue.wait(None);
        }
        let completion = self.queue.pop()?;
        if completion.is_none() {
            self.queue.backing().idle();
        }
        Ok(completion)
    }

    /// Goes on after a reset, if there are any.
    fn recover(&mut self, error: drivers::Error) -> Result<()> {
        if !self.plan.recovers || error.is_gone() {
            return Err(error.into());
        }
        self.tally.recoveries += 1;
        let mut attempt = 0;
        // Another reset may come meanwhile.
        while let Err(error) = self.queue.recover(Policy::Replay) {
            attempt += 1;
            if error.is_gone() || attempt == ATTEMPTS {
                return Err(error.into());
            }
        }
        Ok(())
    }

    fn finish(&mut self, operation: &Operation) -> Result<()> {
        let len = operation.blocks * self.lba();
        let count = match operation.kind {
            Kind::Read => &mut self.tally.reads,
            Kind::Write(_) => &mut self.tally.writes,
            Kind::Compare => &mut self.tally.compares,
            Kind::Zero => &mut self.tally.zeroes,
            Kind::Flush => &mut self.tally.flushes,
        };
        *count += 1;
        if operation.kind.has_data() {
            self.tally.bytes += len as u64;
        }
        if operation.kind == Kind::Read {
            self.check(operation, len)
        } else {
            Ok(())
        }
    }

    fn check(&mut self, operation: &Operation, len: usize) -> Result<()> {
        let lba = self.lba();
        let [bytes, scratch] = &mut self.scratch;
        let versions = self.versions.iter().skip(operation.block).take(operation.blocks);
        for (index, version) in versions.enumerate() {
            let number = self.plan.first + (operation.block + index) as u64;
            let read = self.memory.read(operation.start + index * lba, bytes);
            read.context("memory outside the slot")?;
            if let Some(wrong) = pattern::mismatch(bytes, scratch, number, self.plan.seed, *version) {
                bail!(
                    "{wrong}; read with {} blocks from {}",
                    operation.blocks,
                    operation.block
                );
            }
        }
        for start in [operation.start - AROUND, operation.start + len] {
            let mut around = [0; AROUND];
            self.memory
                .read(start, &mut around)
                .context("memory outside the slot")?;
            if around != [CANARY; AROUND] {
                bail!("memory around the data of a read was written: {around:x?}");
            }
        }
        Ok(())
    }

    fn versions_of(&mut self, operation: &Operation) -> Result<&mut [u32]> {
        let blocks = operation.block..operation.block + operation.blocks;
        self.versions.get_mut(blocks).context("blocks outside the queue's own")
    }

    /// Puts into memory what the blocks hold, or shall hold.
    fn write_pattern(&mut self, operation: &Operation) -> Result<()> {
        let lba = self.lba();
        let [bytes, _] = &mut self.scratch;
        let versions = self.versions.iter().skip(operation.block).take(operation.blocks);
        for (index, version) in versions.enumerate() {
            let number = self.plan.first + (operation.block + index) as u64;
            pattern::fill(bytes, number, self.plan.seed, *version);
            let written = self.memory.write(operation.start + index * lba, bytes);
            written.context("memory outside the slot")?;
        }
        Ok(())
    }

    fn below(&mut self, end: usize) -> usize {
        // The high half of a product: as even as the random number.
        usize::try_from((u128::from(self.random()) * end as u128) >> 64).unwrap_or(0)
    }

    /// xorshift64*.
    fn random(&mut self) -> u64 {
        let random = &mut self.plan.random;
        *random ^= *random >> 12;
        *random ^= *random << 25;
        *random ^= *random >> 27;
        random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
