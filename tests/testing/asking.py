"""A client that sends what it is told and keeps what came, for tests of the embedded server."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.interfaces import IConsumer, IPushProducer, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.testing import MemoryServer
from txtlsmc.wire.frames import Request, Response, ResponseReader
from txtlsmc.wire.opcodes import Opcode


class _ITransport(ITCPTransport, IConsumer, IPushProducer):
    """What TCP, TLS and the in-memory transport give to a protocol."""


class Asking(Protocol):
    """
    One connection.

    Attributes:
        responses: what came and was not taken yet.
        greedy: whether it goes on reading when something came.
        lost: why the connection ended; None while it is open.
    """

    transport: _ITransport

    def __init__(self) -> None:
        self.responses: list[Response] = []
        self.greedy = True
        self.lost: Failure | None = None
        self._reader = ResponseReader(2**26)

    def dataReceived(self, data: bytes) -> None:
        if not self.greedy:
            self.transport.pauseProducing()
        self.responses += self._reader.feed(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def send(self, *requests: Request | bytes) -> None:
        """Send them in one piece."""
        self.transport.write(
            b"".join(each if isinstance(each, bytes) else each.encode() for each in requests)
        )

    def take(self) -> list[Response]:
        """Return what came since the last time."""
        taken, self.responses = self.responses, []
        return taken


def short(responses: Iterable[Response]) -> list[tuple[int, int, bytes]]:
    """Return the opcode, the status and the value of each."""
    return [(each.opcode, each.status, each.value) for each in responses]


class MemoryServerTestCase(SynchronousTestCase):
    """
    With a server without sockets, on a clock of its own.

    Attributes:
        clock: moves the server, the bytes and the time that items live by.
        now: the Unix time for the server, to be set by hand.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.now = 1_800_000_000.0

    def make_server(self, **arguments: object) -> MemoryServer:
        """Return a server; the arguments are those of `MemoryServer`."""
        server = MemoryServer(
            self.clock,
            wall_clock=lambda: self.now,
            **arguments,  # type: ignore[arg-type]  # handed on as they are
        )
        self.addCleanup(self.assert_nothing_left)
        self.addCleanup(self.clock.advance, 0)
        self.addCleanup(server.stop)
        return server

    def assert_nothing_left(self) -> None:
        """Fail when the server left a call in the reactor."""
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def connect(self, server: MemoryServer) -> Asking:
        """Return a new connection."""
        connecting = server.endpoint().connect(Factory.forProtocol(Asking))
        self.clock.advance(0)
        client = self.successResultOf(connecting)
        assert isinstance(client, Asking)
        return client

    def ask(self, client: Asking, *requests: Request | bytes) -> list[Response]:
        """Return all the answers to *requests*, sent in one piece."""
        client.send(*requests)
        self.clock.advance(0)
        return client.take()

    def assert_closed(self, client: Asking, opcode: int, status: int, *requests: Request) -> None:
        """*requests* are answered with one response, and the server closes the connection."""
        self.assertEqual(
            [(r.opcode, r.status) for r in self.ask(client, *requests)], [(opcode, status)]
        )
        self.assertIsNotNone(client.lost)

    def assert_open(self, client: Asking) -> None:
        """The connection is open, and a NOOP is answered on it."""
        (response,) = self.ask(client, Request(Opcode.NOOP, opaque=4711))
        self.assertEqual(
            (response.opcode, response.status, response.opaque), (Opcode.NOOP, 0, 4711)
        )
