"""A gateway in memory: its local clients, the servers' ends of what it dials, clocks and log."""

from __future__ import annotations

from collections.abc import Callable
from socket import socket
from typing import Any

from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.fakes import Dials, Journal, Line, World
from tests.net.fakes import answer
from tests.secrecy import USER
from txtlsmc.errors import ConnectRefused, MemcacheError
from txtlsmc.settings import ClientSettings, InsecurePlaintext, Limits
from txtlsmc.tunnel.admission import Admission
from txtlsmc.tunnel.counters import Counters
from txtlsmc.tunnel.expiry import Expiry
from txtlsmc.tunnel.gateway import Gateway
from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.journal import Journal as TunnelJournal
from txtlsmc.tunnel.local import LocalConnection
from txtlsmc.tunnel.memory import LocalMemory
from txtlsmc.tunnel.settings import TunnelLimits, TunnelSettings
from txtlsmc.wire.frames import Request, Response, ResponseReader
from txtlsmc.wire.opcodes import Opcode

#: With more than so many bytes waiting, a transport asks its producer to pause.
HIGH = 65_536


class LocalWire(StringTransport):
    """
    The gateway's transport to one local client, as one over TLS behaves.

    Attributes:
        reads: whether the client takes what is written.
        waiting: what it has not taken.
        aborted: whether the gateway aborted the connection.
    """

    def __init__(self, client: Client) -> None:
        super().__init__(lenient=True)
        self.reads = True
        self.waiting = bytearray()
        self.aborted = False
        self._client = client

    def write(self, data: bytes) -> None:
        if self.disconnecting:
            return
        self.waiting += data
        if self.reads:
            self.take(len(self.waiting))
        elif len(self.waiting) > HIGH and self.producer is not None:
            self.producer.pauseProducing()

    def take(self, size: int) -> None:
        """Let the client read so many bytes."""
        self.io.write(self.waiting[:size])
        del self.waiting[:size]
        if not self.waiting:
            if self.disconnecting:
                self._client.end(ConnectionDone())
            elif self.producer is not None and not self.reads:
                self.producer.resumeProducing()

    def loseConnection(self) -> None:
        assert self.producer is None, "over TLS it would never close"
        self.disconnecting = True
        if not self.waiting:
            self._client.end(ConnectionDone())

    def abortConnection(self) -> None:
        assert not self._client.lost, "over TLS that fails"
        self.disconnecting = self.aborted = True
        self.waiting.clear()
        self._client.end(ConnectionAborted())

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self._client.resumed()


class _SocketWire(LocalWire):
    def __init__(self, client: Client, handle: socket) -> None:
        super().__init__(client)
        self._handle = handle

    def getHandle(self) -> socket:  # noqa: N802 - Twisted's name for it
        return self._handle


class Client:
    """
    A local client.

    Attributes:
        protocol: the gateway's end.
        wire: its transport.
        lost: whether the connection has ended.
    """

    def __init__(
        self, clock: Clock, factory: IProtocolFactory, handle: socket | None = None
    ) -> None:
        self._clock = clock
        self._unsaid: list[bytes] = []
        self._reader = ResponseReader(2**32)
        self._read = 0
        self._ending = self._half = False
        self.lost = False
        self.wire: LocalWire = LocalWire(self) if handle is None else _SocketWire(self, handle)
        protocol = factory.buildProtocol(None)  # type: ignore[arg-type]  # a Unix socket has none
        assert isinstance(protocol, LocalConnection)
        self.protocol: LocalConnection = protocol
        protocol.makeConnection(self.wire)

    def say(self, *frames: Request | bytes) -> None:
        """Send *frames* in one piece, if they are read."""
        self._unsaid.append(b"".join(f if isinstance(f, bytes) else f.encode() for f in frames))
        self._push()

    def _push(self) -> None:
        while self._unsaid and self.wire.producerState == "producing" and not self._ending:
            self.protocol.dataReceived(self._unsaid.pop(0))
        if self._half and not self._unsaid and not self._ending:
            self._half = False
            self.protocol.readConnectionLost()

    def resumed(self) -> None:
        """Send what was held back."""
        self._clock.callLater(0, self._push)

    @property
    def unsaid(self) -> int:
        """How many bytes it could not send."""
        return sum(map(len, self._unsaid))

    def half_close(self) -> None:
        """Tell that it will say no more."""
        self._half = True
        self._push()

    def raw(self) -> bytes:
        """Return what was read since the last call."""
        data: bytes = self.wire.value()[self._read :]
        self._read += len(data)
        return data

    def hear(self) -> list[Response]:
        """Return the answers that were read since the last call."""
        return self._reader.feed(self.raw())

    @property
    def inside_answer(self) -> bool:
        """Whether only a part of an answer was read."""
        return self._reader.inside_frame

    def end(self, reason: BaseException) -> None:
        """End the connection, a turn of the reactor later, as the gateway's side does."""
        if not self._ending:
            self._ending = True
            self._clock.callLater(0, self.lose, reason)

    def lose(self, reason: BaseException | None = None) -> None:
        """End the connection now, as by a reset."""
        if not self.lost:
            self.lost = self._ending = True
            if self.wire.producer is not None:
                self.wire.producer.stopProducing()
            self.protocol.connectionLost(Failure(reason or ConnectionLost()))


class GatewayTestCase(SynchronousTestCase):
    """
    A test of a gateway that is made by `made`.

    Attributes:
        dials: by what the server is reached.
        unusable: why nothing can be made to reach it by.
    """

    unusable: MemcacheError | None = None

    def made(
        self,
        *,
        server_limits: Limits | None = None,
        limits: TunnelLimits | None = None,
        descriptors: Callable[[], int | None] = lambda: None,
        start: bool = True,
        **settings: Any,
    ) -> None:
        """Make the gateway, with all that it needs."""
        self.world, self.log = World(), Journal(self)
        self.dials = Dials(self.world)
        limits = limits or TunnelLimits()
        counters = Counters()
        journal = TunnelJournal("text", self.world.monotonic)
        self.hub = Hub(
            counters,
            Admission(limits, counters, journal, descriptors),
            LocalMemory(limits),
            journal,
            Expiry(journal),
            self.world.monotonic,
        )
        self.counters = counters
        client = ClientSettings(
            ("cache.example:11211",),  # type: ignore[arg-type]  # it parses them
            tls=InsecurePlaintext(),
            credentials=settings.pop("credentials", None),
            limits=server_limits or Limits(),
        )
        self.settings = TunnelSettings(client, limits=limits, **settings)
        self.gateway = Gateway(
            self.world.clock,
            client.servers[0],
            self.settings,
            self.hub,
            endpoint=self._endpoint,
        )
        if start:
            self.gateway.start()

    def _endpoint(self) -> Dials:
        if self.unusable is not None:
            raise self.unusable
        return self.dials

    def served(self, **given: Any) -> Line:
        """Make the gateway, and return the server's end of its connection."""
        self.made(**given)
        return self.dials.accept()

    def client(self, *frames: Request | bytes) -> Client:
        """Return a new local client, which has said *frames*."""
        client = Client(self.world.clock, self.gateway.factory)
        if frames:
            client.say(*frames)
        return client

    def client_over(self, handle: socket) -> Client:
        """Return a new local client whose connection has that socket."""
        return Client(self.world.clock, self.gateway.factory, handle)

    def lines(self, word: str) -> list[str]:
        """Return the lines of the log that have *word*."""
        return [line for line in self.log.lines if word in line]

    def refuse(self) -> None:
        """Refuse the only dial that is open."""
        self.dials.fail(ConnectRefused("cache.example:11211", "nobody listens there"))


def get(key: bytes = b"key", opaque: int = 1, opcode: int = Opcode.GET) -> Request:
    """Return a get."""
    return Request(opcode, key, opaque=opaque)


def store(value: bytes, opaque: int = 1, opcode: int = Opcode.SET) -> Request:
    """Return a set."""
    return Request(opcode, b"key", bytes(8), value, opaque=opaque)


def found(request: Request, value: bytes = b"value") -> Response:
    """Return the answer to a get."""
    return answer(request, value, extras=b"flag")


def plain(password: str, user: str = USER, *, acting_for: str = "") -> Request:
    """Return a login by PLAIN."""
    words = b"\0".join(word.encode() for word in (acting_for, user, password))
    return Request(Opcode.SASL_AUTH, b"PLAIN", b"", words)
