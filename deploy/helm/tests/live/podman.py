"""A rendered container as a real one: the flags of podman that say what the pod's fields say.

The network is the machine's, so that the stand-ins for a Service and for a kubelet reach it; all else is the
container's own, with the image's files under their own paths.
"""

import json
import subprocess
import uuid

from fields import Unsupported

# As the test of the image: no control groups, and limits that every machine allows.
MACHINE = ["--network=host", "--cgroups=disabled", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]


class Container:
    """One container by its name. `podman` is the command that starts podman, as a list."""

    def __init__(self, podman):
        self._podman = podman
        self._name = f"embedgate-{uuid.uuid4().hex[:12]}"

    def run(self, image, container, context, group, environment, arguments, mounts):
        """The command that runs `container` of a pod in the foreground.

        `context` is both security contexts as one, `group` the pod's fsGroup, `arguments` the words of its `args`,
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
        """The id of its first process, as this machine counts."""
        done = subprocess.run(
            [*self._podman, "container", "inspect", "--format={{.State.Pid}}", self._name],
            check=True, capture_output=True, text=True, timeout=60,
        )
        return int(done.stdout)

    def remove(self):
        """Ends it at once, if it is still there."""
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
    # The runtime's own profile is podman's default.
    profile = context.get("seccompProfile", {"type": "Unconfined"})["type"]
    if profile == "Unconfined":
        words.append("--security-opt=seccomp=unconfined")
    elif profile != "RuntimeDefault":
        raise Unsupported(f"seccompProfile: {profile}")
    return words
