//! Decoded registers as named values: one form from which both text and JSON are made.
//!
//! [`Describe`] turns a decoded structure into a [`Value`]; the names are the public names of its fields. A tool needs no code per
//! capability: it prints [`Value::lines`] or maps the kinds of [`Value`] to JSON.

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
pub enum Value {
    /// This function does not have the field; text leaves it out.
    Absent,
    /// A flag.
    Bool(bool),
    /// A number.
    Int(u64),
    /// A size in bytes; text gives it in the largest binary unit that divides it.
    Size(u64),
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
    /// characters are broken between fields. Of a register with many flags only those that are set are shown.
    #[must_use]
    pub fn lines(&self, width: usize) -> Vec<String> {
        let Self::Fields(fields) = self else {
            return vec![self.to_string()];
        };
        let mut lines = Vec::new();
        let plain = shown(fields).filter(|f| !f.value.is_structured());
        paragraph("", plain, width, &mut lines);
        for field in fields.iter().filter(|f| f.value.is_structured()) {
            match &field.value {
                Self::List(items) => {
                    for (index, item) in items.iter().enumerate() {
                        paragraph(&format!("{}[{index}]:", field.name), item.shown(), width, &mut lines);
                    }
                }
                value => paragraph(&format!("{}:", field.name), value.shown(), width, &mut lines),
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

    fn shown(&self) -> impl Iterator<Item = &Field> {
        shown(if let Self::Fields(fields) = self { fields } else { &[] })
    }
}

/// Registers with more flags than this show only those that are set.
const MANY_FLAGS: usize = 7;

/// The fields that text shows.
fn shown(fields: &[Field]) -> impl Iterator<Item = &Field> {
    let flags = fields
        .iter()
        .filter(|field| matches!(field.value, Value::Bool(_)))
        .count();
    fields.iter().filter(move |field| match field.value {
        Value::Absent => false,
        Value::Bool(is_set) => is_set || flags <= MANY_FLAGS,
        _ => true,
    })
}

/// Appends `label` and the fields, broken at `width`; continuation lines are indented. A dash stands for no field.
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
    } else if !label.is_empty() {
        lines.push(format!("{label} -"));
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
            Self::Size(bytes) => size(f, *bytes),
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
                separated(f, shown(fields), " ")?;
                f.write_str("}")
            }
        }
    }
}

fn size(f: &mut fmt::Formatter<'_>, bytes: u64) -> fmt::Result {
    const UNITS: [&str; 7] = ["", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut number = bytes;
    let mut units = UNITS.iter();
    let mut unit = units.next();
    while number >= 1024 && number.is_multiple_of(1024) {
        number /= 1024;
        unit = units.next();
    }
    write!(f, "{number}{}", unit.unwrap_or(&""))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &'static str, value: Value) -> Field {
        Field { name, value }
    }

    #[test]
    fn plain_fields_come_first_and_each_register_has_a_paragraph() {
        let register = Value::Fields(vec![
            field("enable", Value::Bool(true)),
            field("mask", Value::Bool(false)),
        ]);
        let value = Value::Fields(vec![
            field("control", register.clone()),
            field("count", Value::Int(3)),
            field("nothing", Value::Absent),
            field("lanes", Value::List(vec![register])),
        ]);
        assert_eq!(
            value.lines(80),
            ["count=3", "control: enable+ mask-", "lanes[0]: enable+ mask-"]
        );
        assert_eq!(
            value.to_string(),
            "{control={enable+ mask-} count=3 lanes=[{enable+ mask-}]}"
        );
    }

    #[test]
    fn lines_are_broken_between_words_and_continued_indented() {
        let value = Value::Fields(vec![
            field("a", Value::Int(1)),
            field("b", Value::text("x")),
            field("c", Value::Int(2)),
        ]);
        assert_eq!(value.lines(7), ["a=1 b=x", "  c=2"]);
        assert_eq!(value.lines(0), ["a=1", "  b=x", "  c=2"]);
    }

    #[test]
    fn of_many_flags_only_those_that_are_set_are_shown() {
        let flags = |set: &[&'static str]| {
            let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
            let register = names.map(|name| field(name, Value::Bool(set.contains(&name)))).to_vec();
            Value::Fields(vec![field("status", Value::Fields(register))]).lines(80)
        };
        assert_eq!(flags(&["b", "h"]), ["status: b+ h+"]);
        assert_eq!(flags(&[]), ["status: -"]);
    }

    #[test]
    fn numbers_print_in_their_form() {
        let text = |value: Value| value.to_string();
        assert_eq!(text(Hex(0x1f_u16).describe()), "0x001f");
        assert_eq!(text(Bytes(vec![0, 0xab]).describe()), "00ab");
        assert_eq!(text(Value::Size(0)), "0");
        assert_eq!(text(Value::Size(4097)), "4097");
        assert_eq!(text(Value::Size(3 << 20)), "3MiB");
        assert_eq!(text(Value::Size(1 << 63)), "8EiB");
    }
}
