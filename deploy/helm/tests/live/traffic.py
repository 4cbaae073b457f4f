"""Clients that continuously request embeddings without retries, and record failures."""

import http.client
import itertools
import json
import math
import select
import ssl
import threading
import time

MODEL = "text-embedding-3-small"
DIMENSIONS = 384
# Seconds between two requests of a client, which leaves CPU time to the other processes.
BUSY_INTERVAL = 0.005
# One client sends rarely, so that its kept-alive connection is idle when the pod ends.
IDLE_INTERVAL = 1.7


class Traffic:
    """Clients of one address: some keep connections alive as long as the server does, some open one for each request.

    Before reuse, they check whether the server closed the kept-alive connection, as OpenAI's SDKs do.
    """

    def __init__(self, address, keep_alive=4, close=4, key=None, authority=None):
        """`authority` is a PEM file of trusted certificates; it selects HTTPS."""
        self._host, self._port = address.split(":")
        self._authority = authority
        # May be changed while requests are in flight.
        self.key = key
        self.answered = 0
        # Failures as (monotonic time, message).
        self.failures = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        kinds = [(True, BUSY_INTERVAL)] * keep_alive + [(True, IDLE_INTERVAL)] + [(False, BUSY_INTERVAL)] * close
        self._threads = [threading.Thread(target=self._run_client, args=kind, daemon=True) for kind in kinds]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_answered(self, more, seconds=20):
        """Waits for `more` further responses; raises RuntimeError after `seconds`."""
        wanted, end = self.answered + more, time.monotonic() + seconds
        while self.answered < wanted:
            if time.monotonic() > end:
                raise RuntimeError(f"{wanted - self.answered} responses are missing; failures: {self.failures[:3]}")
            time.sleep(0.01)

    def complaints(self):
        """Complaints about failed requests."""
        if not self.answered:
            yield "no request was answered at all"
        if self.failures:
            yield f"{len(self.failures)} of {self.answered + len(self.failures)} requests failed, such as:"
            yield from (f"{text} (at {when:.2f} s)" for when, text in self.failures[:5])

    def _run_client(self, keep_alive, interval):
        connection = self._connect()
        while not self._stop.is_set():
            failure = None
            if connection.sock and select.select([connection.sock], [], [], 0)[0]:
                connection.close()
            try:
                failure = self._send(connection, keep_alive)
            except (OSError, http.client.HTTPException) as error:
                failure = f"{type(error).__name__}: {error} ({'kept connection' if keep_alive else 'new connection'})"
            with self._lock:
                if failure is None:
                    self.answered += 1
                else:
                    self.failures.append((time.monotonic(), failure))
            if failure or not keep_alive:
                connection.close()
                connection = self._connect()
            self._stop.wait(interval)
        connection.close()

    def _connect(self):
        if self._authority is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=30)
        # Loaded for each connection, so that a changed file takes effect.
        context = ssl.create_default_context(cafile=self._authority)
        return http.client.HTTPSConnection(self._host, self._port, timeout=30, context=context)

    def _send(self, connection, keep_alive):
        # Each text is different, so that the model computes it and the cache cannot answer.
        status, body = post(connection, f"Request number {next(self._numbers)} of many.", self.key, keep_alive)
        if status != 200:
            return f"{status} {body}"
        vector = body["data"][0]["embedding"]
        if len(vector) != DIMENSIONS or abs(math.hypot(*vector) - 1) > 1e-3:
            return f"a vector with {len(vector)} dimensions and length {math.hypot(*vector)}"
        return None


def post(connection, texts, key=None, keep_alive=True):
    """Sends one embeddings request; returns status and parsed body. Raises the errors of `http.client`."""
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    if not keep_alive:
        headers["connection"] = "close"
    connection.request("POST", "/v1/embeddings", json.dumps({"model": MODEL, "input": texts}), headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())
