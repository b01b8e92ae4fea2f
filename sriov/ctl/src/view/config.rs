//! Decoded configuration space as JSON.

use pci::{Field, Value};
use serde::ser::{Serialize, SerializeMap as _, Serializer};

/// A decoded value. A number best read in hexadecimal is a string (`"0x0010"`), undecoded bytes are a string of hexadecimal
/// digits, a field that the function does not have is `null`.
#[derive(Debug)]
pub(crate) struct Json<'a>(pub(crate) &'a Value);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Absent => serializer.serialize_unit(),
            Value::Bool(flag) => serializer.serialize_bool(*flag),
            Value::Int(number) => serializer.serialize_u64(*number),
            Value::List(items) => serializer.collect_seq(items.iter().map(Json)),
            Value::Fields(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for Field { name, value } in fields {
                    map.serialize_entry(name, &Json(value))?;
                }
                map.end()
            }
            other => serializer.collect_str(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_has_a_form() {
        let field = |name, value| Field { name, value };
        let value = Value::Fields(vec![
            field("absent", Value::Absent),
            field("flag", Value::Bool(true)),
            field("count", Value::Int(3)),
            field("mask", Value::hex(16_u16, 4)),
            field("word", Value::text("d3hot")),
            field("raw", Value::Bytes(vec![1, 0xff])),
            field("list", Value::List(vec![Value::Int(1)])),
        ]);
        let text = serde_json::to_string(&Json(&value)).unwrap();
        let expected = concat!(
            r#"{"absent":null,"flag":true,"count":3,"mask":"0x0010","word":"d3hot","#,
            r#""raw":"01ff","list":[1]}"#
        );
        assert_eq!(text, expected);
    }
}
