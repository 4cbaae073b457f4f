//! Reading a JSON value whose kind is not known: a wrong kind is an answer, not a serde error.
//!
//! serde reports "this should have been a string" and "this is not JSON" through one error type,
//! told apart by their text. Here every well-formed value is accepted and a wrong kind becomes
//! `None`, so that an error from serde always means malformed JSON, and a wrong kind in one field
//! never hides a syntax error further on.

use std::{fmt, marker::PhantomData};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A value that some kinds of JSON can become. Every kind defaults to `None`: "not me".
///
/// Implementations of [`from_array`](Shape::from_array) must consume the array to its end, also when they return `None`.
pub(crate) trait Shape: Sized {
    fn from_bool(_value: bool) -> Option<Self> {
        None
    }

    fn from_text(_text: &str) -> Option<Self> {
        None
    }

    /// Called for a number without fraction and exponent that fits 64 bits, signed or not.
    fn from_integer(_integer: i128) -> Option<Self> {
        None
    }

    fn from_array<'de, A: SeqAccess<'de>>(array: A) -> Result<Option<Self>, A::Error> {
        skip_array(array)
    }
}

impl Shape for String {
    fn from_text(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Shape for i128 {
    fn from_integer(integer: i128) -> Option<Self> {
        Some(integer)
    }
}

impl Shape for u32 {
    fn from_integer(integer: i128) -> Option<Self> {
        integer.try_into().ok()
    }
}

/// Consumes what is left of an array of the wrong shape. Skipping does not recurse.
pub(crate) fn skip_array<'de, T, A: SeqAccess<'de>>(mut array: A) -> Result<Option<T>, A::Error> {
    while array.next_element::<IgnoredAny>()?.is_some() {}
    Ok(None)
}

/// Any JSON value, read as a `T` where its kind allows.
pub(crate) struct Shaped<T>(pub(crate) Option<T>);

impl<'de, T: Shape> Deserialize<'de> for Shaped<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapedVisitor(PhantomData)).map(Shaped)
    }
}

struct ShapedVisitor<T>(PhantomData<T>);

impl<'de, T: Shape> Visitor<'de> for ShapedVisitor<T> {
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
