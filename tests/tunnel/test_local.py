"""One local connection of the gateway: what it speaks, how fast it reads, and how it ends."""

from __future__ import annotations

from tests.net.fakes import answer
from tests.tunnel.fakes import GatewayTestCase, found, get, store
from txtlsmc.tunnel.settings import TunnelLimits
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode, Status

LARGE = 1_000_000


class ReadingTests(GatewayTestCase):
    def test_large_request_while_others_wait(self) -> None:
        """A large request is read to its end, however busy the server is."""
        line = self.served()
        self.client(get())
        asked = line.request()
        client = self.client()
        stored = store(b"v" * LARGE).encode()
        for at in range(0, len(stored), 400_000):
            client.say(stored[at : at + 400_000])
            self.world.settle()
        self.assertEqual(client.unsaid, 0)
        self.assertEqual(len(line.request().value), LARGE)
        line.say(found(asked))

    def test_large_request_behind_another(self) -> None:
        """A large request is read to its end while one before it is answered."""
        line = self.served()
        client = self.client(get())
        stored = store(b"v" * LARGE).encode()
        client.say(stored[:400_000])
        client.say(stored[400_000:])
        line.say(found(line.request()))
        self.world.settle()
        self.assertEqual(client.unsaid, 0)
        self.assertEqual(len(line.request().value), LARGE)

    def test_read_ahead(self) -> None:
        """With enough requests waiting for their turn a client is not read, and later it is."""
        line = self.served()
        client = self.client(*[get(opaque=n) for n in range(12_000)])
        client.say(get(opaque=12_000))
        self.assertEqual(client.wire.producerState, "paused")
        self.assertGreater(client.unsaid, 0)
        heard = 0
        for _ in range(12_001):
            requests = line.requests()
            if not requests:
                break
            line.say(*map(found, requests))
            self.world.settle()
            heard += len(client.hear())
        self.assertEqual((heard, client.unsaid), (12_001, 0))

    def test_memory_is_given_back(self) -> None:
        """What was kept of a request counts no more once it has gone up."""
        line = self.served()
        client = self.client()
        stored = store(b"v" * LARGE).encode()
        for at in range(0, len(stored), 100_000):
            client.say(stored[at : at + 100_000])
        line.say(answer(line.request()))
        self.assertEqual(self.hub.memory.total, 0)
        # Also of one that is answered here.
        login = Request(Opcode.SASL_AUTH, b"PLAIN", b"", b"x" * LARGE).encode()
        for at in range(0, len(login), 100_000):
            client.say(login[at : at + 100_000])
        self.assertEqual(self.hub.memory.total, 0)
        self.assertEqual([each.status for each in client.hear()], [0, Status.UNKNOWN_COMMAND])

    def test_nothing_said(self) -> None:
        """An empty piece of the stream means nothing."""
        self.served()
        client = self.client()
        client.protocol.dataReceived(b"")
        client.say(get())
        self.assertFalse(client.lost)
        self.assertEqual(self.counters.refused_first_byte, 0)


class EndingTests(GatewayTestCase):
    def test_half_close_with_half_a_request(self) -> None:
        """Who has said half a request and will say no more is closed, however busy the server."""
        line = self.served()
        self.client(get())
        client = self.client(get().encode()[:-1])
        client.half_close()
        self.world.settle()
        self.assertTrue(client.lost)
        self.assertEqual(len(line.requests()), 1)

    def test_idle_is_after_the_answer(self) -> None:
        """The time for which a client is idle begins when it has its answer."""
        line = self.served(limits=TunnelLimits(idle_seconds=1.5))
        client = self.client(get())
        self.world.pass_by(1.4)
        line.say(found(line.request()))
        self.world.pass_by(1)
        self.assertFalse(client.lost)
        self.world.pass_by(1)
        self.assertTrue(client.lost)
        self.assertEqual(self.counters.closed_idle, 1)
        self.assertEqual(len(self.lines("limit reached: idle_seconds")), 1)

    def test_closing_takes_no_longer_than_a_stall(self) -> None:
        """A client that does not read what was told before the end is given up."""
        line = self.served(limits=TunnelLimits(stall_seconds=2))
        client = self.client(get())
        client.wire.reads = False
        client.half_close()
        line.say(found(line.request()))
        self.world.pass_by(1)
        self.assertFalse(client.lost)
        self.world.pass_by(2)
        self.assertTrue(client.wire.aborted)
        self.assertTrue(client.lost)
        self.assertEqual(self.counters.local_connections, 0)


class ChokedTests(GatewayTestCase):
    def test_nothing_is_answered(self) -> None:
        """Of who does not read nothing is answered here either."""
        line = self.served()
        client = self.client(get(b"big"))
        client.wire.reads = False
        line.say(found(line.request(), b"v" * 200_000))
        client.say(Request(Opcode.SASL_LIST).encode() * 1000)
        self.assertEqual(self.counters.answered_here, 0)
        client.wire.take(1 << 20)
        client.wire.take(1 << 20)
        client.wire.take(1 << 20)
        client.wire.take(1 << 20)
        client.wire.reads = True
        self.world.settle()
        self.assertEqual(len(client.hear()), 1001)
        self.assertEqual(self.counters.answered_here, 1000)
