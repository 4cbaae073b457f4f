"""A Deployment: replicas of one pod template, and rolling updates to another template."""

import itertools
import math
import time

from kubelet import Pod


class Deployment:
    """The pods of a rendered Deployment. Services read the list `pods`."""

    def __init__(self, rendered, cluster, folder):
        """`rendered` is the object; the files of the pods are in `folder`."""
        self._name = rendered["metadata"]["name"]
        self._cluster = cluster
        self._folder = folder
        self._numbers = itertools.count(1)
        self._rendered = rendered
        self.pods = []
        # All pods, including deleted ones.
        self.history = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for pod in self.history:
            pod.__exit__(*error)

    def scale(self, replicas):
        """Starts pods up to `replicas` and waits until all are ready."""
        while len(self.pods) < replicas:
            self._add()
        for pod in self.pods:
            pod.wait_ready()

    def begin_deletion(self, pod):
        """Removes a pod from the Deployment; returns the thread that deletes it."""
        self.pods.remove(pod)
        return pod.begin_deletion()

    def roll(self, rendered, seconds=90):
        """Replaces every pod by one of a new rendering, within its maxSurge and maxUnavailable.

        Raises RuntimeError after `seconds`.
        """
        spec = rendered["spec"]
        replicas, strategy = spec["replicas"], spec["strategy"]["rollingUpdate"]
        max_pods = replicas + _count(strategy["maxSurge"], replicas, math.ceil)
        min_ready = replicas - _count(strategy["maxUnavailable"], replicas, math.floor)
        old, deletions = list(self.pods), []
        self._rendered = rendered
        end = time.monotonic() + seconds
        while old or not all(pod.ready for pod in self.pods):
            if time.monotonic() > end:
                raise RuntimeError(f"the rolling update took more than {seconds} s")
            new = [pod for pod in self.pods if pod not in old]
            # A pod that is being deleted does not count, as in Kubernetes.
            if len(self.pods) < max_pods and len(new) < replicas:
                self._add()
            elif old and sum(pod.ready for pod in self.pods) - old[0].ready >= min_ready:
                pod = old.pop(0)
                deletions.append((pod, self.begin_deletion(pod)))
            time.sleep(0.02)
        for pod, deletion in deletions:
            deletion.join(max(0, end - time.monotonic()))
            if deletion.is_alive():
                raise RuntimeError(f"{pod.name} still existed after {seconds} s")


    def _add(self):
        name = f"{self._name}-{next(self._numbers)}"
        pod = Pod(name, self._rendered["spec"]["template"], self._cluster, self._folder / name)
        self.history.append(pod)
        self.pods.append(pod.start())


def _count(value, replicas, rounded):
    """A number of pods, from an absolute number or a percentage of the replicas."""
    if isinstance(value, str):
        return rounded(int(value.removesuffix("%")) * replicas / 100)
    return value
