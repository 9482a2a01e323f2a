"""One replica as a process: it listens at once, is ready when the model is, and ends by letting everything in flight end."""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from slipway.errors import UsageError
from slipway.serving import problems
from slipway.serving.app import build
from slipway.serving.protocol import guarded
from slipway.serving.replica import Replica

_CLOSING_SECONDS = 5  # for the last bytes of what is over


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, before anything is loaded; port 0 takes a free one."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise UsageError(f"nothing can listen on {host}: {error.strerror or error}; name another --host") from None
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be had ({error.strerror})"
        raise UsageError(f"port {port} of {host} {why}; stop what listens there, or name another --port") from None
    listener.setblocking(False)
    return listener


def address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn, told to end by a drain; made in the loop that it runs in."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self._loop = asyncio.get_running_loop()
        # Every stranger can make the parser warn; that is counted, not logged.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        self._draining: asyncio.Task[None] | None = None
        limits = replica.config.limits
        super().__init__(
            uvicorn.Config(
                build(replica),
                http=guarded(limits, replica.metrics.refused),
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=int(limits.idle_seconds),
                timeout_graceful_shutdown=_CLOSING_SECONDS,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal drains; a second one ends what is in flight now."""
        self._loop.call_soon_threadsafe(self.end)

    def end(self) -> None:
        if self._draining is None:
            self._draining = self._loop.create_task(self._drained())
        else:
            self.replica.flights.fail_all(problems.draining())
            self.should_exit = True

    async def _drained(self) -> None:
        await self.replica.drain()
        self.should_exit = True


async def serve(server: Server, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Until a signal; `ready` is called once when the model is."""
    replica = server.replica
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    loading = asyncio.create_task(replica.load())
    try:
        await asyncio.wait((serving, loading), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            ready()
        await serving
    finally:
        server.should_exit = True
        loading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait((serving, loading))
        await replica.stop()
