"""Consistency of values.yaml, values.schema.json and README.md.

Descriptions are written once, in the `# --` comments of values.yaml. `--write` copies them into the schema, for
editors, and into the table of README.md.
"""

import json
import re
from dataclasses import dataclass

import jsonschema
import yaml

_BEGIN = "<!-- values: written by deploy/helm/tests/static/run.py --write -->\n"
_END = "<!-- /values -->\n"
_WIDTH = 118
# Helm passes this key to every subchart; it is not a value of this chart.
_GLOBAL = "global"


@dataclass(frozen=True)
class Row:
    """A documented key: its path, description and default."""

    path: tuple[str, ...]
    description: str
    default: object


def rows(text):
    """The documented keys of a values file, in its order, and complaints about keys without a description."""
    values = yaml.load(text, Loader=yaml.CSafeLoader)
    found, complaints, stack, description = [], [], [], None
    for number, line in enumerate(text.splitlines(), 1):
        comment = re.fullmatch(r" *# -- (.+)", line)
        key = re.match(r"( *)([A-Za-z][A-Za-z0-9]*):( |$)", line)
        if comment:
            description = comment[1]
        if not key:
            continue
        depth = len(key[1]) // 2
        if depth > len(stack):  # Part of a value that is described as a whole.
            continue
        path = (*stack[:depth], key[2])
        default = values
        for part in path:
            default = default[part]
        stack = list(path[:depth])
        if description is not None:
            found.append(Row(path, description, default))
        elif isinstance(default, dict) and default:
            stack.append(key[2])
        else:
            complaints.append(f"values.yaml:{number}: {'.'.join(path)} has no description")
        description = None
    return found, complaints


def check(chart):
    """Complaints about the three files."""
    text = (chart / "values.yaml").read_text(encoding="utf-8")
    found, complaints = rows(text)
    schema = json.loads((chart / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft7Validator.check_schema(schema)
    values = yaml.load(text, Loader=yaml.CSafeLoader)
    for error in jsonschema.Draft7Validator(schema).iter_errors(values):
        yield f"values.yaml violates the schema: {'.'.join(map(str, error.absolute_path))}: {error.message}"
    complaints += _same_keys(schema, schema, values, (), {row.path for row in found})
    complaints += _closed(schema, "values.schema.json")
    yield from complaints
    if complaints:  # The generated files cannot be compared until these are fixed.
        return
    if _render_schema(schema, found) != (chart / "values.schema.json").read_text(encoding="utf-8"):
        yield "values.schema.json differs from the descriptions of values.yaml or from the layout: run with --write"
    if _render_readme(chart, found) != (chart / "README.md").read_text(encoding="utf-8"):
        yield "the table of README.md differs from values.yaml: run with --write"


def write(chart):
    """Copies the descriptions of values.yaml into the schema and README.md."""
    found, _ = rows((chart / "values.yaml").read_text(encoding="utf-8"))
    path = chart / "values.schema.json"
    path.write_text(_render_schema(json.loads(path.read_text(encoding="utf-8")), found), encoding="utf-8")
    (chart / "README.md").write_text(_render_readme(chart, found), encoding="utf-8")


def _resolve(root, schema):
    while "$ref" in schema:
        schema = root["definitions"][schema["$ref"].removeprefix("#/definitions/")]
    return schema


def _same_keys(root, schema, values, path, described):
    """Compares keys down to the described ones; below them the schema allows more than values.yaml sets."""
    if path in described or not isinstance(values, dict):
        return
    properties = _resolve(root, schema).get("properties", {})
    for key in values.keys() - properties.keys():
        yield f"{'.'.join((*path, key))} is not in the schema"
    for key in properties.keys() - values.keys() - ({_GLOBAL} if not path else set()):
        yield f"{'.'.join((*path, key))} is only in the schema"
    for key in values.keys() & properties.keys():
        yield from _same_keys(root, properties[key], values[key], (*path, key), described)


def _closed(schema, where):
    """Complaints about objects of the schema that accept any key without a `$comment` with the reason."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "additionalProperties" not in schema and "$comment" not in schema:
            yield f"{where} accepts any key and has no $comment with the reason"
        for key, value in schema.items():
            yield from _closed(value, f"{where}/{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from _closed(value, f"{where}/{index}")


def _render_schema(schema, found):
    for row in found:
        place = schema
        for part in row.path:
            place = place["properties"][part]
        # Draft 7 ignores keywords next to `$ref`, but editors show this one.
        place["description"] = row.description
    return _layout(schema, 0) + "\n"


def _layout(value, indent, before=0):
    """Formats JSON: each value that fits is on one line, which starts with `before` characters."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) + indent + before <= _WIDTH or not isinstance(value, (dict, list)) or not value:
        return line
    space = " " * (indent + 2)
    if isinstance(value, dict):
        items = [
            f'{space}"{key}": {_layout(item, indent + 2, len(key) + 4)}' for key, item in value.items()
        ]
        return "{\n" + ",\n".join(items) + "\n" + " " * indent + "}"
    items = [space + _layout(item, indent + 2) for item in value]
    return "[\n" + ",\n".join(items) + "\n" + " " * indent + "]"


def _render_readme(chart, found):
    text = (chart / "README.md").read_text(encoding="utf-8")
    before, rest = text.split(_BEGIN)
    _, after = rest.split(_END)
    table = ["| value | default | description |", "|---|---|---|"]
    for row in found:
        default = json.dumps(row.default, ensure_ascii=False)
        shown = f"`{default}`" if len(default) <= 60 else "see values.yaml"
        table.append(f"| `{'.'.join(row.path)}` | {shown} | {row.description.replace('|', chr(92) + '|')} |")
    return before + _BEGIN + "\n" + "\n".join(table) + "\n\n" + _END + after
