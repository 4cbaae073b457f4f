"""Golden files: the rendered objects of each case, so that a review shows the effect of a change of the chart."""

import difflib

import yaml

import engines
from cases import CHART, HERE

_FOLDER = HERE / "golden"


def check(case, objects):
    """Complaints about differences from the golden file."""
    path = _path(case)
    expected = path.read_text(encoding="utf-8") if path.exists() else ""
    found = _text(case, objects)
    if found != expected:
        yield f"{path.name} differs; if the change is intended, run with --write"
        lines = expected.splitlines(), found.splitlines()
        yield from difflib.unified_diff(*lines, "expected", "rendered", n=1, lineterm="")


def write(rendered):
    """Rewrites all golden files from (case, objects)."""
    _FOLDER.mkdir(exist_ok=True)
    for path in _FOLDER.glob("*.yaml"):
        path.unlink()
    for case, objects in rendered:
        _path(case).write_text(_text(case, objects), encoding="utf-8")


def left_over(cases):
    """Complaints about golden files without a case."""
    for path in sorted(set(_FOLDER.glob("*.yaml")) - {_path(case) for case in cases}):
        yield f"{path.name} belongs to no case"


def _path(case):
    return _FOLDER / f"{case.name}.yaml"


def _text(case, objects):
    header = f"# Objects that the chart renders with {f'ci/{case.path.name}' if case.path else 'its default values'}.\n"
    documents = [_shortened(item) for item in engines.by_identity(objects).values()]
    return header + yaml.dump_all(documents, Dumper=_Dumper, explicit_start=True, width=118, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Writes multi-line texts as literal blocks."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def _shortened(item):
    """Replaces embedded files by their names, after checking that their contents are equal."""
    if item["kind"] == "ConfigMap":
        data = {}
        for name, text in item["data"].items():
            path = CHART / "dashboards" / name
            same = path.exists() and path.read_text(encoding="utf-8").strip() == text.strip()
            data[name] = f"the file dashboards/{name}" if same else text
        return {**item, "data": data}
    if item["kind"] == "PrometheusRule":
        own = [group for path in sorted((CHART / "rules").glob("*.yaml")) for group in _groups(path)]
        groups = item["spec"]["groups"]
        if groups[: len(own)] == own:
            groups = [f"{len(own)} groups of the files rules/*.yaml", *groups[len(own) :]]
        return {**item, "spec": {**item["spec"], "groups": groups}}
    return item


def _groups(path):
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["groups"]
