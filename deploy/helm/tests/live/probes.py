"""Asks a container's probes as the kubelet does, and keeps every answer.

Periods and delays are scaled down; thresholds and timeouts are kept, because they are what a probe means.
"""

import http.client
import ssl
import threading
import time
from dataclasses import dataclass

# A test cannot wait ten seconds between two probes.
PERIOD_SCALE = 0.1


@dataclass(frozen=True)
class Answer:
    """What a probe got: a status or the text of an error, at `time` of the monotonic clock in seconds."""

    time: float
    status: int | None
    error: str = ""

    @property
    def success(self):
        return self.status is not None and 200 <= self.status < 400


class Probe:
    """One probe of one container, by the fields of the API."""

    def __init__(self, fields, ports):
        """`ports` maps the container's ports, by name and number, to those of this machine."""
        get = fields["httpGet"]
        self._path = get["path"]
        self._port = ports[get["port"]]
        self._https = get.get("scheme", "HTTP") == "HTTPS"
        self._timeout = fields.get("timeoutSeconds", 1)
        self.delay = fields.get("initialDelaySeconds", 0) * PERIOD_SCALE
        self.period = fields.get("periodSeconds", 10) * PERIOD_SCALE
        self.failures = fields.get("failureThreshold", 3)
        self.successes = fields.get("successThreshold", 1)
        self.answers = []

    def ask(self):
        """One question; its answer is kept, too."""
        if self._https:
            # As the kubelet: a probe does not check the certificate.
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=self._timeout, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)
        now = time.monotonic()
        try:
            connection.request("GET", self._path, headers={"user-agent": "kube-probe/1.33", "connection": "close"})
            answer = Answer(now, connection.getresponse().status)
        except (OSError, http.client.HTTPException) as error:
            answer = Answer(now, None, repr(error))
        finally:
            connection.close()
        self.answers.append(answer)
        return answer

    def watch(self, stop, changed):
        """Asks until `stop`; calls `changed(True)` or `changed(False)` each time a threshold is reached.

        Ends when that returns true.
        """
        stop.wait(self.delay)
        row, last = 0, None
        while not stop.is_set():
            success = self.ask().success
            row = row + 1 if success == last else 1
            last = success
            if row == (self.successes if success else self.failures) and changed(success):
                return
            stop.wait(self.period)


class Prober:
    """A container's three probes: startup first, and the other two once it has succeeded."""

    def __init__(self, container, ports, on_ready, on_death):
        """`on_ready` is told whether the container is ready, `on_death` why the kubelet would kill it."""
        kinds = ("startupProbe", "readinessProbe", "livenessProbe")
        probes = [Probe(container[kind], ports) if kind in container else None for kind in kinds]
        self.startup, self.readiness, self.liveness = probes
        self._on_ready, self._on_death = on_ready, on_death
        self._ending, self._ended = threading.Event(), threading.Event()
        self._threads = []

    def begin(self):
        if self.startup:
            self._start(self.startup, self._ending, self._started)
        else:
            self._started(True)

    def terminating(self):
        """From now on only readiness is asked, as when a pod is being deleted."""
        self._ending.set()

    def end(self):
        """Asks no more, and waits until no question is under way."""
        self._ending.set()
        self._ended.set()
        # The list may grow by the two that the startup probe starts.
        for thread in self._threads:
            thread.join()

    def _start(self, probe, stop, changed):
        thread = threading.Thread(target=probe.watch, args=(stop, changed), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _started(self, success):
        if not success:
            self._on_death("the startup probe failed")
            return True
        if self.readiness:
            self._start(self.readiness, self._ended, self._on_ready)
        else:
            self._on_ready(True)
        if self.liveness:
            self._start(self.liveness, self._ending, self._lived)
        return True

    def _lived(self, success):
        if not success:
            self._on_death("the liveness probe failed")
        return not success
