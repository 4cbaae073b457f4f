"""One release on this machine: its Secrets, its Deployment, and its Service in front of the pods."""

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

# The pods' port of the API, by the name that the chart gives it.
API = "http"
# The news of a deletion reaches every node this long before SIGTERM, which is as late as may be.
BEFORE_SIGTERM = 1


@dataclass
class Bench:
    """What all checks share: the programs, the chart, the gateway's image and a folder to work in."""

    helm: pathlib.Path
    chart: pathlib.Path
    prometheus: pathlib.Path
    gateway: image.Image
    folder: pathlib.Path

    def render(self, values=None, files=()):
        """The chart rendered with the values of these of its own files, and then with `values`."""
        return render(self.helm, self.chart, values or {}, files)


@contextlib.contextmanager
def bench(binary, container, helm, chart, prometheus):
    """Takes the built image, or lays one out, and cleans up behind everything."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="embedgate-chart-"))
    folder.chmod(0o755)
    try:
        gateway = container or image.unpack(binary, folder / "image")
        yield Bench(helm, chart, prometheus, gateway, folder)
    finally:
        shutil.rmtree(folder)


_numbers = itertools.count(1)


class Stage:
    """Plays one release. `cluster` may be given what the release refers to before pods are started."""

    def __init__(self, bench, release, propagation=None):
        """`propagation` is the Service's, in seconds; by default as late as the chart's preStop allows."""
        self.release = release
        self.folder = bench.folder / f"stage-{next(_numbers)}"
        self.folder.mkdir(mode=0o755)
        self.cluster = Cluster(NAMESPACE)
        self.cluster.take(release.objects)
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
        """Starts so many pods; yields them when they are ready."""
        self.deployment.scale(replicas)
        return self.deployment.pods

    def update_secret(self, name, data):
        """Changes a Secret and lets every pod's folders follow at once."""
        self.cluster.secrets[name] = data
        for pod in self.deployment.pods:
            pod.sync()

    def run_hook(self):
        """Runs the release's test as `helm test` would; yields its exit status and what it printed."""
        rendered = self.release.one("Pod", hook=True)
        (container,) = rendered["spec"]["containers"]
        self.cluster.images[container["image"]] = image.python()
        with Pod(rendered["metadata"]["name"], rendered, self.cluster, self.folder / "hook") as pod:
            return pod.run()
