"""One release on this machine: its Secrets, its Deployment, and the Service in front of its pods."""

import contextlib
import itertools
import pathlib
import shutil
import tempfile
from dataclasses import dataclass

import image
from cluster import Cluster
from deployment import Deployment
from kubelet import Pod
from release import NAMESPACE, render
from service import Service

# Name of the pods' API port in the chart.
API = "http"
# Seconds between the update of the endpoints and SIGTERM: the latest update that the chart tolerates.
BEFORE_SIGTERM = 1


@dataclass
class Bench:
    """Common inputs of all checks: programs, chart, the gateway's image and a temporary folder."""

    helm: pathlib.Path
    chart: pathlib.Path
    prometheus: pathlib.Path
    gateway: image.Image
    folder: pathlib.Path

    def render(self, values=None, files=()):
        """Renders the chart with these files of its folder `ci`, overridden by `values`."""
        return render(self.helm, self.chart, values or {}, files)


@contextlib.contextmanager
def bench(binary, container, helm, chart, prometheus):
    """Uses the built image or creates its files, and removes all temporary files at the end."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="embedgate-chart-"))
    folder.chmod(0o755)
    try:
        gateway = container or image.unpack(binary, folder / "image")
        yield Bench(helm, chart, prometheus, gateway, folder)
    finally:
        shutil.rmtree(folder)


_numbers = itertools.count(1)


class Stage:
    """Runs one release. Objects outside the release are added to `cluster` before pods are started."""

    def __init__(self, bench, release, propagation=None):
        """`propagation` of the Service in seconds; the default is the maximum that the chart's preStop allows."""
        self.release = release
        self.folder = bench.folder / f"stage-{next(_numbers)}"
        self.folder.mkdir(mode=0o755)
        self.cluster = Cluster(NAMESPACE)
        self.cluster.add(release.objects)
        rendered = release.one("Deployment")
        (container,) = rendered["spec"]["template"]["spec"]["containers"]
        self.cluster.images[container["image"]] = bench.gateway
        self.deployment = Deployment(rendered, self.cluster, self.folder)
        if propagation is None:
            propagation = container["lifecycle"]["preStop"]["sleep"]["seconds"] - BEFORE_SIGTERM
        name, number = release.service_of(API)
        self.service = Service(API, propagation)
        self.service.pods = self.deployment.history
        self._dns = f"{name}:{number}"

    def __enter__(self):
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self.service)
        self._stack.enter_context(self.deployment)
        self.cluster.addresses[self._dns] = self.service.address
        return self

    def __exit__(self, *error):
        self._stack.__exit__(*error)

    def start(self, replicas):
        """Starts pods up to `replicas`; returns them when all are ready."""
        self.deployment.scale(replicas)
        return self.deployment.pods

    def update_secret(self, name, data):
        """Changes a Secret and updates the mounted folders of every pod immediately."""
        self.cluster.secrets[name] = data
        for pod in self.deployment.pods:
            pod.sync()

    def run_hook(self):
        """Runs the test hook of the release like `helm test`; returns its exit status and output."""
        rendered = self.release.one("Pod", hook=True)
        (container,) = rendered["spec"]["containers"]
        self.cluster.images[container["image"]] = image.python()
        with Pod(rendered["metadata"]["name"], rendered, self.cluster, self.folder / "hook") as pod:
            return pod.run()
