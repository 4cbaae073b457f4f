"""Whether rendered objects are what Kubernetes and the operators of custom resources accept, field by field."""

import jsonschema
import kubernetes_validate
import yaml

from cases import HERE

_CUSTOM = yaml.load((HERE / "custom_resources.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["kinds"]


def is_custom(item):
    """Whether an operator defines the kind of `item`."""
    return item["kind"] in _CUSTOM


def kubernetes(objects, version):
    """Kubernetes' own objects against its published schema of `version`, such as "1.33"; unknown fields are refused."""
    for item in objects:
        if is_custom(item):
            continue
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            yield f"{item['kind']} {item['metadata']['name']}: {str(error).strip().splitlines()[0]}"


def custom_resources(objects):
    """Custom resources against custom_resources.yaml."""
    for item in objects:
        if is_custom(item):
            validator = jsonschema.Draft202012Validator(_CUSTOM[item["kind"]])
            for error in validator.iter_errors(item):
                where = "/".join(str(part) for part in error.absolute_path)
                yield f"{item['kind']} {item['metadata']['name']}, at {where}: {error.message}"
