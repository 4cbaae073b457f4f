//! Advice for a missing model folder: path of a similar one, or how to get one.

use std::path::{Path, PathBuf};

use crate::config::{ProcessEnv, hub_model};

/// Returns the reason why `path` is not a folder, and a path to use instead.
pub(crate) fn advice(path: &Path, env: &ProcessEnv) -> String {
    let ProcessEnv { working_directory: here, executable, .. } = env;
    if here.join(path).exists() {
        return "it is a file: name the folder that holds it".to_owned();
    }
    let nowhere = format!("there is no such folder in {}", here.display());
    let in_models = path.file_name().map(|name| Path::new("models").join(name));
    let names: Vec<PathBuf> = [Some(path.to_owned()), in_models].into_iter().flatten().collect();
    if let Some(name) = names.iter().find(|name| here.join(name).is_dir()) {
        return format!("{nowhere}, but there is {0}: name {0}", name.display());
    }
    // Archives and images have `models` next to the program's folder.
    let installation = executable.as_deref().and_then(Path::parent).and_then(Path::parent);
    let installed =
        installation.and_then(|root| Some((root, names.iter().find(|name| root.join(name).is_dir())?)));
    if let Some((root, name)) = installed {
        let (root, folder) = (root.display(), root.join(name));
        return format!(
            "{nowhere}, but there is {0}: start embedgate in {root}, or name {0}",
            folder.display()
        );
    }
    match hub_model(path, here) {
        Some(repo) => format!(
            "{nowhere}, and no model {repo} in the cache of the model hub: run `embedgate model pull {repo}`, or start \
             with --pull"
        ),
        None => nowhere,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_missing_folder_is_answered_with_the_path_of_a_similar_one() {
        let root = tempfile::tempdir().unwrap();
        let (here, installed) = (root.path().join("here"), root.path().join("opt"));
        fs::create_dir_all(here.join("models/own")).unwrap();
        fs::write(here.join("models/own/model.onnx"), "").unwrap();
        fs::create_dir_all(installed.join("models/all-MiniLM-L6-v2")).unwrap();
        let env = ProcessEnv {
            working_directory: here.clone(),
            executable: Some(installed.join("bin/embedgate")),
            ..ProcessEnv::of_this_process().unwrap()
        };
        let (shown_here, shown_installed) = (here.display(), installed.display());
        let nowhere = format!("there is no such folder in {shown_here}");
        for (path, said) in [
            ("models/own/model.onnx", "it is a file: name the folder that holds it".to_owned()),
            ("own", format!("{nowhere}, but there is models/own: name models/own")),
            ("someone/own", format!("{nowhere}, but there is models/own: name models/own")),
            (
                "models/all-MiniLM-L6-v2",
                format!(
                    "{nowhere}, but there is {shown_installed}/models/all-MiniLM-L6-v2: start embedgate in \
                     {shown_installed}, or name {shown_installed}/models/all-MiniLM-L6-v2"
                ),
            ),
            (
                "BAAI/bge-m3",
                format!(
                    "{nowhere}, and no model BAAI/bge-m3 in the cache of the model hub: run `embedgate model pull \
                     BAAI/bge-m3`, or start with --pull"
                ),
            ),
            ("models/other", nowhere.clone()),
            ("/a/b", nowhere.clone()),
        ] {
            assert_eq!(advice(Path::new(path), &env), said, "{path}");
        }
    }
}
