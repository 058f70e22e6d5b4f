"""A relay in front of a server, through which the server goes away and comes back without ending."""

import selectors
import socket
import threading
from contextlib import suppress


class Relay:
    """Forwards a port of its own to a server while it is open."""

    def __init__(self, port):
        self._target = port
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._listener, self._connections = None, []

    def open(self):
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self):
        """Refuse new connections and break those that there are."""
        listener, self._listener = self._listener, None
        if listener is not None:
            for each in (listener, *self._connections):
                _break(each)
            self._connections.clear()

    def _accept(self, listener):
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._connections += [near, far]
                threading.Thread(target=_forward, args=(near, far), daemon=True).start()


def _break(connection):
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _forward(near, far):
    with selectors.DefaultSelector() as ready, suppress(OSError, ValueError, KeyError):
        for one, other in ((near, far), (far, near)):
            ready.register(one, selectors.EVENT_READ, other)
        while True:
            for key, _ in ready.select():
                if not (content := key.fileobj.recv(65536)):
                    raise OSError
                key.data.sendall(content)
    for each in (near, far):
        _break(each)
