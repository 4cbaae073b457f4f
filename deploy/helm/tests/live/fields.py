"""Fields of a pod that this kubelet implements, and the reasons why it may ignore others.

Any other field is an error, so that no field of the chart is ignored by accident.
"""


class Unsupported(Exception):
    """The chart uses a feature that this simulated kubelet does not implement."""


# Marks implemented fields; ignored fields have a reason instead.
IMPLEMENTED = None

POD = {
    "containers": IMPLEMENTED,
    "initContainers": IMPLEMENTED,
    "volumes": IMPLEMENTED,
    "securityContext": IMPLEMENTED,
    "terminationGracePeriodSeconds": IMPLEMENTED,
    "restartPolicy": "a container that exits by itself fails the check, so no container is restarted",
    "serviceAccountName": "there is no API server, and the program never calls one",
    "automountServiceAccountToken": "no token is ever mounted",
    "enableServiceLinks": "a process only gets the rendered variables",
    "imagePullSecrets": "nothing is pulled",
    "priorityClassName": "there is one node",
    "nodeSelector": "there is one node",
    "affinity": "there is one node",
    "tolerations": "there is one node",
    "topologySpreadConstraints": "there is one node",
}

CONTAINER = {
    "name": IMPLEMENTED,
    "image": IMPLEMENTED,
    "command": IMPLEMENTED,
    "args": IMPLEMENTED,
    "env": IMPLEMENTED,
    "envFrom": IMPLEMENTED,
    "ports": IMPLEMENTED,
    "startupProbe": IMPLEMENTED,
    "readinessProbe": IMPLEMENTED,
    "livenessProbe": IMPLEMENTED,
    "lifecycle": IMPLEMENTED,
    "securityContext": IMPLEMENTED,
    "volumeMounts": IMPLEMENTED,
    "imagePullPolicy": "nothing is pulled",
    "resources": "no cgroup is created; the processes share this machine",
}

POD_SECURITY = {
    "runAsNonRoot": IMPLEMENTED,
    "runAsUser": IMPLEMENTED,
    "runAsGroup": IMPLEMENTED,
    "fsGroup": IMPLEMENTED,
    "seccompProfile": "a container has the profile of the runtime; a process has none",
}

CONTAINER_SECURITY = {
    "runAsNonRoot": IMPLEMENTED,
    "allowPrivilegeEscalation": IMPLEMENTED,
    "capabilities": IMPLEMENTED,
    "readOnlyRootFilesystem": "implemented for containers; for a process, the root belongs to another user",
}

PROBE = {
    "httpGet": IMPLEMENTED,
    "periodSeconds": IMPLEMENTED,
    "timeoutSeconds": IMPLEMENTED,
    "failureThreshold": IMPLEMENTED,
    "successThreshold": IMPLEMENTED,
    "initialDelaySeconds": IMPLEMENTED,
}

HTTP_GET = {"path": IMPLEMENTED, "port": IMPLEMENTED, "scheme": IMPLEMENTED}

MOUNT = {
    "name": IMPLEMENTED,
    "mountPath": IMPLEMENTED,
    "subPath": IMPLEMENTED,
    "readOnly": "implemented for containers; for a process, the files belong to another user",
}

SECRET = {"secretName": IMPLEMENTED, "defaultMode": IMPLEMENTED}
CONFIG_MAP = {"name": IMPLEMENTED, "defaultMode": IMPLEMENTED}
EMPTY_DIR = {"sizeLimit": "no pod is evicted"}
CLAIM = {"claimName": IMPLEMENTED, "readOnly": "the mount is read-only, too; the files belong to another user"}
IMAGE_VOLUME = {"reference": IMPLEMENTED, "pullPolicy": "nothing is pulled"}


def require_known(what, fields, allowed):
    """Raises Unsupported with the names of all `fields` of `what` that are not in `allowed`."""
    unknown = sorted(set(fields) - set(allowed))
    if unknown:
        raise Unsupported(f"{what}: {', '.join(unknown)}")


def pod(spec):
    """Raises Unsupported for a pod with unknown fields. Volumes are checked when they are created."""
    require_known("pod", spec, POD)
    require_known("pod.securityContext", spec.get("securityContext", {}), POD_SECURITY)
    for container in spec.get("initContainers", []) + spec["containers"]:
        name = container["name"]
        require_known(name, container, CONTAINER)
        security = container.get("securityContext", {})
        require_known(f"{name}.securityContext", security, CONTAINER_SECURITY)
        require_known(f"{name}.capabilities", security.get("capabilities", {}), ("drop",))
        for mount in container.get("volumeMounts", []):
            require_known(f"{name}.volumeMounts", mount, MOUNT)
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind, {})
            require_known(f"{name}.{kind}", probe, PROBE)
            require_known(f"{name}.{kind}.httpGet", probe.get("httpGet", {}), HTTP_GET)
        lifecycle = container.get("lifecycle", {})
        require_known(f"{name}.lifecycle", lifecycle, ("preStop",))
        require_known(f"{name}.lifecycle.preStop", lifecycle.get("preStop", {}), ("sleep",))
