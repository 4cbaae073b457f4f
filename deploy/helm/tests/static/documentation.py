"""values.yaml, values.schema.json and README.md say the same.

A description is written once, in a `# --` comment of values.yaml. From there `--write` brings it into the schema, for
editors, and into the README's table.
"""

import json
import re
from dataclasses import dataclass

import jsonschema
import yaml

_BEGIN = "<!-- values: written by deploy/helm/tests/static/run.py --write -->\n"
_END = "<!-- /values -->\n"
_WIDTH = 118
# Helm hands this to every chart that is part of another; it is no value of ours.
_GLOBAL = "global"


@dataclass(frozen=True)
class Row:
    """A documented key: where it stands, what it is, and its default."""

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
        if depth > len(stack):  # Inside of what was described as a whole.
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
        yield f"values.yaml does not keep to the schema: {'.'.join(map(str, error.absolute_path))}: {error.message}"
    complaints += _same_keys(schema, schema, values, (), {row.path for row in found})
    complaints += _closed(schema, "values.schema.json")
    yield from complaints
    if complaints:  # What is written from these cannot be compared yet.
        return
    if _render_schema(schema, found) != (chart / "values.schema.json").read_text(encoding="utf-8"):
        yield "values.schema.json has other descriptions than values.yaml, or another layout: run with --write"
    if _render_readme(chart, found) != (chart / "README.md").read_text(encoding="utf-8"):
        yield "README.md has another table than values.yaml makes: run with --write"


def write(chart):
    """Brings the descriptions of values.yaml into the other two."""
    found, _ = rows((chart / "values.yaml").read_text(encoding="utf-8"))
    path = chart / "values.schema.json"
    path.write_text(_render_schema(json.loads(path.read_text(encoding="utf-8")), found), encoding="utf-8")
    (chart / "README.md").write_text(_render_readme(chart, found), encoding="utf-8")


def _resolve(root, schema):
    while "$ref" in schema:
        schema = root["definitions"][schema["$ref"].removeprefix("#/definitions/")]
    return schema


def _same_keys(root, schema, values, path, described):
    """Down to the keys that are described: below, values.yaml may choose among what the schema allows."""
    if path in described or not isinstance(values, dict):
        return
    properties = _resolve(root, schema).get("properties", {})
    for key in values.keys() - properties.keys():
        yield f"{'.'.join((*path, key))} is not in the schema"
    for key in properties.keys() - values.keys() - ({_GLOBAL} if not path else set()):
        yield f"{'.'.join((*path, key))} is in the schema alone"
    for key in values.keys() & properties.keys():
        yield from _same_keys(root, properties[key], values[key], (*path, key), described)


def _closed(schema, where):
    """No object may take just any key, but for those that say why."""
    if isinstance(schema, dict):
        if schema.get("type") == "object" and "additionalProperties" not in schema and "$comment" not in schema:
            yield f"{where} is open to any key and has no $comment that says why"
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
        # Beside `$ref` draft 7 ignores everything else, and editors read it nevertheless.
        place["description"] = row.description
    return _layout(schema, 0) + "\n"


def _layout(value, indent, before=0):
    """JSON with everything on one line that fits there, after `before` characters."""
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
    table = ["| value | default | what |", "|---|---|---|"]
    for row in found:
        default = json.dumps(row.default, ensure_ascii=False)
        shown = f"`{default}`" if len(default) <= 60 else "see values.yaml"
        table.append(f"| `{'.'.join(row.path)}` | {shown} | {row.description.replace('|', chr(92) + '|')} |")
    return before + _BEGIN + "\n" + "\n".join(table) + "\n\n" + _END + after
