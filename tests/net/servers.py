"""
Servers in the process, for tests of connecting to them.

They speak the real codec, on sockets or in memory, do no more than such a test needs, and remember
all that they were told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Final

from OpenSSL import SSL
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IAddress, ISSLTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from txtlsmc.wire.exchange import Outcome, ServerExchange
from txtlsmc.wire.frames import Request, RequestReader, Response
from txtlsmc.wire.opcodes import Opcode
from txtlsmc.wire.sasl import server_exchange

_STATUS: Final = {Outcome.SUCCESS: 0x00, Outcome.CONTINUE: 0x21, Outcome.FAILURE: 0x20}
_SASL: Final = (Opcode.SASL_LIST, Opcode.SASL_AUTH, Opcode.SASL_STEP)


class Connection(Protocol):
    """
    The server's side of one connection.

    Attributes:
        received: the bytes that came, decrypted.
        requests: what they were.
        exchange: of SASL, when it was begun.
        authenticated: whether it was brought to a good end.
        lost: why the connection ended.
        gone: fires when it ended.
    """

    def __init__(self, server: FakeServer) -> None:
        self.server = server
        self.received = b""
        self.requests: list[Request] = []
        self.exchange: ServerExchange | None = None
        self.authenticated = False
        self.lost: Failure | None = None
        self.gone: Deferred[None] = Deferred()
        self._reader = RequestReader(2**16)

    @property
    def server_name(self) -> bytes | None:
        """Whom the client says it expects, when it speaks TLS (SNI)."""
        assert ISSLTransport.providedBy(self.transport)
        tls = self.transport.getHandle()  # type: ignore[attr-defined]  # TLS has it
        assert isinstance(tls, SSL.Connection)
        return tls.get_servername()

    def connectionMade(self) -> None:
        self.server.opened(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.server.came(self, data)

    def read(self, data: bytes) -> list[Request]:
        """Return the requests that *data* completes; a malformed one is an error."""
        requests = []
        for request in self._reader.feed(data):
            if not isinstance(request, Request):
                raise AssertionError(f"memcached would refuse this: {request.reason}")
            requests.append(request)
        return requests

    def say(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def answer(self, request: Request, status: int = 0, value: bytes = b"") -> None:
        self.say(Response(request.opcode, status, request.opaque, value=value).encode())

    def close(self) -> None:
        assert self.transport is not None
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self.gone.callback(None)


class FakeServer(Factory):
    """
    A server that listens to everybody and says nothing.

    Attributes:
        connections: all that were made so far.
    """

    noisy = False

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self._waiting: list[tuple[int, Deferred[Connection]]] = []

    @property
    def connection(self) -> Connection:
        """The only one."""
        (connection,) = self.connections
        return connection

    @property
    def received(self) -> bytes:
        """All that anybody sent."""
        return b"".join(connection.received for connection in self.connections)

    @property
    def requests(self) -> list[Opcode]:
        """What was asked for, on all connections."""
        return [Opcode(each.opcode) for one in self.connections for each in one.requests]

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        connection = Connection(self)
        self.connections.append(connection)
        return connection

    def heard(self, length: int = 1) -> Deferred[Connection]:
        """Return a Deferred that fires with the last connection once it sent *length* bytes."""
        heard: Deferred[Connection] = Deferred()
        self._waiting.append((length, heard))
        return heard

    def all_gone(self) -> Deferred[None]:
        """Return a Deferred that fires when all connections have ended."""
        gone = DeferredList([connection.gone for connection in self.connections])
        return gone.addCallback(lambda _: None)

    def opened(self, connection: Connection) -> None:
        """Do what is to be done before anything came."""
        self._tell(connection)

    def came(self, connection: Connection, data: bytes) -> None:
        """Take a piece of what *connection* sends."""
        for request in connection.read(data):
            connection.requests.append(request)
            self.asked(connection, request)
        self._tell(connection)

    def asked(self, connection: Connection, request: Request) -> None:
        """Take a whole request."""

    def _tell(self, connection: Connection) -> None:
        ready = [each for each in self._waiting if len(connection.received) >= each[0]]
        for each in ready:
            self._waiting.remove(each)
            each[1].callback(connection)


class Memcached(FakeServer):
    """Does what memcached does, as far as connecting goes; it stores nothing."""

    def __init__(
        self, users: Mapping[str, str] | None = None, mechanisms: Sequence[str] = ("PLAIN",)
    ) -> None:
        """
        Args:
            users: their passwords; None: there is no SASL.
            mechanisms: that are offered.
        """
        super().__init__()
        # In a function: who looks through attributes for the client's secrets shall not find ours.
        self._users = None if users is None else lambda: users
        self.mechanisms = mechanisms
        self._nonces = count(1)

    def asked(self, connection: Connection, request: Request) -> None:
        if request.opcode in _SASL and self._users is None:
            connection.answer(request, 0x81, b"Unknown command")
        elif request.opcode == Opcode.SASL_LIST:
            connection.answer(request, value=" ".join(self.mechanisms).encode())
        elif request.opcode in _SASL:
            self.authenticate(connection, request)
        elif self._users is None or connection.authenticated:
            connection.answer(request)
        else:
            connection.answer(request, 0x20, b"Auth failure.")
            connection.close()

    def authenticate(self, connection: Connection, request: Request) -> None:
        """Take a step of SASL."""
        mechanism = request.key.decode()
        if mechanism not in self.mechanisms:
            connection.answer(request, 0x20, b"Auth failure.")
            return
        if request.opcode == Opcode.SASL_AUTH:
            assert self._users is not None
            nonce = f"nonce{next(self._nonces)}"
            connection.exchange = server_exchange(mechanism, self._users(), nonce)
        assert connection.exchange is not None
        step = connection.exchange.step(request.value)
        connection.authenticated = step.outcome is Outcome.SUCCESS
        connection.answer(request, _STATUS[step.outcome], step.data)


Answer = Callable[[Connection, Request], object]


class Scripted(Memcached):
    """Answers as it is told, and otherwise as memcached does."""

    def __init__(
        self,
        answers: Mapping[Opcode, Answer],
        users: Mapping[str, str] | None = None,
        mechanisms: Sequence[str] = ("PLAIN",),
    ) -> None:
        """
        Args:
            answers: what to do when asked for an opcode.
            users, mechanisms: as for `Memcached`.
        """
        super().__init__(users, mechanisms)
        self._answers = answers

    def asked(self, connection: Connection, request: Request) -> None:
        self._answers.get(Opcode(request.opcode), super().asked)(connection, request)


def status(number: int, value: bytes = b"") -> Answer:
    """Answer with a status."""
    return lambda connection, request: connection.answer(request, number, value)


def hang_up(connection: Connection, request: Request) -> None:
    """Close the connection instead of an answer."""
    connection.close()


def nothing(connection: Connection, request: Request) -> None:
    """Leave it unanswered."""


class Garbage(FakeServer):
    """Answers the first bytes, whatever they are, with what is no answer."""

    def __init__(self, words: bytes, *, first: bool = False, close: bool = False) -> None:
        """
        Args:
            words: what it says.
            first: whether it speaks first.
            close: whether it hangs up behind them.
        """
        super().__init__()
        self._words, self._first, self._close = words, first, close

    def opened(self, connection: Connection) -> None:
        if self._first:
            self._speak(connection)
        super().opened(connection)

    def came(self, connection: Connection, data: bytes) -> None:
        if not self._first and connection.received == data:
            self._speak(connection)
        self._tell(connection)

    def _speak(self, connection: Connection) -> None:
        connection.say(self._words)
        if self._close:
            connection.close()
