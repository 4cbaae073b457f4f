//! The ONNX encoder on the real library: needs what `cargo xtask setup` puts in place.

use std::path::{Path, PathBuf};

use inference::{OnnxRuntime, StartError};

fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The default model's folder.
pub(crate) fn real_model() -> PathBuf {
    let folder = workspace().join("models/all-MiniLM-L6-v2");
    assert!(
        folder.join("model.safetensors").exists(),
        "run `cargo xtask setup` first: no weights in {folder:?}"
    );
    folder
}

fn library() -> PathBuf {
    let name = if cfg!(target_os = "macos") { "libonnxruntime.dylib" } else { "libonnxruntime.so" };
    let library = workspace().join(".runtime/onnxruntime").join(name);
    assert!(library.exists(), "run `cargo xtask setup` first: no {library:?}");
    library
}

#[test]
fn a_missing_library_names_the_remedy() {
    let error = OnnxRuntime::load(Path::new("/nowhere/libonnxruntime.so")).unwrap_err();
    assert!(matches!(error, StartError::Library { .. }));
    let message = error.to_string();
    assert!(
        message.contains("/nowhere/libonnxruntime.so") && message.contains("cargo xtask setup"),
        "{message}"
    );
}

#[test]
fn the_library_tells_its_version() {
    let runtime = OnnxRuntime::load(&library()).unwrap();
    let parts: Vec<u32> = runtime.version().split('.').map(|part| part.parse().unwrap()).collect();
    assert!(parts.len() == 3 && parts[0] == 1, "{}", runtime.version());
}
