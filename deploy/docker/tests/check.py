"""Static checks of the Dockerfile, the Compose file and the software bill of materials (SBOM).

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
    """Registers a check: a function that returns complaints, one line each."""
    checks.append(function)
    return function


def complaints(*command):
    """The output lines of a linter that failed; empty if it succeeded."""
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
def hadolint_accepts_the_dockerfile():
    return hadolint(DOCKERFILE)


@check
def hadolint_rejects_a_faulty_dockerfile():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "Dockerfile"
        path.write_text("FROM debian\nRUN cd /tmp\nCMD sh\n", encoding="utf-8")
        return [] if hadolint(path) else ["hadolint reports nothing"]


@check
def dockerfile_and_compose_file_have_the_workspace_version():
    version = sys.argv[2]
    found = [line for line in DOCKERFILE.read_text(encoding="utf-8").splitlines() if line.startswith("ARG VERSION")]
    wrong = [f"{DOCKERFILE.name}: {line}" for line in found if line != f"ARG VERSION={version}"]
    image = services()["gateway"]["image"]
    return wrong + ([] if image == f"embedgate:{version}" else [f"{COMPOSE.name}: {image}"])


@check
def the_compose_file_is_valid():
    return schema(COMPOSE)


@check
def an_unknown_key_in_the_compose_file_is_rejected():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "compose.yaml"
        path.write_text(COMPOSE.read_text(encoding="utf-8").replace("cap_drop", "cap_drops", 1), encoding="utf-8")
        return [] if schema(path) else ["the schema accepts it"]


@check
def mounted_files_exist():
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
def every_service_is_hardened():
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
def paths_in_the_provisioning_files_are_mounted():
    mounted = {
        name: [volume.split(":")[1] for volume in service.get("volumes", [])] for name, service in services().items()
    }
    named = [("prometheus", path) for path in load(COMPOSE.parent / "prometheus.yaml")["rule_files"]]
    providers = load(COMPOSE.parent / "grafana/dashboards.yaml")["providers"]
    named += [("grafana", provider["options"]["path"] + "/") for provider in providers]
    return [f"{name}: {path}" for name, path in named if path.rpartition("/")[0] not in mounted[name]]


@check
def compose_file_and_image_have_the_same_health_check():
    test = services()["gateway"]["healthcheck"]["test"]
    return [] if f"CMD {json.dumps(test[1:])}" in DOCKERFILE.read_text(encoding="utf-8") else [str(test)]


@check
def the_sbom_is_valid():
    text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return [str(error)] if error else []


@check
def an_invalid_sbom_is_rejected():
    bill = json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8"))
    bill["components"][0]["hashes"] = [{"alg": "SHA-256", "content": "none"}]
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill))
    return [] if error else ["the schema accepts it"]


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
