//! Built-in texts, on which the accuracy of a precision is proved and int8 kernels are calibrated.

use std::iter;

use encoder_spec::{EncoderSpec, LinearId};

/// Short texts, one a line: words, sentences of many scripts, code, numbers, punctuation, emoji.
const TEXTS: &str = include_str!("builtin_texts.txt");

/// Number of tokens of the shortest long text. Each next one has four times as many, and the last one fills the window.
const FIRST_LONG_TEXT: usize = 64;

/// Bytes of a long text for each token that it needs, before truncation. Some tokenizers make one token of a long word.
const BYTES_PER_TOKEN: usize = 16;

/// Maximum number of multiplications for the long texts, which limits the time for large models with long windows. On
/// two cores with AVX-512 the fp32 kernels take about 7 s for as many.
const MAX_MULTIPLICATIONS: f64 = 1e12;

/// Texts that are embedded together.
pub(super) struct Passage {
    pub(super) texts: Vec<String>,
    /// Maximum number of tokens of each text; `None` for the model's.
    pub(super) max_input_tokens: Option<usize>,
}

/// The texts for a model: the short ones, and long ones up to a whole window.
pub(super) fn passages_for(spec: &EncoderSpec, window: usize) -> Vec<Passage> {
    passages(&long_texts(&PassSizes::of(spec), window))
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
    let short = Passage { texts: TEXTS.lines().map(str::to_owned).collect(), max_input_tokens: None };
    let long = lengths.iter().enumerate().map(|(number, &length)| {
        // Different beginnings, so that short windows see other scripts than the first ones.
        let mut lines = TEXTS.lines().cycle().skip(number * 5);
        let mut text = String::new();
        while text.len() < length * BYTES_PER_TOKEN {
            text.extend(lines.next().into_iter().flat_map(|line| [line, " "]));
        }
        Passage { texts: vec![text.trim_end().to_owned()], max_input_tokens: Some(length) }
    });
    iter::once(short).chain(long).collect()
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

    #[test]
    fn texts_cover_scripts_and_lengths() {
        let passages = passages(&[64, 256]);
        let texts: Vec<&str> = passages.iter().flat_map(|it| &it.texts).map(String::as_str).collect();
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
