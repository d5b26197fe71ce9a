"""The network between workers and server: a relay on 127.0.0.1 that can be cut or held up."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from types import TracebackType

_ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Network:
    """Passes connections on to the server's socket.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, socket_path: str) -> None:
        self._target = socket_path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._up = True
        self._flowing = threading.Event()
        self._flowing.set()
        threading.Thread(target=self._accept, name="network", daemon=True).start()

    def __enter__(self) -> Network:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()
        self.cut()

    def cut(self) -> int:
        """Reset every connection and refuse new ones; how many there were."""
        with self._lock:
            self._up = False
            cut, self._pairs = self._pairs, set()
        for pair in cut:
            _reset(pair)
        return len(cut)

    def hold(self) -> int:
        """Let no byte through until :meth:`restore`; how many connections hang."""
        self._flowing.clear()
        with self._lock:
            return len(self._pairs)

    def restore(self) -> None:
        """Let everything through again."""
        self._up = True
        self._flowing.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            pair = (near, far)
            try:
                far.connect(self._target)
            except OSError:  # the server is down
                _reset(pair)
                continue
            with self._lock:
                if not self._up:
                    _reset(pair)
                    continue
                self._pairs.add(pair)
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for one, other in (pair, pair[::-1]):
                threading.Thread(target=self._pump, args=(one, other, pair), daemon=True).start()

    def _pump(
        self, one: socket.socket, other: socket.socket, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                self._flowing.wait()
                other.sendall(data)
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:  # wakes the other pump; each closes the end that it reads
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        one.close()


def _reset(pair: tuple[socket.socket, socket.socket]) -> None:
    """Close both ends, the client's with a reset; whoever reads from them is woken."""
    for end in pair:
        with suppress(OSError):
            if end.family == socket.AF_INET:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORT)
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            end.close()
