//! The description of the API, `docs/openapi.yaml`, in the three forms that this server sends: YAML, JSON, and a page
//! for people (docs/adr/0029).
//!
//! The three forms are made from the embedded document, once, when the first is requested. Addresses in them are
//! relative to the server, with the path prefix of the settings.

mod markup;
mod node;
mod page;
mod schema;

use std::sync::OnceLock;

use crate::config::PathPrefix;
use node::Node;
pub(crate) use page::STYLE as PAGE_STYLE;

const YAML: &str = include_str!("../../../../docs/openapi.yaml");

/// The line of the document that names the server's address.
const SERVER: &str = "\n  - url: /\n";

/// The document in its forms.
pub(crate) struct ApiDocument {
    prefix: String,
    forms: OnceLock<Result<Forms, String>>,
}

/// The forms of the document.
pub(crate) struct Forms {
    pub(crate) yaml: String,
    pub(crate) json: String,
    pub(crate) html: String,
}

impl ApiDocument {
    /// The document of a server whose routes are under `prefix`.
    pub(crate) fn new(prefix: &PathPrefix) -> Self {
        Self { prefix: prefix.as_str().to_owned(), forms: OnceLock::new() }
    }

    /// The forms of the document.
    ///
    /// # Errors
    /// The defect of the embedded document, which a test excludes.
    pub(crate) fn forms(&self) -> Result<&Forms, String> {
        self.forms.get_or_init(|| Forms::new(&self.prefix)).as_ref().map_err(String::clone)
    }
}

impl Forms {
    fn new(prefix: &str) -> Result<Self, String> {
        let yaml = match prefix {
            "" => YAML.to_owned(),
            prefix => YAML.replacen(SERVER, &format!("\n  - url: {prefix}\n"), 1),
        };
        let document: Node = serde_saphyr::from_str(&yaml).map_err(|error| error.to_string())?;
        let json = serde_json::to_string(&document).map_err(|error| error.to_string())?;
        let html = page::render(&document, prefix);
        Ok(Self { yaml, json, html })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_of_the_server_has_the_prefix() {
        for (prefix, expected) in [("", "/"), ("/a/b", "/a/b")] {
            let forms = Forms::new(prefix).unwrap();
            let json: serde_json::Value = serde_json::from_str(&forms.json).unwrap();
            assert_eq!(json["servers"], serde_json::json!([{ "url": expected }]));
            let yaml: serde_json::Value = serde_saphyr::from_str(&forms.yaml).unwrap();
            assert_eq!(json, yaml);
        }
        assert_eq!(Forms::new("").unwrap().yaml, YAML);
    }
}
