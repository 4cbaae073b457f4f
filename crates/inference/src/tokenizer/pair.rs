//! Pairs of texts: the template that joins their tokens, and the truncation of the longer text first.

use tokenizers::pipeline::{PipelineToken, Template};

/// Special tokens around and between the tokens of two texts.
#[derive(Debug, Clone)]
pub(super) struct PairTemplate {
    prefix: Vec<u32>,
    infix: Vec<u32>,
    suffix: Vec<u32>,
    /// The second text and the tokens after it have token type 1, all others 0. Otherwise all have token type 0.
    has_segments: bool,
}

impl PairTemplate {
    /// Reads the tokenizer's template, whose token types count if `has_token_types`. Returns `None` if they are not 0
    /// up to the second text, and 0 or 1 from there on.
    pub(super) fn new(template: &Template, has_token_types: bool) -> Option<Self> {
        let [prefix, infix, suffix] = [&template.prefix, &template.infix, &template.suffix];
        let second = template.b_type_id.unwrap_or(0);
        let has_type = |tokens: &[(_, u8)], kind| tokens.iter().all(|&(_, token_type)| token_type == kind);
        let is_known = !has_token_types
            || template.a_type_id == 0
                && second <= 1
                && has_type(prefix, 0)
                && has_type(infix, 0)
                && has_type(suffix, second);
        let ids = |run: &[(PipelineToken, u8)]| run.iter().map(|(token, _)| token.id()).collect();
        is_known.then(|| Self {
            prefix: ids(prefix),
            infix: ids(infix),
            suffix: ids(suffix),
            has_segments: has_token_types && second == 1,
        })
    }

    /// Ids of the special tokens.
    pub(super) fn special_ids(&self) -> impl Iterator<Item = &u32> {
        self.prefix.iter().chain(&self.infix).chain(&self.suffix)
    }

    /// Appends the tokens of two texts with the special ones to `out`. Returns the number of tokens of type 1.
    pub(super) fn join(&self, first: &[u32], second: &[u32], out: &mut Vec<u32>) -> usize {
        for part in [&self.prefix, first, &self.infix, second, &self.suffix] {
            out.extend_from_slice(part);
        }
        if self.has_segments { second.len() + self.suffix.len() } else { 0 }
    }
}

/// Returns the numbers of tokens that are kept of two texts with `first` and `second` tokens, if there is room for
/// `max`, by transformers' strategy `longest_first`: the end of the longer one is cut until both are of equal length,
/// then the ends of both.
pub fn truncate_pair(first: usize, second: usize, max: usize) -> (usize, usize) {
    if first + second <= max {
        return (first, second);
    }
    let shorter = first.min(second).min(max / 2);
    let longer = max - shorter;
    if first > second { (longer, shorter) } else { (shorter, longer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Removes one token after the other, from the longer text.
    fn step_by_step(mut first: usize, mut second: usize, max: usize) -> (usize, usize) {
        let is_first_longer = first > second;
        while first + second > max {
            // Of two equal ones, the shorter text of the beginning.
            if first > second || (first == second && !is_first_longer) {
                first -= 1;
            } else {
                second -= 1;
            }
        }
        (first, second)
    }

    #[test]
    fn the_longer_text_is_truncated_first() {
        assert_eq!(truncate_pair(3, 4, 7), (3, 4));
        assert_eq!(truncate_pair(3, 40, 10), (3, 7));
        assert_eq!(truncate_pair(40, 3, 10), (7, 3));
        assert_eq!(truncate_pair(40, 30, 11), (6, 5));
        assert_eq!(truncate_pair(30, 30, 11), (5, 6));
        assert_eq!(truncate_pair(5, 5, 1), (0, 1));
        for (first, second, max) in
            (0..12).flat_map(|a| (0..12).flat_map(move |b| (0..14).map(move |max| (a, b, max))))
        {
            let expected = step_by_step(first, second, max);
            assert_eq!(truncate_pair(first, second, max), expected, "{first} {second} {max}");
        }
    }
}
