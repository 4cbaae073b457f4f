//! The accuracy proof of the default model without its manifest, as of a fine-tuned model that was saved to a folder.

use std::{fs, os::unix::fs::symlink, path::Path};

use crate::{
    reference::{FOLDER, assert_same, listable},
    server::{Server, command, root, run},
};

/// Links the files of the default model, without its manifest and what was remembered about it.
fn link_without_manifest(to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(root().join(FOLDER)).unwrap() {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name())).unwrap();
        let name = name.to_str().unwrap();
        if name != "model.toml" && !name.contains("embedgate") {
            symlink(&path, to.join(name)).unwrap();
        }
    }
}

#[test]
#[cfg_attr(not(cpu_has = "amx"), ignore = "this CPU has no AMX")]
fn a_model_without_manifest_is_served_in_bf16_and_its_proof_is_remembered() {
    let scratch = tempfile::tempdir().unwrap();
    let folder = scratch.path().join("all-MiniLM-L6-v2");
    link_without_manifest(&folder);
    let path = folder.to_str().unwrap();
    let proof = "bf16: worst cosine 0.9999";
    for is_remembered in [false, true] {
        let server = Server::start(&["--model", path]);
        let mut client = server.connect();
        for example in listable() {
            let (vectors, tokens) = client.embed(example.text.as_str());
            assert_same(&vectors[0], example);
            assert_eq!(tokens, example.tokens);
        }
        let metrics = client.get("/metrics").text().to_owned();
        let series =
            "embedgate_model_accuracy_worst_cosine{model=\"all-MiniLM-L6-v2\",precision=\"bf16\"} 0.9999";
        assert!(metrics.contains(series), "{metrics}");
        server.terminate();
        let log = server.wait().log;
        let line = log.lines().find(|line| line.contains("listening on ")).unwrap();
        assert!(line.contains(" · cpu bf16 amx (") && line.contains(proof), "{line}");
        assert!(line.contains(" texts of up to 256 tokens, "), "{line}");
        assert_eq!(line.contains("remembered"), is_remembered, "{line}");
        assert_eq!(log.contains("comparing bf16 with fp32"), !is_remembered, "{log}");
    }
    // An explicit check measures again.
    let verified = run(command(&root(), &["model", "verify", path]));
    assert!(verified.status.success(), "{}", verified.log);
    for part in ["cpu bf16 · amx", proof, "has no golden vectors to compare with"] {
        assert!(verified.log.contains(part), "{part:?} is not in:\n{}", verified.log);
    }
    assert!(!verified.log.contains("remembered"), "{}", verified.log);
}
