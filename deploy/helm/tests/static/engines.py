"""The two engines that render the chart: Helm's current one as a library, and an old one as the program.

A chart that both understand the same way works with what lies between them.
"""

import subprocess
import tempfile

import helm_python
import yaml

from cases import MIDDLE, NAMESPACE, RELEASE

_LIMIT_SECONDS = 60
# Helm's severities: what is more than a hint.
_WARNING = 2


class RenderError(Exception):
    """The engine refused; the text is its own."""


def parse(text):
    """The objects in a stream of YAML documents, without empty ones."""
    return [item for item in yaml.load_all(text, Loader=yaml.CSafeLoader) if item]


def by_identity(objects):
    """Objects by kind, namespace and name, in that order; two with one identity are an error."""
    found = {}
    for item in objects:
        metadata = item["metadata"]
        key = (item["kind"], metadata.get("namespace", ""), metadata["name"])
        if key in found:
            raise RenderError(f"rendered twice: {key}")
        found[key] = item
    return dict(sorted(found.items()))


def library(chart, case):
    """The objects by the library, which always takes its own version of Kubernetes for the cluster's.

    Raises RenderError with the engine's words.
    """
    return _library(chart, case.values())


def notes(chart, case):
    """What Helm says after installing these values."""
    return _render(chart, case.values())["embedgate/templates/NOTES.txt"]


def texts(chart, values):
    """What the library makes of each template, unread; none where it refuses the values."""
    try:
        return _render(chart, values)
    except RenderError:
        return None


def program(helm, chart, case, version=MIDDLE):
    """The objects by the program `helm`, for a cluster of `version`. Raises RenderError with the engine's words."""
    return _program(helm, chart, [f"--values={case.path}"] if case.path else [], version)


def refusals(helm, chart, values):
    """What each engine says about values that cannot be rendered; none where it renders them."""
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
    """What either engine's linter warns of."""
    for message in helm_python.lint(chart, strict=True, kube_version=f"v{MIDDLE}.0")["messages"]:
        if message["severity"] >= _WARNING:
            yield f"library: {message}"
    done = _start([helm, "lint", "--strict", chart])
    if done.returncode != 0:
        yield f"program: {done.stdout}{done.stderr}"


def package(helm, chart, folder):
    """The chart as an archive in `folder`, as it would be published."""
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
