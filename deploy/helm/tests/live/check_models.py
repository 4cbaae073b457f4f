"""Each `model.source` that mounts a model: one pod is started and must return a vector."""

import contextlib
import functools
import hashlib
import http.server
import shutil
import subprocess
import threading

import check_pod
import image
from stage import Stage

MODEL = "all-MiniLM-L6-v2"


def checks(tap, bench):
    """A claim, an image volume, and a download by the chart's own init container."""
    folder = bench.folder / "models"
    shutil.copytree(image.MODEL, folder / MODEL, dirs_exist_ok=True)

    pvc = {"existingClaim": "models", "subPath": MODEL}
    values = {"model": {"source": "pvc", "name": MODEL, "pvc": pvc}}
    with Stage(bench, bench.render(values)) as stage:
        stage.cluster.claims["models"] = folder
        tap.check("model.source pvc: served from the claim's subPath", _serves, stage)

    values = {"model": {"source": "imageVolume", "name": MODEL, "imageVolume": {"reference": "model:1"}}}
    with Stage(bench, bench.render(values)) as stage:
        stage.cluster.image_volumes["model:1"] = folder / MODEL
        tap.check("model.source imageVolume: served from the image's root", _serves, stage)

    if shutil.which("tar") is None:
        tap.skip("model.source download", "tar is not installed")
        return
    archive = bench.folder / "archive" / "model.tar"
    archive.parent.mkdir()
    subprocess.run(["tar", "-cf", archive, "-C", folder, MODEL], check=True, timeout=60)
    with _published(archive.parent) as address:
        sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
        tap.check("model.source download: fetched, checked, unpacked and served",
                  _downloaded, bench, f"{address}/{archive.name}", sha256)


def _serves(stage):
    stage.start(1)
    yield from check_pod.hook(stage)


def _downloaded(bench, url, sha256):
    download = {"url": url, "sha256": sha256}
    release = bench.render({"model": {"source": "download", "name": MODEL, "download": download}})
    with Stage(bench, release) as stage:
        yield from _serves(stage)


@contextlib.contextmanager
def _published(folder):
    """An HTTP server with the files of `folder`; yields its address."""
    handler = functools.partial(_Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Logs nothing."""
