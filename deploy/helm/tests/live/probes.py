"""Runs a container's probes as the kubelet does, and records every result.

Periods and delays are scaled down to shorten the test; thresholds and timeouts are unchanged.
"""

import http.client
import ssl
import threading
import time
from dataclasses import dataclass

PERIOD_SCALE = 0.1


@dataclass(frozen=True)
class ProbeResult:
    """The result of one probe: an HTTP status or an error, at `time` in seconds of the monotonic clock."""

    time: float
    status: int | None
    error: str = ""

    @property
    def success(self):
        return self.status is not None and 200 <= self.status < 400


class Probe:
    """One probe of one container, configured by the fields of the API."""

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
        self.results = []

    def send(self):
        """Sends one probe; records and returns its result."""
        if self._https:
            # The kubelet does not verify certificates either.
            context = ssl._create_unverified_context()
            connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=self._timeout, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=self._timeout)
        now = time.monotonic()
        try:
            connection.request("GET", self._path, headers={"user-agent": "kube-probe/1.33", "connection": "close"})
            result = ProbeResult(now, connection.getresponse().status)
        except (OSError, http.client.HTTPException) as error:
            result = ProbeResult(now, None, repr(error))
        finally:
            connection.close()
        self.results.append(result)
        return result

    def watch(self, stop, changed):
        """Probes until `stop`; calls `changed(True)` or `changed(False)` each time a threshold is reached.

        Ends if that call returns true.
        """
        stop.wait(self.delay)
        streak, last = 0, None
        while not stop.is_set():
            success = self.send().success
            streak = streak + 1 if success == last else 1
            last = success
            if streak == (self.successes if success else self.failures) and changed(success):
                return
            stop.wait(self.period)


class Prober:
    """A container's three probes; readiness and liveness start after the startup probe has succeeded."""

    def __init__(self, container, ports, on_ready, on_death):
        """Calls `on_ready(bool)` if readiness changes, `on_death(reason)` if the kubelet would kill the container."""
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

    def stop_all_but_readiness(self):
        """Stops the startup and liveness probes, as when a pod is being deleted."""
        self._ending.set()

    def end(self):
        """Stops all probes and waits for those in flight."""
        self._ending.set()
        self._ended.set()
        # The startup probe may still add the threads of the other two.
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
