//! Tests of the modules after the transformer: supported and unsupported ones.

use serde_json::json;

use super::fixture::Folder;
use crate::{DenseActivation, PoolingMode};

const POOLING: &str = "1_Pooling/config.json";

/// Writes `modules.json` with these types and paths.
fn modules(folder: &Folder, list: &[(&str, &str)]) {
    let list: Vec<_> = list
        .iter()
        .map(|(kind, path)| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")}))
        .collect();
    folder.write("modules.json", json!(list).to_string());
}

#[test]
fn pooling_dense_layers_and_normalization_are_read() {
    let folder = Folder::tiny("bert-cls").open().unwrap();
    assert_eq!((folder.pooling(), folder.normalize(), folder.dimensions()), (PoolingMode::Cls, true, 48));
    assert_eq!((folder.family(), folder.max_input_tokens(), folder.dense().len()), ("bert", 64, 0));

    let folder = Folder::tiny("distilbert-dense").open().unwrap();
    assert_eq!((folder.pooling(), folder.normalize()), (PoolingMode::Mean, false));
    assert_eq!((folder.hidden(), folder.dimensions()), (48, 32));
    let [dense] = folder.dense() else { panic!("{:?}", folder.dense()) };
    assert_eq!((dense.inputs, dense.outputs, dense.activation), (48, 32, DenseActivation::Tanh));
    assert_eq!((dense.weight.len(), dense.bias.as_ref().unwrap().len()), (48 * 32, 32));
}

#[test]
fn each_pooling_mode_is_supported_and_only_one_may_be_on() {
    let modes = [
        ("pooling_mode_mean_tokens", PoolingMode::Mean),
        ("pooling_mode_cls_token", PoolingMode::Cls),
        ("pooling_mode_max_tokens", PoolingMode::Max),
        ("pooling_mode_lasttoken", PoolingMode::LastToken),
        ("pooling_mode_mean_sqrt_len_tokens", PoolingMode::MeanSqrtLen),
        ("pooling_mode_weightedmean_tokens", PoolingMode::WeightedMean),
    ];
    let folder = Folder::tiny("bert-mean");
    folder.set(POOLING, "pooling_mode_mean_tokens", false);
    folder.assert_import_error(&[POOLING, "found none"]);
    for (key, mode) in modes {
        folder.set(POOLING, key, true);
        assert_eq!(folder.open().unwrap().pooling(), mode);
        folder.set(POOLING, key, false);
    }
    folder.set(POOLING, "pooling_mode_cls_token", true);
    folder.set(POOLING, "pooling_mode_max_tokens", true);
    folder.assert_import_error(&[POOLING, "pooling_mode_cls_token, pooling_mode_max_tokens"]);
    folder.set(POOLING, "pooling_mode_max_tokens", false);
    folder.set(POOLING, "pooling_mode_new_invention", true);
    folder.assert_import_error(&[POOLING, "pooling_mode_new_invention"]);
}

#[test]
fn other_modules_and_orders_are_errors() {
    let folder = Folder::tiny("distilbert-dense");
    let (transformer, pooling, normalize) =
        (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "3"));
    for (list, position, name) in [
        (&[transformer, pooling, ("CNN", "2")][..], "module 2", "models.CNN"),
        (&[transformer, pooling, normalize, ("Dense", "2_Dense")], "module 3", "models.Dense"),
        (&[transformer, pooling, normalize, normalize], "module 3", "models.Normalize"),
        (&[pooling, transformer], "module 0", "models.Pooling"),
        (&[transformer, pooling, pooling], "module 2", "models.Pooling"),
        (&[transformer], "module 1", "missing"),
        (&[], "module 0", "missing"),
    ] {
        modules(&folder, list);
        folder.assert_import_error(&["modules.json", position, name]);
    }
    folder.write("modules.json", r#"[{"path": "", "type": "my_code.Transformer"}]"#);
    folder.assert_import_error(&["modules.json", "module 0", "my_code.Transformer"]);
    modules(&folder, &[transformer, ("Pooling", "../elsewhere")]);
    folder.assert_import_error(&["modules.json", "`../elsewhere`", "inside the model folder"]);
    modules(&folder, &[transformer, ("Pooling", "/etc")]);
    folder.assert_import_error(&["modules.json", "`/etc`"]);
}

#[test]
fn sizes_of_consecutive_modules_must_match() {
    let folder = Folder::tiny("distilbert-dense");
    folder.set("2_Dense/config.json", "in_features", 47);
    folder.assert_import_error(&["2_Dense/model.safetensors", "linear.weight", "[32, 48]", "[32, 47]"]);
    let folder = Folder::tiny("distilbert-dense");
    let twice = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense"), ("Dense", "2_Dense")];
    modules(&folder, &twice);
    folder.assert_import_error(&["modules.json", "Dense 1 takes 48", "yields 32"]);
    let folder = Folder::tiny("bert-mean");
    folder.set(POOLING, "word_embedding_dimension", 47);
    folder.assert_import_error(&["config.json", "48", "47"]);
}

#[test]
fn an_unsupported_or_incomplete_dense_layer_is_an_error() {
    let folder = Folder::tiny("distilbert-dense");
    folder.set("2_Dense/config.json", "activation_function", "torch.nn.modules.linear.Identity");
    assert_eq!(folder.open().unwrap().dense()[0].activation, DenseActivation::Identity);
    folder.set("2_Dense/config.json", "activation_function", "torch.nn.modules.activation.Mish");
    folder.assert_import_error(&["2_Dense/config.json", "activation.Mish", "Tanh"]);
    let folder = Folder::tiny("distilbert-dense");
    folder.remove("2_Dense/model.safetensors");
    folder.assert_import_error(&["2_Dense/model.safetensors", "is missing"]);
}

#[test]
fn the_layout_of_a_new_release_is_the_same_model() {
    for name in ["bert-mean", "distilbert-dense"] {
        let (old, new) = (Folder::tiny(name), Folder::saved_by_6_2(name));
        assert!(new.bytes("modules.json") != old.bytes("modules.json"), "{name}");
        let (before, after) = (old.open().unwrap(), new.open().unwrap());
        assert_eq!(after.family(), before.family(), "{name}");
        assert_eq!(after.max_input_tokens(), before.max_input_tokens(), "{name}");
        assert_eq!(after.pooling(), before.pooling(), "{name}");
        assert_eq!(after.normalize(), before.normalize(), "{name}");
        assert_eq!(after.dense(), before.dense(), "{name}");
        old.import().unwrap();
        new.import().unwrap();
        assert!(new.bytes("embedgate.onnx.data") == old.bytes("embedgate.onnx.data"), "{name}");
    }
}

#[test]
fn unsupported_settings_of_a_new_release_are_errors() {
    const SENTENCE: &str = "sentence_bert_config.json";
    for (file, key, value, parts) in [
        (POOLING, "pooling_mode", json!(["mean", "cls"]), &[POOLING, "mean, cls"][..]),
        (POOLING, "pooling_mode", json!("median"), &[POOLING, "median"]),
        ("2_Dense/config.json", "use_residual", json!(true), &["2_Dense/config.json", "use_residual"]),
        (
            "2_Dense/config.json",
            "module_input_name",
            json!("token_embeddings"),
            &["2_Dense/config.json", "`token_embeddings`", "`sentence_embedding`"],
        ),
        (
            SENTENCE,
            "transformer_task",
            json!("fill-mask"),
            &[SENTENCE, "`fill-mask`", "`feature-extraction`"],
        ),
        (SENTENCE, "module_output_name", json!("scores"), &[SENTENCE, "`scores`", "`token_embeddings`"]),
        (
            SENTENCE,
            "modality_config",
            json!({"text": {"method": "forward", "method_output_name": "pooler_output"}}),
            &[SENTENCE, "`pooler_output`", "`last_hidden_state`"],
        ),
    ] {
        let folder = Folder::saved_by_6_2("distilbert-dense");
        folder.set(file, key, value);
        folder.assert_import_error(parts);
    }
    let folder = Folder::saved_by_6_2("bert-mean");
    folder.set("2_Normalize/config.json", "module_input_name", "token_embeddings");
    folder.assert_import_error(&["2_Normalize/config.json", "`token_embeddings`"]);
    let folder = Folder::saved_by_6_2("bert-mean");
    folder.set(POOLING, "pooling_mode", json!(["max"]));
    assert_eq!(folder.open().unwrap().pooling(), PoolingMode::Max);
}
