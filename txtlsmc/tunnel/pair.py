"""
One local connection and its upstream one: bytes both ways, and how the end of one ends the other.

    GREETING ─▶ DIALLING ─▶ OPEN ─▶ FINISHING ─▶ TOLD ─▶ EMPTYING ─▶ GONE

A pair does not know what it carries, so it can not know whether all was answered.  What it does
know is who spoke last, and how long ago; from that it decides, once the local side will say no
more, when the server is told so (FINISHING to TOLD).  Over TLS this is a close_notify.  What the
server says after it still comes, but some servers drop their answers when they see it, so it waits
until all seems to be said; a local side that merely closed looks the same, so it waits no longer.

An end that was no clean one is handed on as a reset: nobody shall take a cut stream for a whole
one.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final
from typing import Protocol as Interface

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from txtlsmc.net.direct import DirectWriter
from txtlsmc.net.tls_layer import TLSLayer
from txtlsmc.tunnel.counters import Counters

#: Seconds without a byte, after which an answer counts as the last one.
QUIET: Final = 0.1


class Stage(Enum):
    """How far a pair is."""

    GREETING = auto()  # the local side's TLS handshake, if it speaks TLS
    DIALLING = auto()  # there is no upstream connection yet, and nothing is read
    OPEN = auto()
    FINISHING = auto()  # the local side will say no more, and the server does not know yet
    TOLD = auto()  # it does; what it still says is carried
    EMPTYING = auto()  # the upstream connection is gone, and the local side gets the rest
    LEAVING = auto()  # the local side is gone, and the upstream connection ends in good order
    ABORTED = auto()  # both are being reset
    GONE = auto()


#: Those in which both sides are there, and what the server says is carried.
_CARRYING: Final = (Stage.OPEN, Stage.FINISHING, Stage.TOLD)


class Keeper(Interface):
    """
    Who has the pairs.

    Attributes:
        counters: of the tunnel.
    """

    counters: Counters

    def admit(self, pair: Pair, transport: object) -> bool:
        """Decide whether a new pair, whose local side is *transport*, may stay."""

    def greeted(self, pair: Pair) -> None:
        """The local side is ready: dial for it."""

    def watch(self, pair: Pair) -> None:
        """The pair waits for something that may never come: have its silence looked at."""

    def cut(self, reason: Failure) -> None:
        """The server's end of a connection in use was no clean one."""

    def ended(self, pair: Pair) -> None:
        """Both sides are gone."""


class Pair:
    """
    Both connections.  It ends nothing by time: who looks at the silence does, by the orders below.

    Attributes:
        stage: how far it is.
        moved: whether there was traffic since somebody set this to False.
        asked: whether the last who spoke was the local side, so that an answer may be outstanding.
        full: whether the local side does not take what it gets.
        since: when the silence began; for who looks at it.
        local: the protocol of the local side.
        upstream: that of the server's side, to be connected.
        stop_dialling: ends the attempt to connect it.
    """

    __slots__ = (
        *("_cut", "_early", "_keeper", "_server", "_sides", "_socket", "_to_local", "_to_server"),
        *("asked", "full", "local", "moved", "since", "stage", "stop_dialling", "upstream"),
    )

    def __init__(self, keeper: Keeper) -> None:
        """
        Args:
            keeper: whom it tells, and who gives the orders.
        """
        self.stage = Stage.GREETING
        self.moved = self.asked = self.full = False
        self.since = 0.0
        self.local, self.upstream = _Local(self), _Upstream(self)
        self.stop_dialling: Callable[[], object] | None = None
        self._keeper = keeper
        self._socket: Any = None  # the local transport, once it is there
        self._server: Any = None  # the upstream transport
        self._to_local: _Outlet
        self._to_server: _Outlet
        self._sides = 0  # connections that are there
        self._early: list[bytes] = []
        self._cut = False

    # Beginning

    def accepted(self, transport: Any) -> None:
        """The local side is there."""
        if not self._keeper.admit(self, transport):
            self.stage = Stage.GONE
            transport.abortConnection()
            return
        self._socket = transport
        self._sides += 1
        _switch_on(transport)
        if isinstance(transport, TLSMemoryBIOProtocol):
            self._keeper.watch(self)
        else:
            self.greeted()

    def greeted(self) -> None:
        """The local side is ready."""
        if self.stage is Stage.GREETING:
            self.stage = Stage.DIALLING
            self._socket.pauseProducing()
            self._keeper.greeted(self)

    def connected(self, transport: Any) -> None:
        """The server's side is there."""
        if self.stage is not Stage.DIALLING:  # who dialled did not listen when it was stopped
            transport.abortConnection()
            return
        self._sides += 1
        self.stage, self.moved = Stage.OPEN, True
        self.stop_dialling = None
        self._server = transport
        _switch_on(transport)
        self._to_local = _Outlet(self._socket, self._local_full, self._local_takes)
        self._to_server = _Outlet(transport, self._server_full, self._server_takes)
        self._socket.resumeProducing()
        early, self._early = self._early, []
        for data in early:
            self.from_local(data)

    # Bytes

    def from_local(self, data: bytes) -> None:
        """Carry what the local side said."""
        if self._server is None:  # over TLS the end of its handshake may have brought it along
            self._early.append(data)
            return
        self.moved = self.asked = True
        self._keeper.counters.bytes_to_upstream += len(data)
        self._to_server.write(data)

    def from_server(self, data: bytes) -> None:
        """Carry what the server said."""
        if self.stage not in _CARRYING:
            return
        self.moved, self.asked = True, False
        self._keeper.counters.bytes_from_upstream += len(data)
        self._to_local.write(data)

    def _local_full(self) -> None:
        if not self.full:
            self.full = True
            self._server.pauseProducing()

    def _local_takes(self) -> None:
        self.full, self.moved = False, True
        if self.stage in _CARRYING:
            self._server.resumeProducing()
        elif self.stage is Stage.EMPTYING and self._cut:
            self._socket.abortConnection()

    def _server_full(self) -> None:
        self._socket.pauseProducing()

    def _server_takes(self) -> None:
        self.moved = True
        if self.stage is Stage.OPEN:
            self._socket.resumeProducing()

    # The end of one side

    def local_finished(self) -> None:
        """The local side says no more, or is not to be listened to any more."""
        if self.stage is Stage.OPEN:
            self.stage = Stage.FINISHING
            self._socket.pauseProducing()
            self._to_server.release()
            self._keeper.watch(self)

    def local_lost(self, reason: Failure) -> None:
        """The local side is gone."""
        if self._socket is None:  # it was not admitted
            return
        self._sides -= 1
        self.stop_dialling, stop = None, self.stop_dialling
        if stop is not None:
            self.stage = Stage.GONE
            stop()
        elif self.stage in _CARRYING:
            self._leave(clean=reason.check(ConnectionDone) is not None)
        self._over()

    def server_lost(self, reason: Failure) -> None:
        """The server's side is gone."""
        if self._server is None:  # it came too late
            return
        self._sides -= 1
        if self.stage in _CARRYING:
            clean = reason.check(ConnectionDone) is not None
            if not clean and self.stage is not Stage.TOLD:
                self._keeper.cut(reason)
            self._empty(clean=clean)
        self._over()

    def _empty(self, *, clean: bool) -> None:
        self.stage, self._cut = Stage.EMPTYING, not clean
        self._keeper.watch(self)
        if isinstance(self._socket, TLSMemoryBIOProtocol):
            self._to_local.release()
            # Without a close_notify, the end of the stream is no clean one.
            ending: Any = self._socket if clean else self._socket.transport
            ending.loseConnection()
        elif clean:
            self._socket.loseConnection()
        elif self.full:
            self._socket.pauseProducing()  # the abort comes when it has taken the rest
        else:
            self._socket.abortConnection()

    def _leave(self, *, clean: bool) -> None:
        stage, self.stage = self.stage, Stage.LEAVING
        self._keeper.watch(self)
        if not clean:
            self._server.abortConnection()
            return
        self._to_server.release()
        if stage is not Stage.TOLD or not isinstance(self._server, TLSMemoryBIOProtocol):
            self._server.loseConnection()
        if self.full:
            self.full = False
            self._server.resumeProducing()  # or its end would not be seen

    def _over(self) -> None:
        if not self._sides:
            self.stage = Stage.GONE
            self._keeper.ended(self)

    # Orders

    def tell(self) -> None:
        """Tell the server that the local side says no more."""
        if self.stage is Stage.FINISHING:
            self.stage = Stage.TOLD
            self._keeper.watch(self)
            if isinstance(self._server, TLSMemoryBIOProtocol):
                self._server.loseConnection()  # a close_notify; it goes on reading until the other
            else:
                self._server.loseWriteConnection()

    def drop(self) -> None:
        """End the local side as a reset, and the server's side in good order."""
        if self.stage in _CARRYING:
            self._leave(clean=True)
            self._socket.abortConnection()

    def abort(self) -> None:
        """End now what there is, as a reset."""
        if self.stage in (Stage.ABORTED, Stage.GONE):
            return
        stage, self.stage = self.stage, Stage.ABORTED
        self.stop_dialling, stop = None, self.stop_dialling
        if stop is not None:
            stop()
        if stage is not Stage.LEAVING:
            self._socket.abortConnection()
        if stage in _CARRYING or stage is Stage.LEAVING:
            self._server.abortConnection()


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class _Local(Protocol):
    """The accepted side."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    def connectionMade(self) -> None:
        self._pair.accepted(self.transport)

    def handshakeCompleted(self) -> None:
        self._pair.greeted()

    def dataReceived(self, data: bytes) -> None:
        self._pair.from_local(data)

    def readConnectionLost(self) -> None:
        self._pair.local_finished()

    def writeConnectionLost(self) -> None:
        """Nobody here closes only that half."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._pair.local_lost(reason)


class _Upstream(Protocol):
    """The dialled side."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair

    def connectionMade(self) -> None:
        self._pair.connected(self.transport)

    def dataReceived(self, data: bytes) -> None:
        self._pair.from_server(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._pair.server_lost(reason)


@implementer(IPushProducer)
class _Outlet:
    """
    Where one side's bytes go out: at once if possible.

    It says when some wait, and when none do any more.  (The transports are not each other's
    producers themselves: they take the end of the one for an order to close the other in good
    order, whatever the end was.)
    """

    __slots__ = ("_full", "_takes", "_transport", "_write", "_writer")

    def __init__(self, transport: Any, full: Callable[[], None], takes: Callable[[], None]) -> None:
        self._transport, self._full, self._takes = transport, full, takes
        self._writer: DirectWriter | None = None
        self._write: Callable[[bytes], None] = transport.write
        if isinstance(transport, TLSLayer):
            self._writer = transport.writer
        elif isinstance(transport, TLSMemoryBIOProtocol):
            transport.registerProducer(self, True)
        else:
            self._writer = DirectWriter(transport)
            self._write = self._writer.write
        if self._writer is not None:
            self._writer.on_drained = takes

    def write(self, data: bytes) -> None:
        """Send *data*."""
        self._write(data)
        if self._writer is not None and self._writer.queued:
            self._full()

    def release(self) -> None:
        """Let the transport be closed: TLS never ends while it has a producer."""
        if self._writer is None:
            self._transport.unregisterProducer()

    def pauseProducing(self) -> None:
        self._full()

    def resumeProducing(self) -> None:
        self._takes()

    def stopProducing(self) -> None:
        """The connection is gone, which its protocol is told as well."""


def _switch_on(transport: Any) -> None:
    # Asked for by name: TLS claims to be TCP also where it runs over a Unix socket.
    for option in ("setTcpNoDelay", "setTcpKeepAlive"):
        switch = getattr(transport, option, None)
        if switch is not None:
            switch(True)
