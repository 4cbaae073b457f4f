//! `embedgate status`: the load of a running server as a table that is refreshed in place.

use std::{
    io::{self, IsTerminal, Write},
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    cli::StatusOptions,
    command_error::{CommandError, Verdict},
    config::ProcessEnv,
    progress_line::size,
    server_client::{ServerClient, ServerError},
    text_table::{Align, grouped, lines, rate, seconds, shortened},
};

/// Width of the table, in characters.
const WIDTH: usize = 80;

/// The part of `/status` that is shown.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ServerStatus {
    version: String,
    state: String,
    uptime_seconds: f64,
    models: Vec<ModelLine>,
    memory: Memory,
    requests: Requests,
    tokens: u64,
    inputs: u64,
    truncated_inputs: u64,
    cache: CacheCounts,
    queue: Queue,
    latency: Latency,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct ModelLine {
    id: String,
    task: String,
    is_loaded: bool,
    dimensions: u64,
    max_input_tokens: u64,
    precision: Option<String>,
    backend: Option<String>,
    isa: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Memory {
    resident_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Requests {
    total: u64,
    in_flight: u64,
    errors: std::collections::BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct CacheCounts {
    hits: u64,
    misses: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Queue {
    requests: u64,
    tokens: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Latency {
    upper_bounds_seconds: Vec<f64>,
    counts: Vec<u64>,
}

/// Executes the command. If standard output is not a terminal, it ends after one table; otherwise an error or a signal
/// ends it.
///
/// # Errors
/// When the server cannot be asked, or the result cannot be printed.
pub fn run(options: &StatusOptions, env: &ProcessEnv, out: &mut dyn Write) -> Result<Verdict, CommandError> {
    let client = ServerClient::new(&options.url, options.server.key(env))?;
    let first = read(&client)?;
    if options.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&first).unwrap_or_default())?;
        return Ok(Verdict::Pass);
    }
    let mut earlier = parse(&client, first)?;
    let mut shown = print(out, &table(client.address(), &earlier, None), 0)?;
    if options.once || !io::stdout().is_terminal() {
        return Ok(Verdict::Pass);
    }
    let interval = Duration::from_secs_f64(options.interval);
    loop {
        let asked = Instant::now();
        thread::sleep(interval);
        let now = parse(&client, read(&client)?)?;
        let period = asked.elapsed().as_secs_f64();
        shown = print(out, &table(client.address(), &now, Some((&earlier, period))), shown)?;
        earlier = now;
    }
}

fn read(client: &ServerClient) -> Result<Value, ServerError> {
    let status = client.get("/status");
    let status = match status {
        // Servers of other vendors have no such path.
        Err(ServerError::Status { url, status: 404, .. }) => {
            return Err(ServerError::Foreign { url, reason: "it has no /status".to_owned() });
        }
        status => status?,
    };
    if status["object"] == "status" {
        return Ok(status);
    }
    let url = format!("{}/status", client.address());
    Err(ServerError::Foreign { url, reason: "the JSON is not a status".to_owned() })
}

fn parse(client: &ServerClient, status: Value) -> Result<ServerStatus, ServerError> {
    serde_json::from_value(status).map_err(|error| ServerError::Foreign {
        url: format!("{}/status", client.address()),
        reason: error.to_string(),
    })
}

/// Replaces the last `shown` lines by `lines`, and returns their number.
fn print(out: &mut dyn Write, lines: &[String], shown: usize) -> io::Result<usize> {
    let mut text = String::new();
    if shown > 0 {
        text.push_str(&format!("\x1b[{shown}A\x1b[J"));
    }
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(lines.len())
}

/// The lines of the table. Rates and percentiles are those since `earlier`, read so many seconds before, or else those
/// since the server's start.
fn table(address: &str, now: &ServerStatus, earlier: Option<(&ServerStatus, f64)>) -> Vec<String> {
    let nothing = ServerStatus::default();
    let (before, period) = earlier.unwrap_or((&nothing, now.uptime_seconds));
    // A restarted server counts from zero.
    let (before, period) = if now.uptime_seconds < before.uptime_seconds {
        (&nothing, now.uptime_seconds)
    } else {
        (before, period)
    };
    let per_second = |now: u64, before: u64| {
        let change = now.saturating_sub(before) as f64;
        format!("{}/s", rate(if period > 0.0 { change / period } else { 0.0 }))
    };
    let durations = now.latency.since(&before.latency);
    let hits = now.cache.hits.saturating_sub(before.cache.hits);
    let lookups = hits + now.cache.misses.saturating_sub(before.cache.misses);
    let hit_share = match lookups {
        0 => "-".to_owned(),
        lookups => format!("{:.0} %", 100.0 * hits as f64 / lookups as f64),
    };
    let memory = now.memory.resident_bytes.map_or("-".to_owned(), size);
    let errors: u64 = now.requests.errors.values().sum();
    let cell = |text: &str| text.to_owned();
    let rows = [
        [
            cell("requests"),
            grouped(now.requests.total),
            per_second(now.requests.total, before.requests.total),
            cell("latency p50"),
            percentile(&durations, &now.latency.upper_bounds_seconds, 0.5),
        ],
        [
            cell("inputs"),
            grouped(now.inputs),
            per_second(now.inputs, before.inputs),
            cell("latency p99"),
            percentile(&durations, &now.latency.upper_bounds_seconds, 0.99),
        ],
        [
            cell("tokens"),
            grouped(now.tokens),
            per_second(now.tokens, before.tokens),
            cell("in flight"),
            counted(now.requests.in_flight, "request"),
        ],
        [
            cell("truncated"),
            grouped(now.truncated_inputs),
            per_second(now.truncated_inputs, before.truncated_inputs),
            cell("queue"),
            format!("{}, {}", counted(now.queue.requests, "request"), counted(now.queue.tokens, "token")),
        ],
        [cell("cache hits"), grouped(now.cache.hits), hit_share, cell("memory"), memory],
        [
            cell("errors"),
            grouped(errors),
            per_second(errors, before.requests.errors.values().sum()),
            String::new(),
            String::new(),
        ],
    ];
    let since = if earlier.is_some() { "" } else { " · rates since the start" };
    let mut text = vec![
        format!("embedgate {} · {} · up {}{since}", now.version, now.state, seconds(now.uptime_seconds)),
        address.to_owned(),
        String::new(),
    ];
    text.extend(lines(&rows, [Align::Left, Align::Right, Align::Right, Align::Left, Align::Left]));
    if errors > 0 {
        text.push(String::new());
        let rows: Vec<_> = now
            .requests
            .errors
            .iter()
            .map(|(code, &count)| {
                let earlier = before.requests.errors.get(code).copied().unwrap_or(0);
                [format!("  {code}"), grouped(count), per_second(count, earlier)]
            })
            .collect();
        text.extend(lines(&rows, [Align::Left, Align::Right, Align::Right]));
    }
    text.push(String::new());
    text.extend(models(&now.models));
    text.into_iter()
        .map(|line| if line.chars().count() > WIDTH { shortened_line(&line) } else { line })
        .collect()
}

/// A number with its noun.
fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

/// A line cut at the width, spaces kept.
fn shortened_line(line: &str) -> String {
    line.chars().take(WIDTH - 1).chain(['…']).collect()
}

fn models(models: &[ModelLine]) -> Vec<String> {
    if models.is_empty() {
        return vec!["no model is loaded yet".to_owned()];
    }
    let headings = ["MODEL", "TASK", "DIM", "TOKENS", "PRECISION", "BACKEND", ""].map(str::to_owned);
    let row = |model: &ModelLine| {
        let backend = match (&model.backend, &model.isa) {
            (Some(backend), Some(isa)) => format!("{backend} {isa}"),
            (backend, _) => backend.clone().unwrap_or_default(),
        };
        [
            shortened(&model.id, 28),
            model.task.clone(),
            model.dimensions.to_string(),
            model.max_input_tokens.to_string(),
            model.precision.clone().unwrap_or_default(),
            backend,
            if model.is_loaded { String::new() } else { "not loaded".to_owned() },
        ]
    };
    let rows: Vec<_> = std::iter::once(headings).chain(models.iter().map(row)).collect();
    use Align::{Left, Right};
    lines(&rows, [Left, Left, Right, Right, Left, Left, Left])
}

impl Latency {
    /// The counts of the buckets since `earlier`.
    fn since(&self, earlier: &Self) -> Vec<u64> {
        let before = earlier.counts.iter().copied().chain(std::iter::repeat(0));
        self.counts.iter().zip(before).map(|(now, before)| now.saturating_sub(before)).collect()
    }
}

/// The duration below which a share of the durations is, by linear interpolation within its bucket; `-` without any.
fn percentile(counts: &[u64], bounds: &[f64], share: f64) -> String {
    let total: u64 = counts.iter().sum();
    let mut rank = share * total as f64;
    let mut lower = 0.0;
    for (&count, upper) in counts.iter().zip(bounds.iter().map(Some).chain([None])) {
        let in_bucket = count as f64;
        if count > 0 && rank <= in_bucket {
            return match upper {
                Some(upper) => seconds(lower + (upper - lower) * rank / in_bucket),
                None => format!("> {}", seconds(lower)),
            };
        }
        rank -= in_bucket;
        lower = upper.copied().unwrap_or(lower);
    }
    "-".to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(uptime: f64, total: u64, counts: [u64; 4]) -> ServerStatus {
        serde_json::from_value(json!({
            "version": "1.2.3",
            "state": "ready",
            "uptime_seconds": uptime,
            "models": [{
                "id": "all-MiniLM-L6-v2", "task": "embed", "is_loaded": true, "dimensions": 384,
                "max_input_tokens": 256, "precision": "int8", "backend": "native", "isa": "avx2"
            }],
            "memory": { "resident_bytes": 77_000_000 },
            "requests": { "total": total, "in_flight": 2, "errors": { "invalid_api_key": 3 } },
            "tokens": 10 * total, "inputs": total, "truncated_inputs": 1,
            "cache": { "hits": total / 10, "misses": total - total / 10 },
            "queue": { "requests": 1, "tokens": 20 },
            "latency": { "upper_bounds_seconds": [0.001, 0.002, 0.004], "counts": counts },
            "new_field": true,
        }))
        .unwrap()
    }

    #[test]
    fn rates_and_percentiles_are_those_of_the_last_interval() {
        let (earlier, now) = (status(100.0, 1000, [500, 500, 0, 0]), status(102.0, 1200, [500, 600, 100, 0]));
        let shown = table("http://host", &now, Some((&earlier, 2.0)));
        let cells = |line: &String| line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            shown.iter().map(cells).collect::<Vec<_>>(),
            [
                "embedgate 1.2.3 · ready · up 1 min",
                "http://host",
                "",
                "requests 1,200 100/s latency p50 2.0 ms",
                "inputs 1,200 100/s latency p99 4.0 ms",
                "tokens 12,000 1.0k/s in flight 2 requests",
                "truncated 1 0/s queue 1 request, 20 tokens",
                "cache hits 120 10 % memory 77 MB",
                "errors 3 0/s",
                "",
                "invalid_api_key 3 0/s",
                "",
                "MODEL TASK DIM TOKENS PRECISION BACKEND",
                "all-MiniLM-L6-v2 embed 384 256 int8 native avx2",
            ]
        );
        assert!(shown.iter().all(|line| line.chars().count() <= WIDTH));
        // A restarted server has smaller counts.
        let restarted = table("http://host", &status(1.0, 5, [5, 0, 0, 0]), Some((&now, 2.0)));
        assert!(restarted[3].contains("5.0/s"), "{restarted:?}");
    }

    #[test]
    fn percentiles_are_interpolated_within_a_bucket() {
        let bounds = [0.001, 0.002, 0.004];
        for (counts, share, expected) in [
            ([0, 0, 0, 0], 0.5, "-"),
            ([10, 0, 0, 0], 0.5, "0.5 ms"),
            ([0, 10, 0, 0], 0.5, "1.5 ms"),
            ([50, 0, 50, 0], 0.99, "4.0 ms"),
            ([0, 0, 0, 3], 0.5, "> 4.0 ms"),
        ] {
            assert_eq!(percentile(&counts, &bounds, share), expected, "{counts:?}");
        }
    }

    #[test]
    fn a_refresh_replaces_the_lines_before() {
        let mut out = Vec::new();
        assert_eq!(print(&mut out, &["a".to_owned(), "b".to_owned()], 0).unwrap(), 2);
        assert_eq!(print(&mut out, &["c".to_owned()], 2).unwrap(), 1);
        assert_eq!(String::from_utf8(out).unwrap(), "a\nb\n\x1b[2A\x1b[Jc\n");
    }
}
