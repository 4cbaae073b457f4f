//! Tests of the families: a setting is read, or refused by file and key; one that is omitted has the value that
//! transformers gives it.

use encoder_spec::{Activation, EncoderSpec, Rope, ScoreBias, Span};
use serde_json::{Value, json};

use super::fixture::{Folder, assert_contains, message};

const CONFIG: &str = "config.json";

fn spec(folder: &Folder) -> EncoderSpec {
    folder.open().unwrap().encoder().unwrap().unwrap().spec().clone()
}

/// The specification of a tiny model after changes of its `config.json`; null removes a key.
fn spec_with<const N: usize>(model: &str, changes: [(&str, Value); N]) -> EncoderSpec {
    let folder = Folder::tiny(model);
    for (key, value) in changes {
        folder.set(CONFIG, key, value);
    }
    spec(&folder)
}

#[test]
fn settings_that_are_not_supported_are_refused_by_file_and_key() {
    let linear = |key: &str, value: Value| json!({"rope_type": "linear", "rope_theta": 10000.0, key: value});
    for (model, key, value, parts) in [
        ("camembert-mean", "pad_token_id", json!(-1), &["pad_token_id = -1"][..]),
        ("camembert-mean", "is_decoder", json!(true), &["is_decoder = true"]),
        ("electra-mean", "position_embedding_type", json!("relative_key"), &["`relative_key`", "absolute"]),
        ("electra-mean", "embedding_size", json!(0), &["embedding_size = 0"]),
        ("albert-mean", "inner_group_num", json!(2), &["inner_group_num = 2", "only 1"]),
        ("albert-mean", "num_hidden_groups", json!(3), &["num_hidden_groups = 3"]),
        ("mpnet-mean", "relative_attention_num_buckets", json!(31), &["num_buckets = 31", "at least 32"]),
        ("deberta-v2-mean", "relative_attention", Value::Null, &["no `relative_attention`", "only true"]),
        ("deberta-v2-mean", "share_att_key", json!(false), &["share_att_key = false", "only true"]),
        ("deberta-v2-mean", "conv_kernel_size", json!(3), &["conv_kernel_size = 3"]),
        ("deberta-v2-mean", "embedding_size", json!(24), &["embedding_size = 24", "only 48"]),
        ("deberta-v2-mean", "attention_head_size", json!(8), &["attention_head_size = 8", "only 12"]),
        ("deberta-v2-mean", "pos_att_type", json!(["p2p"]), &["pos_att_type", "c2p and p2c", "`p2p`"]),
        ("deberta-v2-mean", "norm_rel_ebd", json!("rms"), &["norm_rel_ebd `rms`"]),
        ("deberta-v2-mean", "position_buckets", json!(300), &["300 buckets", "too small"]),
        (
            "t5-encoder-mean",
            "feed_forward_proj",
            json!("gated-mish"),
            &["feed_forward_proj `gated-mish`", "relu"],
        ),
        (
            "t5-encoder-mean",
            "relative_attention_num_buckets",
            json!(2),
            &["relative_attention_num_buckets = 2"],
        ),
        (
            "t5-encoder-mean",
            "relative_attention_max_distance",
            json!(4),
            &["relative_attention_max_distance = 4"],
        ),
        ("nomic-mean", "prenorm", json!(true), &["prenorm = true"]),
        ("nomic-mean", "rotary_scaling_factor", json!(2.0), &["rotary_scaling_factor = 2.0", "null"]),
        ("nomic-mean", "moe_every_n_layers", json!(2), &["moe_every_n_layers = 2"]),
        ("nomic-mean-hub", "rotary_emb_fraction", json!(0.5), &["rotary_emb_fraction = 0.5", "only 1"]),
        ("nomic-mean-hub", "rotary_emb_fraction", Value::Null, &["no `rotary_emb_fraction`", "only 1"]),
        ("nomic-mean-hub", "rotary_emb_interleaved", json!(true), &["rotary_emb_interleaved = true"]),
        ("nomic-mean-hub", "activation_function", json!("glu"), &["activation_function `glu`", "swiglu"]),
        ("nomic-mean-hub", "causal", json!(true), &["causal = true"]),
        ("gte-new-cls", "pack_qkv", json!(false), &["pack_qkv = false"]),
        ("gte-new-cls", "logn_attention_scale", json!(true), &["logn_attention_scale = true"]),
        ("gte-new-cls", "position_embedding_type", json!("absolute"), &["`absolute`", "only `rope`"]),
        ("gte-new-cls", "layer_norm_type", json!("rms_norm"), &["layer_norm_type `rms_norm`"]),
        (
            "gte-new-cls",
            "rope_scaling",
            json!({"type": "yarn", "factor": 2.0}),
            &["rope_scaling.type = `yarn`"],
        ),
        (
            "gte-new-cls",
            "rope_scaling",
            json!({"type": "ntk"}),
            &["rope_scaling without `factor`", "above 0"],
        ),
        (
            "gte-new-cls",
            "rope_scaling",
            json!({"type": "ntk", "factor": 2.0, "mixed_b": 0.5}),
            &["rope_scaling.mixed_b = 0.5"],
        ),
        (
            "gte-cls",
            "rope_parameters",
            json!({"rope_type": "ntk", "factor": 2}),
            &["rope_parameters.rope_type"],
        ),
        ("gte-cls", "rope_parameters", linear("factor", json!(0)), &["rope_parameters.factor = 0"]),
        ("gte-cls", "rope_parameters", json!({"rope_theta": 1.0}), &["rope_theta", "a number above 1"]),
        ("gte-cls", "rope_parameters", json!([1]), &["rope_parameters = [1]", "an object"]),
        (
            "gte-cls",
            "rope_parameters",
            linear("partial_rotary_factor", json!(0.5)),
            &["rope_parameters.partial_rotary_factor = 0.5"],
        ),
        ("modernbert-mean", "layer_types", json!(["full_attention"]), &["layer_types", "each of 4 layers"]),
        ("modernbert-mean", "global_attn_every_n_layers", json!(0), &["global_attn_every_n_layers = 0"]),
        ("modernbert-mean", "hidden_activation", json!("mish"), &["hidden_activation `mish`"]),
        ("modernbert-mean", "num_attention_heads", json!(5), &["5 attention heads over a width of 48"]),
        ("modernbert-mean", "num_attention_heads", json!(16), &["odd head of 3"]),
        (
            "modernbert-long",
            "rope_parameters",
            json!({"rope_type": "default", "rope_theta": 10000.0}),
            &["rope_parameters", "`full_attention` and `sliding_attention`"],
        ),
        (
            "modernbert-long",
            "rope_parameters",
            json!({"full_attention": {"rope_type": "llama3", "rope_theta": 10000.0}}),
            &["rope_parameters.full_attention.rope_type = `llama3`", "default or linear"],
        ),
        ("qwen3-last", "use_sliding_window", json!(true), &["use_sliding_window = true"]),
        ("qwen3-last", "num_key_value_heads", json!(3), &["num_key_value_heads = 3", "divisor of 4"]),
        (
            "qwen3-last",
            "rope_scaling",
            json!({"rope_type": "yarn", "factor": 4.0}),
            &["rope_scaling.rope_type"],
        ),
        (
            "qwen3-last",
            "rope_scaling",
            json!({"type": "dynamic", "factor": 2}),
            &["rope_scaling.type", "`dynamic`"],
        ),
        ("qwen3-last", "partial_rotary_factor", json!(0.5), &["partial_rotary_factor = 0.5"]),
        ("qwen3-last", "hidden_act", json!(7), &["hidden_act = 7", "a text"]),
        ("qwen3-last", "rms_norm_eps", json!(0), &["rms_norm_eps = 0"]),
        (
            "qwen3-last",
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
            &["layer_types", "only `full_attention`"],
        ),
        ("gemma3-mean", "use_bidirectional_attention", Value::Null, &["no `use_bidirectional_attention`"]),
        ("gemma3-mean", "use_bidirectional_attention", json!(false), &["bidirectional_attention = false"]),
        ("gemma3-mean", "attn_logit_softcapping", json!(50.0), &["attn_logit_softcapping = 50.0"]),
        ("gemma3-mean", "query_pre_attn_scalar", json!(0), &["query_pre_attn_scalar = 0"]),
        ("gemma3-mean", "sliding_window", json!(0), &["sliding_window = 0"]),
        ("gemma3-mean", "rope_scaling", json!({"rope_type": "longrope"}), &["`longrope`"]),
    ] {
        let folder = Folder::tiny(model);
        folder.set(CONFIG, key, value);
        let error = folder.open().expect_err(&format!("{model} with another {key}"));
        assert_contains(&message(&error), &[&["config.json"], parts].concat());
    }
}

#[test]
fn omitted_keys_have_the_values_of_transformers() {
    let epsilon = |model, key| spec_with(model, [(key, Value::Null)]).norm.epsilon;
    assert_eq!(epsilon("bert-mean", "layer_norm_eps"), 1e-12);
    assert_eq!(epsilon("mpnet-mean", "layer_norm_eps"), 1e-12);
    assert_eq!(epsilon("deberta-v2-mean", "layer_norm_eps"), 1e-7);
    assert_eq!(epsilon("t5-encoder-mean", "layer_norm_epsilon"), 1e-6);
    assert_eq!(epsilon("nomic-mean", "layer_norm_eps"), 1e-12);
    assert_eq!(epsilon("nomic-mean-hub", "layer_norm_epsilon"), 1e-5);
    assert_eq!(epsilon("modernbert-mean", "norm_eps"), 1e-5);
    assert_eq!(epsilon("qwen3-last", "rms_norm_eps"), 1e-6);

    let activation = |model, key| spec_with(model, [(key, Value::Null)]).feed_forward.activation;
    assert_eq!(activation("bert-mean", "hidden_act"), Activation::Gelu);
    assert_eq!(activation("albert-mean", "hidden_act"), Activation::GeluTanh);
    assert_eq!(activation("nomic-mean", "hidden_act"), Activation::Silu);
    assert_eq!(activation("gemma3-mean", "hidden_activation"), Activation::GeluTanh);
    let mt5 =
        spec_with("t5-encoder-mean", [("model_type", json!("mt5")), ("feed_forward_proj", Value::Null)]);
    assert_eq!((mt5.feed_forward.activation, mt5.feed_forward.is_gated), (Activation::GeluTanh, true));

    let theta = |model, key| spec_with(model, [(key, Value::Null)]).layers[0].rope.map(|rope| rope.theta);
    assert_eq!(theta("gte-cls", "rope_parameters"), Some(160_000.0));
    assert_eq!(theta("nomic-mean", "rope_parameters"), Some(1000.0));
    assert_eq!(theta("nomic-mean-hub", "rotary_emb_base"), Some(10_000.0));
    assert_eq!(theta("qwen3-last", "rope_theta"), Some(10_000.0));
    assert_eq!(theta("modernbert-mean", "global_rope_theta"), Some(160_000.0));
    assert_eq!(theta("gemma3-mean", "rope_local_base_freq"), Some(10_000.0));
    // gte-base-en-v1.5 and its kin write this scaling, of which 5000 · 2 is the resulting base.
    let ntk = spec(&Folder::tiny("gte-new-cls")).layers[0].rope;
    assert_eq!(ntk, Some(Rope { theta: 10_000.0, divisor: 2f64.powf(2.0 / 12.0) }));

    let bias = |changes| spec_with("deberta-v2-mean", changes).attention.score_bias;
    let ScoreBias::Disentangled(disentangled) = bias([("norm_rel_ebd", Value::Null)]) else { panic!() };
    assert!(!disentangled.has_norm && disentangled.span == 16 && disentangled.max_distance == Some(128));
    let ScoreBias::Disentangled(disentangled) = bias([("position_buckets", Value::Null)]) else { panic!() };
    assert!(disentangled.span == 128 && disentangled.max_distance.is_none());
    let ScoreBias::Disentangled(disentangled) = bias([("pos_att_type", json!("C2P | p2c"))]) else {
        panic!()
    };
    assert_eq!(disentangled.terms(), 3);
}

#[test]
fn kinds_of_layers_are_listed_or_follow_a_period() {
    let spans = |spec: EncoderSpec| spec.layers.iter().map(|layer| layer.span).collect::<Vec<_>>();
    let (full, near) = (Span::Full, Span::Window(8));
    assert_eq!(spans(spec(&Folder::tiny("modernbert-mean"))), [full, near, near, full]);
    let listed = spec_with("modernbert-long", [("local_attention", json!(17))]);
    assert_eq!(spans(listed), [full, near, near, full, near, near]);
    let gemma = |changes: [(&str, Value); 2]| spans(spec_with("gemma3-mean", changes));
    let default = gemma([("layer_types", Value::Null), ("sliding_window", json!(7))]);
    assert_eq!(default, [[Span::Window(3); 5].as_slice(), &[full]].concat());
    let by_two = gemma([("layer_types", Value::Null), ("sliding_window_pattern", json!(2))]);
    assert_eq!(by_two, [near, full, near, full, near, full]);
    assert!(spans(spec(&Folder::tiny("qwen3-last"))).iter().all(|span| *span == Span::Causal));
}

/// transformers 5 writes the RoPE settings of both kinds of layers into one object.
#[test]
fn rope_settings_of_transformers_4_and_5_are_equal() {
    let old = spec(&Folder::tiny("gemma3-mean"));
    let new = spec_with(
        "gemma3-mean",
        [
            ("rope_theta", Value::Null),
            ("rope_local_base_freq", Value::Null),
            (
                "rope_parameters",
                json!({
                    "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }),
            ),
        ],
    );
    assert_eq!(old, new);
    let old = spec_with("qwen3-last", [("rope_scaling", json!({"type": "linear", "factor": 4.0}))]);
    let scaled = json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4});
    let new = spec_with("qwen3-last", [("rope_theta", Value::Null), ("rope_parameters", scaled)]);
    assert_eq!(old, new);
    assert_eq!(old.layers[0].rope, Some(Rope { theta: 1e4, divisor: 4.0 }));
    // In Gemma 3, `rope_scaling` is for the layers that attend to all tokens.
    let gemma = spec_with("gemma3-mean", [("rope_scaling", json!({"rope_type": "linear", "factor": 8.0}))]);
    assert_eq!(gemma.layers[0].rope, Some(Rope::new(1e4)));
    assert_eq!(gemma.layers[2].rope, Some(Rope { theta: 1e6, divisor: 8.0 }));
}

#[test]
fn layers_of_an_albert_group_share_weights() {
    let folder = Folder::tiny("albert-mean");
    folder.set(CONFIG, "num_hidden_layers", 5);
    let size = |folder: &Folder| {
        folder.import().unwrap();
        folder.bytes("embedgate.onnx.data").len()
    };
    assert_eq!(size(&folder), size(&Folder::tiny("albert-mean")));
    // ⌊layer / (5 / 2)⌋: layers 0 to 2 have the first group's weights, layers 3 and 4 the second's.
    folder.set(CONFIG, "num_hidden_groups", 2);
    folder.assert_import_error(&[
        "no tensor `encoder.albert_layer_groups.1.albert_layers.0.attention.query.weight`",
    ]);
}

#[test]
fn windows_are_those_of_sentence_transformers() {
    const SENTENCE: &str = "sentence_bert_config.json";
    const TOKENIZER: &str = "tokenizer_config.json";
    let window = |folder: &Folder| folder.open().unwrap().max_input_tokens();
    // A stated length is used unchanged if positions are computed.
    for model in ["modernbert-mean", "qwen3-last", "gte-cls", "t5-encoder-mean"] {
        let folder = Folder::tiny(model);
        folder.set(SENTENCE, "max_seq_length", 5000);
        assert_eq!(window(&folder), 5000, "{model}");
    }
    // Otherwise it is the tokenizer's, up to that of the configuration.
    let folder = Folder::tiny("deberta-v2-mean");
    folder.set(TOKENIZER, "model_max_length", 1e30);
    assert_eq!(window(&folder), 128);
    // T5's configuration limits nothing, unless it is an old one and the tokenizer has no limit either.
    let folder = Folder::tiny("t5-encoder-mean");
    folder.set(SENTENCE, "max_seq_length", Value::Null);
    folder.set(TOKENIZER, "model_max_length", 700);
    assert_eq!(window(&folder), 700);
    folder.set(TOKENIZER, "model_max_length", 1e30);
    folder.assert_import_error(&[SENTENCE, "max_seq_length", "max_input_tokens"]);
    folder.set(CONFIG, "n_positions", 512);
    assert_eq!(window(&folder), 512);
}
