"""A Service: a loopback address whose connections go to pods in turn, as kube-proxy would lead them.

It passes bytes on and knows nothing of HTTP. Only ready pods get new connections. A pod that is being deleted gets
them until the news has spread, and a connection once made stays with its pod, whatever becomes of it.
"""

import asyncio
import itertools
import threading
import time

CHUNK = 1 << 16


class Service:
    """One port of a Service over the pods of `pods`, a list that may change."""

    def __init__(self, target_port, propagation):
        """`propagation` is how long a pod that is being deleted still gets connections, in seconds."""
        self._target_port = target_port
        self._propagation = propagation
        self.pods = []
        # Connections by the pod's name; "" for those that found no pod.
        self.connections = {}
        self._turn = itertools.count()
        # The event loop alone would not keep a connection's task alive.
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
        """The pods that a new connection may go to."""
        now = time.monotonic()
        spread = lambda pod: pod.deleted_at is not None and now >= pod.deleted_at + self._propagation
        return [pod for pod in self.pods if pod.ready and not spread(pod)]

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
    """Passes bytes and the end of the stream on; a connection that breaks on one side breaks on the other."""
    try:
        while chunk := await reader.read(CHUNK):
            writer.write(chunk)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()
