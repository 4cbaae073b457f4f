//! `docs/ERRORS.md` says what the code says: this test writes it anew, and fails when that changed it.

use std::{fmt::Write, fs, path::Path};

use gateway::error::{Code, Retry};

const INTRODUCTION: &str = "\
# Errors

Every failure has OpenAI's envelope, all four keys always present:

```json
{\"error\": {\"message\": \"…\", \"type\": \"…\", \"param\": null, \"code\": null}}
```

Every answer carries `x-request-id`; the log line of the request has the same id. A 5xx never says what broke: the
log does. `retry-after` is in whole seconds, from 1 to 60; `x-should-retry: false` stops the official SDKs from
repeating a request that would fail again.

This file is generated from `crates/gateway/src/error.rs` by `cargo test -p gateway`.

| status | `type` | `code` | when | on trying again |
|---|---|---|---|---|
";

const CONCLUSION: &str = "
What is refused below HTTP's semantics (a request line or header that cannot be parsed, a head above 128 KiB, a head
that does not come within `server.client_timeout`) gets a bare 400, 431 or 408 without a body.
";

#[test]
fn errors_md_is_up_to_date() {
    let mut text = INTRODUCTION.to_owned();
    for code in Code::ALL {
        let wire = code.wire();
        let name = wire.code.map_or("`null`".to_owned(), |name| format!("`\"{name}\"`"));
        let retry = match wire.retry {
            Retry::ByStatus => "",
            Retry::After => "`retry-after`",
            Retry::AfterMillis => "`retry-after`, `retry-after-ms`",
            Retry::Never => "`x-should-retry: false`",
        };
        let (status, kind) = (wire.status.as_u16(), wire.kind);
        writeln!(text, "| {status} | `{kind}` | {name} | {} | {retry} |", code.meaning()).unwrap();
    }
    text += CONCLUSION;
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/ERRORS.md");
    let found = fs::read_to_string(&path).unwrap_or_default();
    if found != text {
        fs::write(&path, &text).unwrap();
        panic!("docs/ERRORS.md was out of date and has been rewritten: commit it");
    }
}
