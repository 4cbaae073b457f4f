"""What can be said about the image's sources, the compose file and a bill of materials without running them.

    check.py SBOM VERSION

Prints the Test Anything Protocol.
"""

import json
import pathlib
import subprocess
import sys
import tempfile

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from ruamel.yaml import YAML

ROOT = pathlib.Path(__file__).resolve().parents[3]
DOCKERFILE = ROOT / "deploy/docker/Dockerfile"
COMPOSE = ROOT / "deploy/compose/compose.yaml"
BIN = pathlib.Path(sys.executable).parent

checks = []


def check(function):
    """A function that returns what is wrong, one line each."""
    checks.append(function)
    return function


def complaints(*command):
    """What a program that fails on faults prints; nothing when it finds none."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 0:
        return []
    return (done.stdout + done.stderr).strip().splitlines() or [f"exit code {done.returncode}"]


def hadolint(path):
    return complaints(BIN / "hadolint", "--no-color", path)


def schema(path):
    return complaints(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)


def load(path):
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def services():
    return load(COMPOSE)["services"]


@check
def the_dockerfile_is_clean():
    return hadolint(DOCKERFILE)


@check
def a_careless_dockerfile_is_found():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "Dockerfile"
        path.write_text("FROM debian\nRUN cd /tmp\nCMD sh\n", encoding="utf-8")
        return [] if hadolint(path) else ["hadolint finds nothing wrong with it"]


@check
def the_versions_agree():
    version = sys.argv[2]
    found = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if line.startswith("ARG VERSION")]
    wrong = [f"{DOCKERFILE.name}: {line}" for line in found if line != f"ARG VERSION={version}"]
    image = services()["gateway"]["image"]
    return wrong + ([] if image == f"embedgate:{version}" else [f"{COMPOSE.name}: {image}"])


@check
def the_compose_file_follows_its_schema():
    return schema(COMPOSE)


@check
def a_mistyped_key_is_found():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "compose.yaml"
        path.write_text(COMPOSE.read_text(encoding="utf-8").replace("cap_drop", "cap_drops", 1), encoding="utf-8")
        return [] if schema(path) else ["the schema allows it"]


@check
def what_is_mounted_is_there():
    wrong = []
    for name, service in services().items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith(".") and not (COMPOSE.parent / source).exists():
                wrong.append(f"{name}: {source}")
        build = service.get("build")
        if build and not (COMPOSE.parent / build["context"] / build["dockerfile"]).is_file():
            wrong.append(f"{name}: {build['dockerfile']}")
    return wrong


@check
def every_service_is_held_tight():
    wrong = []
    for name, service in services().items():
        facts = {
            "read_only": service.get("read_only") is True,
            "cap_drop": service.get("cap_drop") == ["ALL"],
            "security_opt": "no-new-privileges:true" in service.get("security_opt", []),
            "healthcheck": bool(service.get("healthcheck", {}).get("test")),
            "ports": all(port.startswith("127.0.0.1:") for port in service.get("ports", [])),
            "image": service["image"].rpartition(":")[2] not in ("", "latest"),
        }
        wrong += [f"{name}: {fact}" for fact, holds in facts.items() if not holds]
    return wrong


@check
def what_prometheus_and_grafana_read_is_mounted():
    """Paths inside the containers that the provisioned files name."""
    mounted = {
        name: [volume.split(":")[1] for volume in service.get("volumes", [])] for name, service in services().items()
    }
    named = [("prometheus", path) for path in load(COMPOSE.parent / "prometheus.yaml")["rule_files"]]
    providers = load(COMPOSE.parent / "grafana/dashboards.yaml")["providers"]
    named += [("grafana", provider["options"]["path"] + "/") for provider in providers]
    return [f"{name}: {path}" for name, path in named if path.rpartition("/")[0] not in mounted[name]]


@check
def the_compose_probe_is_the_image_s():
    test = services()["gateway"]["healthcheck"]["test"]
    return [] if f"CMD {json.dumps(test[1:])}" in DOCKERFILE.read_text(encoding="utf-8") else [str(test)]


@check
def the_bill_of_materials_follows_its_schema():
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return [str(error)] if error else []


@check
def a_wrong_bill_of_materials_is_found():
    bill = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    bill["components"][0]["hashes"] = [{"alg": "SHA-256", "content": "none"}]
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))
    return [] if error else ["the schema allows it"]


def main():
    failed = 0
    for number, function in enumerate(checks, 1):
        wrong = function()
        failed += bool(wrong)
        name = function.__name__.replace("_", " ")
        print(f"not ok {number} - {name}: {'; '.join(wrong)}" if wrong else f"ok {number} - {name}", flush=True)
    print(f"1..{len(checks)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
