//! Tests of the whole import: it writes a graph once, again only after a change, and never partially.

use std::{fs, path::Path};

use super::fixture::{Folder, assert_contains};
use crate::{GraphInput, ImportProgress, ImportStage, ModelState, OutputKind};

#[test]
fn the_graph_is_exported_once() {
    let folder = Folder::tiny("bert-mean");
    let before = folder.content();
    let graph = folder.import().unwrap();
    assert_eq!(graph.path, folder.file("embedgate.onnx"));
    assert_eq!(graph.inputs, [GraphInput::InputIds, GraphInput::AttentionMask]);
    assert_eq!(
        (&graph.output.name[..], graph.output.kind),
        ("last_hidden_state", OutputKind::TokenEmbeddings)
    );
    assert_eq!(graph.fingerprint.len(), 64);
    let after = folder.content();
    let new: Vec<_> = after.keys().filter(|path| !before.contains_key(*path)).collect();
    assert_eq!(new, [&folder.file("embedgate.onnx"), &folder.file("embedgate.onnx.data")]);

    let written = fs::metadata(&graph.path).unwrap().modified().unwrap();
    assert_eq!(folder.import().unwrap(), graph);
    assert_eq!(fs::metadata(&graph.path).unwrap().modified().unwrap(), written);
}

#[test]
fn a_copy_with_other_modification_times_is_recognized_by_its_content() {
    let folder = Folder::tiny("bert-mean");
    let graph = folder.import().unwrap();
    let written = fs::metadata(&graph.path).unwrap().modified().unwrap();
    let weights = fs::File::options().append(true).open(folder.file("model.safetensors")).unwrap();
    weights.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let mut stages = Vec::new();
    let again =
        crate::import(&folder.open().unwrap(), &mut |ImportProgress { stage, .. }| stages.push(stage))
            .unwrap();
    assert_eq!(again, graph);
    assert!(stages.iter().all(|stage| *stage == ImportStage::Checking) && !stages.is_empty());
    assert_eq!(fs::metadata(&graph.path).unwrap().modified().unwrap(), written);
}

#[test]
fn every_file_that_affects_vectors_changes_the_fingerprint() {
    let folder = Folder::tiny("distilbert-dense");
    let mut seen = vec![folder.import().unwrap().fingerprint];
    let mut expect_new = |what: &str| {
        let fingerprint = folder.import().unwrap().fingerprint;
        assert!(!seen.contains(&fingerprint), "{what}");
        seen.push(fingerprint);
    };
    for name in ["model.safetensors", "2_Dense/model.safetensors"] {
        let mut bytes = folder.bytes(name);
        *bytes.last_mut().unwrap() ^= 1;
        folder.write(name, bytes);
        expect_new(name);
    }
    folder.set("sentence_bert_config.json", "max_seq_length", 63);
    expect_new("max_input_tokens");
    folder.set("tokenizer.json", "truncation", serde_json::Value::Null);
    expect_new("tokenizer");
    folder.set("config.json", "n_heads", 2);
    expect_new("heads");
    folder.set("1_Pooling/config.json", "pooling_mode_cls_token", true);
    folder.set("1_Pooling/config.json", "pooling_mode_mean_tokens", false);
    expect_new("pooling");
}

#[test]
fn new_weights_are_exported_again() {
    let folder = Folder::tiny("bert-mean");
    folder.import().unwrap();
    let data = folder.bytes("embedgate.onnx.data");
    let mut weights = folder.bytes("model.safetensors");
    // The first and the last value of the file.
    let length = weights.len();
    weights[length - 4..].copy_from_slice(&7.0f32.to_le_bytes());
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    weights[8 + header..12 + header].copy_from_slice(&7.0f32.to_le_bytes());
    folder.write("model.safetensors", weights);
    folder.import().unwrap();
    assert_ne!(folder.bytes("embedgate.onnx.data"), data);
}

#[test]
fn a_truncated_or_missing_export_is_replaced() {
    let folder = Folder::tiny("bert-mean");
    folder.import().unwrap();
    let good = folder.content();
    for (name, content) in
        [("embedgate.onnx", &b"garbage"[..]), ("embedgate.onnx", b""), ("embedgate.onnx.data", b"cut")]
    {
        folder.write(name, content);
        folder.import().unwrap();
        assert!(folder.content() == good, "{name}");
    }
    folder.remove("embedgate.onnx.data");
    folder.import().unwrap();
    assert!(folder.content() == good);
}

#[test]
fn a_write_error_names_the_file_and_leaves_the_folder_unchanged() {
    for name in ["embedgate.onnx", "embedgate.onnx.data"] {
        let folder = Folder::tiny("bert-mean");
        folder.write(&format!("{name}/blocker"), "");
        folder.assert_import_error(&["cannot write", &format!("`{name}`"), "writable"]);
    }
}

#[test]
fn a_failed_import_keeps_the_earlier_graph() {
    let folder = Folder::tiny("bert-mean");
    folder.import().unwrap();
    folder.write("model.safetensors", &folder.bytes("model.safetensors")[..1000]);
    folder.assert_import_error(&["model.safetensors", "not a complete safetensors file"]);
    assert!(folder.file("embedgate.onnx").exists());
}

/// A killed process leaves its temporary files behind; a running one holds a lock on them.
#[test]
fn stale_temporaries_are_removed_and_locked_ones_are_kept() {
    let folder = Folder::tiny("bert-mean");
    folder.write(".embedgate-orphan.partial", "half");
    folder.write("my.partial", "unrelated");
    let other = crate::atomic_write::temporary(folder.path()).unwrap();
    folder.import().unwrap();
    assert!(!folder.file(".embedgate-orphan.partial").exists());
    assert!(other.path().exists() && folder.file("my.partial").exists());
}

#[test]
fn progress_reaches_the_total_in_each_stage() {
    let folder = Folder::tiny("bert-mean");
    let mut seen = Vec::new();
    crate::import(&folder.open().unwrap(), &mut |progress| seen.push(progress)).unwrap();
    for stage in [ImportStage::Checking, ImportStage::Writing] {
        let reports: Vec<_> = seen.iter().filter(|progress| progress.stage == stage).collect();
        assert!(reports.is_sorted_by_key(|progress| progress.done), "{reports:?}");
        let last = reports.last().unwrap();
        assert_eq!(last.done, last.total);
    }
}

#[cfg(unix)]
#[test]
fn the_graph_has_the_mode_that_the_umask_allows() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::tiny("bert-mean");
    folder.import().unwrap();
    folder.write("ordinary", "");
    let mode = |name: &str| fs::metadata(folder.file(name)).unwrap().permissions().mode() & 0o777;
    for name in ["embedgate.onnx", "embedgate.onnx.data"] {
        assert_eq!(mode(name), mode("ordinary"), "{name}");
    }
}

#[test]
fn models_are_listed_with_their_state() {
    let models = Folder::empty();
    let place = |id: &str| models.path().join(id);
    for id in ["ready", "new", "without-tokenizer"] {
        let source = Folder::tiny("bert-mean");
        for (path, content) in source.content() {
            let name = path.strip_prefix(source.path()).unwrap();
            if path.is_file() {
                models.write(Path::new(id).join(name).to_str().unwrap(), content);
            }
        }
    }
    models.write("manifest-only/model.toml", "id = 'manifest-only'\npooling = 'mean'\nnormalize = true");
    models.write("README.md", "not a model");
    models.write(".hidden/config.json", "{}");
    crate::import(&crate::ModelFolder::open(place("ready")).unwrap(), &mut |_| {}).unwrap();
    fs::remove_file(place("without-tokenizer").join("tokenizer.json")).unwrap();

    let listed = crate::list_models(models.path()).unwrap();
    let states: Vec<_> = listed.iter().map(|listed| (listed.id.as_str(), &listed.state)).collect();
    let [
        ("manifest-only", ModelState::Incomplete(no_config)),
        ("new", ModelState::NotImported),
        ("ready", ModelState::Ready { .. }),
        ("without-tokenizer", ModelState::Incomplete(no_tokenizer)),
    ] = states[..]
    else {
        panic!("{states:?}")
    };
    assert_contains(&no_config.to_string(), &["config.json", "is missing"]);
    assert_contains(&no_tokenizer.to_string(), &["tokenizer.json", "is missing"]);
    assert_eq!(listed[0].manifest.as_ref().unwrap().id, "manifest-only");
    assert!(listed[1].manifest.is_none() && listed[1].path == place("new"));
    assert_contains(&crate::list_models(&place("none")).unwrap_err().to_string(), &["none", "is missing"]);
}
