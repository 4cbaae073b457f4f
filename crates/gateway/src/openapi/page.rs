//! The page `/docs`: the document as static HTML. It needs no script, and loads nothing.

use super::{
    markup::{anchor, inline, paragraphs},
    node::Node,
    schema::{self, BodyKind},
};
use crate::html::escape;

/// Style of the page, which its Content-Security-Policy allows by its digest.
pub(crate) const STYLE: &str = include_str!("page.css");

/// Operations of a path, in the order of the page.
const METHODS: [&str; 5] = ["get", "post", "put", "patch", "delete"];

/// An operation, with every path that has it.
struct OperationEntry<'d> {
    method: &'static str,
    /// The first is the one that the document explains.
    paths: Vec<&'d str>,
    tag: &'d str,
    operation: &'d Node,
}

impl OperationEntry<'_> {
    fn id(&self) -> String {
        anchor(&format!("{} {}", self.method, self.path()))
    }

    fn path(&self) -> &str {
        self.paths.first().copied().unwrap_or_default()
    }

    fn title(&self) -> String {
        let method = self.method;
        format!(
            "<code><span class=\"{method}\">{}</span> {}</code>",
            method.to_uppercase(),
            escape(self.path())
        )
    }
}

/// Renders the page of a server whose routes are under `prefix`.
pub(super) fn render(document: &Node, prefix: &str) -> String {
    let info = document.get("info");
    let operations = operations(document);
    let tags = document.get("tags").list();
    let (mut contents, mut sections) = (String::new(), String::new());
    for tag in tags {
        let name = tag.get("name").text();
        let of_tag: Vec<_> = operations.iter().filter(|entry| entry.tag == name).collect();
        let links: String = of_tag
            .iter()
            .map(|entry| {
                let summary = inline(entry.operation.get("summary").text());
                format!(
                    "<li><a href=\"#{}\">{}</a><br><span class=\"dim\">{summary}</span>\n",
                    entry.id(),
                    entry.title()
                )
            })
            .collect();
        let (id, title) = (anchor(name), escape(name));
        contents.push_str(&format!("<h2><a href=\"#{id}\">{title}</a></h2>\n<ul>\n{links}</ul>\n"));
        let articles: String = of_tag.iter().map(|entry| article(document, entry)).collect();
        let description = paragraphs(tag.get("description").text());
        sections.push_str(&format!(
            "<section id=\"{id}\">\n<h2>{title}</h2>\n{description}{articles}</section>\n"
        ));
    }
    let prefix = escape(prefix);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"robots\" content=\"noindex\">\n<title>{title} API</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n\
         <header>\n<h1>{title} API <small>{version}</small></h1>\n<p>{summary}</p>\n{description}\
         <p>The same for tools: <a href=\"{prefix}/openapi.yaml\">openapi.yaml</a>, \
         <a href=\"{prefix}/openapi.json\">openapi.json</a> (OpenAPI {openapi}). \
         <a href=\"{home}\">Try the models</a>.</p>\n</header>\n\
         <nav aria-label=\"Operations\">\n{contents}</nav>\n<main>\n{sections}</main>\n\
         <footer><p>Rendered by this server from its own document.</p></footer>\n</body>\n</html>\n",
        title = escape(info.get("title").text()),
        version = escape(info.get("version").text()),
        summary = inline(info.get("summary").text()),
        description = paragraphs(info.get("description").text()),
        openapi = escape(document.get("openapi").text()),
        home = if prefix.is_empty() { "/" } else { &prefix },
    )
}

/// All operations, in the order of the document. Paths that refer to the same operations are one entry.
fn operations(document: &Node) -> Vec<OperationEntry<'_>> {
    let mut entries: Vec<OperationEntry<'_>> = Vec::new();
    for (path, value) in document.get("paths").entries() {
        let (item, _) = document.resolve(value);
        for method in METHODS {
            let operation = item.get(method);
            if operation.is_null() {
                continue;
            }
            match entries.iter_mut().find(|entry| std::ptr::eq(entry.operation, operation)) {
                Some(entry) => entry.paths.push(path),
                None => {
                    let tag = operation.get("tags").list().first().map_or("", Node::text);
                    entries.push(OperationEntry { method, paths: vec![path], tag, operation });
                }
            }
        }
    }
    entries
}

fn article(document: &Node, entry: &OperationEntry<'_>) -> String {
    let (operation, id) = (entry.operation, entry.id());
    let mut html = format!(
        "<article id=\"{id}\" aria-labelledby=\"{id}-title\">\n<h3 id=\"{id}-title\"><a href=\"#{id}\">{}</a></h3>\n\
         <p>{}</p>\n{}",
        entry.title(),
        inline(operation.get("summary").text()),
        paragraphs(operation.get("description").text()),
    );
    if let [_, others @ ..] = &*entry.paths
        && !others.is_empty()
    {
        let others: Vec<_> = others.iter().map(|path| format!("<code>{}</code>", escape(path))).collect();
        html.push_str(&format!("<p class=\"dim\">Also at {}.</p>\n", others.join(", ")));
    }
    html.push_str(&format!("<p class=\"dim\">{}</p>\n", security(document, operation)));
    html.push_str(&parameters(document, operation));
    let body = document.resolve(operation.get("requestBody")).0;
    if !body.is_null() {
        html.push_str("<h4>Request</h4>\n");
        html.push_str(&paragraphs(body.get("description").text()));
        html.push_str(&content(document, body, BodyKind::Request));
    }
    html.push_str("<h4>Response</h4>\n");
    let (good, errors): (Vec<_>, Vec<_>) =
        operation.get("responses").entries().iter().partition(|(status, _)| status.starts_with('2'));
    for (status, response) in good {
        html.push_str(&success(document, status, response));
    }
    html.push_str(&failures(document, &errors));
    html + "</article>\n"
}

/// A sentence about the key that the operation needs.
fn security(document: &Node, operation: &Node) -> &'static str {
    let own = operation.get("security");
    let schemes = if own.is_null() { document.get("security") } else { own };
    let has = |name| schemes.list().iter().any(|scheme| !scheme.get(name).is_null());
    let is_optional = schemes.list().iter().any(|scheme| scheme.entries().is_empty());
    if has("admin") {
        "Needs an admin key."
    } else if is_optional && has("bearer") {
        "Needs an API key where keys are configured."
    } else {
        "Needs no key."
    }
}

fn parameters(document: &Node, operation: &Node) -> String {
    let rows: String = operation
        .get("parameters")
        .list()
        .iter()
        .map(|parameter| {
            let parameter = document.resolve(parameter).0;
            let required =
                if *parameter.get("required") == Node::Bool(true) { "<b>required</b> " } else { "" };
            format!(
                "<tr><th scope=\"row\"><code>{}</code><td>{}, {}<td>{required}{}\n",
                escape(parameter.get("name").text()),
                escape(parameter.get("in").text()),
                schema::kind(document, parameter.get("schema")),
                inline(parameter.get("description").text())
            )
        })
        .collect();
    table("Parameters", ["Name", "Place and type", "Description"], &rows)
}

/// A table under a heading; nothing without rows.
fn table(title: &str, columns: [&str; 3], rows: &str) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let columns: String = columns.iter().map(|column| format!("<th scope=\"col\">{column}")).collect();
    format!(
        "<h4>{title}</h4>\n<div class=\"wide\" role=\"region\" tabindex=\"0\" aria-label=\"{title}\"><table>\
         <thead><tr>{columns}</thead>\n<tbody>{rows}</tbody></table></div>\n"
    )
}

/// The fields and the examples of a body.
fn content(document: &Node, body: &Node, role: BodyKind) -> String {
    let mut html = String::new();
    for (kind, content) in body.get("content").entries() {
        if kind != "application/json" {
            html.push_str(&format!("<p>Body: <code>{}</code>.</p>\n", escape(kind)));
            continue;
        }
        html.push_str(&schema::describe(document, content.get("schema"), role));
        let examples = content.get("examples").entries().iter();
        let named = examples.map(|(name, example)| (name.as_str(), example.get("value")));
        let single = [("Example", content.get("example"))];
        for (name, example) in single.into_iter().chain(named).filter(|(_, example)| !example.is_null()) {
            html.push_str(&format!(
                "<p class=\"dim\">{}</p>\n<pre tabindex=\"0\"><code>{}</code></pre>\n",
                inline(name),
                escape(&example.pretty())
            ));
        }
    }
    html
}

/// A response with a status from 200 to 299: its body, and its headers in a collapsed part.
fn success(document: &Node, status: &str, response: &Node) -> String {
    let response = document.resolve(response).0;
    let mut html = format!(
        "<p><code>{}</code> {}</p>\n{}",
        escape(status),
        inline(response.get("description").text()),
        content(document, response, BodyKind::Response)
    );
    let rows: String = response
        .get("headers")
        .entries()
        .iter()
        .map(|(name, header)| {
            let header = document.resolve(header).0;
            let description = inline(header.get("description").text());
            format!(
                "<tr><th scope=\"row\"><code>{}</code><td>{}<td>{description}\n",
                escape(name),
                schema::kind(document, header.get("schema"))
            )
        })
        .collect();
    if !rows.is_empty() {
        let count = response.get("headers").entries().len();
        let noun = if count == 1 { "header" } else { "headers" };
        html.push_str(&details(&format!("{count} {noun}"), &rows));
    }
    html
}

/// The responses with other statuses, in a collapsed part.
fn failures(document: &Node, responses: &[&(String, Node)]) -> String {
    if responses.is_empty() {
        return String::new();
    }
    let statuses: Vec<_> = responses.iter().map(|(status, _)| escape(status)).collect();
    let rows: String = responses
        .iter()
        .map(|(status, response)| {
            let response = document.resolve(response).0;
            let body = document.resolve(response.get("content").get("application/json").get("schema")).0;
            let fields = body.get("properties").entries().iter();
            let fields: Vec<_> = fields.map(|(name, _)| format!("<code>{}</code>", escape(name))).collect();
            let shape = match (body.is_null(), fields.is_empty()) {
                (true, _) => String::new(),
                (_, true) => schema::kind(document, body),
                (_, false) => format!("object with {}", fields.join(", ")),
            };
            let description = inline(response.get("description").text());
            format!("<tr><th scope=\"row\"><code>{}</code><td>{shape}<td>{description}\n", escape(status))
        })
        .collect();
    details(&format!("Other statuses: {}", statuses.join(", ")), &rows)
}

/// A table in a collapsed part.
fn details(summary: &str, rows: &str) -> String {
    format!(
        "<details><summary>{summary}</summary>\n<div class=\"wide\"><table><tbody>{rows}</tbody></table></div>\n\
         </details>\n"
    )
}
