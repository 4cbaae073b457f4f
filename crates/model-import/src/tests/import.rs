//! The import as a whole: once, again only when something changed, and never half.

use std::{fs, path::Path};

use super::fixture::{Folder, says};
use crate::{GraphInput, ImportProgress, ImportStage, ModelState, OutputKind};

#[test]
fn the_graph_is_written_once_and_described() {
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
fn a_copy_with_other_times_is_recognised_by_its_content() {
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
fn whatever_decides_a_vector_changes_the_fingerprint() {
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
    expect_new("window");
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
    // The last tensor of the file by name is the word embeddings or near it; every byte of data counts.
    let length = weights.len();
    weights[length - 4..].copy_from_slice(&7.0f32.to_le_bytes());
    let header = u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    weights[8 + header..12 + header].copy_from_slice(&7.0f32.to_le_bytes());
    folder.write("model.safetensors", weights);
    folder.import().unwrap();
    assert_ne!(folder.bytes("embedgate.onnx.data"), data);
}

#[test]
fn a_damaged_export_is_replaced() {
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
fn a_folder_that_cannot_be_written_is_named_and_left_as_it_was() {
    for name in ["embedgate.onnx", "embedgate.onnx.data"] {
        let folder = Folder::tiny("bert-mean");
        folder.write(&format!("{name}/in-the-way"), "");
        says(&folder.refused(), &["cannot write", &format!("`{name}`"), "writable"]);
    }
}

#[test]
fn a_failed_import_keeps_the_earlier_graph() {
    let folder = Folder::tiny("bert-mean");
    folder.import().unwrap();
    folder.write("model.safetensors", &folder.bytes("model.safetensors")[..1000]);
    says(&folder.refused(), &["model.safetensors", "not a whole safetensors file"]);
    assert!(folder.file("embedgate.onnx").exists());
}

/// A process that was killed could not remove what it was writing; one that is still writing holds a lock.
#[test]
fn what_a_killed_import_left_is_removed_and_what_another_writes_is_not() {
    let folder = Folder::tiny("bert-mean");
    folder.write(".embedgate-orphan.partial", "half");
    folder.write("my.partial", "not ours");
    let other = crate::import::temporary(folder.path()).unwrap();
    folder.import().unwrap();
    assert!(!folder.file(".embedgate-orphan.partial").exists());
    assert!(other.path().exists() && folder.file("my.partial").exists());
}

#[test]
fn progress_reaches_its_total_in_each_stage() {
    let folder = Folder::tiny("bert-mean");
    let mut seen = Vec::new();
    crate::import(&folder.open().unwrap(), &mut |progress| seen.push(progress)).unwrap();
    for stage in [ImportStage::Checking, ImportStage::Writing] {
        let of: Vec<_> = seen.iter().filter(|progress| progress.stage == stage).collect();
        assert!(of.is_sorted_by_key(|progress| progress.done), "{of:?}");
        let last = of.last().unwrap();
        assert_eq!(last.done, last.total);
    }
}

#[cfg(unix)]
#[test]
fn the_graph_can_be_read_by_others_where_the_umask_allows() {
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
fn models_are_listed_with_what_they_lack() {
    let models = Folder::empty();
    let place = |id: &str| models.path().join(id);
    for id in ["ready", "new", "spoilt"] {
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
    fs::remove_file(place("spoilt").join("tokenizer.json")).unwrap();

    let listed = crate::list_models(models.path()).unwrap();
    let states: Vec<_> = listed.iter().map(|listed| (listed.id.as_str(), &listed.state)).collect();
    let [
        ("manifest-only", ModelState::Incomplete(no_config)),
        ("new", ModelState::NotImported),
        ("ready", ModelState::Ready { .. }),
        ("spoilt", ModelState::Incomplete(no_tokenizer)),
    ] = states[..]
    else {
        panic!("{states:?}")
    };
    says(&no_config.to_string(), &["config.json", "is missing"]);
    says(&no_tokenizer.to_string(), &["tokenizer.json", "is missing"]);
    assert_eq!(listed[0].manifest.as_ref().unwrap().id, "manifest-only");
    assert!(listed[1].manifest.is_none() && listed[1].path == place("new"));
    says(&crate::list_models(&place("none")).unwrap_err().to_string(), &["none", "is missing"]);
}
