"""TLS over a lean layer: everything arrives, in order, and ends as it does with Twisted's own."""

from __future__ import annotations

import socket
from functools import cache
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHandshakeListener, IReactorTCP, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from tests.net.test_direct import MUCH, Producer
from txtlsmc.net.tls import ClientTLS
from txtlsmc.net.tls_layer import RecordCounter, TLSFactory, TLSLayer
from txtlsmc.settings import TLS, Server
from txtlsmc.testing.authority import Authority
from txtlsmc.testing.issued import IssuedCertificate

VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
RECORD = 2**14


@cache
def authority() -> Authority:
    return Authority()


@cache
def localhost() -> IssuedCertificate:
    return authority().issue("localhost")


class RecordCounterTests(SynchronousTestCase):
    STREAM = b"".join(
        b"\x17\x03\x03" + size.to_bytes(2, "big") + bytes(size) for size in (3, 0, 1, 300, 5)
    )
    ENDS = (8, 13, 19, 324, 334)

    def test_any_cut(self) -> None:
        """The ends of records are found wherever the network cuts the stream."""
        for first in range(len(self.STREAM) + 1):
            for second in range(first, len(self.STREAM) + 1, 7):
                counter = RecordCounter()
                at = 0
                for end in (first, second, len(self.STREAM)):
                    expected = sum(at < each <= end for each in self.ENDS)
                    self.assertEqual(counter.completed(self.STREAM[at:end]), expected)
                    at = end

    def test_byte_by_byte(self) -> None:
        """A stream of single bytes has its records where they end."""
        counter = RecordCounter()
        for at in range(len(self.STREAM)):
            completed = counter.completed(self.STREAM[at : at + 1])
            self.assertEqual(completed, int(at + 1 in self.ENDS))


@implementer(IHandshakeListener)
class Side(Protocol):
    """What came on one side, and how it ended."""

    transport: TLSMemoryBIOProtocol

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.size = 0
        self.lost: Failure | None = None
        self.shaken: Deferred[None] = Deferred()
        self.gone: Deferred[None] = Deferred()
        self.on_data: Any = None
        self._awaited = 0
        self._came: Deferred[None] = Deferred()

    @property
    def received(self) -> bytes:
        return b"".join(self.pieces)

    def handshakeCompleted(self) -> None:
        self.shaken.callback(None)

    def expect(self, size: int) -> Deferred[None]:
        """Return a Deferred for when *size* bytes have come in all."""
        self._awaited, self._came = size, Deferred()
        if self.size >= size:
            self._came.callback(None)
        return self._came

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)
        self.size += len(data)
        if self.on_data is not None:
            self.on_data(data)
        if self._awaited and self.size >= self._awaited and not self._came.called:
            self._came.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self.gone.callback(None)


class Wire:
    """
    A client with the layer and a server with Twisted's own, and no network: the test carries.

    Attributes:
        client, server: their protocols.
        near, far: their TLS layers.
    """

    def __init__(
        self,
        version: str,
        layer: type[TLSMemoryBIOProtocol] = TLSLayer,
        *,
        carry: bool = True,
    ) -> None:
        self.client, self.server = Side(), Side()
        tls = TLS(ca=authority().pem)
        attempt = ClientTLS(Server.parse("localhost:11211"), tls).attempt()
        factory = TLSMemoryBIOFactory(attempt, True, Factory(), Clock())
        self.near = layer(factory, self.client)
        options = localhost().server_options()
        options.getContext().set_min_proto_version(VERSIONS[version])
        options.getContext().set_max_proto_version(VERSIONS[version])
        listening = TLSMemoryBIOFactory(options, False, Factory(), Clock())
        self.far = TLSMemoryBIOProtocol(listening, self.server)
        self.near_wire, self.far_wire = StringTransport(), StringTransport()
        self.far.makeConnection(self.far_wire)
        self.near.makeConnection(self.near_wire)
        if carry:
            self.carry()

    def to_client(self) -> bytes:
        """Take what the server sent."""
        data: bytes = self.far_wire.value()
        self.far_wire.clear()
        return data

    def to_server(self) -> bytes:
        """Take what the client sent."""
        data: bytes = self.near_wire.value()
        self.near_wire.clear()
        return data

    def carry(self, size: int = 2**20) -> None:
        """Carry all, in pieces of *size*, until both are silent."""
        while True:
            moved = False
            for data, layer in ((self.to_server(), self.far), (self.to_client(), self.near)):
                for at in range(0, len(data), size):
                    moved = True
                    layer.dataReceived(data[at : at + size])
            if not moved:
                return


class WireTests(SynchronousTestCase):
    def test_names(self) -> None:
        """The names inside of Twisted's layer that ours is built on are still there."""
        wire = Wire("1.3", TLSMemoryBIOProtocol)
        for name in (
            "_flushSendBIO",
            "_flushReceiveBIO",
            "_tlsConnection",
            "_lostTLSConnection",
            "_aborted",
            "_tlsShutdownFinished",
        ):
            self.assertTrue(
                hasattr(wire.near, name),
                f"this release of Twisted has no TLSMemoryBIOProtocol.{name}: correct"
                " txtlsmc/net/tls_layer.py, which builds on it",
            )
        called: list[str] = []

        class Watched(TLSMemoryBIOProtocol):
            def _flushSendBIO(self) -> None:  # noqa: N802 - Twisted's name
                called.append("send")
                super()._flushSendBIO()

            def _flushReceiveBIO(self) -> None:  # noqa: N802 - Twisted's name
                called.append("receive")
                super()._flushReceiveBIO()

        wire = Wire("1.3", Watched)
        called.clear()
        wire.near.write(b"?")
        self.assertEqual(called, ["send"], "Twisted's layer does not write through _flushSendBIO")
        wire.far.write(b"!")
        wire.carry()
        self.assertIn("receive", called, "Twisted's layer does not read in _flushReceiveBIO")

    def test_any_pieces(self) -> None:
        """What is said arrives, whatever pieces the network makes of it."""
        for version in VERSIONS:
            for size in (1, 2, 5, 7, 100, 2**14, 2**20):
                wire = Wire(version)
                for data in (b"one", b"two" * 100, bytes(2**15 + 1), b"three"):
                    wire.far.write(data)
                    wire.near.write(data)
                wire.carry(size)
                self.assertEqual(wire.client.received, wire.server.received)
                self.assertEqual(wire.client.size, 2**15 + 309)

    def test_one_record(self) -> None:
        """What is written at once in up to 16 KiB is one record, and what is not is none."""
        for version in VERSIONS:
            wire = Wire(version)
            for size in (1, 100, RECORD):
                wire.near.write(bytes(size))
                self.assertEqual(RecordCounter().completed(wire.to_server()), 1)
            wire.near.write(b"one")
            wire.near.write(b"two")
            self.assertEqual(RecordCounter().completed(wire.to_server()), 2)

    def test_written_inside(self) -> None:
        """Who is given data can answer at once."""
        for version in VERSIONS:
            wire = Wire(version)
            wire.client.on_data = wire.near.write
            for number in range(10):
                wire.far.write(b"%d" % number)
            wire.carry()
            self.assertEqual(wire.server.received, b"0123456789")

    def test_aborted_inside(self) -> None:
        """Who is given data and aborts gets no more, and the other side gets no goodbye."""
        for version in VERSIONS:
            wire = Wire(version)
            wire.client.on_data = lambda data, wire=wire: wire.near.abortConnection()
            for number in range(3):
                wire.far.write(b"%d" % number)
            wire.near.dataReceived(wire.to_client())
            wire.far.write(b"more")
            wire.near.dataReceived(wire.to_client())
            wire.near.dataReceived(b"\x17\x03\x03\x00\x10" + bytes(16))
            self.assertEqual(wire.client.received, b"012")  # what came in one go
            self.assertTrue(wire.near_wire.disconnected)

    def test_joined(self) -> None:
        """Records that came in one go are handed on in one go, as TCP would do it."""
        for version in VERSIONS:
            wire = Wire(version)
            given: list[bytes] = []
            wire.client.on_data = given.append
            for number in range(3):
                wire.far.write(b"%d" % number)
            wire.near.dataReceived(wire.to_client())
            self.assertEqual(given, [b"012"])

    def test_closed_inside(self) -> None:
        """Who is given data and closes says goodbye; what had come already is still handed on."""
        for version in VERSIONS:
            wire = Wire(version)
            wire.client.on_data = lambda data, wire=wire: wire.near.loseConnection()
            for number in range(3):
                wire.far.write(b"%d" % number)
            wire.carry()
            self.assertEqual(wire.client.received, b"012")
            self.assertTrue(wire.near_wire.disconnecting)
            self.assertTrue(wire.far_wire.disconnecting)

    def test_tickets(self) -> None:
        """Records without data among those with some, as TLS 1.3's tickets, keep nothing back."""
        wire = Wire("1.3", carry=False)
        wire.far.dataReceived(wire.to_server())
        wire.near.dataReceived(wire.to_client())
        wire.server.shaken.addCallback(lambda _: wire.far.write(b"hello"))
        wire.far.dataReceived(wire.to_server())
        flight = wire.to_client()
        self.assertGreater(RecordCounter().completed(flight), 1)
        wire.near.dataReceived(flight)
        self.assertEqual(wire.client.received, b"hello")

    def endings(self, layer: type[TLSMemoryBIOProtocol], version: str) -> list[tuple[object, str]]:
        """Return how connections end with *layer* that the other side ends in various ways."""
        told: list[tuple[object, str]] = []
        for end in ("goodbye", "cut", "torn", "garbage", "changed"):
            wire = Wire(version, layer)
            wire.far.write(b"last words")
            data = wire.to_client()
            if end == "goodbye":
                wire.far.loseConnection()
                data += wire.to_client()
            if end == "torn":
                data = data[:-1]
            if end == "garbage":
                data += b"\x17\x03\x03\x00\x10" + bytes(16)
            if end == "changed":
                data = data[:-1] + bytes([data[-1] ^ 1])
            wire.near.dataReceived(data)
            said = end not in ("torn", "changed")
            self.assertEqual(wire.client.received, b"last words" if said else b"")
            wire.near.connectionLost(Failure(ConnectionDone()))
            assert wire.client.lost is not None
            told.append((wire.client.lost.type, wire.client.lost.getErrorMessage()))
        return told

    def test_endings(self) -> None:
        """A connection ends with the same reason as over Twisted's layer, however it ends."""
        for version in VERSIONS:
            ours = self.endings(TLSLayer, version)
            self.assertEqual(ours, self.endings(TLSMemoryBIOProtocol, version))
            self.assertEqual(
                [kind for kind, _ in ours[:3]], [ConnectionDone] + [ConnectionLost] * 2
            )

    def test_goodbye_counts(self) -> None:
        """Who says goodbye and does not wait for ours, as memcached does, has torn nothing."""
        for version in VERSIONS:
            wire = Wire(version)
            wire.far.write(b"the last words")
            wire.far.loseConnection()
            wire.near.dataReceived(wire.to_client())
            wire.near.connectionLost(Failure(ConnectionLost()))
            assert wire.client.lost is not None
            self.assertIs(wire.client.lost.type, ConnectionDone)
            self.assertEqual(wire.client.received, b"the last words")

    def test_goodbye_does_not_hide_an_abort(self) -> None:
        """Who aborts is told that it did, whatever the other side has said."""
        wire = Wire("1.3")
        wire.far.loseConnection()
        wire.near.dataReceived(wire.to_client())
        wire.near.abortConnection()
        wire.near.connectionLost(Failure(ConnectionAborted()))
        assert wire.client.lost is not None
        self.assertIs(wire.client.lost.type, ConnectionAborted)


class SocketTests(TestCase):
    """Over real sockets, with a server of Twisted's."""

    timeout = 60

    async def connected(self) -> tuple[Side, Side]:
        client, server = Side(), Side()
        clock = IReactorTime(reactor)
        served: Any = TLSMemoryBIOFactory(
            localhost().server_options(), False, Factory.forProtocol(lambda: server), clock
        )
        attempt = ClientTLS(Server.parse("localhost:11211"), TLS(ca=authority().pem)).attempt()
        dialling: Any = TLSFactory(attempt, True, Factory.forProtocol(lambda: client), clock)
        served.noisy = dialling.noisy = False
        port = IReactorTCP(reactor).listenTCP(0, served, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        address = port.getHost()
        assert isinstance(address, IPv4Address)
        await TCP4ClientEndpoint(reactor, "127.0.0.1", address.port).connect(dialling)
        self.addCleanup(self.gone, client, server)
        client.transport.setTcpNoDelay(True)
        await client.shaken
        await server.shaken
        return client, server

    def gone(self, *sides: Side) -> Deferred[Any]:
        for side in sides:
            if side.lost is None:
                side.transport.abortConnection()
        return DeferredList([side.gone for side in sides])

    def on_the_way(self, side: Side) -> bytes:
        """What has come to *side* by now, encrypted, without a turn of the reactor."""
        try:
            tcp: Any = side.transport.transport
            return bytes(tcp.getHandle().recv(2**16, socket.MSG_PEEK))
        except BlockingIOError:
            return b""

    async def test_at_once(self) -> None:
        """What is written is on its way before the reactor turns."""
        client, server = await self.connected()
        client.transport.write(b"now")
        self.assertEqual(RecordCounter().completed(self.on_the_way(server)), 1)

    async def test_much(self) -> None:
        """Much data both ways at once arrives whole and in order."""
        client, server = await self.connected()
        client.transport.write(MUCH)
        server.transport.write(MUCH)
        client.transport.write(b"end")
        await server.expect(len(MUCH) + 3)
        await client.expect(len(MUCH))
        self.assertTrue(server.received == MUCH + b"end")
        self.assertTrue(client.received == MUCH)

    async def test_slow_reader(self) -> None:
        """A server that does not read for a while loses nothing, and the rest is not overtaken."""
        client, server = await self.connected()
        server.transport.pauseProducing()
        client.transport.write(MUCH)
        for number in range(100):
            client.transport.write(b"%03d" % number)
        client.transport.loseConnection()
        server.transport.resumeProducing()
        await server.gone
        await client.gone
        self.assertTrue(server.received == MUCH + b"".join(b"%03d" % n for n in range(100)))
        for side in (client, server):
            assert side.lost is not None
            side.lost.trap(ConnectionDone)

    async def test_small(self) -> None:
        """Many short answers in a row come one by one."""
        client, server = await self.connected()
        server.on_data = server.transport.write
        for number in range(200):
            client.transport.write(b"%03d" % number)
            await client.expect(3 * number + 3)
        self.assertEqual(client.received, b"".join(b"%03d" % n for n in range(200)))

    async def test_server_closes(self) -> None:
        """The server's goodbye comes after its last words, and ends the connection cleanly."""
        client, server = await self.connected()
        server.transport.write(MUCH)
        server.transport.loseConnection()
        await client.gone
        await server.gone
        self.assertTrue(client.received == MUCH)
        assert client.lost is not None
        client.lost.trap(ConnectionDone)

    async def test_abort(self) -> None:
        """What is aborted is torn for the other side too, and no clean end."""
        client, server = await self.connected()
        client.transport.write(b"half a requ")
        await server.expect(11)
        client.transport.abortConnection()
        self.assertEqual(self.on_the_way(server), b"")
        await server.gone
        await client.gone
        assert server.lost is not None and client.lost is not None
        client.lost.trap(ConnectionLost)  # so says Twisted's layer of its own abort as well
        server.lost.trap(ConnectionLost)

    async def test_producer(self) -> None:
        """A producer is paused and resumed as usual, and writing goes on after it."""
        client, server = await self.connected()
        server.transport.pauseProducing()
        client.transport.write(MUCH)
        producer = Producer()
        client.transport.registerProducer(producer, True)
        client.transport.write(b"produced")
        server.transport.resumeProducing()
        await server.expect(len(MUCH) + 8)
        client.transport.unregisterProducer()
        client.transport.write(b"behind")
        await server.expect(len(MUCH) + 14)
        client.transport.write(b"at once")
        await server.expect(len(MUCH) + 21)
        self.assertTrue(server.received == MUCH + b"producedbehindat once")
        self.assertEqual((producer.told[0], producer.told[-1]), ("pause", "resume"))
        client.transport.write(b"direct")
        self.assertTrue(self.on_the_way(server))
        client.transport.loseConnection()
        await server.gone
        await client.gone
