//! `--device`: a function, and how the guest is to have it.

use super::Selector;
use std::fmt;
use std::str::FromStr;
use vfio_core::VfToken;

/// A function for a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) selector: Selector,
    /// Where it goes; into the first free slot without.
    pub(crate) place: Option<Place>,
    /// What it is opened with.
    pub(crate) token: Option<VfToken>,
}

/// A place in the guest: a slot, and the number of the function in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// From 1 on.
    pub(crate) slot: u8,
    pub(crate) function: u8,
}

impl Place {
    /// The last slot.
    pub(crate) const LAST_SLOT: u8 = 31;
}

impl From<Selector> for Device {
    fn from(selector: Selector) -> Self {
        Self {
            selector,
            place: None,
            token: None,
        }
    }
}

impl FromStr for Device {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let selector = parts.next().unwrap_or_default().parse::<Selector>();
        let mut device = Self::from(selector.map_err(|error| error.to_string())?);
        for part in parts {
            let is_new = match part.split_once('=') {
                Some(("slot", place)) => device.place.replace(place.parse()?).is_none(),
                Some(("token", token)) => {
                    let token: VfToken = token
                        .parse()
                        .map_err(|error: vfio_core::ParseVfTokenError| error.to_string())?;
                    device.token.replace(token).is_none()
                }
                _ => return Err(format!("{part:?} is neither slot=SLOT[.FUNCTION] nor token=UUID")),
            };
            if !is_new {
                return Err(format!("{part:?} is the second of its kind"));
            }
        }
        Ok(device)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (slot, function) = text.split_once('.').unwrap_or((text, "0"));
        let place = (|| {
            let place = Self {
                slot: slot.parse().ok()?,
                function: function.parse().ok()?,
            };
            ((1..=Self::LAST_SLOT).contains(&place.slot) && place.function < 8).then_some(place)
        })();
        place.ok_or_else(|| {
            "expected a slot from 1 to 31, and a function from 0 to 7 of it, such as 1 or 1.0".to_owned()
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.slot, self.function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_may_come_with_its_place_and_its_token() {
        let device: Device = "0000:01:10.0,token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3,slot=3.1"
            .parse()
            .unwrap();
        assert_eq!(device.selector.to_string(), "0000:01:10.0");
        assert_eq!(device.place, Some(Place { slot: 3, function: 1 }));
        assert_eq!(
            device.token.map(|token| token.to_string()).as_deref(),
            Some("bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3")
        );
        let place = |text: &str| text.parse::<Place>().map(|place| place.to_string());
        assert_eq!(place("31").as_deref(), Ok("31.0"));
        assert_eq!(place("1.7").as_deref(), Ok("1.7"));
        assert_eq!("ens1f0#2".parse::<Device>().map(|device| device.place), Ok(None));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for wrong in [
            "",
            ",slot=1",
            "01:10.0,",
            "01:10.0,slot",
            "01:10.0,slot=0",
            "01:10.0,slot=32",
            "01:10.0,slot=1.8",
            "01:10.0,slot=1.",
            "01:10.0,slot=-1",
            "01:10.0,slot=1,slot=2",
            "01:10.0,token=1",
            "01:10.0,romfile=x",
        ] {
            assert!(wrong.parse::<Device>().is_err(), "{wrong}");
        }
    }
}
