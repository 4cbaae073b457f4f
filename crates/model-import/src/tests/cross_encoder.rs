//! Cross-encoders, sparse encoders and late-interaction models: recognized, read, and rejected by name.

use encoder_spec::{DenseActivation, HeadModule, PoolingMode, Task};
use serde_json::json;

use super::fixture::Folder;

const LIBRARY: &str = "config_sentence_transformers.json";

#[test]
fn cross_encoders_are_recognized_with_and_without_modules_json() {
    for (name, activation, segments, modules) in [
        ("ce-bert", DenseActivation::Identity, 2, 2),
        ("ce-xlm-roberta", DenseActivation::Sigmoid, 1, 2),
        ("ce-modernbert", DenseActivation::Sigmoid, 1, 3),
    ] {
        let folder = Folder::tiny(name).open().unwrap();
        assert_eq!((folder.task(), folder.dimensions()), (Task::Rerank, 1), "{name}");
        assert_eq!((folder.score_activation(), folder.segments()), (activation, segments), "{name}");
        assert_eq!(folder.head().modules.len(), modules, "{name}");
        assert!(!folder.normalize(), "{name}");
    }
    assert_eq!(Folder::tiny("bert-mean").open().unwrap().task(), Task::Embed);
}

#[test]
fn modernbert_pools_as_its_configuration_says() {
    let folder = Folder::tiny("ce-modernbert");
    assert_eq!(folder.open().unwrap().head().poolings, [PoolingMode::Mean]);
    folder.set("config.json", "classifier_pooling", "cls");
    assert_eq!(folder.open().unwrap().head().poolings, [PoolingMode::Cls]);
    folder.set("config.json", "classifier_pooling", "max");
    folder.assert_import_error(&["config.json", "classifier_pooling `max`", "`cls` or `mean`"]);
}

#[test]
fn the_activation_of_scores_is_the_first_that_a_file_names() {
    let folder = Folder::tiny("ce-bert");
    let activation = || folder.open().unwrap().score_activation();
    folder.set(
        "config.json",
        "sentence_transformers",
        json!({"activation_fn": "torch.nn.modules.activation.Tanh"}),
    );
    assert_eq!(activation(), DenseActivation::Tanh);
    folder.write(LIBRARY, r#"{"activation_fn": "torch.nn.modules.activation.ReLU"}"#);
    assert_eq!(activation(), DenseActivation::Relu);
    folder.write(LIBRARY, r#"{"activation_fn": "my.Activation"}"#);
    folder.assert_import_error(&[LIBRARY, "activation function `my.Activation`", "Sigmoid"]);
    folder.remove(LIBRARY);
    folder.set("config.json", "sentence_transformers", json!(null));
    folder.set("config.json", "sbert_ce_default_activation_function", json!(null));
    assert_eq!(activation(), DenseActivation::Sigmoid);
}

#[test]
fn token_types_count_only_where_the_tokenizer_passes_them() {
    let folder = Folder::tiny("ce-bert");
    folder.set("tokenizer_config.json", "model_input_names", json!(["input_ids", "attention_mask"]));
    assert_eq!(folder.open().unwrap().segments(), 1);
    folder.set("tokenizer_config.json", "model_input_names", json!(null));
    assert_eq!(folder.open().unwrap().segments(), 2);
}

#[test]
fn classifiers_of_several_labels_and_other_families_are_rejected() {
    let folder = Folder::tiny("ce-bert");
    folder.set("config.json", "id2label", json!({"0": "no", "1": "yes"}));
    folder.assert_import_error(&["config.json", "a classifier with 2 labels", "one label"]);
    let folder = Folder::tiny("electra-mean");
    folder.remove("modules.json");
    folder.set("config.json", "architectures", json!(["ElectraForSequenceClassification"]));
    folder.assert_import_error(&["a cross-encoder of model_type `electra`", "ONNX graph"]);
    let folder = Folder::tiny("splade-bert");
    folder.set("config.json", "model_type", "electra");
    folder.assert_import_error(&[
        "a sparse encoder (SPLADE) of model_type `electra` from its weights",
        "not supported: the families bert, distilbert",
    ]);
}

#[test]
fn sparse_encoders_have_the_head_of_the_masked_language_model() {
    for name in ["splade-bert", "splade-distilbert"] {
        let folder = Folder::tiny(name).open().unwrap();
        assert_eq!((folder.task(), folder.dimensions()), (Task::EmbedSparse, 600), "{name}");
        assert_eq!(
            (folder.head().token_modules.len(), &folder.head().modules[..]),
            (3, &[HeadModule::Log1pRelu][..]),
            "{name}"
        );
    }
    let folder = Folder::tiny("splade-bert");
    let config = "1_SpladePooling/config.json";
    folder.set(config, "activation_function", "log1p_relu");
    assert_eq!(folder.open().unwrap().head().modules.len(), 2);
    folder.set(config, "pooling_strategy", "sum");
    folder.assert_import_error(&[config, "pooling_strategy `sum`", "only `max`"]);
}

#[test]
fn late_interaction_is_rejected_by_name() {
    Folder::tiny("colbert-bert").assert_import_error(&["modules.json", "late-interaction model (ColBERT)"]);
    let folder = Folder::tiny("bert-mean");
    folder.remove("modules.json");
    folder.set("config.json", "architectures", json!(["HF_ColBERT"]));
    folder.assert_import_error(&["config.json", "late-interaction model (ColBERT)"]);
}
