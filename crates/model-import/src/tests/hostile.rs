//! Tests with folders that would yield wrong vectors, hang, or exhaust memory: each is an error that names the file and
//! a remedy.

use std::{collections::BTreeMap, fs, path::Path, sync::mpsc, thread, time::Duration};

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use serde_json::{Value, json};

use super::fixture::{Folder, assert_contains, message};
use crate::{
    AccuracyRecord, ImportError, ModelFolder,
    file::{MAX_METADATA_BYTES, MAX_TOKENIZER_BYTES},
};

const WEIGHTS: &str = "model.safetensors";

/// Rewrites a file of f32 tensors in `dtype`, with `value` at a flat index of one of them.
fn overwrite(folder: &Folder, file: &str, dtype: Dtype, (tensor, index): (&str, usize), value: f32) {
    let bytes = folder.bytes(file);
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut found = false;
    let rewritten: BTreeMap<String, (Vec<usize>, Vec<u8>)> = tensors
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let (elements, _) = view.data().as_chunks();
            let mut values: Vec<f32> = elements.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
            if name == tensor {
                values[index] = value;
                found = true;
            }
            let data = match dtype {
                Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
                Dtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
            };
            (name, (view.shape().to_vec(), data))
        })
        .collect();
    assert!(found, "{file} has no {tensor}");
    let views = rewritten
        .iter()
        .map(|(name, (shape, data))| (name, TensorView::new(dtype, shape.clone(), data).unwrap()));
    folder.write(file, serialize(views, None).unwrap());
}

/// Reads every tensor as the native kernels do, up to the first error.
fn read_all(folder: &ModelFolder) -> Result<(), ImportError> {
    let weights = folder.encoder()?.unwrap();
    for tensor in weights.spec().tensors() {
        weights.read(tensor)?;
    }
    weights.into_token_embeddings().map(drop)
}

#[test]
fn a_weight_that_is_not_finite_is_an_error_with_file_tensor_and_index() {
    let weights = [
        // The embedding of a token that no test text has.
        ("embeddings.word_embeddings.weight", 599 * 48 + 47, "[599, 47]"),
        ("embeddings.position_embeddings.weight", 79 * 48, "[79, 0]"),
        ("embeddings.token_type_embeddings.weight", 1, "[0, 1]"),
        ("embeddings.LayerNorm.weight", 5, "[5]"),
        ("encoder.layer.0.attention.self.query.weight", 48, "[1, 0]"),
        ("encoder.layer.1.attention.output.dense.bias", 47, "[47]"),
        ("encoder.layer.1.intermediate.dense.weight", 95 * 48 + 3, "[95, 3]"),
        ("encoder.layer.1.output.LayerNorm.bias", 0, "[0]"),
    ];
    let values = [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")];
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        for (number, (tensor, index, coordinates)) in weights.into_iter().enumerate() {
            let (value, name) = values[number % values.len()];
            let folder = Folder::tiny("bert-mean");
            overwrite(&folder, WEIGHTS, dtype, (tensor, index), value);
            let parts = [WEIGHTS, tensor, &format!("holds {name} at {coordinates}"), "another copy"];
            // Export to a graph.
            folder.assert_import_error(&parts);
            // Reading by the native kernels.
            assert_contains(&message(&read_all(&folder.open().unwrap()).unwrap_err()), &parts);
        }
        let folder = Folder::tiny("bert-mean");
        overwrite(&folder, WEIGHTS, dtype, weights.map(|(tensor, index, _)| (tensor, index))[0], 0.5);
        read_all(&folder.open().unwrap()).unwrap();
        folder.import().unwrap();
    }
    let folder = Folder::tiny("distilbert-dense");
    overwrite(&folder, "2_Dense/model.safetensors", Dtype::F16, ("linear.weight", 49), f32::NAN);
    folder.assert_import_error(&["2_Dense/model.safetensors", "`linear.weight` holds NaN at [1, 1]"]);
}

#[test]
fn a_damaged_export_is_written_again() {
    let folder = Folder::tiny("bert-mean");
    folder.import().unwrap();
    let good = folder.bytes("embedgate.onnx.data");
    let mut bad = good.clone();
    bad[4096..4100].copy_from_slice(&f32::NAN.to_le_bytes());
    folder.write("embedgate.onnx.data", bad);
    folder.import().unwrap();
    assert!(folder.bytes("embedgate.onnx.data") == good);
}

/// Every file that is read from a folder, with a model that has it.
const FILES: [(&str, &str); 12] = [
    ("distilbert-dense", "config.json"),
    ("distilbert-dense", "modules.json"),
    ("distilbert-dense", "sentence_bert_config.json"),
    ("distilbert-dense", "config_sentence_transformers.json"),
    ("distilbert-dense", "tokenizer.json"),
    ("distilbert-dense", "tokenizer_config.json"),
    ("distilbert-dense", "1_Pooling/config.json"),
    ("distilbert-dense", "2_Dense/config.json"),
    ("distilbert-dense", "2_Dense/model.safetensors"),
    ("distilbert-dense", WEIGHTS),
    ("xlm-roberta-bin", "pytorch_model.bin"),
    ("distilbert-dense", "model.toml"),
];

/// Runs `import` on another thread with a timeout, because reading a pipe or a device would not end.
fn within_timeout<T: Send + 'static>(import: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, receive) = mpsc::channel();
    // If there is no receiver, the test has timed out.
    thread::spawn(move || _ = send.send(import()));
    receive.recv_timeout(Duration::from_secs(60)).expect("the import ends")
}

fn import_error_within_timeout(folder: Folder) -> String {
    within_timeout(move || message(&folder.import().unwrap_err()))
}

#[test]
fn a_git_lfs_pointer_is_an_error_with_the_remedy() {
    const POINTER: &str = "version https://git-lfs.github.com/spec/v1\n\
        oid sha256:53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db\nsize 90868376\n";
    for (model, name) in FILES {
        let folder = Folder::tiny(model);
        folder.write(name, POINTER);
        assert_contains(
            &import_error_within_timeout(folder),
            &[name, "is a Git LFS pointer", "git lfs pull"],
        );
    }
    for (name, content) in [("first.safetensors", POINTER), ("model.safetensors.index.json", POINTER)] {
        let folder = Folder::tiny("bert-mean");
        folder.remove(WEIGHTS);
        folder.write("model.safetensors.index.json", r#"{"weight_map": {"a": "first.safetensors"}}"#);
        folder.write(name, content);
        assert_contains(&import_error_within_timeout(folder), &[name, "is a Git LFS pointer"]);
    }
    let folder = Folder::tiny("bert-mean");
    folder.remove(WEIGHTS);
    folder.write("onnx/model.onnx", POINTER);
    assert_contains(&import_error_within_timeout(folder), &["onnx/model.onnx", "is a Git LFS pointer"]);
}

#[cfg(unix)]
#[test]
fn a_file_that_is_not_regular_is_an_error_and_is_not_read() {
    use std::{
        os::unix::{fs::symlink, net::UnixListener},
        process::Command,
    };
    let create = |found: &str, path: &Path| match found {
        "a device" => symlink("/dev/zero", path).unwrap(),
        "a folder" => fs::create_dir(path).unwrap(),
        _ => assert!(Command::new("mkfifo").arg(path).status().unwrap().success()),
    };
    for (model, name) in FILES {
        for found in ["a device", "a named pipe", "a folder"] {
            let folder = Folder::tiny(model);
            let path = folder.file(name);
            if path.exists() {
                folder.remove(name);
            }
            create(found, &path);
            assert_contains(
                &import_error_within_timeout(folder),
                &[name, &format!("is {found}, expected a regular file")],
            );
        }
    }
    let folder = Folder::tiny("bert-mean");
    folder.remove("config.json");
    let _socket = UnixListener::bind(folder.file("config.json")).unwrap();
    assert_contains(&import_error_within_timeout(folder), &["config.json", "is a socket"]);
}

/// Files that embedgate wrote may have been replaced, too.
#[cfg(unix)]
#[test]
fn a_pipe_in_the_place_of_a_generated_file_does_not_block_the_import() {
    let folder = Folder::tiny("bert-mean");
    for name in ["embedgate.fingerprint", "embedgate.accuracy.json", "embedgate.onnx", ".embedgate-x.partial"]
    {
        assert!(std::process::Command::new("mkfifo").arg(folder.file(name)).status().unwrap().success());
    }
    let [fingerprint, of_graph] = within_timeout(move || {
        let fingerprint = crate::fingerprint(&folder.open().unwrap(), &mut |_| {}).unwrap();
        assert_eq!(AccuracyRecord::load(&folder.open().unwrap(), &fingerprint, ""), None);
        [fingerprint, folder.import().unwrap().fingerprint]
    });
    assert_eq!(fingerprint, of_graph);
}

#[test]
fn a_file_above_its_size_limit_is_an_error() {
    let is_weights = |name: &str| name.ends_with(".safetensors") || name.ends_with(".bin");
    let cases = FILES.iter().filter(|(_, name)| !is_weights(name));
    for (model, name) in cases.filter(|(_, name)| *name != "tokenizer_config.json") {
        let folder = Folder::tiny(model);
        let max = if *name == "tokenizer.json" { MAX_TOKENIZER_BYTES } else { MAX_METADATA_BYTES };
        // A sparse file takes no disk space.
        let file =
            fs::File::options().write(true).create(true).truncate(false).open(folder.file(name)).unwrap();
        file.set_len(max + 1).unwrap();
        assert_contains(&import_error_within_timeout(folder), &[name, &format!("more than {max} bytes")]);
    }
}

#[test]
fn every_number_of_the_configuration_is_validated() {
    const MANY: u64 = (1 << 20) + 1;
    for (model, file, key, values) in [
        (
            "bert-mean",
            "config.json",
            "layer_norm_eps",
            &[json!(-1.0), json!(0), json!(1e-60), json!(1e60), json!(2)][..],
        ),
        ("roberta-mean", "config.json", "layer_norm_eps", &[json!(-1e-5)]),
        ("bert-mean", "config.json", "hidden_size", &[json!(0), json!(-48), json!(MANY), json!(4.8)]),
        ("bert-mean", "config.json", "num_hidden_layers", &[json!(0), json!(-1), json!(MANY)]),
        ("bert-mean", "config.json", "num_attention_heads", &[json!(0), json!(-4), json!(7)]),
        ("bert-mean", "config.json", "intermediate_size", &[json!(0), json!(MANY)]),
        ("bert-mean", "config.json", "vocab_size", &[json!(0), json!(MANY)]),
        ("bert-mean", "config.json", "max_position_embeddings", &[json!(0), json!(u64::MAX)]),
        ("bert-mean", "config.json", "type_vocab_size", &[json!(0), json!(MANY)]),
        ("roberta-mean", "config.json", "pad_token_id", &[json!(-1), json!(79), json!(i64::MAX)]),
        ("distilbert-cls", "config.json", "dim", &[json!(0), json!(MANY)]),
        ("distilbert-cls", "config.json", "n_layers", &[json!(0)]),
        ("distilbert-cls", "config.json", "hidden_dim", &[json!(0)]),
        ("bert-mean", "sentence_bert_config.json", "max_seq_length", &[json!(0), json!(-1)]),
        ("distilbert-dense", "2_Dense/config.json", "in_features", &[json!(0), json!(MANY)]),
        ("distilbert-dense", "2_Dense/config.json", "out_features", &[json!(0), json!(MANY)]),
        (
            "bert-mean",
            "1_Pooling/config.json",
            "word_embedding_dimension",
            &[json!(0), json!(-1), json!(MANY)],
        ),
    ] {
        for value in values {
            let folder = Folder::tiny(model);
            folder.set(file, key, value.clone());
            let before = folder.content();
            let error = folder.open().expect_err(&format!("{model}: {file} with {key} = {value}"));
            assert!(matches!(error, ImportError::Setting { .. } | ImportError::Json { .. }), "{error:?}");
            assert_contains(&message(&error), &["config.json"]);
            assert!(folder.content() == before);
        }
    }
}

#[test]
fn the_default_prompt_must_be_one_of_the_prompts() {
    const FILE: &str = "config_sentence_transformers.json";
    let folder = Folder::tiny("bert-mean");
    folder.set(FILE, "prompts", json!({"query": "", "passage": "passage: "}));
    for (name, error) in [
        (json!("query"), None),
        (Value::Null, None),
        (json!("passage"), None),
        (json!("other"), Some("`prompts` does not hold")),
    ] {
        folder.set(FILE, "default_prompt_name", name.clone());
        match error {
            None => assert_eq!(folder.open().unwrap().default_prompt(), name.as_str()),
            Some(part) => folder.assert_import_error(&[
                FILE,
                &format!("default_prompt_name `{}`", name.as_str().unwrap()),
                part,
            ]),
        }
    }
}
