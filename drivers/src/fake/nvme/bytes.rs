//! Little-endian numbers in bytes. What lies outside reads as 0 and is not written.

pub(super) fn u8_at(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or_default()
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array(bytes, at))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let part = bytes.get(at..).and_then(|rest| rest.first_chunk());
    part.copied().unwrap_or([0; N])
}

/// Writes `from` at `at`, as much of it as there is room for.
pub(super) fn put(bytes: &mut [u8], at: usize, from: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(from) {
        *to = *from;
    }
}

/// Text in a field of `len` bytes, padded with spaces.
pub(super) fn put_text(bytes: &mut [u8], at: usize, len: usize, text: &str) {
    for (to, from) in bytes
        .iter_mut()
        .skip(at)
        .take(len)
        .zip(text.bytes().chain(std::iter::repeat(b' ')))
    {
        *to = from;
    }
}

/// The low half of a number of two halves.
pub(super) fn low16(value: u32) -> u16 {
    let [a, b, _, _] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// The high half of it.
pub(super) fn high16(value: u32) -> u16 {
    let [_, _, a, b] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// The low half of a number of two halves.
pub(super) fn low32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// The high half of it.
pub(super) fn high32(value: u64) -> u32 {
    low32(value >> 32)
}

/// The lowest byte of a number.
pub(super) fn low8(value: u32) -> u8 {
    let [byte, ..] = value.to_le_bytes();
    byte
}

/// A length in bytes as an index; more than memory has where it does not fit.
pub(super) fn size(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}
