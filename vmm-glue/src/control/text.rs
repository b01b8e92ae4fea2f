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

/// VF tokens in their text form.
pub(super) mod token {
    use serde::de::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};
    use std::borrow::Cow;
    use vfio_core::VfToken;

    pub(in super::super) fn serialize<S: Serializer>(token: &Option<VfToken>, to: S) -> Result<S::Ok, S::Error> {
        match token {
            Some(token) => to.collect_str(token),
            None => to.serialize_none(),
        }
    }

    pub(in super::super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<VfToken>, D::Error> {
        let text = Option::<Cow<'a, str>>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
