//! `embedgate similarity`: the cosine similarities of texts, by a model on this machine or a running server.

use std::{
    io::{self, BufRead, Read, Write},
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use inference::{Input, Job, TruncationPolicy, cosine};
use model_import::Task;
use serde_json::{Value, json};

use crate::{
    cli::SimilarityOptions,
    command_error::{CommandError, Verdict},
    config::{CliArgs, Config, LoadTime, ProcessEnv},
    load::load,
    metrics::Metrics,
    progress_line::ProgressLine,
    server_client::{ServerClient, ServerError},
    text_table::shortened,
};

/// Width of the output, in characters.
const WIDTH: usize = 80;

/// Width of a column of numbers with the space before it.
const COLUMN: usize = 8;

/// Minimum width of a text at the head of its row. With less space, the texts are listed first.
const MIN_TEXT: usize = 20;

/// Maximum number of texts: the matrix has a number for each pair.
const MAX_TEXTS: usize = 1000;

/// Deadline of the computation.
const TIMEOUT: Duration = Duration::from_secs(3600);

/// The vectors of the texts, and the name of the model that computed them.
struct EmbeddedTexts {
    model: String,
    vectors: Vec<Vec<f32>>,
}

/// Executes the command.
///
/// # Errors
/// When there are no texts, or they cannot be embedded.
pub fn run(
    options: &SimilarityOptions,
    (args, env): (&CliArgs, &ProcessEnv),
    input: &mut dyn Read,
    out: &mut dyn Write,
) -> Result<Verdict, CommandError> {
    let texts = texts(&options.texts, input)?;
    let embedded = match &options.url {
        Some(url) => {
            by_server(&ServerClient::new(url, options.server.key(env))?, args.text("model"), &texts)?
        }
        None => in_process(args, env, &texts)?,
    };
    let EmbeddedTexts { model, vectors } = embedded;
    let row = |a: &Vec<f32>| vectors.iter().map(|b| cosine(a, b)).collect::<Vec<_>>();
    let matrix: Vec<Vec<f64>> = vectors.iter().map(row).collect();
    if options.json {
        let result =
            json!({ "object": "similarities", "model": model, "texts": texts, "similarities": matrix });
        writeln!(out, "{result}")?;
    } else {
        for line in table(&texts, &matrix) {
            writeln!(out, "{line}")?;
        }
    }
    Ok(Verdict::Pass)
}

/// The texts of the command line, with the lines of standard input in place of `-`.
fn texts(given: &[String], input: &mut dyn Read) -> Result<Vec<String>, CommandError> {
    let mut texts = Vec::new();
    let mut lines = io::BufReader::new(input).lines();
    for text in given {
        if text != "-" {
            texts.push(text.clone());
            continue;
        }
        for line in lines.by_ref() {
            let line = line.map_err(CommandError::Input)?;
            if !line.trim().is_empty() {
                texts.push(line);
            }
        }
    }
    match texts.len() {
        0 | 1 => Err(CommandError::Usage("expected at least two texts to compare".to_owned())),
        2..=MAX_TEXTS => Ok(texts),
        count => Err(CommandError::Usage(format!("expected at most {MAX_TEXTS} texts, got {count}"))),
    }
}

/// Embeds the texts with the default model of the settings, loaded as the server does.
fn in_process(args: &CliArgs, env: &ProcessEnv, texts: &[String]) -> Result<EmbeddedTexts, CommandError> {
    let mut config = Config::resolve(args, env)?.config;
    let default = config.default_model.clone();
    config.models.retain(|model| model.id == default);
    config.models.iter_mut().for_each(|model| model.load = LoadTime::Startup);
    config.aliases.retain(|_, alias| alias.model == default);
    let metrics = Metrics::new([default.as_str()]);
    let mut line = ProgressLine::new();
    line.show(&format!("loading {default} …"));
    let loaded = load(&config, &metrics, &AtomicBool::new(false));
    line.clear();
    let registry = loaded.map_err(|error| CommandError::Load(Box::new(error)))?;
    let Some(model) = registry.models().find_map(|slot| slot.loaded()) else {
        return Err(CommandError::Usage("the settings name no model".to_owned()));
    };
    if model.task != Task::Embed {
        let message = format!("the model `{}` {}: name one that embeds texts", model.id, model.task.verb());
        return Err(CommandError::Usage(message));
    }
    let job = Job {
        inputs: texts.iter().cloned().map(Input::Text).collect(),
        prompt: model.prompts.default().and_then(|named| named.prompt.clone()),
        truncation: TruncationPolicy::Truncate,
        max_input_tokens: None,
        deadline: Instant::now() + TIMEOUT,
        max_tokens: usize::MAX,
        caller: None,
    };
    let submitted = model.engine.submit(job).map_err(|error| CommandError::Golden(Box::new(error.into())))?;
    let embedded = submitted.wait().map_err(|error| CommandError::Golden(Box::new(error.into())))?;
    if embedded.truncated > 0 {
        let limit = model.max_input_tokens;
        line.note(&format!("note: {} of the texts truncated to {limit} tokens", embedded.truncated));
    }
    let vectors = embedded.vectors.chunks(embedded.dimensions).map(<[f32]>::to_vec).collect();
    Ok(EmbeddedTexts { model: model.id.to_string(), vectors })
}

/// Embeds the texts with a model of a server, the first that it lists unless one is named. Any server with OpenAI's API
/// works.
fn by_server(
    client: &ServerClient,
    model: Option<&str>,
    texts: &[String],
) -> Result<EmbeddedTexts, CommandError> {
    let foreign = |reason: &str| {
        let url = format!("{}/v1/embeddings", client.address());
        ServerError::Foreign { url, reason: reason.to_owned() }
    };
    let model = match model {
        Some(model) => model.to_owned(),
        None => {
            let list = client.get("/v1/models")?;
            let embeds = |model: &&Value| model["task"].as_str().is_none_or(|task| task == "embed");
            let first = list["data"].as_array().and_then(|models| models.iter().find(embeds)?["id"].as_str());
            first.ok_or_else(|| foreign("it lists no model"))?.to_owned()
        }
    };
    let body = json!({ "model": model, "input": texts, "encoding_format": "float" });
    let response = client.post("/v1/embeddings", &body)?;
    let data = response["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    let vector = |item: &Value| serde_json::from_value::<Vec<f32>>(item["embedding"].clone()).ok();
    let vectors: Vec<_> = data.iter().map_while(vector).collect();
    if vectors.len() != texts.len() || vectors.iter().any(|vector| vector.len() != vectors[0].len()) {
        return Err(foreign("it did not send a vector for each text").into());
    }
    Ok(EmbeddedTexts { model, vectors })
}

/// The lines of the matrix. Texts stand at the head of their rows if there is room, otherwise before it.
fn table(texts: &[String], matrix: &[Vec<f64>]) -> Vec<String> {
    let digits = texts.len().to_string().len();
    let room = WIDTH.saturating_sub(digits + 2 + COLUMN * texts.len());
    let has_texts_in_rows = room >= MIN_TEXT;
    let numbered = |(index, text): (usize, &String), width| {
        format!("{:>digits$}  {}", index + 1, shortened(text, width))
    };
    let mut lines = Vec::new();
    if !has_texts_in_rows {
        lines.extend(texts.iter().enumerate().map(|text| numbered(text, WIDTH - digits - 2)));
        lines.push(String::new());
    }
    let longest = texts.iter().map(|text| shortened(text, room).chars().count()).max().unwrap_or(0);
    let width = digits + if has_texts_in_rows { 2 + longest } else { 0 };
    let heads: String = (1..=texts.len()).map(|number| format!("{number:>COLUMN$}")).collect();
    lines.push(format!("{:width$}{heads}", ""));
    for (index, (text, row)) in texts.iter().zip(matrix).enumerate() {
        let head =
            if has_texts_in_rows { numbered((index, text), room) } else { format!("{:>digits$}", index + 1) };
        let values: String = row.iter().map(|value| format!("{value:>COLUMN$.4}")).collect();
        lines.push(format!("{head:width$}{values}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn lines_of_standard_input_stand_in_place_of_a_dash() {
        let mut input = "b\n\n  \nc\r\n".as_bytes();
        assert_eq!(texts(&strings(&["a", "-", "d"]), &mut input).unwrap(), ["a", "b", "c", "d"]);
        let few = texts(&strings(&["a"]), &mut io::empty()).unwrap_err().to_string();
        assert_eq!(few, "expected at least two texts to compare");
        let many = "x\n".repeat(MAX_TEXTS + 1);
        assert!(texts(&strings(&["-"]), &mut many.as_bytes()).is_err());
    }

    #[test]
    fn rows_begin_with_their_texts_while_there_is_room() {
        let matrix = vec![vec![1.0, 0.5], vec![0.5, 1.0]];
        let in_rows = table(&strings(&["a cat", "a dog"]), &matrix);
        assert_eq!(
            in_rows,
            ["               1       2", "1  a cat  1.0000  0.5000", "2  a dog  0.5000  1.0000"]
        );
        let many = strings(&["text"; 9]);
        let matrix = vec![vec![1.0; 9]; 9];
        let listed = table(&many, &matrix);
        assert_eq!((listed[0].as_str(), listed.len()), ("1  text", 9 + 1 + 1 + 9));
        assert!(listed.iter().all(|line| line.chars().count() <= WIDTH), "{listed:?}");
        let long = table(&strings(&[&"long ".repeat(50), "b"]), &[vec![1.0, -0.5], vec![-0.5, 1.0]]);
        assert!(long.iter().all(|line| line.chars().count() <= WIDTH) && long[1].contains('…'), "{long:?}");
    }
}
