//! What is text in the conversation and something else in the program, for `serde(with)`.

/// Addresses as they are written everywhere.
pub(super) mod address {
    use pci::Bdf;
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};
    use std::borrow::Cow;

    pub(in super::super) fn serialize<S: Serializer>(bdf: &Bdf, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(bdf)
    }

    pub(in super::super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Bdf, D::Error> {
        let text = Cow::<'a, str>::deserialize(from)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// What may be left out.
pub(super) mod some {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};
    use std::borrow::Cow;
    use std::fmt::Display;
    use std::str::FromStr;

    pub(in super::super) fn serialize<T: Display, S: Serializer>(some: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        match some {
            Some(some) => to.collect_str(some),
            None => to.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'a, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'a>,
    {
        let text = Option::<Cow<'a, str>>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
