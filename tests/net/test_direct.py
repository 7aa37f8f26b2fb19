"""Writing to a socket at once: when, what waits, and how it ends."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer, IReactorSocket
from twisted.internet.protocol import Protocol, ServerFactory, connectionDone
from twisted.internet.tcp import Connection
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface import implementer

from txtlsmc.net.direct import DirectWriter

#: More than any socket takes, and no two pieces of it are alike.
MUCH = b"".join(b"%015d " % number for number in range(2**19))


class Side(Protocol):
    """One side of a connection; it reads nothing before it is told to."""

    transport: Connection

    def __init__(self) -> None:
        self.received = bytearray()
        self.lost: Failure | None = None
        self.gone: Deferred[None] = Deferred()
        self._awaited = 0
        self._came: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        self.transport.pauseProducing()

    def expect(self, size: int) -> Deferred[None]:
        """Read, and return a Deferred for when *size* bytes have come in all."""
        self._awaited, self._came = size, Deferred()
        self.transport.resumeProducing()
        return self._came

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        if len(self.received) >= self._awaited and not self._came.called:
            self._came.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason
        self.gone.callback(None)


@implementer(IPushProducer)
class Producer:
    """
    Somebody who wants to know when there is room.

    Attributes:
        told: what it was told.
    """

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


class DirectWriterTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.raw, raw_far = socket.socketpair()
        self.near, self.far = self.adopted(self.raw), self.adopted(raw_far)
        self.writer = DirectWriter(self.near.transport)

    def adopted(self, raw: socket.socket) -> Side:
        side = Side()
        factory: Any = ServerFactory.forProtocol(lambda: side)
        factory.noisy = False
        with raw:
            IReactorSocket(reactor).adoptStreamConnection(raw.fileno(), raw.family, factory)

        def close() -> Deferred[None]:
            side.transport.abortConnection()
            return side.gone

        self.addCleanup(lambda: None if side.gone.called else close())
        return side

    def arrived(self) -> bytes:
        """What has come to the other side by now, without a turn of the reactor."""
        try:
            return self.far.transport.getHandle().recv(2**16)
        except BlockingIOError:
            return b""

    def fill(self) -> None:
        self.writer.write(MUCH)
        self.assertTrue(self.writer.queued)

    def drained(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self.writer.on_drained = lambda: done.callback(None)
        return done

    def test_at_once(self) -> None:
        """What the socket takes is gone before the reactor turns."""
        for data in (b"one", b"two"):
            self.writer.write(data)
            self.assertEqual(self.arrived(), data)
        self.assertFalse(self.writer.queued)

    async def test_rest(self) -> None:
        """What the socket does not take comes later, before what is written behind it."""
        self.fill()
        for number in range(100):
            self.writer.write(b"%03d" % number)
        drained = self.drained()
        behind = b"".join(b"%03d" % number for number in range(100))
        await self.far.expect(len(MUCH + behind))
        self.assertTrue(self.far.received == MUCH + behind)
        await drained
        self.assertFalse(self.writer.queued)

    async def test_direct_again(self) -> None:
        """After the socket was full, and is empty again, writing is as direct as before."""
        for _ in range(2):
            self.far.received.clear()
            self.fill()
            drained = self.drained()
            await self.far.expect(len(MUCH))
            await drained
            self.far.transport.pauseProducing()
            self.writer.write(b"direct")
            self.assertEqual(self.arrived(), b"direct")

    async def test_written_when_drained(self) -> None:
        """Who is told that there is room again can fill it."""
        self.fill()
        self.writer.on_drained = write_once = Once(lambda: self.writer.write(MUCH))
        await self.far.expect(2 * len(MUCH))
        self.assertTrue(self.far.received == MUCH + MUCH)
        self.assertTrue(write_once.called)

    async def test_close(self) -> None:
        """A connection that is closed while something waits sends that first."""
        self.fill()
        self.near.transport.loseConnection()
        await self.far.expect(len(MUCH))
        self.assertTrue(self.far.received == MUCH)
        for side in (self.near, self.far):
            await side.gone
            assert side.lost is not None
            side.lost.trap(ConnectionDone)
        self.writer.write(b"into the void")

    async def test_broken(self) -> None:
        """A write to a connection that broke is no error; its protocol is told of the loss."""
        self.far.transport.abortConnection()
        await self.far.gone
        self.writer.write(b"nobody")
        self.writer.write(b"at all")
        self.near.transport.resumeProducing()
        await self.near.gone

    async def test_broken_while_waiting(self) -> None:
        """A connection that is lost while something waits in it is told of once, and no more."""
        self.fill()
        self.writer.on_drained = lambda: self.fail("it was not sent")
        self.far.transport.abortConnection()
        self.near.transport.resumeProducing()
        await self.near.gone
        self.assertFalse(self.writer.queued)
        self.writer.write(b"nobody")

    async def test_stop(self) -> None:
        """Nothing of what is written to an aborted connection gets out."""
        self.writer.stop()
        self.near.transport.abortConnection()
        self.writer.write(b"goodbye")
        self.assertEqual(self.arrived(), b"")
        await self.near.gone

    async def test_other_producer(self) -> None:
        """Somebody else's producer stays where it is, and nothing is lost or overtaken."""
        producer = Producer()
        self.near.transport.registerProducer(producer, True)
        self.writer.write(MUCH)
        self.writer.write(b"behind")
        await self.far.expect(len(MUCH) + 6)
        self.assertTrue(self.far.received == MUCH + b"behind")
        self.assertEqual((producer.told[0], producer.told[-1]), ("pause", "resume"))

    async def test_step_aside(self) -> None:
        """Whoever asks can be the producer for a while, and direct writing is possible again."""
        self.fill()
        self.writer.step_aside()
        producer = Producer()
        self.near.transport.registerProducer(producer, True)
        self.writer.write(b"aside")
        self.near.transport.unregisterProducer()
        self.writer.step_back()
        self.writer.write(b"back")
        self.assertTrue(self.writer.queued)
        drained = self.drained()
        await self.far.expect(len(MUCH) + 9)
        self.assertTrue(self.far.received == MUCH + b"aside" + b"back")
        await drained
        self.far.transport.pauseProducing()
        self.writer.write(b"direct")
        self.assertEqual(self.arrived(), b"direct")


class Once:
    def __init__(self, call: Callable[[], object]) -> None:
        self.called, self._call = False, call

    def __call__(self) -> None:
        if not self.called:
            self.called = True
            self._call()


class OtherTransportTests(SynchronousTestCase):
    def test_in_memory(self) -> None:
        """Over a transport without a socket it is the transport's write."""
        transport = StringTransport()
        writer = DirectWriter(transport)
        writer.write(b"one")
        writer.step_aside()
        writer.step_back()
        writer.write(b"two")
        self.assertEqual(transport.value(), b"onetwo")
        self.assertIsNone(transport.producer)
        self.assertFalse(writer.queued)
