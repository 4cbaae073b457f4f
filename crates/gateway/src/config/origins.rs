//! Origins of web pages that may read responses (CORS).

use toml::de::DeValue;
use url::{Origin, Url};

use super::value::{Value, elements};

/// Origins of web pages that may read responses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<String>);

impl Origins {
    /// Returns true if no page may.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns true if every page may.
    pub(crate) fn is_any(&self) -> bool {
        self.0.iter().any(|origin| origin == "*")
    }

    /// Returns true if a page of `origin`, as its browser writes it, is listed.
    pub(crate) fn contains(&self, origin: &str) -> bool {
        self.0.iter().any(|known| known == origin)
    }

    /// Returns the number of origins.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns what is wrong with each origin that no browser sends, so that it would never match.
    pub(super) fn faults(&self) -> impl Iterator<Item = String> {
        let describe = |origin: &String| {
            let advice = advice(origin)?;
            Some(format!("`cors.origins` holds `{origin}`, which no browser sends: {advice}"))
        };
        self.0.iter().filter_map(describe)
    }
}

/// Returns what to write in place of `origin`; `None` if browsers send it exactly so.
fn advice(origin: &str) -> Option<String> {
    if origin == "*" {
        return None;
    }
    if origin.contains('*') {
        return Some(
            "patterns are not supported; write each origin out, with its port, or `*` alone for all"
                .to_owned(),
        );
    }
    match Url::parse(origin).ok().and_then(|url| as_sent(&url)) {
        Some(sent) if sent == origin => None,
        Some(sent) => Some(format!("write `{sent}`")),
        None => Some("write https://host or https://host:port, or *".to_owned()),
    }
}

/// Returns the origin of a page at `url`, as its browser sends it.
fn as_sent(url: &Url) -> Option<String> {
    match url.origin() {
        // In ASCII, lower case, and without the scheme's usual port.
        origin @ Origin::Tuple(..) => Some(origin.ascii_serialization()),
        // Schemes that the standard does not know: those of browser extensions and of apps.
        Origin::Opaque(_) => {
            let host = url.host_str().filter(|host| !host.is_empty())?.to_ascii_lowercase();
            let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
            (url.scheme() != "file").then(|| format!("{}://{host}{port}", url.scheme()))
        }
    }
}

impl From<&str> for Origins {
    /// Reads origins separated by commas or line breaks.
    fn from(text: &str) -> Self {
        Self(elements(text).map(str::to_owned).collect())
    }
}

impl Value for Origins {
    const PLACEHOLDER: &'static str = "ORIGIN";
    const IS_LIST: bool = true;

    fn expected() -> String {
        "a list such as [\"https://app.example\"], or [\"*\"]".to_owned()
    }

    fn from_text(text: &str) -> Option<Self> {
        Some(text.into())
    }

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().map_or_else(|| Vec::from_toml(value).map(Self), Self::from_text)
    }

    fn to_toml(&self) -> Option<String> {
        self.0.to_toml()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_accepted_as_browsers_send_them() {
        let text = "https://app.example, http://localhost:3000\nhttp://[::1]:8080,*\n\
                    chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb, app://obsidian.md";
        let good = Origins::from(text);
        assert_eq!((good.count(), good.faults().count()), (6, 0));
        let good = Origins::from("https://app.example,*");
        assert_eq!(good.to_toml().unwrap(), r#"["https://app.example", "*"]"#);
        assert!(Origins::from("").is_empty());
    }

    #[test]
    fn an_origin_that_never_matches_is_answered_with_the_one_that_does() {
        let written = |origin: &str| Some(format!("write `{origin}`"));
        let pattern = || {
            let text =
                "patterns are not supported; write each origin out, with its port, or `*` alone for all";
            Some(text.to_owned())
        };
        let no_origin = || Some("write https://host or https://host:port, or *".to_owned());
        for (origin, fault) in [
            ("https://app.example/", written("https://app.example")),
            ("https://app.example/page?x#y", written("https://app.example")),
            ("https://App.example", written("https://app.example")),
            ("HTTPS://app.example", written("https://app.example")),
            ("https://app.example:443", written("https://app.example")),
            ("http://app.example:80", written("http://app.example")),
            ("http://app.example:443", None),
            ("http://app.example:08080", written("http://app.example:8080")),
            ("https://user@app.example", written("https://app.example")),
            ("https://bücher.example", written("https://xn--bcher-kva.example")),
            ("http://[0:0:0:0:0:0:0:1]", written("http://[::1]")),
            ("app://Obsidian.md", written("app://obsidian.md")),
            ("http://localhost:*", pattern()),
            ("https://*.example.com", pattern()),
            ("app.example", no_origin()),
            ("localhost:3000", no_origin()),
            ("https://", no_origin()),
            ("https://app.example:99999", no_origin()),
            ("file:///page.html", no_origin()),
            ("null", no_origin()),
        ] {
            assert_eq!(advice(origin), fault, "{origin}");
        }
    }
}
