//! The benchmark's texts: made by rule, so that every run and every rival reads the same.

const WHO: [&str; 8] = [
    "A young man",
    "The old captain",
    "My neighbour",
    "Two children",
    "A woman in red",
    "The new teacher",
    "Somebody",
    "Our guide",
];
const DOES: [&str; 7] = [
    "is slicing",
    "carefully repairs",
    "was looking for",
    "has forgotten",
    "talks about",
    "would never sell",
    "is drawing",
];
const WHAT: [&str; 9] = [
    "a ripe tomato",
    "the garden fence",
    "an interesting book",
    "the wooden boat",
    "their little dog",
    "a bottle of milk",
    "the morning train",
    "this quiet village",
    "a game of chess",
];
const WHERE: [&str; 5] =
    ["near the river", "in the kitchen", "behind the station", "on a rainy day", "before the winter comes"];

/// The `n`th short text: 12 to 17 tokens, of 2,520 different ones.
pub(super) fn short(n: usize) -> String {
    let pick = |words: &[&'static str], stride: usize| words[(n / stride) % words.len()];
    let who = WHO[n % WHO.len()];
    format!("{who} {} {} {}.", pick(&DOES, 1), pick(&WHAT, 1), pick(&WHERE, 1))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn all_2520_texts_differ() {
        let texts: HashSet<String> = (0..2520).map(short).collect();
        assert_eq!(texts.len(), 2520);
        assert_eq!(short(0), short(2520));
    }
}
