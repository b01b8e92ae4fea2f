//! How structures in configuration space are declared and read: bounds-checked windows and three macros.
//!
//! `register!` declares a register by its bit fields, `code!` a field whose values have names (open: a value without a name is
//! kept), `structure!` a capability by its registers and their offsets. Each also implements [`Describe`](crate::Describe).

use crate::{DeviceId, Hex, VendorId};

/// A register that is not in the image: the image ends before it, or the next capability starts before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cut off: the register at {at:#05x} is not there")]
pub struct Truncated {
    /// Offset of the register in configuration space.
    pub at: u16,
}

/// Bytes of configuration space starting at `base`; offsets are relative to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) base: u16,
}

impl<'a> Window<'a> {
    pub(crate) fn read<R: Register>(self, offset: u16) -> Result<R, Truncated> {
        R::read(self, offset)
    }

    /// Reads a register that is there only under a condition.
    pub(crate) fn read_if<R: Register>(self, present: bool, offset: u16) -> Result<Option<R>, Truncated> {
        present.then(|| self.read(offset)).transpose()
    }

    /// The bytes from `offset` to `end`, or to the end of the window where that comes first.
    pub(crate) fn bytes(self, offset: u16, end: u16) -> &'a [u8] {
        let end = usize::from(end).min(self.bytes.len());
        self.bytes.get(usize::from(offset)..end).unwrap_or_default()
    }

    fn array<const N: usize>(self, offset: u16) -> Result<[u8; N], Truncated> {
        let bytes = self.bytes.get(usize::from(offset)..).and_then(<[u8]>::first_chunk);
        bytes.copied().ok_or(Truncated {
            at: self.base.saturating_add(offset),
        })
    }
}

/// A value stored in configuration space, least significant byte first.
pub(crate) trait Register: Sized {
    /// How many bytes it takes.
    const LEN_BYTES: u16;

    fn read(window: Window<'_>, offset: u16) -> Result<Self, Truncated>;
}

macro_rules! integers {
    ($($integer:ty = $len:literal),*) => {$(
        impl Register for $integer {
            const LEN_BYTES: u16 = $len;

            fn read(window: Window<'_>, offset: u16) -> Result<Self, Truncated> {
                window.array(offset).map(Self::from_le_bytes)
            }
        }
    )*};
}

integers!(u8 = 1, u16 = 2, u32 = 4, u64 = 8);

impl<T: Register> Register for Hex<T> {
    const LEN_BYTES: u16 = T::LEN_BYTES;

    fn read(window: Window<'_>, offset: u16) -> Result<Self, Truncated> {
        T::read(window, offset).map(Self)
    }
}

impl<T: Register + Copy + Default, const N: usize> Register for [T; N] {
    const LEN_BYTES: u16 = 0;

    fn read(window: Window<'_>, offset: u16) -> Result<Self, Truncated> {
        let mut values = [T::default(); N];
        let mut at = offset;
        for value in &mut values {
            *value = window.read(at)?;
            at = at.saturating_add(T::LEN_BYTES);
        }
        Ok(values)
    }
}

macro_rules! identifiers {
    ($($name:ident),*) => {$(
        impl Register for $name {
            const LEN_BYTES: u16 = 2;

            fn read(window: Window<'_>, offset: u16) -> Result<Self, Truncated> {
                window.read(offset).map(Self)
            }
        }

        impl crate::Describe for $name {
            fn describe(&self) -> crate::Value {
                crate::Value::hex(self.0, 4)
            }
        }
    )*};
}

identifiers!(VendorId, DeviceId);

/// Declares a register from its least significant bit on: `name: type = bits`, with `name "other_name": …` where the described
/// name needs a unit; `__` stands for reserved bits before a field, `..` for those at the end.
macro_rules! register {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $raw:ident {
            $(
                $(__: $reserved:ident = $reserved_bits:literal,)?
                $(#[$field_meta:meta])+ $field:ident $($alias:literal)?: $type:ident $(<$argument:ident>)? = $bits:literal,
            )*
            $(.. $rest:ident = $rest_bits:literal,)?
        }
    ) => {
        #[bitfield_struct::bitfield($raw, new = false, default = false)]
        #[derive(PartialEq, Eq)]
        $(#[$meta])*
        pub struct $name {
            $(
                $(#[bits($reserved_bits)] __: $reserved,)?
                $(#[$field_meta])+ #[bits($bits, access = RO)] pub $field: $type $(<$argument>)?,
            )*
            $(#[bits($rest_bits)] __: $rest,)?
        }

        impl $crate::register::Register for $name {
            const LEN_BYTES: u16 = <$raw as $crate::register::Register>::LEN_BYTES;

            fn read(window: $crate::register::Window<'_>, offset: u16) -> Result<Self, $crate::Truncated> {
                window.read(offset).map(Self::from_bits)
            }
        }

        impl $crate::Describe for $name {
            fn describe(&self) -> $crate::Value {
                $crate::Value::Fields(vec![$($crate::Field {
                    name: $crate::register::described_name!($field $($alias)?),
                    value: $crate::Describe::describe(&self.$field()),
                }),*])
            }
        }
    };
}

macro_rules! described_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $alias:literal) => {
        $alias
    };
}

/// Declares a field of a register whose values have names.
macro_rules! code {
    (
        $(#[$meta:meta])*
        pub struct $name:ident: $raw:ident {
            $($(#[$value_meta:meta])* $constant:ident = $value:literal $text:literal,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(pub $raw);

        impl $name {
            $($(#[$value_meta])* pub const $constant: Self = Self($value);)*

            /// The name of the value; `None` for a reserved value.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }
        }

        $crate::register::bits!($name: $raw);

        impl $crate::Describe for $name {
            fn describe(&self) -> $crate::Value {
                match self.name() {
                    Some(name) => $crate::Value::text(name),
                    None => $crate::Value::text(format!("reserved({})", self.0)),
                }
            }
        }
    };
}

/// Lets a newtype over an integer be a field of a register.
macro_rules! bits {
    ($name:ident: $raw:ident) => {
        impl $name {
            /// From the bits of a register.
            #[must_use]
            pub const fn from_bits(bits: $raw) -> Self {
                Self(bits)
            }

            /// The bits of a register.
            #[must_use]
            pub const fn into_bits(self) -> $raw {
                self.0
            }
        }
    };
}

/// Declares a structure of named parts. With an identifier and offsets (`= ID { 0x04 field: Type, … }`) it is a capability that is
/// read register by register; without, reading it is up to the module.
macro_rules! structure {
    (
        $(#[$meta:meta])*
        pub struct $name:ident = $id:ident {
            $($(#[$field_meta:meta])* $offset:literal $field:ident: $type:ty,)*
        }
    ) => {
        $crate::register::structure! {
            $(#[$meta])*
            pub struct $name {
                $($(#[$field_meta])* $field: $type,)*
            }
        }

        impl $crate::cap::Decode for $name {
            const ID: $crate::CapabilityId = $crate::CapabilityId::$id;

            fn decode(capability: &$crate::Capability<'_>) -> Result<Self, $crate::Truncated> {
                let window = capability.window();
                Ok(Self {
                    $($field: window.read($offset)?,)*
                })
            }
        }
    };
    (
        $(#[$meta:meta])*
        pub struct $name:ident {
            $($(#[$field_meta:meta])* $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        impl $crate::Describe for $name {
            fn describe(&self) -> $crate::Value {
                $crate::Value::Fields(vec![
                    $($crate::Field { name: stringify!($field), value: $crate::Describe::describe(&self.$field) },)*
                ])
            }
        }
    };
}

pub(crate) use {bits, code, described_name, register, structure};
