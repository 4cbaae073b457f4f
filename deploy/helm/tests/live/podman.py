"""Runs a rendered container with podman: maps the fields of a pod to podman's flags.

The container uses the network of this machine, so that the simulated Service and kubelet can reach it. Everything
else is isolated, and the files of the image keep their paths.
"""

import json
import subprocess
import uuid

from fields import Unsupported

# The same options as in the image's test: no cgroups, and limits that every machine allows.
MACHINE = ["--network=host", "--cgroups=disabled", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]


class Container:
    """One named container. `podman` is the command that starts podman, as a list."""

    def __init__(self, podman):
        self._podman = podman
        self._name = f"embedgate-{uuid.uuid4().hex[:12]}"

    def run(self, image, container, context, group, environment, arguments, mounts):
        """The command that runs `container` of a pod in the foreground.

        `context` is the merged security context, `group` the pod's fsGroup, `arguments` the words of its `args`,
        `mounts` pairs of a folder of this machine and the entry of `volumeMounts`.
        """
        words = [*self._podman, "run", "--rm", "--pull=never", f"--name={self._name}", *MACHINE]
        words += _security(context)
        if group is not None:
            words.append(f"--group-add={group}")
        for name, value in environment.items():
            words.append(f"--env={name}={value}")
        for folder, mount in mounts:
            mode = "ro" if mount.get("readOnly") else "rw"
            words.append(f"--volume={folder}:{mount['mountPath']}:{mode}")
        if command := container.get("command"):
            words.append(f"--entrypoint={json.dumps(command)}")
        return [*words, image, *arguments]

    def process(self):
        """The id of its main process on this machine."""
        done = subprocess.run(
            [*self._podman, "container", "inspect", "--format={{.State.Pid}}", self._name],
            check=True, capture_output=True, text=True, timeout=60,
        )
        return int(done.stdout)

    def remove(self):
        """Kills and removes the container, if it still exists."""
        subprocess.run(
            [*self._podman, "rm", "--force", "--ignore", "--time=0", self._name],
            check=True, capture_output=True, timeout=60,
        )


def _security(context):
    words = [f"--user={context['runAsUser']}:{context['runAsGroup']}"]
    if context.get("readOnlyRootFilesystem"):
        words += ["--read-only", "--read-only-tmpfs=false"]
    if not context.get("allowPrivilegeEscalation", True):
        words.append("--security-opt=no-new-privileges")
    for capability in context.get("capabilities", {}).get("drop", []):
        words.append(f"--cap-drop={capability}")
    # RuntimeDefault is podman's default profile.
    profile = context.get("seccompProfile", {"type": "Unconfined"})["type"]
    if profile == "Unconfined":
        words.append("--security-opt=seccomp=unconfined")
    elif profile != "RuntimeDefault":
        raise Unsupported(f"seccompProfile: {profile}")
    return words
