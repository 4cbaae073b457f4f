"""Validation of rendered objects against the schemas of Kubernetes and of the custom resources' operators."""

import json
import pathlib
import subprocess
import sys

import jsonschema
import kubernetes_validate
import yaml

from cases import HERE

_CUSTOM = yaml.load((HERE / "custom_resources.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["kinds"]

# Installed from npm into the environment of these checks.
_NODE = pathlib.Path(sys.prefix) / "bin/node"
_OPERATORS = pathlib.Path(sys.prefix) / "app/operators.mjs"
_LIMIT_SECONDS = 60


def is_custom(item):
    """Returns true if an operator defines the kind of `item`."""
    return item["kind"] in _CUSTOM


def kubernetes(objects, version):
    """Kubernetes' own objects against the published schema of `version`, such as "1.33"; unknown fields are errors."""
    for item in objects:
        if is_custom(item):
            continue
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            yield f"{item['kind']} {item['metadata']['name']}: {str(error).strip().splitlines()[0]}"


def custom_resources(objects):
    """Custom resources against custom_resources.yaml, which rejects unknown fields, and their operators' types."""
    for item in objects:
        if is_custom(item):
            validator = jsonschema.Draft202012Validator(_CUSTOM[item["kind"]])
            for error in validator.iter_errors(item):
                where = "/".join(str(part) for part in error.absolute_path)
                yield f"{item['kind']} {item['metadata']['name']}, at {where}: {error.message}"
    custom = [item for item in objects if is_custom(item)]
    if custom:
        done = subprocess.run(
            [_NODE, _OPERATORS], input=json.dumps(custom), capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=True
        )
        yield from json.loads(done.stdout)
