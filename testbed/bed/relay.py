# SPDX-License-Identifier: GPL-2.0-or-later
"""What lies between the controller and a server: passes on what is said to the server's sockets.

A process of its own (`python3 -m bed.relay LISTEN=TARGET...`), so that the controller can lose a server
as it would lose one elsewhere: while this is stopped by a signal nobody answers and no connection
ends, as with a network that drops everything; connections end when it does.
"""

import os
import selectors
import socket
import sys

CHUNK = 65536


class End:
    """One end of a connection that is passed on, and what waits to be written to it."""

    def __init__(self, connection):
        self.socket, self.other, self.waiting, self.ended = connection, None, b"", False


class Relay:
    """The loop."""

    def __init__(self, pairs):
        self._selector = selectors.DefaultSelector()
        for path, target in pairs:
            if os.path.exists(path):
                os.unlink(path)
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(path)
            listener.listen(64)
            self._selector.register(listener, selectors.EVENT_READ, target)

    def _accept(self, listener, target):
        near, _ = listener.accept()
        far = socket.socket(socket.AF_UNIX)
        try:
            far.connect(target)
        except OSError:
            near.close()
            far.close()
            return
        ends = End(near), End(far)
        for end, other in (ends, reversed(ends)):
            end.other = other
            end.socket.setblocking(False)
            self._selector.register(end.socket, selectors.EVENT_READ, end)

    def _close(self, end):
        for one in (end, end.other):
            if one.socket.fileno() >= 0:
                if one.socket in self._selector.get_map():
                    self._selector.unregister(one.socket)
                one.socket.close()

    def _watch(self, end):
        """Nothing is read from an end while the other one still has something to take."""
        events = selectors.EVENT_WRITE if end.waiting else 0
        events |= 0 if end.ended or end.other.waiting else selectors.EVENT_READ
        if end.socket not in self._selector.get_map():
            if events:
                self._selector.register(end.socket, events, end)
        elif events:
            self._selector.modify(end.socket, events, end)
        else:
            self._selector.unregister(end.socket)

    def _read(self, end):
        data = end.socket.recv(CHUNK)
        if data:
            end.other.waiting += data
            self._write(end.other)
            return
        end.ended = True
        if end.other.ended:
            raise ConnectionResetError
        end.other.socket.shutdown(socket.SHUT_WR)

    @staticmethod
    def _write(end):
        try:
            sent = end.socket.send(end.waiting)
        except BlockingIOError:
            return
        end.waiting = end.waiting[sent:]

    def _serve(self, end, events):
        try:
            if events & selectors.EVENT_WRITE:
                self._write(end)
            if events & selectors.EVENT_READ:
                self._read(end)
            self._watch(end)
            self._watch(end.other)
        except BlockingIOError:
            pass
        except OSError:
            self._close(end)

    def run(self):
        """Never returns."""
        while True:
            for key, events in self._selector.select():
                if isinstance(key.data, str):
                    self._accept(key.fileobj, key.data)
                elif key.data.socket.fileno() >= 0:
                    self._serve(key.data, events)


if __name__ == "__main__":
    Relay([argument.split("=", 1) for argument in sys.argv[1:]]).run()
