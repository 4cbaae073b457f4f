//! Prompts: tokenized together with each text, and repeated in each window.

use inference::{Input, Job, Prompt, TruncationPolicy};

use crate::harness::{Harness, MAX_INPUT_TOKENS, config, job, vector_of, with_special_tokens};

fn prompt(text: &str) -> Prompt {
    Prompt::new(text, &config().tokenizer, true).unwrap()
}

fn ids(text: &str) -> Vec<u32> {
    config().tokenizer.encode(text).unwrap()
}

#[test]
fn a_prompt_and_a_text_are_tokenized_together() {
    let harness = Harness::default();
    let inputs = vec![Input::Text("le run".to_owned()), Input::Text(String::new()), Input::Tokens(vec![5])];
    let found = harness.embed_job(Job { inputs, prompt: Some(prompt("peop")), ..job(&[]) }).unwrap();
    assert_ne!(ids("people run"), [ids("peop"), ids("le run")].concat(), "the test needs a word that joins");
    // Token ids have no prompt.
    let expected = [ids("people run"), ids("peop"), vec![5]];
    let vectors: Vec<f32> = expected.iter().flat_map(|ids| vector_of(ids)).collect();
    assert_eq!(found.vectors, vectors);
    assert_eq!(found.tokens, expected.map(|ids| ids.len() as u32 + 2));
}

#[test]
fn an_input_is_cut_after_its_prompt_is_counted() {
    let harness = Harness::default();
    let text = "a ".repeat(MAX_INPUT_TOKENS);
    let inputs = vec![Input::Text(text.clone())];
    let found = harness.embed_job(Job { inputs, prompt: Some(prompt("b ")), ..job(&[]) }).unwrap();
    let expected = &ids(&format!("b {text}"))[..MAX_INPUT_TOKENS - 2];
    assert_eq!((found.vectors, found.truncated), (vector_of(expected), 1));
}

#[test]
fn each_window_of_an_averaged_input_starts_with_the_prompt() {
    let harness = Harness::default();
    let inputs = vec![Input::Text("a ".repeat(2 * MAX_INPUT_TOKENS))];
    let average = |prompt| Job {
        inputs: inputs.clone(),
        prompt: Some(prompt),
        truncation: TruncationPolicy::Average,
        ..job(&[])
    };
    let (a, b) = (ids("a"), ids("b"));
    let content = MAX_INPUT_TOKENS - 2;
    let window = |texts: usize| with_special_tokens(&[b.clone(), a.repeat(texts)].concat());
    harness.embed_job(average(prompt("b "))).unwrap();
    let rest = 2 * MAX_INPUT_TOKENS - 2 * (content - 1);
    let seen = harness.control.seen.lock().unwrap().clone();
    assert_eq!(
        seen.iter().filter(|ids| **ids == window(content - 1)).count(),
        1,
        "equal windows are computed once"
    );
    assert!(seen.contains(&window(rest)) && seen.len() == 2, "{seen:?}");
    // A prompt of more than half a window is read once.
    let long = prompt(&"b ".repeat(content - 1));
    let tokens = harness.embed_job(average(long)).unwrap().tokens[0] as usize;
    let read = 2 * MAX_INPUT_TOKENS + content - 1;
    assert_eq!(tokens, read + 2 * read.div_ceil(content));
}

#[test]
fn unpooled_tokens_are_those_of_the_prompt_without_the_special_token_at_the_end() {
    let unpooled = |include| Prompt::new("a b ", &config().tokenizer, include).unwrap().unpooled_tokens();
    assert_eq!((unpooled(false), unpooled(true)), (1 + 2, 0));
}
