"""A simulated Service: a loopback address that distributes TCP connections over pods round-robin, like kube-proxy.

It forwards bytes and does not parse HTTP. Only ready pods get new connections. A pod that is being deleted gets new
connections until the endpoints are updated. An established connection always stays with its pod.
"""

import asyncio
import itertools
import threading
import time

CHUNK = 1 << 16


class Service:
    """One port of a Service for the pods in the list `pods`, which may change."""

    def __init__(self, target_port, propagation):
        """`propagation`: seconds for which a pod that is being deleted still gets connections."""
        self._target_port = target_port
        self._propagation = propagation
        self.pods = []
        # Number of connections by name of the pod; "" if no pod was ready.
        self.connections = {}
        self._turn = itertools.count()
        # The event loop holds only weak references to tasks.
        self._tasks = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        listening = asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_):
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def endpoints(self):
        """The pods that may get a new connection."""
        now = time.monotonic()
        is_removed = lambda pod: pod.deleted_at is not None and now >= pod.deleted_at + self._propagation
        return [pod for pod in self.pods if pod.ready and not is_removed(pod)]

    async def _accept(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        endpoints = self.endpoints()
        pod = endpoints[next(self._turn) % len(endpoints)] if endpoints else None
        name = pod.name if pod else ""
        self.connections[name] = self.connections.get(name, 0) + 1
        if pod is None:
            writer.transport.abort()
            return
        try:
            pod_reader, pod_writer = await asyncio.open_connection("127.0.0.1", pod.ports[self._target_port])
        except OSError:
            writer.transport.abort()
            return
        try:
            await asyncio.gather(_copy(reader, pod_writer), _copy(pod_reader, writer))
        finally:
            writer.close()
            pod_writer.close()

    async def _close(self):
        self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _copy(reader, writer):
    """Forwards bytes and the end of the stream; an error on one side aborts the other."""
    try:
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()
