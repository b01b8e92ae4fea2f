//! Names of functions: segment, routing id, and the `SSSS:BB:DD.F` text form.

use std::fmt::{self, Write as _};
use std::str::FromStr;

/// A PCI segment group, called *domain* by Linux. 32 bits: VMD domains start at 0x10000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Segment(pub u32);

/// The 16 bits that a function puts on the bus as its identity (PCIe 6.0 §2.2.6.2). Under ARI the low 8 bits are all
/// function number; the `device.function` split is then only a way to print it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoutingId(pub u16);

impl RoutingId {
    /// From a bus number and the 8-bit device and function number.
    #[must_use]
    pub const fn new(bus: u8, devfn: u8) -> Self {
        Self(u16::from_be_bytes([bus, devfn]))
    }

    /// The bus number.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.0.to_be_bytes()[0]
    }

    /// Device and function number as one byte; the function number under ARI.
    #[must_use]
    pub const fn devfn(self) -> u8 {
        self.0.to_be_bytes()[1]
    }

    /// The device number as printed (bits 7:3 of [`devfn`](Self::devfn)).
    #[must_use]
    pub const fn device(self) -> u8 {
        self.devfn() >> 3
    }

    /// The function number as printed (bits 2:0 of [`devfn`](Self::devfn)).
    #[must_use]
    pub const fn function(self) -> u8 {
        self.devfn() & 7
    }
}

/// The full name of a function: segment and routing id. Prints as `0000:3b:00.2`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    /// The segment (Linux: domain).
    pub segment: Segment,
    /// Bus, device and function.
    pub routing_id: RoutingId,
}

impl Bdf {
    /// From its two parts.
    #[must_use]
    pub const fn new(segment: Segment, routing_id: RoutingId) -> Self {
        Self { segment, routing_id }
    }
}

impl fmt::Display for RoutingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A list of a large machine is full of addresses, and formatting numbers is slow.
        let [bus, device] = [self.bus(), self.device()].map(|byte| [byte >> 4, byte & 0xf].map(digit));
        let text = [bus[0], bus[1], ':', device[0], device[1], '.', digit(self.function())];
        text.into_iter().try_for_each(|c| f.write_char(c))
    }
}

/// One hexadecimal digit.
fn digit(nibble: u8) -> char {
    char::from_digit(nibble.into(), 16).unwrap_or('?')
}

impl fmt::Display for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{}", self.segment.0, self.routing_id)
    }
}

/// As it is displayed: nobody reads an address in decimal.
impl fmt::Debug for RoutingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As it is displayed.
impl fmt::Debug for Bdf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not `[SSSS:]BB:DD.F` in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a PCI address: expected [SSSS:]BB:DD.F in hexadecimal, such as 0000:3b:00.2")]
pub struct ParseBdfError {
    text: String,
}

impl FromStr for Bdf {
    type Err = ParseBdfError;

    /// Reads `SSSS:BB:DD.F` or `BB:DD.F` (segment 0).
    fn from_str(text: &str) -> Result<Self, ParseBdfError> {
        parse(text).ok_or_else(|| ParseBdfError { text: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<Bdf> {
    let hex = |digits: &str, min: usize, max: usize| {
        let ok = (min..=max).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit());
        ok.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
    };
    let (rest, function) = text.rsplit_once('.')?;
    let (rest, device) = rest.rsplit_once(':')?;
    let (segment, bus) = match rest.rsplit_once(':') {
        Some((segment, bus)) => (hex(segment, 4, 8)?, bus),
        None => (0, rest),
    };
    let bus = u8::try_from(hex(bus, 2, 2)?).ok()?;
    let device = u8::try_from(hex(device, 2, 2)?).ok().filter(|d| *d < 32)?;
    let function = u8::try_from(hex(function, 1, 1)?).ok().filter(|f| *f < 8)?;
    Some(Bdf::new(Segment(segment), RoutingId::new(bus, device << 3 | function)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_routing_id_reads_back() {
        for id in 0..=u16::MAX {
            let bdf = Bdf::new(Segment(0), RoutingId(id));
            assert_eq!(bdf.to_string().parse(), Ok(bdf));
            assert_eq!(bdf.routing_id.to_string().parse(), Ok(bdf), "without the segment");
            assert_eq!(
                RoutingId::new(bdf.routing_id.bus(), bdf.routing_id.devfn()),
                bdf.routing_id
            );
        }
    }

    #[test]
    fn a_log_shows_an_address_as_everybody_writes_it() {
        let bdf = Bdf::new(Segment(0), RoutingId(0x0180));
        assert_eq!(
            format!("{:?} {:?}", Some(bdf), bdf.routing_id),
            "Some(0000:01:10.0) 01:10.0"
        );
    }

    #[test]
    fn what_is_not_an_address_is_refused() {
        for text in [
            "",
            ":",
            ".",
            "00:00",
            "0:0.0",
            "000:00:00.0",
            "0000:00:20.0",
            "0000:00:00.8",
            "0000:00:00.00",
            "0000:00:00.",
            " 0000:00:00.0",
            "0000:00:00.0 ",
            "0000:+1:00.0",
            "0000:00:-1.0",
            "0000:0x:00.0",
            "100000000:00:00.0",
            "0000:00:00:0",
            "0000:00:0\u{661}.0",
        ] {
            assert!(text.parse::<Bdf>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_segment_reads_back(segment: u32, id: u16) {
            let bdf = Bdf::new(Segment(segment), RoutingId(id));
            prop_assert_eq!(bdf.to_string().parse(), Ok(bdf));
        }

        #[test]
        fn order_is_segment_then_routing_id(a: (u32, u16), b: (u32, u16)) {
            let bdf = |(segment, id)| Bdf::new(Segment(segment), RoutingId(id));
            prop_assert_eq!(bdf(a).cmp(&bdf(b)), a.cmp(&b));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text: String) {
            if let Ok(bdf) = text.parse::<Bdf>() {
                prop_assert_eq!(bdf.to_string().parse(), Ok(bdf));
            }
        }
    }
}
