"""Renders the chart with Helm for a set of values."""

import subprocess

import yaml

NAME = "live"
NAMESPACE = "embeddings"
# One supported version; the static checks cover the others.
KUBERNETES = "1.33.0"


class Release:
    """The objects of one rendering."""

    def __init__(self, objects):
        self.objects = objects

    def one(self, kind, hook=False):
        """The only object of this kind that is, or is not, a hook; ValueError unless there is exactly one."""
        is_hook = lambda item: "helm.sh/hook" in item["metadata"].get("annotations", {})
        (item,) = [item for item in self.objects if item["kind"] == kind and is_hook(item) == hook]
        return item

    def kind(self, kind):
        return [item for item in self.objects if item["kind"] == kind]

    def service_of(self, port):
        """The name and port number of the Service for the pods' port of this name."""
        ((service, number),) = [
            (service, one["port"])
            for service in self.kind("Service")
            for one in service["spec"]["ports"]
            if one["targetPort"] == port
        ]
        return service["metadata"]["name"], number


def render(helm, chart, values, files=()):
    """Renders the chart with the values of `files`, from its folder `ci`, overridden by `values`.

    Raises RuntimeError with Helm's message if it fails.
    """
    command = [str(helm), "template", NAME, str(chart), "--namespace", NAMESPACE, "--kube-version", KUBERNETES]
    for file in files:
        command += ["--values", str(chart / "ci" / f"{file}-values.yaml")]
    command += ["--values", "-"]
    done = subprocess.run(command, input=yaml.safe_dump(values), capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return Release([item for item in yaml.safe_load_all(done.stdout) if item])
