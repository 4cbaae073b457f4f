"""Guarantees for every pod of the chart: hardening, graceful shutdown, confidential secrets, known settings."""

import base64
import re

# Variables with a secret; the program cannot read these settings from a file.
SECRET_VARIABLES = {"EMBEDGATE_LIMITS_REDIS_URL", "EMBEDGATE_CACHE_REDIS_URL"}


def check(objects, settings, own_containers):
    """Complaints of all rules; `settings` is docs/CONFIG.md, `own_containers` the names of the chart's containers."""
    yield from _hardening(objects, own_containers)
    yield from _shutdown(objects)
    yield from _probes(objects)
    yield from _settings(objects, settings)
    yield from _secrets(objects)


def _hardening(objects, own_containers):
    for what, _, spec in objects.pods():
        pod = spec.get("securityContext", {})
        for field, found, expected in (
            ("automountServiceAccountToken", spec.get("automountServiceAccountToken"), False),
            ("enableServiceLinks", spec.get("enableServiceLinks"), False),
            ("securityContext.runAsNonRoot", pod.get("runAsNonRoot"), True),
            ("securityContext.seccompProfile", pod.get("seccompProfile"), {"type": "RuntimeDefault"}),
        ):
            if found != expected:
                yield f"{what}: {field} is {found}, not {expected}"
        if pod.get("runAsUser", 0) == 0:
            yield f"{what} runs as root"
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(field):
                yield f"{what} sets {field}"
        for container in spec.get("initContainers", []) + spec["containers"]:
            if container["name"] not in own_containers:
                continue
            at = f"{what}, container {container['name']}"
            context = container.get("securityContext", {})
            for field, expected in (
                ("allowPrivilegeEscalation", False),
                ("readOnlyRootFilesystem", True),
                ("runAsNonRoot", True),
                ("capabilities", {"drop": ["ALL"]}),
            ):
                if context.get(field) != expected:
                    yield f"{at}: {field} is {context.get(field)}, not {expected}"
            name = container["image"].rpartition("/")[2]
            if name.endswith(":latest") or not re.search(r"[:@]", name):
                yield f"{at}: the image {container['image']} has no fixed tag"


def _gateway(objects):
    spec = objects.deployment()["spec"]["template"]["spec"]
    return spec, next(one for one in spec["containers"] if one["name"] == "embedgate")


def _shutdown(objects):
    """The grace period, which includes preStop, is longer than preStop, shutdown delay and drain together."""
    spec, container = _gateway(objects)
    variables = {one["name"]: one.get("value", "") for one in container["env"]}
    pre_stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    wanted = pre_stop
    for name in ("EMBEDGATE_SHUTDOWN_DELAY", "EMBEDGATE_DRAIN_TIMEOUT"):
        if name not in variables:
            yield f"{name} is not set; the grace period must not depend on the program's default"
            return
        seconds = int(variables[name].removesuffix("s"))
        if not seconds:
            yield f"{name} is zero"
        wanted += seconds
    if spec["terminationGracePeriodSeconds"] <= wanted:
        yield f"{spec['terminationGracePeriodSeconds']} s of grace for {wanted} s of preStop, shutdown delay and drain"


def _probes(objects):
    """The paths of probes and scrapes, with the prefix of all routes."""
    _, container = _gateway(objects)
    variables = {one["name"]: one.get("value", "") for one in container["env"]}
    prefix = variables.get("EMBEDGATE_PATH_PREFIX", "")
    for probe, path in (("startupProbe", "/startupz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
        found = container[probe]["httpGet"]
        if (found["path"], found["port"]) != (prefix + path, "ops"):
            yield f"{probe} requests {found}"
    for kind, field in (("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")):
        for endpoint in (endpoint for item in objects.kind(kind) for endpoint in item["spec"][field]):
            if endpoint["path"] != f"{prefix}/metrics":
                yield f"{kind} scrapes {endpoint['path']}, not {prefix}/metrics"


def _settings(objects, settings):
    """Complaints about unknown, repeated or unreloadable variables of the gateway's container."""
    _, container = _gateway(objects)
    known = set(re.findall(r"`(EMBEDGATE_[A-Z0-9_]+)`", settings))
    for variable in container["env"]:
        name = variable["name"]
        if name.startswith("EMBEDGATE_") and name not in known:
            yield f"the container's {name} is not a setting in docs/CONFIG.md"
        if "valueFrom" in variable and name.startswith("EMBEDGATE_") and name not in SECRET_VARIABLES:
            yield f"{name} is set from a Secret; a file can be reloaded, a variable cannot"
    names = [variable["name"] for variable in container["env"]]
    for name in {name for name in names if names.count(name) > 1}:
        yield f"{name} is set twice in the container's environment"


def _secrets(objects):
    """The data of the release's Secrets must not appear in any other object."""
    hidden = set()
    for item in objects.kind("Secret"):
        for value in item.get("data", {}).values():
            text = base64.b64decode(value).decode()
            hidden |= {part for line in text.splitlines() for part in [line, line.partition("=")[2]] if part}
    for item in objects.all:
        if item["kind"] == "Secret":
            continue
        text = str(item)
        for value in hidden:
            if value in text:
                yield f"{item['kind']} {item['metadata']['name']} contains data of a Secret"
