//! What blocks hold: their number, the seed of the run, the version that was written last, and words that follow from these. So a block that
//! lies elsewhere, is older than it should be, or is of two versions is told from what it should be.

/// Fills a block. Version 0 is a block of zeros.
pub(crate) fn fill(bytes: &mut [u8], number: u64, seed: u64, version: u32) {
    if version == 0 {
        return bytes.fill(0);
    }
    let mut words = [number, seed, version.into()].into_iter();
    let key = mix(number ^ mix(seed ^ mix(version.into())));
    for (at, word) in (1_u64..).zip(bytes.chunks_mut(8)) {
        // Odd factors of one key: no two words alike.
        let value = words.next().unwrap_or_else(|| key.wrapping_mul(at * 2 + 1));
        for (byte, value) in word.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }
}

/// What is wrong with a block, if it does not hold what it should; `scratch` is as long as the block.
pub(crate) fn mismatch(bytes: &[u8], scratch: &mut [u8], number: u64, seed: u64, version: u32) -> Option<String> {
    fill(scratch, number, seed, version);
    let at = bytes
        .iter()
        .zip(scratch.iter())
        .position(|(found, wanted)| found != wanted)?;
    let words: Vec<String> = bytes
        .chunks_exact(8)
        .take(3)
        .map(|word| {
            format!(
                "{:#x}",
                word.iter()
                    .rev()
                    .fold(0_u64, |value, byte| value << 8 | u64::from(*byte))
            )
        })
        .collect();
    Some(format!(
        "block {number} is not version {version} of seed {seed} from byte {at} on; it begins with {}",
        words.join(", ")
    ))
}

/// The finalizer of splitmix64.
fn mix(value: u64) -> u64 {
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}
