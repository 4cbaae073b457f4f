//! Built-in texts, and pairs of them for rerankers, on which the accuracy of a precision is proved and int8 kernels are
//! calibrated.

use std::{iter, sync::Arc};

use encoder_spec::{EncoderSpec, LinearId};
use inference::Input;
use model_import::Task;

/// Short texts, one a line: words, sentences of many scripts, code, numbers, punctuation, emoji.
const TEXTS: &str = include_str!("builtin_texts.txt");

/// Questions with their answers, for rerankers. A question with the answer to another one is an irrelevant pair of the
/// same kind.
const QUESTIONS: [(&str, &str); 6] = [
    (
        "How do I reset the password of a shared account?",
        "To reset the password of a shared account, open Settings, choose Members, and select \"Reset password\". \
         Every member of the account receives a mail with a link that is valid for one hour.",
    ),
    (
        "when does the last ferry leave the island",
        "In summer the last ferry leaves the island at 21:40. From November to March it leaves at seven, and not at \
         all if the wind turns to the north.",
    ),
    (
        "Which materials tolerate high temperatures?",
        "Silicon carbide keeps its strength up to about 1,400 °C, far above the limit of pure silicon, and is \
         therefore used for furnaces and brakes.",
    ),
    (
        "Wie schütze ich Apfelbäume vor Frost?",
        "Apfelbäume werden vor Frost geschützt, indem man sie in kalten Nächten mit Wasser besprüht oder mit einem \
         Vlies bedeckt, sobald die Blüten offen sind.",
    ),
    (
        "where are the new rust crates documented?",
        "docs.rs builds the documentation of every crate that is published, with its features and earlier versions.",
    ),
    ("山脚下的茶馆几点开门？", "山脚下的小茶馆每天清晨五点开门，晚上九点关门，冬天的星期一休息。"),
];

/// Number of tokens of the shortest long text. Each next one has four times as many, and the last one fills the window.
const FIRST_LONG_TEXT: usize = 64;

/// Bytes of a long text for each token that it needs, before truncation. Some tokenizers make one token of a long word.
const BYTES_PER_TOKEN: usize = 16;

/// Maximum number of multiplications for the long texts, which limits the time for large models with long windows. On
/// two cores with AVX-512 the fp32 kernels take about 7 s for as many.
const MAX_MULTIPLICATIONS: f64 = 1e12;

/// Inputs that are computed together.
pub(super) struct Passage {
    pub(super) inputs: Vec<Input>,
    /// Maximum number of tokens of each input; `None` for the model's.
    pub(super) max_input_tokens: Option<usize>,
}

/// The inputs for a model of `task`: short texts, and long ones up to a whole window. A reranker reads them as
/// documents of the [`QUESTIONS`], and each question with every answer.
pub(super) fn passages_for(task: Task, spec: &EncoderSpec, window: usize) -> Vec<Passage> {
    let passages = passages(&long_texts(&PassSizes::of(spec), window));
    if task == Task::Rerank { pairs(passages) } else { passages }
}

/// Numbers of tokens of the long texts, up to a whole window.
fn long_texts(sizes: &PassSizes, window: usize) -> Vec<usize> {
    let lengths = iter::successors(Some(FIRST_LONG_TEXT), |length| Some(length * 4));
    let lengths = lengths.take_while(|&length| length < window).chain([window]);
    let mut spent = 0.0;
    let is_affordable = |&length: &usize| {
        spent += sizes.multiplications(length);
        spent <= MAX_MULTIPLICATIONS
    };
    lengths.take_while(is_affordable).collect()
}

/// Sizes that decide how long a forward pass takes.
struct PassSizes {
    layers: usize,
    /// Weights of a layer's linear layers.
    weights: usize,
    /// Width of all query heads.
    query_width: usize,
}

impl PassSizes {
    fn of(spec: &EncoderSpec) -> Self {
        let linears = LinearId::ALL.into_iter().filter(|&linear| spec.has_linear(linear));
        Self {
            layers: spec.layers.len(),
            weights: linears.map(|linear| spec.linear_shape(linear).iter().product::<usize>()).sum(),
            query_width: spec.attention.query_width(),
        }
    }

    /// Number of multiplications for a text of `tokens` tokens: linear layers, and attention to all tokens.
    fn multiplications(&self, tokens: usize) -> f64 {
        let [layers, weights, width, tokens] =
            [self.layers, self.weights, self.query_width, tokens].map(|size| size as f64);
        layers * tokens * (weights + 2.0 * tokens * width)
    }
}

/// The short texts, and a long text for each of `lengths`.
fn passages(lengths: &[usize]) -> Vec<Passage> {
    let short = TEXTS.lines().map(|line| Input::Text(line.to_owned())).collect();
    let short = Passage { inputs: short, max_input_tokens: None };
    let long = lengths.iter().enumerate().map(|(number, &length)| {
        // Different beginnings, so that short windows see other scripts than the first ones.
        let mut lines = TEXTS.lines().cycle().skip(number * 5);
        let mut text = String::new();
        while text.len() < length * BYTES_PER_TOKEN {
            text.extend(lines.next().into_iter().flat_map(|line| [line, " "]));
        }
        Passage { inputs: vec![Input::Text(text.trim_end().to_owned())], max_input_tokens: Some(length) }
    });
    iter::once(short).chain(long).collect()
}

/// Pairs with the texts of `passages` as documents, and of each question with every answer.
fn pairs(mut passages: Vec<Passage>) -> Vec<Passage> {
    let questions = QUESTIONS.map(|(question, _)| Arc::<str>::from(question));
    let mut question = questions.iter().cycle();
    for input in passages.iter_mut().flat_map(|passage| &mut passage.inputs) {
        if let (Input::Text(text), Some(query)) = (&mut *input, question.next()) {
            *input = Input::Pair { query: Arc::clone(query), document: std::mem::take(text) };
        }
    }
    let answers =
        questions.iter().flat_map(|query| QUESTIONS.iter().map(move |(_, answer)| (query, *answer)));
    let answers =
        answers.map(|(query, answer)| Input::Pair { query: Arc::clone(query), document: answer.to_owned() });
    passages.push(Passage { inputs: answers.collect(), max_input_tokens: None });
    passages
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINILM: PassSizes =
        PassSizes { layers: 6, weights: 4 * 384 * 384 + 2 * 384 * 1536, query_width: 384 };

    #[test]
    fn long_texts_fill_the_window_within_the_limit_of_multiplications() {
        assert_eq!(long_texts(&MINILM, 16), [16]);
        assert_eq!(long_texts(&MINILM, 64), [64]);
        assert_eq!(long_texts(&MINILM, 512), [64, 256, 512]);
        assert_eq!(long_texts(&MINILM, 8192), [64, 256, 1024, 4096, 8192]);
        let large = PassSizes { layers: 24, weights: 4 * 1024 * 1024 + 2 * 1024 * 4096, query_width: 1024 };
        assert_eq!(long_texts(&large, 512), [64, 256, 512]);
        assert_eq!(long_texts(&large, 8192), [64, 256, 1024]);
    }

    fn text_of(input: &Input) -> &str {
        match input {
            Input::Text(text) | Input::Pair { document: text, .. } => text,
            Input::Tokens(_) => panic!("no text"),
        }
    }

    #[test]
    fn pairs_hold_every_text_and_every_answer_to_every_question() {
        let texts = passages(&[64, 256]);
        let expected: Vec<String> =
            texts.iter().flat_map(|it| &it.inputs).map(|it| text_of(it).to_owned()).collect();
        let pairs = pairs(texts);
        let inputs: Vec<&Input> = pairs.iter().flat_map(|it| &it.inputs).collect();
        assert_eq!(inputs.len(), expected.len() + QUESTIONS.len() * QUESTIONS.len());
        assert!(inputs.iter().map(|input| text_of(input)).zip(&expected).all(|(found, text)| found == text));
        for (question, answer) in QUESTIONS {
            let pair = Input::Pair { query: question.into(), document: answer.to_owned() };
            assert_eq!(inputs.iter().filter(|input| ***input == pair).count(), 1, "{question}");
        }
        assert_eq!(
            pairs.iter().map(|it| it.max_input_tokens).collect::<Vec<_>>(),
            [None, Some(64), Some(256), None]
        );
    }

    #[test]
    fn texts_cover_scripts_and_lengths() {
        let passages = passages(&[64, 256]);
        let texts: Vec<&str> = passages.iter().flat_map(|it| &it.inputs).map(text_of).collect();
        for script in [
            'a'..='z',
            'а'..='я',
            'α'..='ω',
            'א'..='ת',
            'ا'..='ي',
            'क'..='ह',
            'ক'..='হ',
            'ก'..='ฮ',
            'ぁ'..='ん',
            'ァ'..='ヶ',
            '一'..='龯',
            '가'..='힣',
            '0'..='9',
            '!'..='/',
            '🌀'..='🛿',
        ] {
            assert!(texts.iter().any(|text| text.chars().any(|c| script.contains(&c))), "{script:?}");
        }
        assert!(texts.iter().any(|text| !text.contains(' ')), "no single word");
        assert!(texts.iter().all(|text| text.trim() == *text && !text.is_empty()), "white space at an end");
        assert!(texts.last().is_some_and(|text| text.len() >= 256 * BYTES_PER_TOKEN));
    }
}
