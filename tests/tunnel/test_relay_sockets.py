"""The relay over real sockets, with real TLS before a server of any protocol."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    UNIXClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IListeningPort,
    IPushProducer,
    IReactorTCP,
    IReactorTime,
    IReactorUNIX,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from tests.cluster.fakes import Journal
from txtlsmc.net.tls import ClientTLS
from txtlsmc.net.tls_layer import TLSEndpoint, TLSFactory
from txtlsmc.settings import TLS, ClientSettings, InsecurePlaintext, Limits, Server
from txtlsmc.testing import Authority, MemoryServer
from txtlsmc.testing.issued import IssuedCertificate
from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.relay import Relay
from txtlsmc.tunnel.settings import TunnelSettings
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode

CHUNK = bytes(range(256)) * 256
#: What a peer that does not read is sent, and what may be on the way to it: mostly in the kernel.
FLOOD = 180 * 2**20
ON_THE_WAY = 24 * 2**20


@cache
def authority() -> Authority:
    return Authority()


@cache
def localhost() -> IssuedCertificate:
    return authority().issue("localhost")


def dialling(
    reactor: IReactorTime, server: Server, tls: TLS | InsecurePlaintext, limits: Limits
) -> IStreamClientEndpoint:
    """Connect without waiting for the verdict on the certificate: not what this is about."""
    dial = TCP4ClientEndpoint(reactor, server.address.host, server.address.port)
    if isinstance(tls, InsecurePlaintext):
        return dial
    return TLSEndpoint(ClientTLS(server, tls).attempt(), dial, reactor)


@implementer(IPushProducer)
class Peer(Protocol):
    """
    Either far end.

    Attributes:
        received: how many bytes came; `kept` the bytes, as long as they are few.
        sent: how many bytes of a flood it could send.
        lost: why it ended.
    """

    lost: Failure | None = None

    def __init__(self) -> None:
        self.kept = bytearray()
        self.received = self.sent = 0
        self._flooding = False
        self.heard: Callable[[], object] = lambda: None

    @property
    def stream(self) -> Any:
        """Its transport, with all that a stream has."""
        return self.transport

    def dataReceived(self, data: bytes) -> None:
        self.received += len(data)
        if len(self.kept) < 2**20:
            self.kept += data
        self.heard()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self._flooding = False

    def say(self, data: bytes) -> None:
        self.stream.write(data)

    def flood(self) -> None:
        """Send as much as the other end takes."""
        self.stream.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self._flooding = True
        while self._flooding and self.sent < FLOOD:
            self.sent += len(CHUNK)
            self.say(CHUNK)

    def pauseProducing(self) -> None:
        self._flooding = False

    def stopProducing(self) -> None:
        self._flooding = False

    def read(self, *, on: bool) -> None:
        """Begin, or cease, to read."""
        if on:
            self.stream.resumeProducing()
        else:
            self.stream.pauseProducing()

    def close(self) -> None:
        self.stream.unregisterProducer()
        self.stream.loseConnection()

    def abort(self) -> None:
        if self.lost is None:
            self.stream.abortConnection()

    @property
    def clean(self) -> bool | None:
        """Whether it was closed in good order; None while it is open."""
        return None if self.lost is None else bool(self.lost.check(ConnectionDone))


class Peers(Factory):
    noisy = False

    def __init__(self) -> None:
        self.all: list[Peer] = []

    def buildProtocol(self, addr: object) -> Peer:
        self.all.append(Peer())
        return self.all[-1]


class RelayOverSocketsTestCase(TestCase):
    timeout = 20

    async def until(self, happened: Callable[[], object]) -> None:
        """Wait for something."""
        while not happened():
            await deferLater(IReactorTime(reactor), 0.002)

    async def until_still(self, number: Callable[[], int]) -> int:
        """Wait until *number* has stopped growing, and return it."""
        last, times = -1, 0
        while times < 40:
            await deferLater(IReactorTime(reactor), 0.01)
            times = times + 1 if number() == last else 0
            last = number()
        return last

    def setUp(self) -> None:
        self.journal = Journal(self)
        self.hub = Hub.make()
        self.servers, self.locals = Peers(), Peers()
        options = localhost().server_options()
        port = self.listen(TLSMemoryBIOFactory(options, False, self.servers))
        self.relay = self.make_relay(port)
        self.addCleanup(self.all_gone)

    def make_relay(self, port: int) -> Relay:
        server = Server("localhost:11211", address=f"127.0.0.1:{port}")
        client = ClientSettings(servers=(server,), tls=TLS(ca=authority().pem))
        settings = TunnelSettings(client=client, mode="relay")
        relay = Relay(IReactorTime(reactor), server, settings, self.hub, dialling=dialling)
        self.addCleanup(relay.drain, 0)
        return relay

    async def all_gone(self) -> None:
        for peer in self.locals.all + self.servers.all:
            peer.abort()
        await self.until(lambda: all(p.lost for p in self.locals.all + self.servers.all))

    def listen(self, factory: Any) -> int:
        port = IReactorTCP(reactor).listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        address = port.getHost()
        assert isinstance(address, IPv4Address)
        return address.port

    async def local(self, endpoint: IStreamClientEndpoint | None = None) -> Peer:
        """Connect to the relay."""
        if endpoint is None:
            port = self.listen(self.relay.factory)
            endpoint = TCP4ClientEndpoint(IReactorTime(reactor), "127.0.0.1", port)
        peer = await endpoint.connect(self.locals)
        assert isinstance(peer, Peer)
        return peer

    async def pair(self, endpoint: IStreamClientEndpoint | None = None) -> tuple[Peer, Peer]:
        """Return both far ends, behind the first bytes either way."""
        known = len(self.servers.all)
        local = await self.local(endpoint)
        local.say(b"hello")
        await self.until(lambda: self.servers.all[known:] and self.servers.all[-1].received == 5)
        server = self.servers.all[-1]
        server.say(b"hello!")
        await self.until(lambda: local.received == 6)
        return local, server


class BytesTests(RelayOverSocketsTestCase):
    async def test_any_protocol(self) -> None:
        """A server that echoes, whatever it is told, echoes through the relay."""
        local, server = await self.pair()

        def echo() -> None:
            data, server.kept = bytes(server.kept), bytearray()
            server.say(data)

        said, server.kept = b"", bytearray()
        server.heard = echo
        for size in (1, 16_384, 16_385, 500_000):
            said += CHUNK[:7] * size
            local.say(CHUNK[:7] * size)
            await self.until(lambda: local.received >= 6 + len(said))  # noqa: B023 - waited for
        self.assertEqual(local.received, 6 + len(said))
        self.assertEqual(local.kept[6:], said[: len(local.kept) - 6])

    async def test_half_close(self) -> None:
        """A client that closes its side after 100 requests gets 100 answers, and a clean end."""
        memory = MemoryServer(IReactorTime(reactor), certificate=localhost())
        self.addCleanup(memory.stop)
        await memory.listen()
        self.relay = self.make_relay(memory.server.address.port)
        local = await self.local()
        local.say(b"".join(Request(Opcode.NOOP, opaque=n).encode() for n in range(100)))
        local.stream.loseWriteConnection()
        await self.until(lambda: local.lost)
        self.assertEqual((len(local.kept), local.clean), (100 * 24, True))

    async def test_half_close_is_told(self) -> None:
        """A server reads the end of a client that says no more, and may answer after it."""
        local, server = await self.pair()
        local.stream.loseWriteConnection()
        await self.until(lambda: server.lost)
        self.assertTrue(server.clean)
        await self.until(lambda: local.lost)
        self.assertTrue(local.clean)

    async def test_unix(self) -> None:
        """A listener may be a Unix socket."""
        path = str(Path(tempfile.mkdtemp(dir=self.mktemp_folder())) / "s")
        port: IListeningPort = IReactorUNIX(reactor).listenUNIX(path, self.relay.factory)
        self.addCleanup(port.stopListening)
        local, server = await self.pair(UNIXClientEndpoint(reactor, path))
        server.close()
        await self.until(lambda: local.lost)
        self.assertTrue(local.clean)

    def mktemp_folder(self) -> str:
        folder = tempfile.TemporaryDirectory()  # trial's own may be too deep for a socket
        self.addCleanup(folder.cleanup)
        return folder.name

    async def test_churn(self) -> None:
        """Connections that come and go in numbers leave nothing behind."""
        for _ in range(40):
            local, _server = await self.pair()
            (local.abort if len(self.locals.all) % 2 else local.close)()
        await self.until(lambda: not self.relay.local_connections())
        self.assertEqual(self.hub.counters.local_connections, 0)
        self.assertEqual(self.hub.counters.upstream_ready, 40)


class EndTests(RelayOverSocketsTestCase):
    async def test_closed(self) -> None:
        """What a server says before it closes arrives whole, before a clean end."""
        local, server = await self.pair()
        local.read(on=False)
        server.say(CHUNK * 100)
        server.close()
        await self.until_still(lambda: self.hub.counters.bytes_from_upstream)
        local.read(on=True)
        await self.until(lambda: local.lost)
        self.assertEqual((local.received, local.clean), (6 + 100 * len(CHUNK), True))

    async def test_torn(self) -> None:
        """A connection that ends without TLS's goodbye is torn for the local client as well."""
        for big in (1, 300):
            local, server = await self.pair()
            local.read(on=False)
            server.say(CHUNK * big)
            below = server.transport
            assert isinstance(below, TLSMemoryBIOProtocol) and below.transport is not None
            below.transport.loseConnection()
            await self.until_still(lambda: self.hub.counters.bytes_from_upstream)
            local.read(on=True)
            await self.until(lambda: local.lost)  # noqa: B023 - waited for
            self.assertFalse(local.clean)
            if big == 1:
                self.assertEqual(local.received, 6 + len(CHUNK))
        self.assertEqual(self.hub.counters.closed_upstream_lost, 2)

    async def test_reset(self) -> None:
        """A connection that the server resets is reset for the local client."""
        local, server = await self.pair()
        server.abort()
        await self.until(lambda: local.lost)
        self.assertFalse(local.clean)

    async def test_local_resets(self) -> None:
        """A local client that resets takes its own upstream connection along, and no other."""
        local, server = await self.pair()
        other, its = await self.pair()
        local.abort()
        await self.until(lambda: server.lost)
        other.say(b"?")
        await self.until(lambda: its.received == 6)
        self.assertIsNone(other.lost)

    async def test_nobody_listens(self) -> None:
        """Where no server listens the local client is reset."""
        with socket.socket() as nobody:  # bound, and never listening
            nobody.bind(("127.0.0.1", 0))
            self.relay = self.make_relay(nobody.getsockname()[1])
            await self.assert_reset()

    async def assert_reset(self) -> None:
        local = await self.local()
        await self.until(lambda: local.lost)
        self.assertFalse(local.clean)
        (line,) = self.journal.lines
        self.assertIn("is down", line)


class BackPressureTests(RelayOverSocketsTestCase):
    async def test_local_reads_nothing(self) -> None:
        """Of what a local client does not read, the server can only send what the kernel keeps."""
        local, server = await self.pair()
        local.read(on=False)
        server.flood()
        await self.until_still(lambda: server.sent)
        self.assertLess(self.hub.counters.bytes_from_upstream, ON_THE_WAY)
        await self.assert_goes_on(local)

    async def test_server_reads_nothing(self) -> None:
        """Of what a server does not read, a local client can only send what the kernel keeps."""
        local, server = await self.pair()
        server.read(on=False)
        local.flood()
        await self.until_still(lambda: local.sent)
        self.assertLess(self.hub.counters.bytes_to_upstream, ON_THE_WAY)
        await self.assert_goes_on(server)

    async def assert_goes_on(self, reader: Peer) -> None:
        """The rest comes, in order, once it is read."""
        reader.read(on=True)
        await self.until(lambda: reader.received > ON_THE_WAY)
        start = len(b"hello!" if reader in self.locals.all else b"hello")
        self.assertEqual(reader.kept[start : start + len(CHUNK) * 8], CHUNK * 8)


class TLSListenerTests(RelayOverSocketsTestCase):
    """The same, where the local side speaks TLS as well."""

    lean = False

    def endpoint(self) -> IStreamClientEndpoint:
        options = localhost().server_options()
        kind = TLSFactory if self.lean else TLSMemoryBIOFactory
        port = self.listen(kind(options, False, self.relay.factory))
        trust = trustRootFromCertificates([Certificate.loadPEM(authority().pem)])
        return wrapClientTLS(
            optionsForClientTLS("localhost", trust),
            TCP4ClientEndpoint(IReactorTime(reactor), "127.0.0.1", port),
        )

    async def test_bytes(self) -> None:
        """Bytes pass, and the end of each side is the other's."""
        local, server = await self.pair(self.endpoint())
        server.say(CHUNK * 20)
        server.close()
        await self.until(lambda: local.lost)
        self.assertEqual((local.received, local.clean), (6 + 20 * len(CHUNK), True))
        local, server = await self.pair(self.endpoint())
        local.close()
        await self.until(lambda: server.lost)
        self.assertTrue(server.clean)

    async def test_reset(self) -> None:
        """A torn answer is torn for the client, behind all that came of it."""
        local, server = await self.pair(self.endpoint())
        server.say(CHUNK)
        await self.until(lambda: local.received == 6 + len(CHUNK))
        server.abort()
        await self.until(lambda: local.lost)
        self.assertFalse(local.clean)

    async def test_unread(self) -> None:
        """Of what the client does not read, the server can only send what the kernel keeps."""
        local, server = await self.pair(self.endpoint())
        local.read(on=False)
        server.flood()
        await self.until_still(lambda: server.sent)
        self.assertLess(self.hub.counters.bytes_from_upstream, ON_THE_WAY)

    async def test_no_handshake(self) -> None:
        """Nobody is dialled for a client that has not shaken hands."""
        port = self.listen(
            TLSMemoryBIOFactory(localhost().server_options(), False, self.relay.factory)
        )
        local = await self.local(TCP4ClientEndpoint(IReactorTime(reactor), "127.0.0.1", port))
        local.say(b"\x80 not TLS at all")
        await self.until(lambda: local.lost)
        await self.until(lambda: not self.relay.local_connections())
        self.assertEqual(self.servers.all, [])


class LeanTLSListenerTests(TLSListenerTests):
    lean = True
