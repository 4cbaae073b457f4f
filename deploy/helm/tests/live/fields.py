"""Which fields of a pod are carried out here, and why the others may be left out.

A field that stands in neither list is an error: what a chart asks for is never skipped in silence.
"""


class Unsupported(Exception):
    """The chart asks for something that this stand-in for a kubelet does not do."""


# Fields that are carried out have no reason beside them.
CARRIED_OUT = None

POD = {
    "containers": CARRIED_OUT,
    "initContainers": CARRIED_OUT,
    "volumes": CARRIED_OUT,
    "securityContext": CARRIED_OUT,
    "terminationGracePeriodSeconds": CARRIED_OUT,
    "restartPolicy": "a container that ends unasked is a failed check, so nothing is ever started again",
    "serviceAccountName": "there is no API server; the program never asks for one",
    "automountServiceAccountToken": "no token is mounted in any case",
    "enableServiceLinks": "a process gets no variable but the rendered ones in any case",
    "imagePullSecrets": "nothing is pulled",
    "priorityClassName": "there is one node",
    "nodeSelector": "there is one node",
    "affinity": "there is one node",
    "tolerations": "there is one node",
    "topologySpreadConstraints": "there is one node",
}

CONTAINER = {
    "name": CARRIED_OUT,
    "image": CARRIED_OUT,
    "command": CARRIED_OUT,
    "args": CARRIED_OUT,
    "env": CARRIED_OUT,
    "envFrom": CARRIED_OUT,
    "ports": CARRIED_OUT,
    "startupProbe": CARRIED_OUT,
    "readinessProbe": CARRIED_OUT,
    "livenessProbe": CARRIED_OUT,
    "lifecycle": CARRIED_OUT,
    "securityContext": CARRIED_OUT,
    "volumeMounts": CARRIED_OUT,
    "imagePullPolicy": "nothing is pulled",
    "resources": "no cgroup is made: the processes share this machine",
}

POD_SECURITY = {
    "runAsNonRoot": CARRIED_OUT,
    "runAsUser": CARRIED_OUT,
    "runAsGroup": CARRIED_OUT,
    "fsGroup": CARRIED_OUT,
    "seccompProfile": "a container is under the runtime's own; a process is under none",
}

CONTAINER_SECURITY = {
    "runAsNonRoot": CARRIED_OUT,
    "allowPrivilegeEscalation": CARRIED_OUT,
    "capabilities": CARRIED_OUT,
    "readOnlyRootFilesystem": "a container's is; a process sees this machine's, which its user cannot write to",
}

PROBE = {
    "httpGet": CARRIED_OUT,
    "periodSeconds": CARRIED_OUT,
    "timeoutSeconds": CARRIED_OUT,
    "failureThreshold": CARRIED_OUT,
    "successThreshold": CARRIED_OUT,
    "initialDelaySeconds": CARRIED_OUT,
}

HTTP_GET = {"path": CARRIED_OUT, "port": CARRIED_OUT, "scheme": CARRIED_OUT}

MOUNT = {
    "name": CARRIED_OUT,
    "mountPath": CARRIED_OUT,
    "subPath": CARRIED_OUT,
    "readOnly": "a container's mount is; for a process, the files belong to another user",
}

SECRET = {"secretName": CARRIED_OUT, "defaultMode": CARRIED_OUT}
CONFIG_MAP = {"name": CARRIED_OUT, "defaultMode": CARRIED_OUT}
EMPTY_DIR = {"sizeLimit": "nothing evicts here"}
CLAIM = {"claimName": CARRIED_OUT, "readOnly": "the mount says so, too; the files belong to another user"}
IMAGE_VOLUME = {"reference": CARRIED_OUT, "pullPolicy": "nothing is pulled"}


def known(what, fields, allowed):
    """Refuses `fields` of `what` that `allowed` does not list.

    Raises Unsupported with the names of all of them.
    """
    unknown = sorted(set(fields) - set(allowed))
    if unknown:
        raise Unsupported(f"{what}: {', '.join(unknown)}")


def pod(spec):
    """Refuses a pod of which some field is not known. Volumes are looked at where they are made."""
    known("pod", spec, POD)
    known("pod.securityContext", spec.get("securityContext", {}), POD_SECURITY)
    for container in spec.get("initContainers", []) + spec["containers"]:
        name = container["name"]
        known(name, container, CONTAINER)
        security = container.get("securityContext", {})
        known(f"{name}.securityContext", security, CONTAINER_SECURITY)
        known(f"{name}.capabilities", security.get("capabilities", {}), ("drop",))
        for mount in container.get("volumeMounts", []):
            known(f"{name}.volumeMounts", mount, MOUNT)
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind, {})
            known(f"{name}.{kind}", probe, PROBE)
            known(f"{name}.{kind}.httpGet", probe.get("httpGet", {}), HTTP_GET)
        lifecycle = container.get("lifecycle", {})
        known(f"{name}.lifecycle", lifecycle, ("preStop",))
        known(f"{name}.lifecycle.preStop", lifecycle.get("preStop", {}), ("sleep",))
