//! The page of the documentation: tables, charts, and instructions for repeating the measurement.

use std::fmt::Write as _;

use super::{
    bar_chart::{self, Bar},
    competitors::Name,
    number::shown,
    profile::{LIBRARY_PROFILES, Metric, PROFILES, Profile},
    results::{Entry, Figure, Results, Round},
    stats::{ratio, spread},
};

/// Title of the competitors' cosines: no speed is shown without them.
const COSINE: &str = "cosine to fp32: worst / mean";

/// A file of the page: its path below `docs`, and its text.
pub(crate) type File = (String, String);

/// The page and its charts.
pub(crate) fn files(results: &Results) -> Vec<File> {
    let mut page = opening(results);
    let mut files = Vec::new();
    page.push_str("## Over HTTP\n\n");
    for profile in measured_profiles(results) {
        let path = format!("benchmarks/{}.svg", profile.id);
        let _ = writeln!(page, "![{}]({path})\n", profile.title);
        files.push((path, profile_chart(results, profile)));
    }
    page.push_str(&tables(results));
    page.push_str(&closing(results));
    files.insert(0, ("benchmarks.md".into(), page));
    files
}

/// All tables, for the terminal and the page.
pub(crate) fn tables(results: &Results) -> String {
    let mut text = String::new();
    http_table(results, &mut text);
    ratio_table(results, &mut text);
    in_process_table(results, &mut text);
    cost_table(results, &mut text);
    failures(results, &mut text);
    text
}

/// The profiles with at least one server's figures.
fn measured_profiles(results: &Results) -> impl Iterator<Item = &'static Profile> {
    let measured = |profile: &&Profile| {
        let servers = results.competitors.iter().filter(|competitor| competitor.name.is_server());
        servers.flat_map(|competitor| &competitor.rounds).any(|round| round.figures.contains_key(profile.id))
    };
    PROFILES.iter().filter(measured).collect::<Vec<_>>().into_iter()
}

/// The table of the machine's properties.
pub(crate) fn machine(results: &Results) -> String {
    let machine = &results.machine;
    let flags = if machine.flags.is_empty() { "none known".into() } else { machine.flags.join(" ") };
    let governor = machine.governor.as_deref().unwrap_or("not readable");
    let most = |figure: &dyn Fn(&Round) -> Option<f64>| {
        let rounds = results.competitors.iter().flat_map(|competitor| &competitor.rounds);
        shown(rounds.filter_map(figure).reduce(f64::max))
    };
    format!(
        "| | |\n|---|---|\n| CPU | {} |\n| cores | {} |\n| instruction sets | {flags} |\n\
         | memory | {:.0} GB |\n| system | {} |\n| frequency governor | {governor} |\n\
         | highest load average before a start, which includes the previous competitor | {} |\n\
         | most cores busy with other processes before a start | {} |\n| date | {} |\n| commit | {} |\n\
         | rounds × seconds of a profile | {} × {} |\n\n",
        machine.processor,
        machine.cores,
        machine.memory_gigabytes,
        machine.system,
        most(&|round| round.load),
        most(&|round| round.busy_cores),
        machine.date,
        machine.commit,
        results.rounds,
        results.seconds,
    )
}

fn opening(results: &Results) -> String {
    format!(
        "# Benchmarks\n\n<!-- Written by `cargo xtask bench --write`; do not edit. -->\n\n\
         all-MiniLM-L6-v2 on one machine, measured in one run: each server or library is started, loaded with the \
         same texts and\nbodies, and stopped; then the next; then all in a further round. Figures are medians over \
         the rounds. Ratios are taken\nround by round. Compare ratios: absolute figures are this machine's.\n\n\
         ```sh\ncargo xtask bench            # measure everything and print it\n\
         cargo xtask bench --write    # and write this page\n```\n\n\
         The first run installs the competitors from the Python package index into `.runtime/bench`, about 12 GB in \
         all, as\ntorch brings CUDA's libraries. The machine must be idle otherwise. `--competitors` and `--profiles` \
         measure a part,\n`--help` lists further options. text-embeddings-inference and llama.cpp take part \
         if `--tei`, `--llama` and\n`--gguf` name them.\n\n## The machine\n\n{}",
        machine(results)
    )
}

fn http_table(results: &Results, text: &mut String) {
    let profiles: Vec<&Profile> = measured_profiles(results).collect();
    let servers: Vec<&Entry> =
        results.competitors.iter().filter(|competitor| competitor.name.is_server()).collect();
    if servers.is_empty() {
        return;
    }
    text.push_str("| over HTTP |");
    for server in &servers {
        let _ = write!(text, " {} |", server.name.label());
    }
    let _ = writeln!(text, "\n|---|{}", "---:|".repeat(servers.len()));
    for profile in profiles {
        let unit = if profile.metric == Metric::Latency { "p50 / p99, ms" } else { "texts/s" };
        let _ = write!(text, "| {}, {unit} |", profile.title);
        for server in &servers {
            let _ = write!(text, " {} |", cell(server, profile));
        }
        text.push('\n');
    }
    cosine_row(&servers, text);
    text.push('\n');
}

/// The last row of a table with a column for each server.
fn cosine_row(servers: &[&Entry], text: &mut String) {
    let _ = write!(text, "| {COSINE} |");
    for server in servers {
        let _ = write!(text, " {} |", cosines(server));
    }
    text.push('\n');
}

/// `worst / mean`; a dash if they are unknown.
fn cosines(competitor: &Entry) -> String {
    competitor.cosines.map_or("–".into(), |cosines| cosines.to_string())
}

fn cell(server: &Entry, profile: &Profile) -> String {
    let median = |figure: &dyn Fn(&Figure) -> Option<f64>| server.median_of(profile.id, figure);
    if median(&|figure| figure.value_of(profile.metric)).is_none() {
        let why = if server.not_run.is_some() { "not run" } else { "failed" };
        return if server.failure(profile.id).is_some() { why.into() } else { "–".into() };
    }
    match profile.metric {
        Metric::Throughput => shown(median(&|figure| Some(figure.texts_per_second))),
        Metric::Latency => {
            format!("{} / {}", shown(median(&|figure| figure.p50)), shown(median(&|figure| figure.p99)))
        }
    }
}

fn ratio_table(results: &Results, text: &mut String) {
    let Some(ours) = results.competitors.iter().find(|competitor| competitor.name == Name::Embedgate) else {
        return;
    };
    let servers = results
        .competitors
        .iter()
        .filter(|competitor| competitor.name.is_server() && competitor.not_run.is_none());
    let others: Vec<&Entry> = servers.filter(|competitor| competitor.name != ours.name).collect();
    if others.is_empty() {
        return;
    }
    text.push_str(
        "embedgate's throughput, or its inverse latency, divided by the other's (compare the precisions under \
         Versions):\n\n| embedgate against |",
    );
    for other in &others {
        let _ = write!(text, " {} |", other.name.label());
    }
    let _ = writeln!(text, "\n|---|{}", "---:|".repeat(others.len()));
    for profile in measured_profiles(results) {
        let _ = write!(text, "| {} |", profile.title);
        for other in &others {
            let ratio = ours.better_than(other, profile.id, profile.metric);
            let _ =
                write!(text, " {} |", ratio.map_or("–".into(), |ratio| format!("{}×", shown(Some(ratio)))));
        }
        text.push('\n');
    }
    cosine_row(&others, text);
    text.push('\n');
    let idle = ours.rounds_of("one", |figure| figure.p50);
    let with_bulk = ours.rounds_of("together", |figure| figure.p50);
    let with_bulk_p99 = ours.rounds_of("together", |figure| figure.p99);
    if let (median @ Some(_), p99 @ Some(_)) = (ratio(&with_bulk, &idle), ratio(&with_bulk_p99, &idle)) {
        let _ = writeln!(
            text,
            "While a bulk client sends requests, embedgate's latency of one short text, divided by its median \
             without that client, is {}× (median) and {}× (99th percentile).\n",
            shown(median),
            shown(p99)
        );
    }
    let outside = |clients: &u32| {
        let share = ours.median_of(&format!("clients-{clients}"), |figure| figure.outside)?;
        Some(format!("{:.1} % with {clients} clients", share * 100.0))
    };
    let shares: Vec<_> = [32, 128, 512].iter().filter_map(outside).collect();
    if !shares.is_empty() {
        let _ = writeln!(
            text,
            "Share of embedgate's CPU time outside the model (HTTP, parsing, tokenizing, queueing, \
             formatting): {}.\n",
            shares.join(", ")
        );
    }
}

fn in_process_table(results: &Results, text: &mut String) {
    let libraries: Vec<&Entry> =
        results.competitors.iter().filter(|competitor| !competitor.name.is_server()).collect();
    if libraries.is_empty() {
        return;
    }
    text.push_str("| in process, without a server |");
    for job in &LIBRARY_PROFILES {
        let unit = if job.single { "p50, ms" } else { "texts/s (tokens/s)" };
        let _ = write!(text, " {}, {unit} |", job.title);
    }
    let _ = writeln!(text, " {COSINE} |\n|---|{}---:|", "---:|".repeat(LIBRARY_PROFILES.len()));
    let ours = results
        .competitors
        .iter()
        .filter(|competitor| competitor.name.is_ours() && competitor.not_run.is_none());
    for competitor in libraries.into_iter().chain(ours) {
        let note = if competitor.note.is_empty() { String::new() } else { format!(", {}", competitor.note) };
        let transport = if competitor.name.is_server() { ", over HTTP" } else { "" };
        let _ = write!(text, "| {}{note}{transport} |", competitor.name.label());
        for job in &LIBRARY_PROFILES {
            let id = if competitor.name.is_server() { job.compared_with } else { job.id };
            let median = |figure: &dyn Fn(&Figure) -> Option<f64>| competitor.median_of(id, figure);
            let cell = match median(&|figure| Some(figure.texts_per_second)) {
                None => if competitor.failure(id).is_some() { "not run" } else { "–" }.to_owned(),
                Some(_) if job.single => shown(median(&|figure| figure.p50)),
                texts => {
                    format!("{} ({})", shown(texts), shown(median(&|figure| Some(figure.tokens_per_second))))
                }
            };
            let _ = write!(text, " {cell} |");
        }
        let _ = writeln!(text, " {} |", cosines(competitor));
    }
    text.push('\n');
}

fn cost_table(results: &Results, text: &mut String) {
    let _ = writeln!(
        text,
        "| what it costs | first answer, ms | idle, MB | afterwards, MB | peak, MB | CPU s per million tokens, \
         mixed | {COSINE} | on disk, MB | without CUDA, MB |\n|---|{}",
        "---:|".repeat(8)
    );
    for competitor in &results.competitors {
        let round = |figure: &dyn Fn(&Round) -> Option<f64>| shown(competitor.median_round(figure));
        let disk = competitor.megabytes.map(|(all, cuda)| (all, all - cuda));
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
            competitor.name.label(),
            round(&|round| round.cold_milliseconds),
            round(&|round| round.idle_megabytes),
            round(&|round| round.after_megabytes),
            round(&|round| round.peak_megabytes),
            shown(competitor.median_of("mixed", |figure| figure.cpu_per_million)),
            cosines(competitor),
            shown(disk.map(|(all, _)| all)),
            shown(disk.map(|(_, rest)| rest)),
        );
    }
    let _ = writeln!(
        text,
        "\nEach also needs a copy of the model: {} MB.\n",
        shown(Some(results.model_megabytes))
    );
}

fn failures(results: &Results, text: &mut String) {
    for competitor in &results.competitors {
        if let Some(reason) = &competitor.not_run {
            let _ = writeln!(text, "* {}: not run: {}", competitor.name.label(), one_line(reason));
            continue;
        }
        for id in PROFILES.iter().map(|profile| profile.id).chain(LIBRARY_PROFILES.iter().map(|job| job.id)) {
            if let Some(reason) = competitor.failure(id) {
                let _ = writeln!(text, "* {}, {id}: failed: {}", competitor.name.label(), one_line(reason));
            }
        }
    }
    let spreads =
        results.competitors.iter().filter(|competitor| competitor.name.is_server()).flat_map(|competitor| {
            PROFILES.iter().map(move |profile| {
                let rounds = competitor.rounds_of(profile.id, |figure| figure.value_of(profile.metric));
                (spread(&rounds.into_iter().flatten().collect::<Vec<_>>()), competitor, profile)
            })
        });
    // A single round has no spread.
    let spreads = spreads.filter(|(spread, ..)| *spread > 0.0);
    if let Some((worst, competitor, profile)) = spreads.max_by(|a, b| a.0.total_cmp(&b.0)) {
        let _ = writeln!(
            text,
            "* Rounds differ by up to {:.0} % ((largest − smallest) / median): {}, {}.\n",
            worst * 100.0,
            competitor.name.label(),
            profile.title
        );
    }
}

/// A reason without line ends and bars, which would break a table or list, at most 240 characters.
fn one_line(reason: &str) -> String {
    let words: Vec<&str> = reason.split_whitespace().collect();
    words.join(" ").replace('|', "/").chars().take(240).collect()
}

fn closing(results: &Results) -> String {
    let mut text = String::from("## Profiles\n\n");
    for profile in &PROFILES {
        let _ = writeln!(
            text,
            "* **{}.** {} `cargo xtask bench --profiles {}`",
            profile.title, profile.meaning, profile.id
        );
    }
    text.push_str(include_str!("rules.md"));
    text.push_str("\n## Versions\n\n");
    for competitor in results.competitors.iter().filter(|competitor| !competitor.versions.is_empty()) {
        let note = if competitor.note.is_empty() { String::new() } else { format!(" ({})", competitor.note) };
        let _ = writeln!(text, "* {}: {}{note}", competitor.name.label(), competitor.versions);
    }
    text
}

fn profile_chart(results: &Results, profile: &Profile) -> String {
    let (note, unit) = match profile.metric {
        Metric::Throughput => ("texts a second; longer is better; in parentheses: worst cosine to fp32", ""),
        Metric::Latency => {
            ("median latency in milliseconds; shorter is better; in parentheses: worst cosine to fp32", " ms")
        }
    };
    let bars: Vec<Bar> = results
        .competitors
        .iter()
        .filter(|competitor| competitor.name.is_server())
        .map(|competitor| {
            let value = competitor.median_of(profile.id, |figure| figure.value_of(profile.metric));
            let label = match value {
                Some(_) => {
                    let worst =
                        competitor.cosines.map_or("–".into(), |cosines| format!("{:.4}", cosines.worst));
                    format!("{}{unit} ({worst})", shown(value))
                }
                None => cell(competitor, profile),
            };
            Bar { name: competitor.name.label().into(), value, label, ours: competitor.name.is_ours() }
        })
        .collect();
    bar_chart::svg(profile.title, note, &bars)
}

#[cfg(test)]
mod tests {
    use super::super::{
        accuracy::Cosines,
        results::{Outcome, tests::entry},
    };
    use super::*;

    fn results() -> Results {
        let mut ours = entry(Name::Embedgate, &[(3000.0, 2.0), (2000.0, 2.5), (2500.0, 2.25)]);
        ours.cosines = Some(Cosines { worst: 0.98, mean: 0.999_995_9 });
        let mut theirs = entry(Name::Infinity, &[(300.0, 20.0), (200.0, 25.0), (250.0, 22.5)]);
        for round in &mut theirs.rounds {
            round.figures.insert("long".into(), Outcome::Failed("status 500: a | b\nc".into()));
        }
        let mut absent = entry(Name::Tei, &[]);
        absent.not_run = Some("no binary was named with --tei".into());
        let mut library = entry(Name::Openvino, &[(700.0, 3.0)]);
        library.note = "bf16".into();
        library.cosines = Some(Cosines { worst: f64::NAN, mean: f64::NAN });
        let figure = library.rounds[0].figures["one"].clone();
        library.rounds[0].figures = ["single", "short"].map(|id| (id.to_owned(), figure.clone())).into();
        Results {
            rounds: 3,
            seconds: 5.0,
            competitors: vec![ours, theirs, absent, library],
            ..Results::default()
        }
    }

    #[test]
    fn tables_show_medians_ratios_and_what_did_not_run() {
        let text = tables(&results());
        for line in [
            "| over HTTP | embedgate | infinity (optimum) | text-embeddings-inference |",
            "| 1 short text, 1 client, p50 / p99, ms | 2.25 / 4.50 | 22.5 / 45.0 | not run |",
            "| 1 short text, 32 clients, texts/s | 2,500 | 250 | not run |",
            "| 16 × 256 tokens, 2 clients, texts/s | – | failed | not run |",
            "| 1 short text, 32 clients | 10.0× |",
            "| 16 × 256 tokens, 2 clients | – |",
            "| OpenVINO, bf16 | 3.00 | 700 (9,800) | – | – | NaN / NaN |",
            "| embedgate, over HTTP | 2.25 | – | – | – | 0.98000 / 1.00000 |",
            "| cosine to fp32: worst / mean | 0.98000 / 1.00000 | – | – |",
            "| cosine to fp32: worst / mean | – |",
            "| embedgate | 400 | 100 | – | – | – | 0.98000 / 1.00000 | 50.0 | 40.0 |",
            "* text-embeddings-inference: not run: no binary was named with --tei",
            "* infinity (optimum), long: failed: status 500: a / b c",
            "* Rounds differ by up to 40 % ((largest − smallest) / median):",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn rows_of_a_table_have_as_many_cells_as_its_head() {
        let mut width = None;
        for line in tables(&results()).lines() {
            let cells = line.starts_with('|').then(|| line.matches('|').count());
            if let (Some(width), Some(cells)) = (width, cells) {
                assert_eq!(width, cells, "{line}");
            }
            width = cells;
        }
    }

    #[test]
    fn the_page_shows_every_chart_that_is_written() {
        let files = files(&results());
        let (path, page) = &files[0];
        assert_eq!(path, "benchmarks.md");
        let charts: Vec<&str> = files[1..].iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(charts, ["benchmarks/one.svg", "benchmarks/clients-32.svg", "benchmarks/long.svg"]);
        for chart in charts {
            assert!(page.contains(&format!("]({chart})")), "{chart}");
        }
        for profile in &PROFILES {
            assert!(page.contains(&format!("`cargo xtask bench --profiles {}`", profile.id)));
        }
        for label in [">2.25 ms (0.9800)<", ">22.5 ms (–)<", ">not run<"] {
            assert!(files[1].1.contains(label), "{label}");
        }
    }
}
