"""
A server that does what its script says, however wrong: over a real socket, plain or with TLS.

It speaks the real codec, so what it says is right but for what the script changes.  A script is a
coroutine, and gets the `Peer`: it waits for requests and says what it likes.  When it is over, the
peer answers well, or says nothing, as the script leaves it.  A script that still waits when the
connection is lost is cancelled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from functools import cache
from typing import Any, Final, NamedTuple

from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTCP, IReactorTime, ITCPTransport
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure

from txtlsmc.errors import RemoteProtocolError
from txtlsmc.settings import TLS, InsecurePlaintext
from txtlsmc.testing.authority import Authority
from txtlsmc.wire.frames import HEADER, HEADER_SIZE, Request, RequestReader, Response
from txtlsmc.wire.opcodes import OPCODES, Opcode

#: What is stored under every key, besides its value.
FLAGS: Final = 0x01020304
CAS: Final = 0x1122334455667788
#: What every number is.
NUMBER: Final = 42


# Frames -------------------------------------------------------------------------------------


def value_of(key: bytes) -> bytes:
    """Return what is stored under *key*: no two keys have the same."""
    return b"value of " + key


def good(request: Request, **parts: Any) -> Response:
    """Return the answer of a server that is well, with the *parts* that are to be otherwise."""
    response = Response(request.opcode, 0, request.opaque)
    loud = OPCODES[request.opcode].loud
    if loud in (Opcode.GET, Opcode.GETK, Opcode.GAT, Opcode.GATK):
        response.extras, response.value = FLAGS.to_bytes(4, "big"), value_of(request.key)
        response.cas = CAS
        if loud in (Opcode.GETK, Opcode.GATK):
            response.key = request.key
    elif loud in (Opcode.INCREMENT, Opcode.DECREMENT):
        response.value, response.cas = NUMBER.to_bytes(8, "big"), CAS
    elif loud == Opcode.TOUCH:
        response.extras = FLAGS.to_bytes(4, "big")
    elif loud == Opcode.VERSION:
        response.value = b"1.6.18"
    elif loud == Opcode.SASL_LIST:
        response.value = b"CRAM-MD5 PLAIN SCRAM-SHA-256"
    for name, part in parts.items():
        setattr(response, name, part)
    return response


class Header(NamedTuple):
    """The fields of a header, by name."""

    magic: int
    opcode: int
    key_length: int
    extras_length: int
    data_type: int
    status: int
    body_length: int
    opaque: int
    cas: int


def changed(frame: Response | bytes, **fields: int) -> bytes:
    """Return *frame* with other *fields* in its header, and its body as it was."""
    data = frame if isinstance(frame, bytes) else frame.encode()
    header = Header(*HEADER.unpack_from(data))._replace(**fields)
    return HEADER.pack(*header) + data[HEADER_SIZE:]


# The server ---------------------------------------------------------------------------------


class Peer(Protocol):
    """
    The server's end of one connection.

    Attributes:
        lost: whether the connection is.
        complaints: what the client did that a memcached would not take.
        words: all that the client said in SASL.
    """

    lost = False

    def __init__(self, reactor: IReactorTime, script: Script, *, parses: bool) -> None:
        self.complaints: list[str] = []
        self.words: list[bytes] = []
        self._reactor = reactor
        self._script = script
        self._reader = RequestReader(2**32) if parses else None
        self._requests: deque[Request] = deque()
        self._heard: Deferred[None] | None = None
        self._gone: list[Deferred[None]] = []
        self._told: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self._running = Deferred.fromCoroutine(self._script(self))
        self._running.addErrback(lambda reason: reason.trap(CancelledError) and None)

    def dataReceived(self, data: bytes) -> None:
        for request in self._reader.feed(data) if self._reader else ():
            if isinstance(request, Request):
                self._requests.append(request)
                if request.opcode in (Opcode.SASL_AUTH, Opcode.SASL_STEP):
                    self.words.append(request.value)
            else:
                self.complaints.append(f"memcached would refuse a request: {request.reason}")
        if self._reader and isinstance(self._reader.error, RemoteProtocolError):
            self.complaints.append(f"the client sent no request: {self._reader.error}")
            self.reset()
        heard, self._heard = self._heard, None
        if heard is not None:
            heard.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._running.cancel()
        gone, self._gone = self._gone, []
        for done in gone:
            done.callback(None)

    def gone(self) -> Deferred[None]:
        """Return a Deferred that fires when the connection is lost."""
        done: Deferred[None] = Deferred()
        if self.lost:
            done.callback(None)
        else:
            self._gone.append(done)
        return done

    # What a script waits for

    async def heard(self) -> None:
        """Wait until something more has come."""
        self._heard = Deferred()
        await self._heard

    async def request(self) -> Request:
        """Wait for the next request."""
        while not self._requests:
            await self.heard()
        return self._requests.popleft()

    async def requests(self, count: int) -> list[Request]:
        """Wait for the next *count* requests."""
        return [await self.request() for _ in range(count)]

    async def turn(self, seconds: float = 0) -> None:
        """Let the reactor go on, until what was said is on its way, or for longer."""
        await deferLater(self._reactor, seconds)
        await deferLater(self._reactor, 0)  # the first turn may be the one that writes

    def tell(self) -> None:
        """Let the script go on that waits to be told."""
        self._told.callback(None)

    async def told(self) -> None:
        """Wait until `tell` is called."""
        await self._told

    # What it does

    def say(self, *frames: Response | bytes) -> None:
        """Send *frames* in one piece, and over TLS in one record."""
        assert self.transport is not None
        self.transport.write(b"".join(f if isinstance(f, bytes) else f.encode() for f in frames))

    async def spell(self, data: bytes) -> None:
        """Send *data* in pieces of one byte, and over TLS in records of one byte."""
        for place in range(len(data)):
            self.say(data[place : place + 1])
            await self.turn()

    async def serve(self) -> None:
        """Answer well, for ever."""
        while True:
            self.say(good(await self.request()))

    @property
    def _wire(self) -> Any:
        """What carries the bytes, below TLS if there is TLS."""
        transport: Any = self.transport
        return transport.transport if isinstance(transport, TLSMemoryBIOProtocol) else transport

    def say_below(self, data: bytes) -> None:
        """Send *data* as it is, in the place of a TLS record."""
        self._wire.write(data)

    def close(self) -> None:
        """End the connection in the proper way, behind what was said."""
        assert self.transport is not None
        self.transport.loseConnection()

    def cut(self) -> None:
        """End the connection behind what was said, and over TLS without its goodbye."""
        self._wire.loseConnection()

    def reset(self) -> None:
        """End the connection now, with a reset."""
        if not self.lost:
            self._wire.abortConnection()


Script = Callable[[Peer], Coroutine[Deferred[Any], Any, None]]


class HostileServer:
    """
    Listens on a free port of the loopback interface, and follows one script on every connection.

    Attributes:
        peers: one for each connection that came.
        port: where it listens.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        script: Script,
        options: CertificateOptions | None = None,
        *,
        parses: bool = True,
    ) -> None:
        """
        Args:
            reactor: what has the sockets.
            script: what to do.
            options: the server's side of TLS; no TLS without.
            parses: whether what the client sends is read as requests.
        """
        self.peers: list[Peer] = []
        # Any: Twisted's annotations do not let one factory wrap another.
        factory: Any = Factory.forProtocol(lambda: self._peer(reactor, script, parses))
        if options is not None:
            factory = TLSMemoryBIOFactory(options, False, factory, reactor)
            # Makes a record of every write, where Twisted's own listeners gather the small ones.
            factory.protocol = TLSMemoryBIOProtocol
        factory.noisy = False
        self._listening = IReactorTCP(reactor).listenTCP(0, factory, interface="127.0.0.1")
        address = self._listening.getHost()
        assert isinstance(address, IPv4Address)
        self.port = address.port

    def _peer(self, reactor: IReactorTime, script: Script, parses: bool) -> Peer:
        peer = Peer(reactor, script, parses=parses)
        self.peers.append(peer)
        return peer

    async def stop(self) -> None:
        """Stop listening, and end the connections that are left."""
        await maybeDeferred(self._listening.stopListening)
        for peer in self.peers:
            peer.reset()
            await peer.gone()


class Way(NamedTuple):
    """
    How client and server speak.

    Attributes:
        name: ``plain`` or ``tls``.
        settings: the client's.
        options: the server's, for TLS.
    """

    name: str
    settings: TLS | InsecurePlaintext
    options: CertificateOptions | None


PLAIN: Final = Way("plain", InsecurePlaintext(), None)


@cache
def tls() -> Way:
    """Return the way over TLS, with a certificate that was made in this run and is verified."""
    authority = Authority()
    return Way("tls", TLS(ca=authority.pem), authority.issue().server_options())
