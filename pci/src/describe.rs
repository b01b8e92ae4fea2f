//! Decoded registers as named values: one form from which both text and JSON are made.
//!
//! [`Describe`] turns a decoded structure into a [`Value`]; the names are the public names of its fields. A tool needs no code per
//! capability: it prints [`Value::lines`] or maps the nine kinds of [`Value`] to JSON.

use std::borrow::Cow;
use std::fmt;

/// A structure that can name its parts.
pub trait Describe {
    /// The value, with the names of its fields where it has some.
    fn describe(&self) -> Value;
}

/// A named part of a structure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name: lower-case words joined by `_`, with the unit where the value has one (`max_payload_bytes`).
    pub name: &'static str,
    /// Its value.
    pub value: Value,
}

/// A decoded value. Prints on one line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// This function does not have the field; text leaves it out.
    Absent,
    /// A flag.
    Bool(bool),
    /// A number.
    Int(u64),
    /// A number best read in hexadecimal: an address, an identifier, a mask.
    Hex {
        /// The number.
        number: u64,
        /// Digits to print, leading zeros included.
        digits: u8,
    },
    /// A word.
    Text(Cow<'static, str>),
    /// Undecoded bytes in the order of their addresses.
    Bytes(Vec<u8>),
    /// Several values of one kind.
    List(Vec<Value>),
    /// A structure.
    Fields(Vec<Field>),
}

impl Value {
    /// A word.
    pub fn text(word: impl Into<Cow<'static, str>>) -> Self {
        Self::Text(word.into())
    }

    /// A number printed with `digits` hexadecimal digits.
    pub fn hex(number: impl Into<u64>, digits: u8) -> Self {
        Self::Hex {
            number: number.into(),
            digits,
        }
    }

    /// The value of a field of this structure; `None` when it is no structure or has no such field.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Fields(fields) => fields.iter().find(|f| f.name == name).map(|f| &f.value),
            _ => None,
        }
    }

    /// Text of several lines: the plain fields first, then one labelled paragraph for each register. Lines longer than `width`
    /// characters are broken between fields.
    #[must_use]
    pub fn lines(&self, width: usize) -> Vec<String> {
        let Self::Fields(fields) = self else {
            return vec![self.to_string()];
        };
        let mut lines = Vec::new();
        let plain = fields.iter().filter(|f| !f.value.is_structured());
        paragraph("", plain, width, &mut lines);
        for field in fields.iter().filter(|f| f.value.is_structured()) {
            match &field.value {
                Self::List(items) => {
                    for (index, item) in items.iter().enumerate() {
                        paragraph(
                            &format!("{}[{index}]:", field.name),
                            item.fields().iter(),
                            width,
                            &mut lines,
                        );
                    }
                }
                value => paragraph(&format!("{}:", field.name), value.fields().iter(), width, &mut lines),
            }
        }
        lines
    }

    fn is_structured(&self) -> bool {
        match self {
            Self::Fields(_) => true,
            Self::List(items) => items.iter().any(|item| matches!(item, Self::Fields(_))),
            _ => false,
        }
    }

    fn fields(&self) -> &[Field] {
        if let Self::Fields(fields) = self { fields } else { &[] }
    }
}

/// Appends `label` and the fields, broken at `width`; continuation lines are indented. Nothing without fields.
fn paragraph<'a>(label: &str, fields: impl Iterator<Item = &'a Field>, width: usize, lines: &mut Vec<String>) {
    let text = fields.map(Field::to_string).collect::<Vec<_>>().join(" ");
    let mut line = label.to_owned();
    let mut has_words = false;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if has_words && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, " ".to_owned()));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
        has_words = true;
    }
    if has_words {
        lines.push(line);
    }
}

impl fmt::Display for Field {
    /// `name+` and `name-` for flags, `name=value` for the rest, nothing for an absent value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Value::Absent => Ok(()),
            Value::Bool(true) => write!(f, "{}+", self.name),
            Value::Bool(false) => write!(f, "{}-", self.name),
            value => write!(f, "{}={value}", self.name),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("none"),
            Self::Bool(flag) => write!(f, "{flag}"),
            Self::Int(number) => write!(f, "{number}"),
            Self::Hex { number, digits } => write!(f, "0x{number:0width$x}", width = usize::from(*digits)),
            Self::Text(word) => f.write_str(word),
            Self::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
            Self::List(items) => {
                f.write_str("[")?;
                separated(f, items.iter(), ",")?;
                f.write_str("]")
            }
            Self::Fields(fields) => {
                f.write_str("{")?;
                separated(f, fields.iter().filter(|field| field.value != Self::Absent), " ")?;
                f.write_str("}")
            }
        }
    }
}

fn separated<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    items: impl Iterator<Item = T>,
    separator: &str,
) -> fmt::Result {
    for (index, item) in items.enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        write!(f, "{item}")?;
    }
    Ok(())
}

/// A number that is described in hexadecimal, at the width of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hex<T>(pub T);

macro_rules! numbers {
    ($($number:ty: $digits:literal),*) => {$(
        impl Describe for $number {
            fn describe(&self) -> Value {
                Value::Int(u64::from(*self))
            }
        }

        impl Describe for Hex<$number> {
            fn describe(&self) -> Value {
                Value::hex(self.0, $digits)
            }
        }

        impl Hex<$number> {
            /// From the bits of a register.
            #[must_use]
            pub const fn from_bits(bits: $number) -> Self {
                Self(bits)
            }

            /// The bits of a register.
            #[must_use]
            pub const fn into_bits(self) -> $number {
                self.0
            }
        }
    )*};
}

numbers!(u8: 2, u16: 4, u32: 8);

impl Describe for Hex<u64> {
    fn describe(&self) -> Value {
        Value::hex(self.0, 16)
    }
}

impl Describe for bool {
    fn describe(&self) -> Value {
        Value::Bool(*self)
    }
}

impl<T: Describe> Describe for Option<T> {
    fn describe(&self) -> Value {
        self.as_ref().map_or(Value::Absent, Describe::describe)
    }
}

impl<T: Describe> Describe for [T] {
    fn describe(&self) -> Value {
        Value::List(self.iter().map(Describe::describe).collect())
    }
}

impl<T: Describe> Describe for Vec<T> {
    fn describe(&self) -> Value {
        self.as_slice().describe()
    }
}

impl<T: Describe, const N: usize> Describe for [T; N] {
    fn describe(&self) -> Value {
        self.as_slice().describe()
    }
}

/// Undecoded bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Bytes(pub Vec<u8>);

impl Describe for Bytes {
    fn describe(&self) -> Value {
        Value::Bytes(self.0.clone())
    }
}
