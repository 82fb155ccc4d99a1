//! Typed values out of the tree.

use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;

use super::{Error, Key, Node, Value, nearest};

impl de::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Error {
        let message = message.to_string();
        let duration = message.contains("duration string") || message.contains(" in duration ");
        let hint = duration.then(|| "a duration is written 15s, 1m30s or 7d".to_owned());
        Error { message, at: None, hint }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Error {
        let hint = nearest(field, expected.iter().copied()).map(|near| format!("did you mean `{near}`?"));
        Error { message: format!("unknown field `{field}`"), at: None, hint }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Error {
        let hint = Some(format!("one of: {}", expected.join(", ")));
        Error { message: format!("unknown value `{variant}`"), at: None, hint }
    }

    fn missing_field(field: &'static str) -> Error {
        Error::custom(format_args!("`{field}` is missing"))
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Error {
        Error::custom(format_args!("expected {expected}, found {found}"))
    }
}

/// Reads one node.
pub(super) struct NodeReader<'a>(pub(super) &'a Node);

impl NodeReader<'_> {
    fn expected(&self, what: &str) -> Error {
        Error::at(self.0.at, format!("expected {what}, found {}", self.0.value.describe()))
    }

    /// The text of an unquoted scalar.
    fn plain(&self, what: &str) -> Result<&str, Error> {
        match &self.0.value {
            Value::Scalar { text, plain: true } => Ok(text),
            _ => Err(self.expected(what)),
        }
    }

    fn number<T: std::str::FromStr>(&self, what: &str) -> Result<T, Error> {
        self.plain(what)?.parse().map_err(|_| self.expected(what))
    }
}

/// go-yaml's words for true and false.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => Some(false),
        _ => None,
    }
}

macro_rules! numbers {
    ($($method:ident, $visit:ident, $what:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            visitor.$visit(self.number($what)?)
        }
    )*};
}

impl<'de> Deserializer<'de> for NodeReader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0.value {
            Value::Null => visitor.visit_unit(),
            Value::Scalar { text, plain: false } => visitor.visit_borrowed_str(text),
            Value::Scalar { text, plain: true } => {
                if let Some(value) = boolean(text) {
                    visitor.visit_bool(value)
                } else if let Ok(value) = text.parse::<i64>() {
                    visitor.visit_i64(value)
                } else if let (Ok(value), true) =
                    (text.parse::<f64>(), text.bytes().any(|b| b.is_ascii_digit()))
                {
                    visitor.visit_f64(value)
                } else {
                    visitor.visit_borrowed_str(text)
                }
            }
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let value = boolean(self.plain("true or false")?).ok_or_else(|| self.expected("true or false"))?;
        visitor.visit_bool(value)
    }

    numbers! {
        deserialize_i8, visit_i64, "a whole number";
        deserialize_i16, visit_i64, "a whole number";
        deserialize_i32, visit_i64, "a whole number";
        deserialize_i64, visit_i64, "a whole number";
        deserialize_u8, visit_u64, "a whole number, zero or more";
        deserialize_u16, visit_u64, "a whole number, zero or more";
        deserialize_u32, visit_u64, "a whole number, zero or more";
        deserialize_u64, visit_u64, "a whole number, zero or more";
        deserialize_f32, visit_f64, "a number";
        deserialize_f64, visit_f64, "a number";
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.0.value {
            Value::Scalar { text, .. } => visitor.visit_borrowed_str(text),
            Value::Null => visitor.visit_borrowed_str(""),
            _ => Err(self.expected("text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_seq(Items(self.0.items()?.iter()))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let entries = self.0.entries()?;
        visitor.visit_map(Entries { entries: entries.iter(), value: None }).map_err(|e| e.or_at(self.0.at))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.0.value {
            Value::Scalar { text, .. } => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => Err(self.expected("a word")),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct ignored_any
    }
}

struct Items<'a>(std::slice::Iter<'a, Node>);

impl<'de> de::SeqAccess<'de> for Items<'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(node) = self.0.next() else { return Ok(None) };
        seed.deserialize(NodeReader(node)).map(Some).map_err(|e| e.or_at(node.at))
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, (Key, Node)>,
    value: Option<&'a Node>,
}

impl<'de> de::MapAccess<'de> for Entries<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, node)) = self.entries.next() else { return Ok(None) };
        self.value = Some(node);
        seed.deserialize(key.text.as_str().into_deserializer()).map(Some).map_err(|e: Error| e.or_at(key.at))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let node = self.value.take().ok_or_else(|| <Error as de::Error>::custom("a value before its key"))?;
        seed.deserialize(NodeReader(node)).map_err(|e| e.or_at(node.at))
    }
}
