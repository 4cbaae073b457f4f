//! Deserialization of a JSON value of unknown kind: a wrong kind is a value, not a serde error.
//!
//! serde reports a wrong kind and malformed JSON through one error type, and only the message tells them apart. Here
//! every well-formed value is accepted, and a wrong kind becomes `None`. An error from serde therefore always means
//! malformed JSON, and a wrong kind in one field never hides a later syntax error.

use std::{fmt, marker::PhantomData};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A type that can be read from some kinds of JSON values. Every kind defaults to `None`, which means a wrong kind.
///
/// Implementations of [`from_array`](FromJsonKind::from_array) must consume the array to its end, even if they return
/// `None`.
pub(crate) trait FromJsonKind: Sized {
    fn from_bool(_value: bool) -> Option<Self> {
        None
    }

    fn from_text(_text: &str) -> Option<Self> {
        None
    }

    /// Called for a number without fraction and exponent that fits `i64` or `u64`.
    fn from_integer(_integer: i128) -> Option<Self> {
        None
    }

    fn from_array<'de, A: SeqAccess<'de>>(array: A) -> Result<Option<Self>, A::Error> {
        skip_array(array)
    }
}

impl FromJsonKind for String {
    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl FromJsonKind for i128 {
    fn from_integer(integer: i128) -> Option<Self> {
        Some(integer)
    }
}

impl FromJsonKind for u32 {
    fn from_integer(integer: i128) -> Option<Self> {
        integer.try_into().ok()
    }
}

/// Consumes the rest of an array of the wrong kind, without recursion.
pub(crate) fn skip_array<'de, T, A: SeqAccess<'de>>(mut array: A) -> Result<Option<T>, A::Error> {
    while array.next_element::<IgnoredAny>()?.is_some() {}
    Ok(None)
}

/// Any JSON value, read as a `T` if its kind allows it.
pub(crate) struct Lenient<T>(pub(crate) Option<T>);

impl<'de, T: FromJsonKind> Deserialize<'de> for Lenient<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LenientVisitor(PhantomData)).map(Lenient)
    }
}

struct LenientVisitor<T>(PhantomData<T>);

impl<'de, T: FromJsonKind> Visitor<'de> for LenientVisitor<T> {
    type Value = Option<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(T::from_bool(value))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, integer: i64) -> Result<Self::Value, E> {
        Ok(T::from_integer(integer.into()))
    }

    fn visit_u64<E>(self, integer: u64) -> Result<Self::Value, E> {
        Ok(T::from_integer(integer.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(T::from_text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<Self::Value, A::Error> {
        T::from_array(array)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Self::Value, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}
