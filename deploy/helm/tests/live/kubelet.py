"""A simulated kubelet: runs one rendered pod as a container or a process of this machine and deletes it.

Differences from a node: ports are mapped to free loopback ports, and names of Services to addresses. For a process,
paths of the image and of volumes are mapped to a temporary folder. All other fields are used unchanged.
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import fields
import podman
from fields import Unsupported
from probes import Prober
from volumes import Volumes

ROOT_USER = os.geteuid() == 0


class Pod:
    """A pod and the process of its one container. Times are monotonic, in seconds."""

    def __init__(self, name, template, cluster, folder):
        """`template` has `metadata` and `spec`; volumes are created in `folder`, which must not exist."""
        fields.pod(template["spec"])
        self.name = name
        self.metadata = template["metadata"]
        self.spec = template["spec"]
        if len(self.spec["containers"]) != 1:
            raise Unsupported("more than one container")
        (self.container,) = self.spec["containers"]
        self._cluster = cluster
        self._folder = folder
        security = self.spec.get("securityContext", {})
        self._group = security.get("fsGroup") if ROOT_USER else None
        folder.mkdir(mode=0o755, parents=True)
        self._volumes = Volumes(self.spec.get("volumes", []), cluster, folder / "volumes", self._group)
        # This machine's ports by the container's, by name and number.
        self.ports = {}
        for port in self.container.get("ports", []):
            self.ports[port["containerPort"]] = self.ports[port["name"]] = free_port()
        self.grace = self.spec.get("terminationGracePeriodSeconds", 30)
        self.ready = False
        # Times of the start of the deletion, of SIGTERM, and of the end of the process.
        self.deleted_at = self.signaled_at = self.ended_at = None
        # Reasons for which the kubelet would have killed the container.
        self.deaths = []
        self.status = None
        self._process = self._contained = None
        self.prober = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Cleans up after errors, too.
        if self.prober:
            self.prober.end()
        if self._process and self._process.poll() is None:
            self._kill(self._process)
        shutil.rmtree(self._folder)

    def start(self):
        """Runs the init containers to completion, then starts the container and its probes.

        Raises RuntimeError if an init container fails.
        """
        for container in self.spec.get("initContainers", []):
            done = self._launch(container, "init.log")
            if done.wait(timeout=60) != 0:
                raise RuntimeError(f"init container {container['name']}: {self.log('init.log')}")
        self._process = self._launch(self.container, "log")
        self.prober = Prober(self.container, self.ports, self._become_ready, self.deaths.append)
        self.prober.begin()
        return self

    def wait_ready(self, seconds=60):
        """Raises RuntimeError if the pod fails or is not ready within that time."""
        end = time.monotonic() + seconds
        while not self.ready:
            if self._process.poll() is not None or self.deaths or time.monotonic() > end:
                raise RuntimeError(f"{self.name} is not ready: {self.deaths or self._process.poll()}\n{self.log()}")
            time.sleep(0.01)

    def run(self, seconds=60):
        """Runs a pod to completion; returns its exit status and its output."""
        process = self._launch(self.container, "log")
        try:
            return process.wait(timeout=seconds), self.log()
        finally:
            self._kill(process)

    def sync(self):
        """Updates mounted Secrets and ConfigMaps, as the kubelet does within about a minute."""
        self._volumes.refresh()

    def begin_deletion(self):
        """Starts a thread that deletes the pod, and returns it."""
        thread = threading.Thread(target=self.delete, daemon=True)
        thread.start()
        return thread

    def delete(self):
        """Deletes the pod: preStop, SIGTERM, and SIGKILL after the grace period, which includes preStop."""
        self.deleted_at = time.monotonic()
        self.prober.stop_all_but_readiness()
        time.sleep(self.pre_stop)
        self.signaled_at = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        try:
            self.status = self._process.wait(timeout=self.grace - self.pre_stop)
        except subprocess.TimeoutExpired:
            self.status = self._kill(self._process)
        self.ended_at = time.monotonic()
        self.prober.end()

    @property
    def pre_stop(self):
        """Seconds from the start of the deletion to SIGTERM."""
        return self.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)

    @property
    def running(self):
        return self._process is not None and self._process.poll() is None

    @property
    def contained(self):
        """Returns true if it runs in a container."""
        return self._contained is not None

    @property
    def kernel_folder(self):
        """The folder of the process in /proc."""
        return pathlib.Path("/proc") / str(self._contained.process() if self._contained else self._process.pid)

    def kernel_status(self):
        """The process status from /proc: lists of words by field name."""
        lines = (self.kernel_folder / "status").read_text(encoding="ascii").splitlines()
        return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}

    def log(self, name="log"):
        """The output of the container."""
        return (self._folder / name).read_text(encoding="utf-8", errors="replace")

    def _become_ready(self, ready):
        self.ready = ready
        return False

    def _launch(self, container, log):
        image = self._cluster.images[container["image"]]
        variables = {} if image.podman else dict(image.environment)
        for source in container.get("envFrom", []):
            variables.update(self._all_of(source))
        for variable in container.get("env", []):
            value = self._value(variable)
            variables[variable["name"]] = _expand(value, variables)
        start = self._container_command if image.podman else self._process_command
        with open(self._folder / log, "wb") as file:
            return subprocess.Popen(
                **start(container, image, variables), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )

    def _container_command(self, container, image, variables):
        """The arguments of Popen that run `container` as a container."""
        arguments = [self._address(_expand(word, variables)) for word in container.get("args", [])]
        variables = {name: self._address(value) for name, value in variables.items()}
        mounts = [(self._mounted(mount), mount) for mount in container.get("volumeMounts", [])]
        self._contained = podman.Container(image.podman)
        context = self._context(container)
        return {"args": self._contained.run(image.name, container, context, self._group, variables, arguments, mounts)}

    def _process_command(self, container, image, variables):
        """The arguments of Popen that run `container` as a process of this machine."""
        words = container.get("command", image.entrypoint) + container.get("args", [])
        words = [self._local(_expand(word, variables), container, image) for word in words]
        variables = {name: self._local(value, container, image) for name, value in variables.items()}
        for mount in container.get("volumeMounts", []):
            if mount["mountPath"] == "/tmp":
                # /tmp itself belongs to this machine.
                variables["TMPDIR"] = str(self._mounted(mount))
        folder = self._local(image.folder, container, image)
        return {"args": self._security(container, image) + words, "env": variables, "cwd": folder}

    def _kill(self, process):
        """Kills a process and its container; returns the exit status."""
        if self._contained:
            self._contained.remove()
        process.kill()
        return process.wait()

    def _context(self, container):
        """The merged security contexts of pod and container."""
        context = self.spec.get("securityContext", {}) | container.get("securityContext", {})
        if context.get("runAsNonRoot") and context.get("runAsUser") == 0:
            raise RuntimeError("runAsNonRoot, and runAsUser is 0")
        return context

    def _security(self, container, image):
        """The command that applies both security contexts; without root, only as far as possible."""
        context = self._context(container)
        words = [shutil.which("setpriv")]
        if not context.get("allowPrivilegeEscalation", True):
            words.append("--no-new-privs")
        if drop := context.get("capabilities", {}).get("drop"):
            if drop != ["ALL"]:
                raise Unsupported(f"capabilities.drop: {drop}")
            if ROOT_USER:
                words += ["--bounding-set=-all", "--inh-caps=-all"]
        if ROOT_USER and image.any_user:
            words += [f"--reuid={context['runAsUser']}", f"--regid={context['runAsGroup']}", f"--groups={self._group}"]
        return words + ["--"]

    def _value(self, variable):
        if "value" in variable:
            return variable["value"]
        ((kind, source),) = variable.get("valueFrom", {"value": ""}).items()
        if kind == "value":
            return source
        if kind == "secretKeyRef":
            return self._cluster.secrets[source["name"]][source["key"]].decode()
        if kind == "configMapKeyRef":
            return self._cluster.config_maps[source["name"]][source["key"]].decode()
        paths = {
            "metadata.name": self.name,
            "metadata.namespace": self._cluster.namespace,
            "status.podIP": "127.0.0.1",
            "status.hostIP": "127.0.0.1",
        }
        if kind == "fieldRef" and source["fieldPath"] in paths:
            return paths[source["fieldPath"]]
        raise Unsupported(f"env {variable['name']}: {source}")

    def _all_of(self, source):
        fields.require_known("envFrom", source, ("secretRef", "configMapRef", "prefix"))
        if "secretRef" in source:
            data = self._cluster.secrets[source["secretRef"]["name"]]
        else:
            data = self._cluster.config_maps[source["configMapRef"]["name"]]
        return {source.get("prefix", "") + key: value.decode() for key, value in data.items()}

    def _address(self, text):
        """Maps a listening address, or the names of Services in `text`, to addresses of this machine."""
        if match := re.fullmatch(r"0\.0\.0\.0:(\d+)", text):
            return f"127.0.0.1:{self.ports[int(match[1])]}"
        return self._cluster.resolve(text)

    def _local(self, text, container, image):
        """Maps an address or a path to this machine."""
        places = [(mount["mountPath"], self._mounted(mount)) for mount in container.get("volumeMounts", [])]
        for path, folder in sorted(places, key=lambda place: -len(place[0])):
            if text == path or text.startswith(path.rstrip("/") + "/"):
                return str(folder) + text[len(path.rstrip("/")) :]
        if image.root and (image.root / text.lstrip("/")).exists() and text.startswith("/"):
            return str(image.root) + text
        return self._address(text)

    def _mounted(self, mount):
        return self._volumes.folders[mount["name"]] / mount.get("subPath", "")


def _expand(text, variables):
    """Replaces `$(NAME)` by the value of a known variable, and `$$` by a dollar sign."""
    value = lambda match: "$" if match[0] == "$$" else variables.get(match[1], match[0])
    return re.sub(r"\$\$|\$\((\w+)\)", value, text)


def free_port():
    """A free port of the loopback interface."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
