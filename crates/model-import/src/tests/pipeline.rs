//! Tests of the modules after the transformer: supported and unsupported ones.

use safetensors::{Dtype, serialize, tensor::TensorView};
use serde_json::json;

use super::fixture::Folder;
use crate::{
    DenseActivation, DenseLayer, HeadModule, HeadSpec,
    PoolingMode::{self, Cls, LastToken, Max, Mean, MeanSqrtLen, WeightedMean},
};

const POOLING: &str = "1_Pooling/config.json";

/// Writes `modules.json` with these types and paths.
fn modules(folder: &Folder, list: &[(&str, &str)]) {
    let list: Vec<_> = list
        .iter()
        .map(|(kind, path)| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")}))
        .collect();
    folder.write("modules.json", json!(list).to_string());
}

/// Adds a layer norm of the given size as `3_LayerNorm`, with the weights 0, 1, 2, … and the biases 0, −1, −2, …
fn add_layer_norm(folder: &Folder, dimension: usize) {
    folder.write("3_LayerNorm/config.json", json!({ "dimension": dimension }).to_string());
    let bytes = |sign: f32| -> Vec<u8> {
        (0..dimension).flat_map(|index| (sign * index as f32).to_le_bytes()).collect()
    };
    let tensors = [("norm.weight", bytes(1.0)), ("norm.bias", bytes(-1.0))];
    let views = tensors
        .iter()
        .map(|(name, data)| (*name, TensorView::new(Dtype::F32, vec![dimension], data).unwrap()));
    folder.write("3_LayerNorm/model.safetensors", serialize(views, None).unwrap());
}

/// The poolings of a folder with this pooling configuration.
#[track_caller]
fn poolings(config: serde_json::Value) -> Vec<PoolingMode> {
    let folder = Folder::tiny("bert-mean");
    folder.write(POOLING, config.to_string());
    let folder = folder.open().unwrap();
    assert_eq!(folder.dimensions(), 48 * folder.head().poolings.len());
    folder.head().poolings.clone()
}

#[track_caller]
fn only_dense_layer(head: &HeadSpec) -> &DenseLayer {
    let [HeadModule::Dense(dense)] = &head.modules[..] else { panic!("{:?}", head.modules) };
    dense
}

#[test]
fn pooling_dense_layers_and_normalization_are_read() {
    let folder = Folder::tiny("bert-cls").open().unwrap();
    assert_eq!((folder.head(), folder.normalize(), folder.dimensions()), (&HeadSpec::from(Cls), true, 48));
    assert_eq!((folder.family(), folder.max_input_tokens()), ("bert", 64));

    let folder = Folder::tiny("distilbert-dense").open().unwrap();
    assert_eq!((&folder.head().poolings[..], folder.normalize()), (&[Mean][..], false));
    assert_eq!((folder.hidden(), folder.dimensions()), (48, 32));
    let dense = only_dense_layer(folder.head());
    assert_eq!((dense.inputs, dense.outputs, dense.activation), (48, 32, DenseActivation::Tanh));
    assert_eq!((dense.weight.len(), dense.bias.as_ref().unwrap().len()), (48 * 32, 32));
}

#[test]
fn each_pooling_mode_is_supported_in_both_layouts() {
    for (key, name, mode) in [
        ("pooling_mode_mean_tokens", "mean", Mean),
        ("pooling_mode_cls_token", "cls", Cls),
        ("pooling_mode_max_tokens", "max", Max),
        ("pooling_mode_lasttoken", "lasttoken", LastToken),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens", MeanSqrtLen),
        ("pooling_mode_weightedmean_tokens", "weightedmean", WeightedMean),
    ] {
        assert_eq!(poolings(json!({"word_embedding_dimension": 48, key: true})), [mode]);
        assert_eq!(poolings(json!({"embedding_dimension": 48, "pooling_mode": name})), [mode]);
    }
    let folder = Folder::tiny("bert-mean");
    folder.set(POOLING, "pooling_mode_new_invention", false);
    assert_eq!(folder.open().unwrap().head().poolings, [Mean]);
    folder.set(POOLING, "pooling_mode_new_invention", true);
    folder.assert_import_error(&[POOLING, "pooling_mode_new_invention = true", "`lasttoken`"]);
    folder.set(POOLING, "pooling_mode_new_invention", false);
    folder.set(POOLING, "pooling_mode_max_tokens", "yes");
    folder.assert_import_error(&[POOLING, "pooling_mode_max_tokens = \"yes\""]);
}

/// The orders are those of `Pooling.forward` and `_convert_legacy_pooling_kwargs` in sentence-transformers 6.2.
#[test]
fn several_pooling_modes_are_concatenated_in_the_order_of_sentence_transformers() {
    let flags = json!({
        "word_embedding_dimension": 48,
        "pooling_mode_lasttoken": true,
        "pooling_mode_weightedmean_tokens": true,
        "pooling_mode_mean_sqrt_len_tokens": true,
        "pooling_mode_mean_tokens": true,
        "pooling_mode_max_tokens": true,
        "pooling_mode_cls_token": true,
    });
    assert_eq!(poolings(flags), [Cls, Max, Mean, MeanSqrtLen, WeightedMean, LastToken]);
    let list = |names: &[&str]| json!({"embedding_dimension": 48, "pooling_mode": names});
    assert_eq!(poolings(list(&["mean", "cls", "mean"])), [Mean, Cls, Mean]);
    assert_eq!(poolings(list(&["max"])), [Max]);
    let none = json!({"word_embedding_dimension": 48, "pooling_mode_mean_tokens": false});
    assert_eq!(poolings(none), [Mean], "the default");
    let both = json!({"embedding_dimension": 48, "pooling_mode": "max", "pooling_mode_cls_token": true});
    assert_eq!(poolings(both), [Max], "the flags are obsolete");
    let folder = Folder::tiny("bert-mean");
    folder.set(POOLING, "pooling_mode", json!([]));
    folder.assert_import_error(&[POOLING, "an empty list"]);
}

#[test]
fn include_prompt_is_read_and_true_by_default() {
    let folder = Folder::tiny("bert-mean");
    for (value, expected) in [(json!(null), true), (json!(true), true), (json!(false), false)] {
        folder.set(POOLING, "include_prompt", value);
        assert_eq!(folder.open().unwrap().head().include_prompt, expected);
    }
    folder.set(POOLING, "include_prompt", "no");
    folder.assert_import_error(&[POOLING, "expected a boolean"]);
}

#[test]
fn modules_after_pooling_may_come_in_any_order_and_number() {
    let folder = Folder::tiny("distilbert-dense");
    add_layer_norm(&folder, 32);
    let start = [("Transformer", ""), ("Pooling", "1_Pooling")];
    let (dense, norm, normalize) = (("Dense", "2_Dense"), ("LayerNorm", "3_LayerNorm"), ("Normalize", "4"));
    let kinds = |list: &[(&str, &str)]| {
        modules(&folder, &[&start, list].concat());
        let opened = folder.open().unwrap();
        let kind = |module: &HeadModule| match module {
            HeadModule::Dense(_) => "Dense",
            HeadModule::LayerNorm(_) => "LayerNorm",
            HeadModule::Normalize => "Normalize",
            HeadModule::Log1pRelu => "Log1pRelu",
        };
        let kinds: Vec<_> = opened.head().modules.iter().map(kind).collect();
        (kinds, opened.normalize(), opened.dimensions())
    };
    assert_eq!(kinds(&[normalize, dense]), (vec!["Normalize", "Dense"], false, 32));
    assert_eq!(
        kinds(&[normalize, dense, norm, normalize]),
        (vec!["Normalize", "Dense", "LayerNorm"], true, 32)
    );
    assert_eq!(kinds(&[dense, norm, norm]), (vec!["Dense", "LayerNorm", "LayerNorm"], false, 32));
    // The second one changes nothing.
    assert_eq!(kinds(&[normalize, normalize]), (vec![], true, 48));
    modules(&folder, &[&start[..], &[dense, norm]].concat());
    let opened = folder.open().unwrap();
    let [_, HeadModule::LayerNorm(norm)] = &opened.head().modules[..] else { panic!() };
    assert_eq!((norm.weight.len(), norm.weight[31], norm.bias[31]), (32, 31.0, -31.0));
}

#[test]
fn a_layer_norm_of_another_size_or_without_weights_is_an_error() {
    let folder = Folder::tiny("bert-mean");
    modules(&folder, &[("Transformer", ""), ("Pooling", "1_Pooling"), ("LayerNorm", "3_LayerNorm")]);
    folder.assert_import_error(&["3_LayerNorm/config.json", "is missing"]);
    add_layer_norm(&folder, 32);
    folder.assert_import_error(&["modules.json", "LayerNorm 0 takes 32", "yields 48"]);
    folder.set("3_LayerNorm/config.json", "dimension", 48);
    folder.assert_import_error(&["3_LayerNorm/model.safetensors", "norm.weight", "[32]", "[48]"]);
    folder.set("3_LayerNorm/config.json", "dimension", 0);
    folder.assert_import_error(&["3_LayerNorm/config.json", "dimension"]);
    folder.set("3_LayerNorm/config.json", "dimension", 48);
    folder.remove("3_LayerNorm/model.safetensors");
    folder.assert_import_error(&["3_LayerNorm/model.safetensors", "is missing"]);
}

#[test]
fn other_modules_and_orders_are_errors() {
    let folder = Folder::tiny("distilbert-dense");
    let (transformer, pooling, normalize) =
        (("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "3"));
    for (list, position, name) in [
        (&[transformer, pooling, ("CNN", "2")][..], "module 2", "models.CNN"),
        (&[transformer, pooling, normalize, ("CNN", "2")], "module 3", "models.CNN"),
        (&[transformer, normalize, pooling], "module 1", "models.Normalize"),
        (&[transformer, transformer, pooling], "module 1", "models.Transformer"),
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
    for (name, activation) in [
        (json!("torch.nn.modules.linear.Identity"), DenseActivation::Identity),
        (json!("torch.nn.modules.activation.ReLU"), DenseActivation::Relu),
        // The default of sentence-transformers.
        (json!(null), DenseActivation::Tanh),
    ] {
        folder.set("2_Dense/config.json", "activation_function", name);
        assert_eq!(only_dense_layer(folder.open().unwrap().head()).activation, activation);
    }
    folder.set("2_Dense/config.json", "activation_function", "torch.nn.modules.activation.Mish");
    folder.assert_import_error(&["2_Dense/config.json", "activation.Mish", "Tanh"]);
    folder.set("2_Dense/config.json", "activation_function", "my_code.Tanh");
    folder.assert_import_error(&["2_Dense/config.json", "my_code.Tanh"]);
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
        assert_eq!(after.normalize(), before.normalize(), "{name}");
        assert_eq!(after.head(), before.head(), "{name}");
        old.import().unwrap();
        new.import().unwrap();
        assert!(new.bytes("embedgate.onnx.data") == old.bytes("embedgate.onnx.data"), "{name}");
    }
}

#[test]
fn unsupported_settings_of_a_new_release_are_errors() {
    const SENTENCE: &str = "sentence_bert_config.json";
    for (file, key, value, parts) in [
        (POOLING, "pooling_mode", json!(["mean", "middle"]), &[POOLING, "middle"][..]),
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
    assert_eq!(folder.open().unwrap().head().poolings, [Max]);
}
