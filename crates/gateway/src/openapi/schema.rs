//! Tables of the fields of JSON schemas.

use super::{markup::inline, node::Node};
use crate::html::escape;

/// Depth at which nested fields are no longer listed. No schema of the document is deeper; a cycle of references would
/// be.
const MAX_DEPTH: usize = 8;

/// Largest number of 32 bits.
const UINT32_MAX: i64 = u32::MAX as i64;

/// Kind of a body: the table marks the required fields of a request, and the optional ones of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyKind {
    Request,
    Response,
}

impl BodyKind {
    fn caption(self) -> &'static str {
        match self {
            Self::Request => "Request body",
            Self::Response => "Response body",
        }
    }
}

/// A row of a table: a field, or an element of a list.
struct FieldRow {
    /// Its name with those of the fields around it, such as `data[].index`.
    path: String,
    kind: String,
    is_required: bool,
    description: String,
}

/// The schema of a body as a sentence about its type and a table of its fields.
pub(super) fn describe(document: &Node, schema: &Node, body: BodyKind) -> String {
    let caption = body.caption();
    let mut rows = Vec::new();
    collect(document, schema, (String::new(), MAX_DEPTH), &mut rows);
    let (resolved, _) = document.resolve(schema);
    let mut html = String::new();
    if rows.is_empty() || resolved.get("properties").is_null() {
        html.push_str(&format!("<p>{caption}: {}.</p>\n", kind(document, schema)));
    }
    let description = resolved.get("description").text();
    if !description.is_empty() {
        html.push_str(&format!("<p>{}</p>\n", inline(description)));
    }
    if rows.is_empty() {
        return html;
    }
    let rows: String = rows
        .iter()
        .map(|row| {
            let required = match (body, row.is_required) {
                (BodyKind::Request, true) => "<b>required</b> ",
                (BodyKind::Response, false) => "<b>optional</b> ",
                _ => "",
            };
            let (path, kind, description) = (escape(&row.path), &row.kind, inline(&row.description));
            format!("<tr><th scope=\"row\"><code>{path}</code><td>{kind}<td>{required}{description}\n")
        })
        .collect();
    let head =
        "<thead><tr><th scope=\"col\">Field<th scope=\"col\">Type<th scope=\"col\">Description</thead>";
    html + &format!(
        "<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-label=\"{caption}\"><table>{head}\n\
         <tbody>{rows}</tbody></table></div>\n"
    )
}

/// Collects the fields of `schema`, whose own path is `path`, down to `depth` more levels.
fn collect(document: &Node, schema: &Node, (path, depth): (String, usize), rows: &mut Vec<FieldRow>) {
    if depth == 0 {
        return;
    }
    let (resolved, _) = document.resolve(schema);
    let required = resolved.get("required").list();
    for (name, field) in resolved.get("properties").entries() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        rows.push(FieldRow {
            path: path.clone(),
            kind: kind(document, field),
            is_required: required.iter().any(|required| required.text() == name),
            description: description(document, field),
        });
        collect(document, field, (path, depth - 1), rows);
    }
    let items = resolved.get("items");
    if !items.is_null() {
        collect(document, items, (format!("{path}[]"), depth - 1), rows);
    }
    for choice in resolved.get("anyOf").list() {
        collect(document, choice, (path.clone(), depth - 1), rows);
    }
}

/// The description of a field, of the schema that it refers to, or of its elements; then its default and limits.
fn description(document: &Node, field: &Node) -> String {
    let (resolved, _) = document.resolve(field);
    let own = [field, resolved]
        .into_iter()
        .map(|schema| schema.get("description").text())
        .find(|text| !text.is_empty());
    let mut sentences: Vec<String> = own.map(|text| text.trim().to_owned()).into_iter().collect();
    for (key, words, unit) in [
        ("minimum", "At least", ""),
        ("maximum", "At most", ""),
        ("minItems", "At least", " elements"),
        ("maxItems", "At most", " elements"),
    ] {
        // Bounds that nearly every number or list has are left out.
        match resolved.get(key) {
            Node::Null | Node::Integer(0 | 1 | UINT32_MAX) => {}
            bound => sentences.push(format!("{words} {}{unit}.", bound.json())),
        }
    }
    if !resolved.get("default").is_null() {
        sentences.push(format!("Default: `{}`.", resolved.get("default").json()));
    }
    sentences.join(" ")
}

/// The type of a value, as HTML.
pub(super) fn kind(document: &Node, schema: &Node) -> String {
    kind_within(document, schema, MAX_DEPTH)
}

fn kind_within(document: &Node, schema: &Node, depth: usize) -> String {
    let (resolved, _) = document.resolve(schema);
    let Some(depth) = depth.checked_sub(1) else { return "…".to_owned() };
    for key in ["anyOf", "oneOf"] {
        let choices = resolved.get(key).list();
        if !choices.is_empty() {
            let choices: Vec<_> = choices.iter().map(|choice| kind_within(document, choice, depth)).collect();
            return choices.join(", or ");
        }
    }
    let constant = resolved.get("const");
    if !constant.is_null() {
        return format!("<code>{}</code>", escape(&constant.json()));
    }
    let values = resolved.get("enum").list();
    if !values.is_empty() {
        let values: Vec<_> =
            values.iter().map(|value| format!("<code>{}</code>", escape(&value.json()))).collect();
        return values.join(" or ");
    }
    let kinds = resolved.get("type");
    let kinds: Vec<&str> = match kinds {
        Node::List(kinds) => kinds.iter().map(Node::text).collect(),
        other => vec![other.text()],
    };
    let items = resolved.get("items");
    let name = |kind: &&str| match *kind {
        "array" if items.is_null() => "list".to_owned(),
        "array" => format!("list of {}", kind_within(document, items, depth)),
        "" => "any".to_owned(),
        kind => kind.to_owned(),
    };
    kinds.iter().map(name).collect::<Vec<_>>().join(" or ")
}
