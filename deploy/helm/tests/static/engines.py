"""The two engines that render the chart: the current Helm as a library, and an old Helm as a program.

A chart that both render equally works with the versions between them.
"""

import subprocess
import tempfile

import helm_python
import yaml

from cases import MIDDLE, NAMESPACE, RELEASE

_LIMIT_SECONDS = 60
# Helm's severities from warning upwards.
_WARNING = 2


class RenderError(Exception):
    """The engine rejected the chart or its values; the text is the engine's message."""


def parse(text):
    """The objects in a stream of YAML documents, without empty ones."""
    return [item for item in yaml.load_all(text, Loader=yaml.CSafeLoader) if item]


def by_identity(objects):
    """Objects by (kind, namespace, name), sorted; duplicates are an error."""
    found = {}
    for item in objects:
        metadata = item["metadata"]
        key = (item["kind"], metadata.get("namespace", ""), metadata["name"])
        if key in found:
            raise RenderError(f"rendered twice: {key}")
        found[key] = item
    return dict(sorted(found.items()))


def library(chart, case):
    """Objects rendered by the library, which always assumes its own default version of Kubernetes.

    Raises RenderError with the engine's message.
    """
    return _library(chart, case.values())


def notes(chart, case):
    """The notes that Helm prints after an installation with these values."""
    return _render(chart, case.values())["embedgate/templates/NOTES.txt"]


def texts(chart, values):
    """The text that the library renders for each template; None if it rejects the values."""
    try:
        return _render(chart, values)
    except RenderError:
        return None


def program(helm, chart, case, version=MIDDLE):
    """Objects rendered by the program `helm` for Kubernetes `version`. Raises RenderError with the engine's message."""
    return _program(helm, chart, [f"--values={case.path}"] if case.path else [], version)


def refusals(helm, chart, values):
    """The error of each engine for invalid values; None if it renders them."""
    said = {}
    try:
        _library(chart, values)
        said["library"] = None
    except RenderError as error:
        said["library"] = str(error)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        try:
            _program(helm, chart, [f"--values={file.name}"], MIDDLE)
            said["program"] = None
        except RenderError as error:
            said["program"] = str(error)
    return said


def lint(helm, chart):
    """Warnings of both engines' linters."""
    for message in helm_python.lint(chart, strict=True, kube_version=f"v{MIDDLE}.0")["messages"]:
        if message["severity"] >= _WARNING:
            yield f"library: {message}"
    done = _start([helm, "lint", "--strict", chart])
    if done.returncode != 0:
        yield f"program: {done.stdout}{done.stderr}"


def package(helm, chart, folder):
    """Packs the chart into an archive in `folder`, as for publishing."""
    done = _start([helm, "package", chart, f"--destination={folder}"])
    if done.returncode != 0:
        raise RenderError(done.stderr)
    (archive,) = folder.glob("*.tgz")
    return archive


def _render(chart, values):
    try:
        with helm_python.Chart.load(chart) as loaded:
            loaded.validate_schema(values)
            return loaded.render(values, name=RELEASE, namespace=NAMESPACE)
    except helm_python.HelmError as error:
        raise RenderError(str(error)) from error


def _library(chart, values):
    texts = _render(chart, values)
    return [item for path, text in texts.items() if not path.endswith("NOTES.txt") for item in parse(text)]


def _program(helm, chart, arguments, version):
    command = [helm, "template", RELEASE, chart, f"--namespace={NAMESPACE}", f"--kube-version={version}.0", *arguments]
    done = _start(command)
    if done.returncode != 0:
        raise RenderError(done.stderr)
    return parse(done.stdout)


def _start(command):
    return subprocess.run(
        command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, stdin=subprocess.DEVNULL, check=False
    )
