"""TLS handshakes in memory, with real OpenSSL on both sides and no socket."""

from __future__ import annotations

from dataclasses import dataclass

from OpenSSL import SSL
from twisted.internet.interfaces import (
    IHandshakeListener,
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.test.iosim import FakeTransport, IOPump
from zope.interface import implementer

GREETING = b"a password, perhaps"


@implementer(IHandshakeListener)
class Side(Protocol):
    """What happened on one side; the client speaks as soon as it may."""

    completed = False
    lost: Failure | None = None
    received = b""
    tls: SSL.Connection

    def __init__(self, greeting: bytes = b"") -> None:
        self._greeting = greeting

    def connectionMade(self) -> None:
        assert isinstance(self.transport, TLSMemoryBIOProtocol)
        self.tls = self.transport.getHandle()

    def handshakeCompleted(self) -> None:
        self.completed = True
        assert self.transport is not None
        self.transport.write(self._greeting)

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason


class Scripted(Protocol):
    """A server that is no TLS server: it answers the first bytes with *answer*, or hangs up."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        if self._answer:
            self.transport.write(self._answer)
        else:
            self.transport.loseConnection()


@dataclass
class Meeting:
    """Both sides, and what carries the bytes between them."""

    client: Side
    server: Side
    pump: IOPump

    @property
    def agreed(self) -> bool:
        """Whether both sides take the handshake for complete, and the client's words arrived."""
        return self.client.completed and self.server.received == GREETING


def meet(
    creator: IOpenSSLClientConnectionCreator,
    server: IOpenSSLServerConnectionCreator | Protocol,
    *,
    pumped: bool = True,
) -> Meeting:
    """
    Let a client meet a server.

    Args:
        creator: of the client's connection.
        server: the server's options; or any protocol, which then gets the bytes as they are.
        pumped: whether to carry bytes until both are silent.
    """
    client_side, server_side = Side(GREETING), Side()
    client = _wrap(client_side, creator, client=True)
    listening: Protocol
    if isinstance(server, Protocol):  # noqa: SIM108 (mypy can not follow the short form)
        listening = server
    else:
        listening = _wrap(server_side, server, client=False)
    server_io = FakeTransport(listening, isServer=True)
    client_io = FakeTransport(client, isServer=False)
    pump = IOPump(client, listening, client_io, server_io, debug=False)
    listening.makeConnection(server_io)
    client.makeConnection(client_io)
    if pumped:
        pump.flush()
    return Meeting(client_side, server_side, pump)


def _wrap(
    side: Side,
    creator: IOpenSSLClientConnectionCreator | IOpenSSLServerConnectionCreator,
    *,
    client: bool,
) -> TLSMemoryBIOProtocol:
    factory = TLSMemoryBIOFactory(creator, client, Factory(), Clock())
    factory.protocol = TLSMemoryBIOProtocol  # which writes at once, and needs no reactor's turn
    return TLSMemoryBIOProtocol(factory, side)
