//! Generated texts on which tokenizers could differ. They come from a proptest strategy, so a text on which two
//! tokenizers differ shrinks to a minimal one.

use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

/// Texts of one or several scripts: words of the vocabularies, random characters of a Unicode block, decomposed and
/// composed letters, emoji sequences, mathematics, controls, white space, addresses, code, numbers, very long words,
/// special tokens as text.
pub(crate) fn any_text() -> impl Strategy<Value = String> {
    let piece = || {
        prop_oneof![
            6 => words(),
            6 => letters(),
            3 => marks(),
            3 => symbols(),
            2 => spaces(),
            2 => machine_text(),
            1 => special_tokens(),
            1 => any::<char>().prop_map(String::from),
        ]
    };
    prop_oneof![
        8 => prop::collection::vec(piece(), 0..24).prop_map(|pieces| pieces.concat()),
        4 => prop::collection::vec(words(), 1..40).prop_map(|words| words.join(" ")),
        2 => prop::collection::vec(letters(), 1..20).prop_map(|words| words.join(" ")),
        1 => (piece(), 2usize..300).prop_map(|(piece, times)| piece.repeat(times.min(500 / piece.len().max(1)))),
    ]
}

/// Common words, in composed and decomposed form.
fn words() -> impl Strategy<Value = String> {
    const WORDS: &str = "
        the of Embedding unbelievable don't O'Neill co-operate e.g. U.S.A. naïve café cafe\u{301} Ångström
        A\u{30a}ngstro\u{308}m Straße STRASSE İstanbul ıslak œuvre Łódź Đặng Tiê\u{301}ng ﬁne ǅ Привет
        Москва́ ёлка и\u{306} Ελλάδα ΣΊΣΥΦΟΣ ᾳ السَّلَامُ عَلَيْكُمْ کتاب \u{fdfa} שָׁלוֹם עולם नमस्ते
        क्षत्रिय தமிழ் வணக்கம் สวัสดี ภาษาไทย 한국어 \u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8} ひらがな カタカナ
        ｶﾞｷﾞ か\u{3099} 東京都 漢字 𠀀𠮷 豈 ქართული Հայերեն አማርኛ ᏣᎳᎩ ខ្មែរ བོད 中文English混排";
    select(WORDS.split_whitespace().collect::<Vec<_>>()).prop_map(str::to_owned)
}

/// Runs of characters of one block, whatever they may mean.
fn letters() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-zA-Z]{1,12}",
        1 => "[a-z]{80,300}",
        2 => "[\u{c0}-\u{24f}\u{1e00}-\u{1eff}]{1,8}",
        2 => "[\u{370}-\u{3ff}\u{1f00}-\u{1fff}]{1,8}",
        2 => "[\u{400}-\u{52f}]{1,10}",
        2 => "[\u{590}-\u{5ff}]{1,8}",
        2 => "[\u{600}-\u{6ff}\u{750}-\u{77f}\u{fb50}-\u{fdff}\u{fe70}-\u{feff}]{1,8}",
        2 => "[\u{900}-\u{97f}]{1,8}",
        1 => "[\u{980}-\u{b7f}]{1,8}",
        2 => "[\u{b80}-\u{bff}]{1,8}",
        1 => "[\u{c00}-\u{dff}]{1,8}",
        2 => "[\u{e00}-\u{e7f}]{1,12}",
        1 => "[\u{e80}-\u{109f}\u{1780}-\u{17ff}]{1,8}",
        1 => "[\u{10a0}-\u{10ff}\u{1200}-\u{139f}\u{13a0}-\u{13ff}]{1,8}",
        2 => "[\u{ac00}-\u{d7a3}]{1,6}",
        2 => "([\u{1100}-\u{1112}][\u{1161}-\u{1175}][\u{11a8}-\u{11c2}]?){1,4}",
        1 => "[\u{1100}-\u{11ff}\u{3130}-\u{318f}\u{a960}-\u{a97f}\u{d7b0}-\u{d7ff}]{1,6}",
        2 => "[\u{3040}-\u{30ff}\u{31f0}-\u{31ff}\u{ff66}-\u{ff9f}]{1,8}",
        3 => "[\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}]{1,8}",
        1 => "[\u{20000}-\u{2a6df}\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}]{1,6}",
        1 => "[\u{10000}-\u{10fff}\u{1e900}-\u{1e95f}]{1,6}",
    ]
}

/// Letters with marks: one, several, in an order that is not canonical, and marks alone.
fn marks() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "([a-zA-Z][\u{300}-\u{30c}\u{323}\u{327}\u{328}\u{331}]{1,3}){1,6}",
        1 => "([а-яΑ-Ωα-ω][\u{300}\u{301}\u{306}\u{308}\u{342}\u{345}]{1,2}){1,6}",
        1 => "([א-ת][\u{5b0}-\u{5bc}\u{5c1}\u{5c2}]{1,2}){1,6}",
        1 => "([ء-ي][\u{64b}-\u{655}\u{670}]{1,2}){1,6}",
        1 => "([क-ह]\u{94d}?[\u{93a}-\u{94f}]){1,4}",
        1 => "[\u{300}-\u{36f}\u{483}-\u{487}\u{1ab0}-\u{1aff}\u{1dc0}-\u{1dff}\
            \u{20d0}-\u{20f0}\u{fe20}-\u{fe2f}]{1,3}",
    ]
}

/// Punctuation, signs, mathematics, letter-like symbols, and emoji with their modifiers and joiners.
fn symbols() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[!-/:-@\\[-`{-~]{1,4}",
        2 => "[\u{a1}-\u{bf}\u{2010}-\u{2027}\u{2030}-\u{205e}\u{3001}-\u{3030}]{1,4}",
        1 => "[\u{2190}-\u{22ff}\u{27c0}-\u{27ef}\u{2980}-\u{2aff}]{1,4}",
        1 => "[\u{1d400}-\u{1d7ff}]{1,6}",
        1 => "[\u{2070}-\u{209f}\u{20a0}-\u{20cf}\u{2100}-\u{218f}\u{2460}-\u{24ff}]{1,4}",
        1 => "[\u{ff01}-\u{ff60}\u{ffe0}-\u{ffee}\u{fb00}-\u{fb06}\u{3300}-\u{33ff}]{1,4}",
        2 => "([\u{1f300}-\u{1f64f}\u{1f680}-\u{1f6ff}\u{1f900}-\u{1f9ff}\u{2600}-\u{27bf}]\u{fe0f}?){1,3}",
        1 => "[\u{1f44b}\u{1f466}-\u{1f469}\u{1f9d1}][\u{1f3fb}-\u{1f3ff}]?\
            (\u{200d}[\u{1f466}-\u{1f469}\u{2764}]){0,3}",
        1 => "([\u{1f1e6}-\u{1f1ff}]{2}){1,3}",
        1 => "[0-9#*]\u{fe0f}?\u{20e3}",
        1 => "\u{1f3f4}[\u{e0061}-\u{e007a}]{2,5}\u{e007f}",
    ]
}

/// All kinds of white space, zero-width characters, controls, private use, noncharacters.
fn spaces() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[ \t\n\r]{1,4}",
        2 => "[ \u{b}\u{c}\u{85}\u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}]{1,3}",
        2 => "[\u{ad}\u{34f}\u{61c}\u{180e}\u{200b}-\u{200f}\u{202a}-\u{202e}\u{2060}-\u{206f}\u{feff}]{1,3}",
        2 => "[\u{0}-\u{1f}\u{7f}-\u{9f}]{1,3}",
        1 => "[\u{e000}-\u{e010}\u{f0000}-\u{f0010}\u{fdd0}-\u{fdef}\u{fff0}-\u{ffff}]{1,3}",
        1 => "[\u{fe00}-\u{fe0f}\u{e0100}-\u{e01ef}]{1,2}",
    ]
}

/// Machine-generated text: addresses, code, numbers, dates, hashes.
fn machine_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "https?://[a-z]{2,9}\\.(com|org|co\\.uk|рф)/[a-zA-Z0-9_%-]{0,12}(\\?[a-z]=[0-9]{1,4}&b=%20)?#?[a-z]{0,4}",
        "[a-z.]{1,8}@[a-z]{2,8}\\.(com|de)",
        "(if|while|fn|return|let) [a-z_]{1,8}(\\(\\)|\\[0\\]|::<T>|->|=>|!=|&&|;|\\{\n    )",
        "[a-z]{1,6}([A-Z][a-z]{1,6}){1,3}|[a-z]{1,5}(_[a-z0-9]{1,5}){1,3}",
        "-?[0-9]{1,9}([.,][0-9]{1,6}){0,2}(e-?[0-9]{1,2})?%?",
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z",
        "[0-9a-f]{32,64}",
        "[\u{660}-\u{669}\u{966}-\u{96f}\u{ff10}-\u{ff19}]{1,6}",
    ]
}

/// Special tokens, which a tokenizer finds in text, and prefixes of them.
fn special_tokens() -> impl Strategy<Value = String> {
    const TOKENS: &str = "[CLS] [SEP] [MASK] [UNK] [PAD] <s> </s> <mask> <pad> <|endoftext|> [CL <|im_";
    select(TOKENS.split(' ').collect::<Vec<_>>()).prop_map(str::to_owned)
}

/// Runs `check` on `count` texts, the same in every run, on several threads.
///
/// # Panics
/// `check` fails on a text. The message shows a minimal one.
pub(crate) fn for_texts(count: u32, check: impl Fn(&str) -> Result<(), TestCaseError> + Sync) {
    const PARTS: u32 = 8;
    // Each part has its own seed and thread, so the texts do not depend on the number of cores.
    let run_part = |part: u32| {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&part.to_le_bytes());
        let cases = count / PARTS + u32::from(part < count % PARTS);
        let config = Config { cases, failure_persistence: None, ..Config::default() };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        TestRunner::new_with_rng(config, rng).run(&any_text(), |text| check(&text)).unwrap();
    };
    std::thread::scope(|scope| {
        for part in 0..PARTS {
            scope.spawn(move || run_part(part));
        }
    });
}
