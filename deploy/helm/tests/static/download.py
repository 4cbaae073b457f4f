"""Runs the rendered init container of model.source `download` against a local HTTP server."""

import functools
import hashlib
import http.server
import io
import os
import pathlib
import subprocess
import tarfile
import tempfile
import threading

# Programs that the rendered command calls.
PROGRAMS = ("sh", "curl", "sha256sum", "tar")

_FILES = {"tokenizer.json": b"{}", "1_Pooling/config.json": b"{}"}
_LIMIT_SECONDS = 30


def check(objects):
    """Complaints unless exactly the archive with the pinned digest and layout is unpacked, without leftovers."""
    (container,) = [
        one
        for one in objects.deployment()["spec"]["template"]["spec"]["initContainers"]
        if one["name"] == "model"
    ]
    archive = _archive("bge-small/")
    right = hashlib.sha256(archive).hexdigest()
    with tempfile.TemporaryDirectory() as folder, _server(archive) as address:
        model = pathlib.Path(folder) / "models" / "model"
        model.parent.mkdir()

        def run(sha256, strip):
            return _run(container, model, {"MODEL_URL": address, "MODEL_SHA256": sha256, "STRIP_COMPONENTS": strip})

        wrong = run("0" * 64, "1")
        if wrong.returncode == 0 or model.exists():
            yield "an archive with another SHA-256 was unpacked"
        if "no tokenizer.json" not in run(right, "0").stderr:
            yield "an archive with another layout was accepted"
        for attempt in ("first run", "second run, over existing files"):
            done = run(right, "1")
            if done.returncode != 0:
                yield f"{attempt}: failed: {done.stderr}"
            found = {str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*") if path.is_file()}
            if found != _FILES:
                yield f"{attempt}: left {sorted(found)}"
            if [path.name for path in model.parent.iterdir()] != [model.name]:
                yield f"{attempt}: the archive was not deleted"


def _run(container, model, settings):
    environment = {one["name"]: one["value"] for one in container["env"]}
    environment |= settings | {"MODEL_DIR": str(model), "PATH": os.environ["PATH"], "NO_PROXY": "*"}
    return subprocess.run(
        container["command"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_LIMIT_SECONDS,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def _archive(prefix):
    """A tar archive of the files below the folder `prefix`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in _FILES.items():
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


class _server:
    """A loopback HTTP server that sends one body for every path; as a context manager it returns its address."""

    def __init__(self, body):
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, body))
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self):
        self._thread.start()
        return f"http://127.0.0.1:{self._server.server_port}/model.tar"

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, body, *arguments):
        self._body = body
        super().__init__(*arguments)

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", str(len(self._body)))
        self.end_headers()
        self.wfile.write(self._body)

    def log_message(self, *_):
        """Logs nothing: the complaints describe failures."""
