"""A TCP cable between a worker and its host, which can be cut and mended."""

from __future__ import annotations

import contextlib
import socket
import threading


class Cable:
    """Forwards connections to an address.

    Parameters
    ----------
    host, port : str, int
        Where it leads.

    Attributes
    ----------
    port : int
        Where it begins, on loopback.
    breaks_after : int or None
        Each connection breaks when it has carried so many bytes back; None is never.
    breaks_after_sent : int or None
        Likewise for bytes on their way there.
    carried, sent : int
        How many bytes it has carried back, and there.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = host, port
        self.breaks_after: int | None = None
        self.breaks_after_sent: int | None = None
        self.sent = 0
        self.carried = 0
        self._open: set[socket.socket] = set()
        self._is_cut = False
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections, and let no new one through."""
        with self._lock:
            self._is_cut = True
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections through again."""
        with self._lock:
            self._is_cut = False

    def close(self) -> None:
        """Take it away."""
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                with self._lock:
                    if self._is_cut:
                        near.close()
                        far.close()
                        continue
                    self._open |= {near, far}
                for source, sink, is_back in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._carry, args=(source, sink, is_back), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, is_back: bool) -> None:
        mine = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                mine += len(data)
                if is_back:
                    self.carried += len(data)
                else:
                    self.sent += len(data)
                limit = self.breaks_after if is_back else self.breaks_after_sent
                if limit is not None and mine >= limit:
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            if source in self._open:
                self._open.discard(source)
                source.close()
