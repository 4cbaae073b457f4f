"""Runs the rendered init container of model.source `download` against a local HTTP server."""

import functools
import hashlib
import http.server
import io
import pathlib
import subprocess
import tarfile
import tempfile
import threading

import cases

# The gateway's program, as `cargo build` leaves it.
PROGRAM = cases.ROOT / "target/debug/embedgate"

_MODEL = cases.ROOT / "crates/model-import/tests/tiny-models/bert-mean"
_FILES = {str(path.relative_to(_MODEL)): path.read_bytes() for path in _MODEL.rglob("*.*") if path.is_file()}
_LIMIT_SECONDS = 60


def check(objects):
    """Complaints unless exactly the archive with the pinned digest is unpacked, without leftovers."""
    (container,) = [
        one
        for one in objects.deployment()["spec"]["template"]["spec"]["initContainers"]
        if one["name"] == "model"
    ]
    archive = _archive("bert-mean/")
    right = hashlib.sha256(archive).hexdigest()
    with tempfile.TemporaryDirectory() as folder, _server(archive) as address:
        model = pathlib.Path(folder) / "models" / "model"
        model.parent.mkdir()
        wrong = _run(container, {"--from": address, "--sha256": "0" * 64, "--to": model})
        if wrong.returncode == 0 or model.exists():
            yield "an archive with another SHA-256 was unpacked"
        for attempt in ("first run", "second run, over existing files"):
            done = _run(container, {"--from": address, "--sha256": right, "--to": model})
            if done.returncode != 0:
                yield f"{attempt}: failed: {done.stderr}"
            # embedgate leaves the model's fingerprint, so that a start does not compute it.
            own = (".", "embedgate.")
            visible = [path for path in model.rglob("*") if path.is_file() and not path.name.startswith(own)]
            found = {str(path.relative_to(model)): path.read_bytes() for path in visible}
            if found != _FILES:
                yield f"{attempt}: left {sorted(found)}"
            if [path.name for path in model.parent.iterdir()] != [model.name]:
                yield f"{attempt}: the archive was not deleted"


def _run(container, settings):
    """Runs the container's command with other values of some flags, and nothing in its environment."""
    flags = {f"{name}={value}" for name, value in settings.items()}
    names = [flag.partition("=")[0] for flag in flags]
    arguments = [word for word in container["args"] if word.partition("=")[0] not in names]
    return subprocess.run(
        [PROGRAM, *arguments, *flags],
        env={},
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
