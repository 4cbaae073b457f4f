"""Clients that ask for vectors without pause or retry, and count what goes wrong."""

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
# Between two requests of a client, in seconds: the other processes need the processors, too.
BUSY_PAUSE = 0.005
# One client asks now and then, so that a kept connection is idle when its pod ends.
IDLE_PAUSE = 1.7


class Traffic:
    """Clients of one address: some keep their connection as long as the server does, some make one for each request.

    They look whether a kept connection was closed before they use it again, as the clients of OpenAI's SDKs do.
    """

    def __init__(self, address, keep_alive=4, close=4, key=None, authority=None):
        """`authority` is a PEM file of trusted certificates, and means HTTPS."""
        self._host, self._port = address.split(":")
        self._authority = authority
        # May be changed while requests are under way.
        self.key = key
        self.answered = 0
        # What went wrong, and when by the monotonic clock.
        self.failures = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        kinds = [(True, BUSY_PAUSE)] * keep_alive + [(True, IDLE_PAUSE)] + [(False, BUSY_PAUSE)] * close
        self._threads = [threading.Thread(target=self._ask_on, args=kind, daemon=True) for kind in kinds]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_answered(self, more, seconds=20):
        """Waits for so many more answers; raises RuntimeError when they do not come."""
        wanted, end = self.answered + more, time.monotonic() + seconds
        while self.answered < wanted:
            if time.monotonic() > end:
                raise RuntimeError(f"{wanted - self.answered} answers did not come; failures: {self.failures[:3]}")
            time.sleep(0.01)

    def complaints(self):
        """Sentences about failed requests: none when there are none."""
        if not self.answered:
            yield "no request was answered at all"
        if self.failures:
            yield f"{len(self.failures)} of {self.answered + len(self.failures)} requests failed, such as:"
            yield from (f"{text} (at {when:.2f} s)" for when, text in self.failures[:5])

    def _ask_on(self, keep_alive, pause):
        connection = self._connect()
        while not self._stop.is_set():
            failure = None
            if connection.sock and select.select([connection.sock], [], [], 0)[0]:
                connection.close()
            try:
                failure = self._ask(connection, keep_alive)
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
            self._stop.wait(pause)
        connection.close()

    def _connect(self):
        if self._authority is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=30)
        # Read anew each time: a rotated certificate is trusted from its own moment on.
        context = ssl.create_default_context(cafile=self._authority)
        return http.client.HTTPSConnection(self._host, self._port, timeout=30, context=context)

    def _ask(self, connection, keep_alive):
        # Never the same text twice: the answer must come from the model, not from its cache.
        status, body = post(connection, f"Request number {next(self._numbers)} of many.", self.key, keep_alive)
        if status != 200:
            return f"{status} {body}"
        vector = body["data"][0]["embedding"]
        if len(vector) != DIMENSIONS or abs(math.hypot(*vector) - 1) > 1e-3:
            return f"a vector of {len(vector)} dimensions and length {math.hypot(*vector)}"
        return None


def post(connection, texts, key=None, keep_alive=True):
    """One request for vectors; yields status and parsed body. Errors are those of `http.client`."""
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    if not keep_alive:
        headers["connection"] = "close"
    connection.request("POST", "/v1/embeddings", json.dumps({"model": MODEL, "input": texts}), headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())
