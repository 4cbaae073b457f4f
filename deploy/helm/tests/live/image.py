"""The gateway's image without a container runtime: its files in a folder, its ENTRYPOINT and its ENV.

Both are read from the Dockerfile, so that what the chart leaves to the image is what the image really says.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import sys
from dataclasses import dataclass

from fields import Unsupported

ROOT = pathlib.Path(__file__).resolve().parents[4]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
MODEL = ROOT / "models/all-MiniLM-L6-v2"
ONNXRUNTIME = ROOT / ".runtime/onnxruntime"

# The variables of the image that name files, and what lies there in the checkout.
FILES = {"EMBEDGATE_MODELS": MODEL, "EMBEDGATE_ONNXRUNTIME": ONNXRUNTIME / "libonnxruntime.so"}


@dataclass
class Image:
    """`root` is where its files lie, or none for programs of this machine.

    `any_user` says whether those can be started by every user.
    """

    entrypoint: list
    environment: dict
    root: pathlib.Path | None = None
    any_user: bool = True


def system():
    """An image that is nothing but this machine's packaged programs."""
    return Image([], {"PATH": "/usr/bin:/bin"})


def python():
    """An image that is nothing but this Python, which may lie in somebody's home."""
    return Image([], {"PATH": os.path.dirname(sys.executable)}, any_user=False)


def unpack(binary, folder):
    """Lays the gateway's image out in `folder`, readable for every user, as an image's files are.

    Raises Unsupported when the Dockerfile names a file that is not known here.
    """
    entrypoint, environment = _dockerfile(DOCKERFILE.read_text(encoding="utf-8"))
    _copy(binary, folder, entrypoint[0])
    for name, value in environment.items():
        if name in FILES:
            _copy(FILES[name], folder, value)
        elif value.startswith("/") and name != "PATH":
            raise Unsupported(f"{DOCKERFILE.name}: ENV {name}={value} names a file that is not known here")
    return Image(entrypoint, environment, folder)


def _copy(source, root, path):
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
        target.chmod(0o755)


def _dockerfile(text):
    """ENTRYPOINT and ENV of the stage called `runtime` and of the stages that it is made from."""
    stages, stage = {}, None
    for line in re.sub(r"\\\n", " ", text).splitlines():
        word, _, rest = line.strip().partition(" ")
        if word.upper() == "FROM":
            base, _, name = re.sub(r"--\S+\s+", "", rest).partition(" ")
            name = re.sub(r"(?i)^\s*as\s+", "", name).strip()
            entrypoint, environment = stages.get(base, ([], {}))
            stage = stages[name] = (list(entrypoint), dict(environment))
        elif word.upper() == "ENV":
            stage[1].update(pair.split("=", 1) for pair in shlex.split(rest))
        elif word.upper() == "ENTRYPOINT":
            stage[0][:] = json.loads(rest)
    return stages["runtime"]
