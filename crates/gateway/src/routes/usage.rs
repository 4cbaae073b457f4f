//! `GET /v1/organization/usage/embeddings`: the usage that this process has counted, in the shape of OpenAI's usage
//! API.

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde::Serialize;
use url::form_urlencoded;

use crate::{
    auth::Admin,
    error::{ApiError, Code},
    registry::echo,
    usage::{BucketWidth, UsageBucket, UsageGroup, UsageLedger, UsageQuery, unix_time},
};

/// Prefix of the cursor of a page, which is followed by the start of its first bucket.
const CURSOR_PREFIX: &str = "page_";

#[derive(Serialize)]
struct UsagePageObject {
    object: &'static str,
    data: Vec<UsageBucketObject>,
    has_more: bool,
    next_page: Option<String>,
}

#[derive(Serialize)]
struct UsageBucketObject {
    object: &'static str,
    start_time: u64,
    end_time: u64,
    results: Vec<UsageResultObject>,
}

/// A group. Its fields that the query does not group by are `null`.
#[derive(Serialize)]
struct UsageResultObject {
    object: &'static str,
    input_tokens: u64,
    num_model_requests: u64,
    /// Always `null`: there are no projects.
    project_id: Option<String>,
    /// Always `null`: there are no users.
    user_id: Option<String>,
    /// The key's name: keys have no other id.
    api_key_id: Option<String>,
    model: Option<String>,
}

/// Returns one page of usage.
pub(super) async fn embeddings(
    _: Admin,
    request: HttpRequest,
    ledger: web::Data<UsageLedger>,
) -> Result<HttpResponse, ApiError> {
    let query = parse(request.query_string())?;
    let page = ledger.page(unix_time(), &query).map_err(|dropped| {
        let (width, since) = (query.width.name(), dropped.complete_since);
        invalid(
            "start_time",
            format!("buckets of {width} are kept since {since}: begin there, or use a wider `bucket_width`"),
        )
    })?;
    let page = UsagePageObject {
        object: "page",
        data: page.buckets.into_iter().map(bucket_object).collect(),
        has_more: page.next.is_some(),
        next_page: page.next.map(|start| format!("{CURSOR_PREFIX}{start}")),
    };
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(page))
}

fn bucket_object(bucket: UsageBucket) -> UsageBucketObject {
    let UsageBucket { start, end, groups } = bucket;
    let results = groups.into_iter().map(result_object).collect();
    UsageBucketObject { object: "bucket", start_time: start, end_time: end, results }
}

fn result_object(group: UsageGroup) -> UsageResultObject {
    UsageResultObject {
        object: "organization.usage.embeddings.result",
        input_tokens: group.counts.tokens,
        num_model_requests: group.counts.requests,
        project_id: None,
        user_id: None,
        api_key_id: group.key.map(|name| name.to_string()),
        model: group.model.map(|id| id.to_string()),
    }
}

/// Reads the query string. Lists may be repeated (`models=a&models=b`), have brackets (`models[]=a`), as OpenAI's SDKs
/// write them, or commas.
fn parse(text: &str) -> Result<UsageQuery, ApiError> {
    let (mut start, mut cursor, mut limit, mut width) = (None, None, None, BucketWidth::Day);
    let mut query = UsageQuery {
        width,
        start: 0,
        end: None,
        limit: 0,
        by_key: false,
        by_model: false,
        keys: Vec::new(),
        models: Vec::new(),
    };
    for (name, value) in form_urlencoded::parse(text.as_bytes()) {
        let list = || value.split(',').map(str::trim).filter(|element| !element.is_empty());
        match name.strip_suffix("[]").unwrap_or(&name) {
            "start_time" => start = Some(number("start_time", &value)?),
            "end_time" => query.end = Some(number("end_time", &value)?),
            "bucket_width" => width = bucket_width(&value)?,
            "limit" => limit = Some(number("limit", &value)?),
            "page" => cursor = Some(page_start(&value)?),
            "api_key_ids" => query.keys.extend(list().map(str::to_owned)),
            "models" => query.models.extend(list().map(str::to_owned)),
            "group_by" => {
                for field in list() {
                    match field {
                        "api_key_id" => query.by_key = true,
                        "model" => query.by_model = true,
                        // One group: both are `null` for all requests.
                        "project_id" | "user_id" => {}
                        other => {
                            let supported = "api_key_id, model, project_id, user_id";
                            return Err(invalid(
                                "group_by",
                                format!("`{}` is none of {supported}", echo(other)),
                            ));
                        }
                    }
                }
            }
            "project_ids" => return Err(unsupported("project_ids", "projects")),
            "user_ids" => return Err(unsupported("user_ids", "users")),
            other => {
                let message = format!("Unknown parameter: '{}'.", echo(other));
                return Err(ApiError::new(Code::InvalidRequest, message));
            }
        }
    }
    let Some(start) = start else {
        let message = "Missing required parameter: 'start_time'.";
        return Err(ApiError::new(Code::MissingParameter, message).about("start_time"));
    };
    if query.end.is_some_and(|end| end <= start) {
        return Err(invalid("end_time", "it must be later than `start_time`"));
    }
    let max = width.max_limit();
    query.limit = match limit {
        None => width.default_limit(),
        Some(limit) => {
            usize::try_from(limit).ok().filter(|limit| (1..=max).contains(limit)).ok_or_else(|| {
                invalid("limit", format!("with a `bucket_width` of {} it is from 1 to {max}", width.name()))
            })?
        }
    };
    Ok(UsageQuery { width, start: cursor.unwrap_or(start).max(start), ..query })
}

fn bucket_width(value: &str) -> Result<BucketWidth, ApiError> {
    let found = BucketWidth::ALL.into_iter().find(|width| width.name() == value);
    found.ok_or_else(|| invalid("bucket_width", format!("`{}` is none of 1m, 1h, 1d", echo(value))))
}

fn number(name: &'static str, value: &str) -> Result<u64, ApiError> {
    let what = if name == "limit" { "a number" } else { "a Unix time in seconds" };
    // Within the times that a signed number of seconds can state, so that a bucket's end can be computed.
    let parsed = value.parse().ok().filter(|number| *number <= u64::from(u32::MAX));
    parsed.ok_or_else(|| invalid(name, format!("`{}` is not {what}", echo(value))))
}

fn page_start(value: &str) -> Result<u64, ApiError> {
    let start = value.strip_prefix(CURSOR_PREFIX).and_then(|start| start.parse().ok());
    let start = start.filter(|start| *start <= u64::from(u32::MAX));
    start.ok_or_else(|| invalid("page", "it must be the `next_page` of an earlier response"))
}

fn invalid(name: &'static str, reason: impl AsRef<str>) -> ApiError {
    let message = format!("Invalid '{name}': {}.", reason.as_ref());
    ApiError::new(Code::InvalidRequest, message).about(name)
}

fn unsupported(name: &'static str, what: &str) -> ApiError {
    invalid(name, format!("this server has no {what}; filter by `api_key_ids` or `models`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_may_be_repeated_or_have_brackets_or_commas() {
        for text in [
            "start_time=5&models=a&models=b&group_by=model&group_by=api_key_id",
            "start_time=5&models[]=a&models[]=b&group_by[]=model&group_by[]=api_key_id",
            "start_time=5&models=a,b&group_by=model,api_key_id",
            "start_time=5&models%5B%5D=a&models%5B%5D=b&group_by=model%2Capi_key_id&group_by=project_id",
        ] {
            let query = parse(text).unwrap();
            assert_eq!(query.models, ["a", "b"], "{text}");
            assert!(query.by_model && query.by_key && query.keys.is_empty(), "{text}");
            assert_eq!((query.width, query.start, query.limit), (BucketWidth::Day, 5, 7), "{text}");
        }
    }

    #[test]
    fn the_limit_depends_on_the_width() {
        for (text, limit) in [
            ("bucket_width=1m", Some(60)),
            ("bucket_width=1h", Some(24)),
            ("bucket_width=1m&limit=1440", Some(1440)),
            ("limit=1441&bucket_width=1m", None),
            ("bucket_width=1h&limit=169", None),
            ("limit=31", Some(31)),
            ("limit=32", None),
            ("limit=0", None),
        ] {
            let parsed = parse(&format!("start_time=1&{text}"));
            assert_eq!(parsed.ok().map(|query| query.limit), limit, "{text}");
        }
    }

    #[test]
    fn a_query_that_cannot_be_answered_is_an_error_that_names_the_parameter() {
        for (text, param, part) in [
            ("", Some("start_time"), "Missing required parameter: 'start_time'."),
            ("start_time=yesterday", Some("start_time"), "`yesterday` is not a Unix time in seconds"),
            ("start_time=-1", Some("start_time"), "not a Unix time"),
            ("start_time=1730419200000", Some("start_time"), "not a Unix time in seconds"),
            ("start_time=9&end_time=9", Some("end_time"), "later than `start_time`"),
            ("start_time=9&bucket_width=1w", Some("bucket_width"), "`1w` is none of 1m, 1h, 1d"),
            ("start_time=9&group_by=batch", Some("group_by"), "`batch` is none of api_key_id, model"),
            ("start_time=9&page=2", Some("page"), "`next_page` of an earlier response"),
            ("start_time=9&project_ids=p", Some("project_ids"), "this server has no projects"),
            ("start_time=9&user_ids[]=u", Some("user_ids"), "this server has no users"),
            ("start_time=9&bucket=1d", None, "Unknown parameter: 'bucket'."),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.param(), param, "{text}");
            assert!(error.to_string().contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_cursor_moves_the_start_forward() {
        assert_eq!(parse("start_time=60&page=page_3600").unwrap().start, 3600);
        assert_eq!(parse("start_time=60&page=page_0").unwrap().start, 60);
    }
}
