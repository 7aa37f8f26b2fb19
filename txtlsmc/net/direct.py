"""
Writing to a socket at once.

A transport of Twisted keeps what is written until the reactor has polled once more, which is a good
part of what one short request costs.  Here the socket gets it at once, as long as nothing waits
in the transport; what the socket does not take is the transport's, and so is everything behind it
until the transport is empty again.

Only one may write to such a transport, or bytes overtake each other: everything goes through its
`DirectWriter`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.interfaces import IPullProducer, ISystemHandle, ITransport
from zope.interface import implementer


@implementer(IPullProducer)
class DirectWriter:
    """
    Writes to one transport; directly, if that has a stream socket of its own.

    Over any other transport (in memory, TLS) it is nothing but the transport's `write`.  It learns
    that the transport is empty by being its producer while something waits there.  Who wants to
    register another calls `step_aside` before, and `step_back` afterwards; where it meets one all
    the same, it leaves all further writing to the transport.

    Attributes:
        queued: whether something that was written here waits in the transport; never true while it
            can not know, over other transports and stepped aside.
        on_drained: called whenever that is over.  It is not when the connection is lost.
    """

    on_drained: Callable[[], object] | None = None

    def __init__(self, transport: ITransport) -> None:
        """
        Args:
            transport: a connection's, with nothing written to it yet.  It must not be switched to
                TLS afterwards.
        """
        self.queued = False
        self._transport = transport
        self._socket = _stream_socket(transport)
        self._send = None if self._socket is None else self._socket.send  # None: not possible now
        self._to_learn = False  # the next write is to find out whether anything is queued
        self._registering = False

    @property
    def direct(self) -> bool:
        """Whether the transport has a socket of its own, so that `queued` and `on_drained` tell."""
        return self._socket is not None

    def write(self, data: bytes) -> None:
        """Send *data*.  What becomes of it behind the end of a connection the transport decides."""
        transport = self._transport
        send = self._send
        if send is None or transport.disconnecting:  # type: ignore[attr-defined]  # sockets have it
            transport.write(data)
            if self._to_learn and data:
                self._queue()
            return
        try:
            sent = send(data)
        except OSError:
            sent = 0  # full; or broken, which the reactor will find as well, and tell in its way
        if sent != len(data):
            transport.write(data[sent:])
            self._queue()

    def step_aside(self) -> None:
        """Let the transport do all writing, and somebody else be its producer."""
        self._send = None
        self._to_learn = False
        if self.queued:
            self.queued = False
            self._transport.unregisterProducer()  # type: ignore[attr-defined]  # sockets have it

    def step_back(self) -> None:
        """Write directly again, as soon as it is known that nothing else is queued."""
        if self._socket is not None and self._send is None and not self.queued:
            self._to_learn = True

    def stop(self) -> None:
        """Never write directly again; to be called before the connection is aborted."""
        self._socket = self._send = None
        self._to_learn = False

    def _queue(self) -> None:
        self._send = None
        self._to_learn = False
        self.queued = self._registering = True
        try:
            self._transport.registerProducer(self, False)  # type: ignore[attr-defined]  # see above
        except RuntimeError:  # another producer is there
            self.queued = False
            self.stop()
        finally:
            self._registering = False

    def resumeProducing(self) -> None:
        """Learn that the transport is empty."""
        if self._registering:  # a producer is asked at once for its first piece
            return
        self.queued = False
        self._transport.unregisterProducer()  # type: ignore[attr-defined]  # see above
        if self._socket is not None:
            self._send = self._socket.send
        if self.on_drained is not None:
            self.on_drained()

    def stopProducing(self) -> None:
        """Learn that the connection is lost."""
        self.queued = False
        self.stop()


def _stream_socket(transport: ITransport) -> socket.socket | None:
    # TLS claims to be what it runs over, so its handle is what tells the difference.
    handle = transport.getHandle() if ISystemHandle.providedBy(transport) else None
    if isinstance(handle, socket.socket) and handle.type == socket.SOCK_STREAM:
        return handle
    return None
