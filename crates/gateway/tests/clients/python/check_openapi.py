"""schemathesis: requests by the thousand that our own OpenAPI document allows, and as many that it forbids."""

import os
import pathlib
import subprocess
import sys
import tempfile

import yaml

from checks import ALIAS, BASE_URL, DIMENSIONS, HUB_ID, MODEL, check, run

ROOT = pathlib.Path(__file__).resolve().parents[5]


def document():
    """The document, with what this very server serves: its names, its size, its vocabulary."""
    with open(ROOT / "docs/openapi.yaml", encoding="utf-8") as file:
        document = yaml.safe_load(file)
    # This server has no admin keys, so its admin routes are off: 404, even without a key. `it/loading.rs` and
    # `it/usage.rs` test them. It has no reranker and no sparse encoder either, which `it/rerank.rs` tests. Nothing is
    # allowed to `/embed_all`.
    absent = ("/admin/", "/organization/usage/", "/rerank", "/embed_sparse", "/embed_all")
    paths = document["paths"].items()
    document["paths"] = {path: item for path, item in paths if not any(part in path for part in absent)}
    # The vectors of its model are always normalized.
    schemas = document["components"]["schemas"]
    schemas["TeiEmbedRequest"]["properties"]["normalize"] = {"enum": [True, None]}
    fields = schemas["EmbeddingRequest"]["properties"]
    fields["model"] = {"enum": [MODEL, HUB_ID, ALIAS]}
    fields["dimensions"] = {"enum": [DIMENSIONS, None]}
    schemas["Dimensions"] = {"enum": [DIMENSIONS, None]}
    # By enumeration, for JSON Schema counts 1.0 as an integer, and the API does not.
    schemas["TokenIds"]["items"] = {"enum": [0, 1, 220, 9468, 15339, 100_255, 100_257, 100_276]}
    return document


def schemathesis(folder, *options):
    """Runs it on the document, and raises with the end of its report unless it is content."""
    path = folder / "openapi.yaml"
    path.write_text(yaml.safe_dump(document()), encoding="utf-8")
    command = [
        sys.executable, "-m", "schemathesis.cli", "--no-color", "run", str(path),
        "--url", BASE_URL.removesuffix("/v1"), "--request-timeout", "20",
        # The same requests every time: what one run finds is there for all.
        "--generation-deterministic", *options,
    ]  # fmt: skip
    # A settings file of the user's, and examples of an earlier run, must not change what is tried.
    environment = {**os.environ, "HYPOTHESIS_STORAGE_DIRECTORY": str(folder)}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    said = ended.stdout + ended.stderr
    if ended.returncode != 0:
        raise AssertionError(said[-6000:])
    for line in said.splitlines():
        if "generated" in line or "passed" in line or "Tested" in line:
            print(f"# {line.strip()}")


@check("schemathesis: what the document allows is answered as it says, what it forbids is refused")
def conforms():
    with tempfile.TemporaryDirectory() as folder:
        schemathesis(
            pathlib.Path(folder),
            "--phases", "examples,coverage,fuzzing", "--max-examples", "100",
            # A server without keys lets everyone in, whatever they present.
            "--exclude-checks", "ignored_auth",
        )  # fmt: skip


run()
