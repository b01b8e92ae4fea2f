//! Access to memory that others own, on behalf of the fake machine's devices.

use super::Result;
use crate::StableMemory;
use rustix::io::Errno;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const WORD: usize = size_of::<u64>();

/// Copies out of `memory`; EFAULT outside it.
pub(crate) fn read(memory: &dyn StableMemory, offset: usize, to: &mut [u8]) -> Result<()> {
    let (head, words) = shape(memory, offset, to.len())?;
    let (first, rest) = to.split_at_mut(head);
    let (middle, last) = rest.split_at_mut(words * WORD);
    let mut at = offset;
    for byte in first {
        *byte = byte_at(memory, at).load(Ordering::Relaxed);
        at += 1;
    }
    for word in middle.as_chunks_mut::<WORD>().0 {
        *word = word_at(memory, at).load(Ordering::Relaxed).to_ne_bytes();
        at += WORD;
    }
    for byte in last {
        *byte = byte_at(memory, at).load(Ordering::Relaxed);
        at += 1;
    }
    Ok(())
}

/// Copies into `memory`; EFAULT outside it. The last bytes are written last, so that what a device signals with comes after its data.
pub(crate) fn write(memory: &dyn StableMemory, offset: usize, from: &[u8]) -> Result<()> {
    let (head, words) = shape(memory, offset, from.len())?;
    let (first, rest) = from.split_at(head);
    let (middle, last) = rest.split_at(words * WORD);
    let mut at = offset;
    for byte in first {
        byte_at(memory, at).store(*byte, Ordering::Release);
        at += 1;
    }
    for word in middle.as_chunks::<WORD>().0 {
        word_at(memory, at).store(u64::from_ne_bytes(*word), Ordering::Release);
        at += WORD;
    }
    for byte in last {
        byte_at(memory, at).store(*byte, Ordering::Release);
        at += 1;
    }
    Ok(())
}

/// How many bytes come before the first whole word, and how many words there are; EFAULT outside the memory.
fn shape(memory: &dyn StableMemory, offset: usize, len: usize) -> Result<(usize, usize)> {
    if offset.checked_add(len).is_none_or(|end| end > memory.len()) {
        return Err(Errno::FAULT);
    }
    let address = memory.address() as usize + offset;
    let head = (address.next_multiple_of(WORD) - address).min(len);
    Ok((head, (len - head) / WORD))
}

fn byte_at(memory: &dyn StableMemory, offset: usize) -> &AtomicU8 {
    assert!(offset < memory.len(), "checked by `shape`");
    // SAFETY: inside the memory, as just checked.
    let address = unsafe { memory.address().add(offset) };
    // SAFETY: mapped as long as `memory` is borrowed, and reached through atomics only (`StableMemory`).
    unsafe { AtomicU8::from_ptr(address) }
}

fn word_at(memory: &dyn StableMemory, offset: usize) -> &AtomicU64 {
    let end = offset.checked_add(WORD);
    assert!(end.is_some_and(|end| end <= memory.len()), "checked by `shape`");
    // SAFETY: inside the memory, as just checked.
    let address = unsafe { memory.address().add(offset) };
    assert!((address as usize).is_multiple_of(WORD), "`shape` aligned it");
    // SAFETY: mapped as long as `memory` is borrowed, aligned, and reached through atomics only (`StableMemory`).
    unsafe { AtomicU64::from_ptr(address.cast()) }
}
