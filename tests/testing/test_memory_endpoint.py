"""A connection in memory is to both protocols what a TCP connection is."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.error import (
    ConnectingCancelledError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    NoProtocol,
)
from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProtocolFactory,
    IPullProducer,
    IPushProducer,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from txtlsmc.testing.memory import MemoryEndpoint
from txtlsmc.testing.pipe import MemoryTransport
from txtlsmc.testing.registry import Registry

MIB = 2**20


class Keeping(Protocol):
    """Keeps what happens to it."""

    transport: MemoryTransport

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.lost: list[type[BaseException] | None] = []
        self.on_data: Callable[[bytes], object] = self.chunks.append

    def dataReceived(self, data: bytes) -> None:
        self.on_data(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.append(reason.type)

    @property
    def data(self) -> bytes:
        return b"".join(self.chunks)


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Keeping):
    """Learns that the other side sends no more, and can go on."""

    ended = 0

    def readConnectionLost(self) -> None:
        self.ended += 1

    def writeConnectionLost(self) -> None:
        raise AssertionError("nobody asked for that")


def _failing() -> Protocol:
    raise ZeroDivisionError


class Counting(Factory[Protocol]):
    """Counts how often it was started and stopped."""

    starts = stops = 0

    def startFactory(self) -> None:
        self.starts += 1

    def stopFactory(self) -> None:
        self.stops += 1


@implementer(IPushProducer)
class Pushing:
    """Keeps the orders that a push producer gets."""

    def __init__(self) -> None:
        self.orders: list[str] = []

    def pauseProducing(self) -> None:
        self.orders.append("pause")

    def resumeProducing(self) -> None:
        self.orders.append("resume")

    def stopProducing(self) -> None:
        self.orders.append("stop")


@implementer(IPullProducer)
class Pulling:
    """Writes one piece whenever it is asked to."""

    def __init__(self, transport: MemoryTransport, pieces: int) -> None:
        self.transport, self.left, self.stopped = transport, pieces, False

    def resumeProducing(self) -> None:
        if self.left:
            self.left -= 1
            self.transport.write(bytes(50_000))
        else:
            self.transport.unregisterProducer()

    def stopProducing(self) -> None:
        self.stopped = True


class MemoryTestCase(SynchronousTestCase):
    """
    With two protocols that are connected.

    Attributes:
        client, server: the protocols.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = Registry(10)
        self.server_kind: type[Keeping] = Keeping
        self.client, self.server = self.join()

    def endpoint(self, factory: IProtocolFactory) -> MemoryEndpoint:
        return MemoryEndpoint(self.clock, factory, self.registry)

    def join(
        self, client_kind: type[Keeping] = Keeping, server_kind: type[Keeping] = Keeping
    ) -> tuple[Keeping, Keeping]:
        server = server_kind()
        endpoint = self.endpoint(Factory.forProtocol(lambda: server))
        connecting = endpoint.connect(Factory.forProtocol(client_kind))
        self.assertNoResult(connecting)
        self.clock.advance(0)
        client = self.successResultOf(connecting)
        assert isinstance(client, Keeping)
        return client, server

    def assert_lost(self, client: type[Exception] | None, server: type[Exception] | None) -> None:
        """Each side was told once that the connection is over, for this reason; None: not yet."""
        self.clock.advance(0)
        self.assertEqual(self.client.lost, [client] if client else [])
        self.assertEqual(self.server.lost, [server] if server else [])


class TransportTests(MemoryTestCase):
    def test_interfaces(self) -> None:
        """It is a TCP transport, a consumer and a producer, by the letter."""
        for interface in (ITCPTransport, IConsumer, IPushProducer):
            verifyObject(interface, self.client.transport)

    def test_addresses(self) -> None:
        """The two sides see each other's address."""
        host, peer = self.client.transport.getHost(), self.client.transport.getPeer()
        self.assertEqual(self.server.transport.getHost(), peer)
        self.assertEqual(self.server.transport.getPeer(), host)
        self.assertNotEqual(host, peer)
        self.assertIsInstance(host, IPv4Address)

    def test_socket_options(self) -> None:
        """Delay and keepalive can be set and read, and mean nothing."""
        transport = self.client.transport
        self.assertFalse(transport.getTcpNoDelay() or transport.getTcpKeepAlive())
        transport.setTcpNoDelay(True)
        self.assertTrue(transport.getTcpNoDelay())
        transport.setTcpKeepAlive(True)
        self.assertTrue(transport.getTcpKeepAlive())

    def test_later(self) -> None:
        """What is written arrives later, never while it is written."""
        self.client.transport.write(b"one")
        self.server.transport.writeSequence([b"t", b"wo"])
        self.assertEqual((self.server.data, self.client.data), (b"", b""))
        self.clock.advance(0)
        self.assertEqual((self.server.data, self.client.data), (b"one", b"two"))

    def test_large(self) -> None:
        """Much data arrives whole, in pieces of the size that a socket gives."""
        sent = bytes(range(256)) * 4096
        self.client.transport.write(sent)
        self.clock.advance(0)
        self.assertEqual(self.server.data, sent)
        self.assertLessEqual(max(map(len, self.server.chunks)), 65536)

    def test_reader_pauses(self) -> None:
        """To a protocol that reads nothing nothing is delivered, until it reads again."""
        self.server.transport.pauseProducing()
        self.client.transport.write(b"one")
        self.clock.advance(10)
        self.assertEqual(self.server.data, b"")
        self.server.transport.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(self.server.data, b"one")

    def test_real_pipe_idles(self) -> None:
        """When there is nothing to do the reactor has nothing to do."""
        self.client.transport.write(b"one")
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    @given(
        st.lists(
            st.tuples(st.booleans(), st.integers(0, 100_000), st.sampled_from("wpra")),
            max_size=30,
        )
    )
    @settings(max_examples=50, deadline=None, database=None)
    def test_any_order(self, steps: list[tuple[bool, int, str]]) -> None:
        """Whoever writes, pauses and resumes in whatever order: all arrives, in order."""
        pair = self.join()
        sent = [bytearray(), bytearray()]
        for who, size, what in steps:
            side = pair[who]
            if what == "w":
                piece = bytes([len(sent[who]) % 251]) * size
                sent[who] += piece
                side.transport.write(piece)
            elif what == "p":
                side.transport.pauseProducing()
            elif what == "r":
                side.transport.resumeProducing()
            else:
                self.clock.advance(0)
        for side in pair:
            side.transport.resumeProducing()
        self.clock.advance(0)
        self.assertEqual([pair[1].data, pair[0].data], [bytes(each) for each in sent])


class CloseTests(MemoryTestCase):
    def test_close(self) -> None:
        """A closed connection delivers what was written before, to the other side alone."""
        self.client.transport.write(bytes(MIB))
        self.client.transport.loseConnection()
        self.client.transport.resumeProducing()
        self.server.transport.write(b"late")
        self.assert_lost(ConnectionDone, ConnectionDone)
        self.assertEqual((len(self.server.data), self.client.data), (MIB, b""))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_while_paused(self) -> None:
        """To close does not wait for a peer that reads nothing; the peer learns of it later."""
        self.server.transport.pauseProducing()
        self.client.transport.write(b"last")
        self.client.transport.loseConnection()
        self.assert_lost(ConnectionDone, None)
        self.server.transport.resumeProducing()
        self.assert_lost(ConnectionDone, ConnectionDone)
        self.assertEqual(self.server.data, b"last")

    def test_write_to_closed(self) -> None:
        """Who writes to a peer that is gone learns so."""
        self.server.transport.pauseProducing()
        self.client.transport.loseConnection()
        self.assert_lost(ConnectionDone, None)
        self.server.transport.write(b"anybody?")
        self.assert_lost(ConnectionDone, ConnectionLost)

    def test_abort(self) -> None:
        """An aborted connection is lost at once on both sides, and what was on its way as well."""
        self.server.transport.pauseProducing()
        self.client.transport.write(b"gone")
        self.clock.advance(0)
        self.client.transport.abortConnection()
        self.assertEqual(self.client.lost, [])  # told later, as by the reactor
        self.assert_lost(ConnectionAborted, ConnectionLost)
        self.assertEqual(self.server.data, b"")

    def test_abort_a_full_pipe(self) -> None:
        """To abort waits for nothing, however much is unread."""
        self.server.transport.pauseProducing()
        self.client.transport.write(bytes(MIB))
        self.client.transport.loseConnection()
        self.assert_lost(None, None)
        self.client.transport.abortConnection()
        self.assert_lost(ConnectionAborted, ConnectionLost)

    def test_both(self) -> None:
        """Both sides may close or abort at once, and again: each is told once."""
        for order in ("loseConnection", "abortConnection"):
            self.client, self.server = self.join()
            for side in (self.client, self.server, self.client):
                getattr(side.transport, order)()
            self.clock.advance(0)
            for side in (self.client, self.server):
                self.assertEqual(len(side.lost), 1)
                getattr(side.transport, order)()
                side.transport.write(b"x")
                side.transport.pauseProducing()
                side.transport.resumeProducing()
            self.clock.advance(0)
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_half_close(self) -> None:
        """A side that sends no more can still read, if the other can live with that."""
        self.client, server = self.join(server_kind=HalfCloseable)
        assert isinstance(server, HalfCloseable)
        self.server = server
        self.client.transport.write(b"question")
        self.client.transport.loseWriteConnection()
        self.client.transport.write(b"too late")
        self.assert_lost(None, None)
        self.assertEqual((server.data, server.ended), (b"question", 1))
        server.transport.write(b"answer")
        self.clock.advance(0)
        server.transport.loseConnection()
        self.assert_lost(ConnectionDone, ConnectionDone)
        self.assertEqual((self.client.data, server.ended), (b"answer", 1))

    def test_half_close_unknown(self) -> None:
        """A protocol that knows nothing of half-closes takes one for the end."""
        self.client.transport.loseWriteConnection()
        self.assert_lost(ConnectionDone, ConnectionDone)

    def test_error_in_protocol(self) -> None:
        """An error in a protocol is logged, and costs the connection."""

        def fail(data: bytes) -> None:
            raise RuntimeError("on purpose")

        self.server.on_data = fail
        self.client.transport.write(b"x")
        self.assert_lost(ConnectionLost, RuntimeError)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_closed_in_data(self) -> None:
        """A protocol may close in the middle of what it is given."""
        self.server.on_data = lambda data: self.server.transport.abortConnection()
        self.client.transport.write(bytes(MIB))
        self.assert_lost(ConnectionLost, ConnectionAborted)

    def test_aborted_meanwhile(self) -> None:
        """A protocol whose connection was aborted is given nothing any more."""
        self.client.on_data = lambda data: self.server.transport.abortConnection()
        self.client.transport.write(b"x")
        self.server.transport.write(b"x")
        self.assert_lost(ConnectionLost, ConnectionAborted)
        self.assertEqual(self.server.data, b"")


class ProducerTests(MemoryTestCase):
    def test_push(self) -> None:
        """A push producer is paused when it gets ahead, and resumed when there is room again."""
        producer = Pushing()
        self.client.transport.registerProducer(producer, True)
        self.server.transport.pauseProducing()
        self.client.transport.write(bytes(60_000))
        self.clock.advance(0)
        self.assertEqual(producer.orders, [])
        for _ in range(3):
            self.client.transport.write(bytes(60_000))
        self.clock.advance(0)
        self.assertEqual(producer.orders, ["pause"])
        self.server.transport.resumeProducing()
        self.clock.advance(0)
        self.assertEqual(producer.orders, ["pause", "resume"])
        self.client.transport.abortConnection()
        self.clock.advance(0)
        self.assertEqual(producer.orders, ["pause", "resume", "stop"])

    def test_pull(self) -> None:
        """A pull producer is asked whenever there is room, and not otherwise."""
        producer = Pulling(self.client.transport, 10)
        self.client.transport.registerProducer(producer, False)
        self.server.transport.pauseProducing()
        self.clock.advance(0)
        self.assertGreater(producer.left, 5)
        self.server.transport.resumeProducing()
        self.clock.advance(0)
        self.assertEqual((producer.left, len(self.server.data)), (0, 500_000))

    def test_close_waits(self) -> None:
        """To close waits for a pull producer to be done."""
        self.client.transport.registerProducer(Pulling(self.client.transport, 10), False)
        self.client.transport.loseConnection()
        self.assert_lost(ConnectionDone, ConnectionDone)
        self.assertEqual(len(self.server.data), 500_000)

    def test_one_at_a_time(self) -> None:
        """There is one producer at most, and none for a connection that is over."""
        self.client.transport.registerProducer(Pushing(), True)
        self.assertRaises(RuntimeError, self.client.transport.registerProducer, Pushing(), True)
        self.client.transport.unregisterProducer()
        self.client.transport.abortConnection()
        self.clock.advance(0)
        late = Pushing()
        self.client.transport.registerProducer(late, True)
        self.assertEqual(late.orders, ["stop"])


class ConnectTests(MemoryTestCase):
    def factory(self) -> Counting:
        factory = Counting()
        factory.protocol = Keeping
        factory.noisy = False
        return factory

    def test_factory(self) -> None:
        """The client's factory is started with the attempt and stopped with the connection."""
        factory = self.factory()
        connecting = self.endpoint(self.factory()).connect(factory)
        self.clock.advance(0)
        client = self.successResultOf(connecting)
        self.assertEqual((factory.starts, factory.stops), (1, 0))
        assert isinstance(client, Keeping)
        client.transport.abortConnection()
        self.clock.advance(0)
        self.assertEqual((factory.starts, factory.stops), (1, 1))

    def test_cancel(self) -> None:
        """A cancelled attempt connects nothing and leaves nothing."""
        factory, server = self.factory(), self.factory()
        connecting = self.endpoint(server).connect(factory)
        connecting.cancel()
        self.failureResultOf(connecting, ConnectingCancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual((factory.starts, factory.stops), (1, 1))

    def test_refused(self) -> None:
        """Without a server, or when its factory wants nobody, the connection is refused."""
        nobody = self.factory()
        nobody.buildProtocol = lambda addr: None  # type: ignore[method-assign]  # as they may do
        for accepting, server in ((False, self.factory()), (True, nobody)):
            self.registry.accepting = accepting
            factory = self.factory()
            connecting = self.endpoint(server).connect(factory)
            self.clock.advance(0)
            self.failureResultOf(connecting, ConnectionRefusedError)
            self.assertEqual((factory.starts, factory.stops), (1, 1))

    def test_no_protocol(self) -> None:
        """A client's factory that builds no protocol fails the attempt, as does an error in it."""
        refusing = self.factory()
        refusing.buildProtocol = lambda addr: None  # type: ignore[method-assign]  # as they may do
        connecting = self.endpoint(self.factory()).connect(refusing)
        self.clock.advance(0)
        self.failureResultOf(connecting, NoProtocol)
        connecting = self.endpoint(self.factory()).connect(Factory.forProtocol(_failing))
        self.clock.advance(0)
        self.failureResultOf(connecting, ZeroDivisionError)

    def test_error_in_connection_made(self) -> None:
        """An error in connectionMade is logged, and costs the connection."""

        class Failing(Keeping):
            def connectionMade(self) -> None:
                raise RuntimeError("on purpose")

        for kinds in ((Failing, Keeping), (Keeping, Failing)):
            self.client, self.server = self.join(*kinds)
            self.clock.advance(0)
            self.assertEqual((len(self.client.lost), len(self.server.lost)), (1, 1))
            self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)

    def test_noted(self) -> None:
        """The server's registry knows of a connection until both sides know of its end."""
        registry = Registry(10)
        endpoint = MemoryEndpoint(self.clock, self.factory(), registry)
        connecting = endpoint.connect(self.factory())
        empty = registry.when_empty()
        self.clock.advance(0)
        client = self.successResultOf(connecting)
        assert isinstance(client, Keeping)
        client.transport.abortConnection()
        self.assertNoResult(empty)
        self.clock.advance(0)
        self.successResultOf(empty)
        self.assertEqual(client.lost, [ConnectionAborted])


class ReactorTests(TestCase):
    async def test_reactor(self) -> None:
        """On a real reactor it is the same, and nothing stays behind."""
        server, registry = Keeping(), Registry(1)
        endpoint = MemoryEndpoint(
            IReactorTime(reactor), Factory.forProtocol(lambda: server), registry
        )
        client = await endpoint.connect(Factory.forProtocol(Keeping))
        assert isinstance(client, Keeping)
        client.transport.write(bytes(MIB))
        client.transport.loseConnection()
        await registry.when_empty()
        self.assertEqual((len(server.data), server.lost), (MIB, [ConnectionDone]))
