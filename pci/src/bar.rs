//! Base address registers, as the `resource` file of sysfs lists them.

/// Which address window of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum BarIndex {
    /// BAR 0 to 5.
    Bar(u8),
    /// The expansion ROM.
    Rom,
    /// VF BAR 0 to 5 of an SR-IOV PF: the window of all VFs together.
    VfBar(u8),
    /// A window of a bridge, 0 to 3 (I/O, memory, prefetchable memory, CardBus).
    BridgeWindow(u8),
}

bitflags::bitflags! {
    /// What a window is; from the kernel's resource flags (`include/linux/ioport.h`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
    pub struct BarFlags: u64 {
        /// I/O ports.
        const IO = 0x100;
        /// Memory.
        const MEMORY = 0x200;
        /// Reads have no side effects.
        const PREFETCHABLE = 0x2000;
        /// 64-bit address.
        const MEMORY_64 = 0x10_0000;
        /// No address was assigned.
        const UNSET = 0x2000_0000;
        /// Disabled (an expansion ROM that is not decoded, for example).
        const DISABLED = 0x1000_0000;
        const _ = !0;
    }
}

/// One address window: where it is, how large, and of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// Which window.
    pub index: BarIndex,
    /// Physical base address; 0 for readers without the privilege to see addresses.
    pub start: u64,
    /// Size in bytes.
    pub len_bytes: u64,
    /// Kind of window.
    pub flags: BarFlags,
}

/// Reads the `resource` file: a line `start end flags` for each window, in the order of the resources of
/// `include/linux/pci.h`. Windows without a size are left out; a line that makes no sense is the error.
pub(crate) fn parse_resource(text: &str) -> Result<Vec<Bar>, &str> {
    // 7 lines are BARs and ROM; a kernel with SR-IOV adds 6; a bridge adds its 4 windows at the end.
    let has_vf_bars = text.lines().count() > 11;
    let mut bars = Vec::new();
    for (number, line) in (0..).zip(text.lines()) {
        let index = match number {
            0..=5 => BarIndex::Bar(number),
            6 => BarIndex::Rom,
            7..=12 if has_vf_bars => BarIndex::VfBar(number - 7),
            7..=10 => BarIndex::BridgeWindow(number - 7),
            13..=16 => BarIndex::BridgeWindow(number - 13),
            _ => return Err(line),
        };
        bars.extend(parse_window(index, line).ok_or(line)?);
    }
    Ok(bars)
}

/// `Some(None)` for a window without a size, `None` for a malformed line.
fn parse_window(index: BarIndex, line: &str) -> Option<Option<Bar>> {
    let mut words = line.split_ascii_whitespace().map(hex);
    let (start, end, flags) = (words.next()??, words.next()??, words.next()??);
    if words.next().is_some() {
        return None;
    }
    if end == 0 || end < start {
        return Some(None);
    }
    let len_bytes = (end - start).checked_add(1)?;
    let flags = BarFlags::from_bits_retain(flags);
    Some(Some(Bar {
        index,
        start,
        len_bytes,
        flags,
    }))
}

pub(crate) fn hex(word: &str) -> Option<u64> {
    let digits = word.strip_prefix("0x")?;
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

impl std::fmt::Display for BarIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bar(n) => write!(f, "BAR {n}"),
            Self::Rom => f.write_str("ROM"),
            Self::VfBar(n) => write!(f, "VF BAR {n}"),
            Self::BridgeWindow(n) => write!(f, "bridge window {n}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "0x0000000000000000 0x0000000000000000 0x0000000000000000";
    const MEMORY: &str = "0x0000004000100000 0x000000400017ffff 0x0000000000140204";

    fn resource(lines: usize, memory_at: &[usize]) -> String {
        let line = |n| if memory_at.contains(&n) { MEMORY } else { LINE };
        (0..lines).map(|n| format!("{}\n", line(n))).collect()
    }

    fn indices(text: &str) -> Vec<BarIndex> {
        parse_resource(text).unwrap().iter().map(|bar| bar.index).collect()
    }

    #[test]
    fn a_window_has_its_size_and_flags() {
        let bars = parse_resource(MEMORY).unwrap();
        let [bar] = bars.as_slice() else { panic!("{bars:?}") };
        assert_eq!((bar.start, bar.len_bytes), (0x40_0010_0000, 0x8_0000));
        assert!(bar.flags.contains(BarFlags::MEMORY | BarFlags::MEMORY_64));
        assert!(!bar.flags.contains(BarFlags::IO));
    }

    #[test]
    fn the_number_of_lines_tells_which_window_a_line_is() {
        assert_eq!(
            indices(&resource(13, &[0, 6, 7])),
            [BarIndex::Bar(0), BarIndex::Rom, BarIndex::VfBar(0)]
        );
        assert_eq!(
            indices(&resource(17, &[12, 13])),
            [BarIndex::VfBar(5), BarIndex::BridgeWindow(0)]
        );
        assert_eq!(
            indices(&resource(11, &[7, 10])),
            [BarIndex::BridgeWindow(0), BarIndex::BridgeWindow(3)]
        );
    }

    #[test]
    fn a_window_that_ends_before_it_starts_has_no_size() {
        assert_eq!(indices("0xfff00000 0xfffff 0x200"), []);
    }

    #[test]
    fn a_malformed_line_is_named() {
        for bad in [
            "0x1 0x2",
            "0x1 0x2 0x3 0x4",
            "1 2 3",
            "0x0 0xffffffffffffffff 0x200",
            "0x+1 0x2 0x3",
        ] {
            assert_eq!(parse_resource(bad), Err(bad));
        }
        assert!(parse_resource(&resource(18, &[])).is_err());
    }
}
