"""Images of containers: the built image, or, without a container runtime, its files and the Dockerfile's settings.

Without a container runtime, ENTRYPOINT, ENV and WORKDIR are read from the Dockerfile, so that defaults that the chart
leaves to the image are the real ones.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import sys
from dataclasses import dataclass, field

from fields import Unsupported

ROOT = pathlib.Path(__file__).resolve().parents[4]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
STAGE = "cpu"
MODEL = ROOT / "models/all-MiniLM-L6-v2"


@dataclass
class Image:
    """`root` is the folder of its files, or None for programs of this machine.

    `any_user`: every user may execute these programs. With `podman`, the command of a container runtime, containers of
    the image `name` are run, and the other fields are ignored.
    """

    entrypoint: list = field(default_factory=list)
    environment: dict = field(default_factory=dict)
    folder: str = "/"
    root: pathlib.Path | None = None
    any_user: bool = True
    podman: list | None = None
    name: str = ""


def python():
    """An image with this Python, which may be in a home folder that other users cannot read."""
    return Image(environment={"PATH": os.path.dirname(sys.executable)}, any_user=False)


def unpack(binary, root):
    """Creates the files of the gateway's image in `root`, readable for every user.

    Raises Unsupported if the Dockerfile copies a folder from its build stage that `_fill` does not know.
    """
    image = Image(root=root)
    for word, rest in _instructions():
        if word == "ENV":
            image.environment.update(pair.split("=", 1) for pair in shlex.split(rest))
        elif word == "ENTRYPOINT":
            image.entrypoint = json.loads(rest)
        elif word == "WORKDIR":
            image.folder = rest
        elif word == "COPY" and rest.startswith("--from=build "):
            target = root / rest.split()[-1].strip("/")
            target.mkdir(parents=True)
            _fill(target, binary)
    return image


def _fill(target, binary):
    """Copies files of the checkout into a folder of the image, selected by the folder's name."""
    if target.name == "bin":
        shutil.copyfile(binary, target / "embedgate")
        (target / "embedgate").chmod(0o755)
    elif target.name == "models":
        shutil.copytree(MODEL, target / MODEL.name)
    elif target.name == "lib":
        for path in (ROOT / ".runtime/onnxruntime").glob("lib*.so"):
            shutil.copyfile(path, target / path.name)
    elif target.name == "config":
        shutil.copytree(ROOT / "config", target, dirs_exist_ok=True)
    elif target.name != "share":  # Licenses, which no check needs.
        raise Unsupported(f"{DOCKERFILE.name}: {target.name}")


def _instructions():
    """Yields the instructions of the released stage with their arguments."""
    stage = None
    text = "".join(line for line in DOCKERFILE.open(encoding="utf-8") if not line.startswith("#"))
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = re.search(r"(?i)\sas\s+(\S+)$", rest)[1]
        elif word and stage == STAGE:
            yield word, rest.strip()
