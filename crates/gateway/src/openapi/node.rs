//! A document whose maps keep the order of their keys: the page shows operations and fields in the order in which they
//! are written.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
    ser::SerializeMap,
};

/// Width of JSON for a reader, in characters.
const PRETTY_WIDTH: usize = 88;

/// A value of YAML or JSON.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Null,
    Bool(bool),
    Integer(i64),
    Number(f64),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

static NULL: Node = Node::Null;

impl Node {
    /// The value of a key; [`Node::Null`] if there is none.
    pub(super) fn get(&self, key: &str) -> &Self {
        self.entries().iter().find(|(known, _)| known == key).map_or(&NULL, |(_, value)| value)
    }

    /// The entries of a map; empty for another value.
    pub(super) fn entries(&self) -> &[(String, Self)] {
        match self {
            Self::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The elements of a list; empty for another value.
    pub(super) fn list(&self) -> &[Self] {
        match self {
            Self::List(list) => list,
            _ => &[],
        }
    }

    /// The text; empty for another value.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            _ => "",
        }
    }

    pub(super) fn is_null(&self) -> bool {
        *self == Self::Null
    }

    /// The value to which a `$ref` within this document leads, with the last part of its path; the value itself without
    /// a `$ref`.
    pub(super) fn resolve<'a>(&'a self, value: &'a Self) -> (&'a Self, Option<&'a str>) {
        let Some(path) = value.get("$ref").text().strip_prefix("#/") else { return (value, None) };
        let found = path.split('/').fold(self, |node, key| node.get(key));
        (found, path.rsplit('/').next())
    }

    /// The value as JSON for a reader: maps and lists that fit a line are on one.
    pub(super) fn pretty(&self) -> String {
        self.lines(0)
    }

    fn lines(&self, indent: usize) -> String {
        let line = self.line();
        if indent + line.chars().count() <= PRETTY_WIDTH {
            return line;
        }
        let (brackets, parts): (_, Vec<String>) = match self {
            Self::List(list) => (["[", "]"], list.iter().map(|value| value.lines(indent + 2)).collect()),
            Self::Map(entries) => {
                let entry = |(key, value): &(String, Self)| {
                    format!("{}: {}", Self::Text(key.clone()).json(), value.lines(indent + 2))
                };
                (["{", "}"], entries.iter().map(entry).collect())
            }
            _ => return line,
        };
        let (outer, inner) = (" ".repeat(indent), " ".repeat(indent + 2));
        let parts = parts.join(&format!(",\n{inner}"));
        format!("{}\n{inner}{parts}\n{outer}{}", brackets[0], brackets[1])
    }

    /// The value as JSON on one line, with spaces.
    fn line(&self) -> String {
        match self {
            Self::List(list) => format!("[{}]", list.iter().map(Self::line).collect::<Vec<_>>().join(", ")),
            Self::Map(entries) => {
                let entry = |(key, value): &(String, Self)| {
                    format!("{}: {}", Self::Text(key.clone()).json(), value.line())
                };
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
            }
            other => other.json(),
        }
    }

    /// The value as JSON on one line.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Number(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::List(list) => list.serialize(serializer),
            Self::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries.len()))?;
                for (key, value) in entries {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyNode;
        impl<'de> Visitor<'de> for AnyNode {
            type Value = Node;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value of YAML")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Bool(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Integer(value))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Node, E> {
                i64::try_from(value).map(Node::Integer).map_err(E::custom)
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Number(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Node, A::Error> {
                let mut nodes = Vec::new();
                while let Some(node) = list.next_element()? {
                    nodes.push(node);
                }
                Ok(Node::List(nodes))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Node::Map(entries))
            }
        }
        deserializer.deserialize_any(AnyNode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_for_a_reader_breaks_what_does_not_fit_a_line() {
        let short: Node = serde_json::from_str(r#"{"b": [1, 2.5, null], "a": {}}"#).unwrap();
        assert_eq!(short.pretty(), r#"{"b": [1, 2.5, null], "a": {}}"#);
        let text = "x".repeat(PRETTY_WIDTH);
        let long: Node = serde_json::from_str(&format!(r#"{{"b": "{text}", "a": [1, 2]}}"#)).unwrap();
        assert_eq!(long.pretty(), format!("{{\n  \"b\": \"{text}\",\n  \"a\": [1, 2]\n}}"));
        let same: Node = serde_json::from_str(&long.pretty()).unwrap();
        assert_eq!(same, long);
    }
}
