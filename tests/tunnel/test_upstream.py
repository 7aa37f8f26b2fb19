"""One connection to the server for many clients: who is served when, and what they are told."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost

from tests.net.fakes import answer
from tests.tunnel.fakes import GatewayTestCase, found, get, store
from txtlsmc.settings import Limits
from txtlsmc.tunnel.settings import TunnelLimits
from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode, Status


class CountingTests(GatewayTestCase):
    def test_requests_and_answers(self) -> None:
        """Each request and each answer is counted once, however the server sends it."""
        line = self.served()
        client = self.client(get(b"big"), get(b"quiet", 2, Opcode.GETQ), get(b"k", 3))
        big, _, last = line.requests()
        said = found(big, b"v" * 300_000).encode() + found(last).encode()
        for at in range(0, len(said), 10_000):
            line.say(said[at : at + 10_000])
        client.say(Request(Opcode.SASL_LIST), get(b"x", 4, Opcode.GETQ))
        fence = line.requests()[1]
        line.say(answer(fence))
        self.assertEqual(len(client.hear()), 3)
        counters = self.counters
        self.assertEqual((counters.requests, counters.answers), (5, 3))
        self.assertEqual((counters.forwarded, counters.answered_here), (4, 1))
        self.assertEqual(counters.dropped_answers, 0)

    def test_dropped(self) -> None:
        """An answer to somebody who has gone is counted as dropped, and as nobody's."""
        line = self.served()
        client, other = self.client(get(), get()), self.client(get())
        client.lose()
        line.say(*map(found, line.requests()))
        self.world.settle()
        line.say(*map(found, line.requests()))
        self.assertEqual(len(other.hear()), 1)
        self.assertEqual((self.counters.dropped_answers, self.counters.answers), (2, 1))

    def test_full(self) -> None:
        """It is counted and told that the server has all it may have, and only then."""
        line = self.served(limits=TunnelLimits(max_pending=6, window=4))
        one = self.client(*[get()] * 4)
        one.say(*[get()] * 4)
        self.world.settle()
        self.assertEqual(self.counters.pending_full, 0)  # it has all that it may have itself
        two = self.client(*[get()] * 4)
        self.world.settle()
        asked = line.requests()
        self.assertEqual(len(asked), 6)
        one.say(get())
        self.world.settle()
        self.assertGreater(self.counters.pending_full, 0)
        self.assertEqual(len(self.lines("limit reached: max_pending of 6")), 1)
        line.say(*map(found, asked))
        self.world.settle()
        for _ in range(10):
            line.say(*map(found, line.requests()))
            self.world.settle()
        self.assertEqual((len(one.hear()), len(two.hear())), (9, 4))

    def test_full_of_bytes(self) -> None:
        """The same for the size of what the server has not answered."""
        line = self.served(limits=TunnelLimits(max_pending_bytes=100_000))
        clients = [self.client(store(b"v" * 60_000)) for _ in range(4)]
        self.world.settle()
        asked = line.requests()
        self.assertEqual(len(asked), 2)
        self.assertEqual(len(self.lines("limit reached: max_pending_bytes of 100000")), 1)
        line.say(*map(answer, asked))
        self.world.settle()
        for _ in range(4):
            line.say(*map(answer, line.requests()))
            self.world.settle()
        self.assertEqual([len(client.hear()) for client in clients], [1] * 4)


class EndTests(GatewayTestCase):
    def test_lost_with_more_to_come(self) -> None:
        """Who has asked and would ask more has lost an answer: it counts once, and as that."""
        self.served(server_limits=Limits(timeout=1), limits=TunnelLimits(window=2))
        client = self.client(*[get()] * 5)
        self.world.pass_by(2)
        self.assertTrue(client.lost)
        self.assertEqual((self.counters.closed_upstream_lost, self.counters.refused_down), (1, 0))

    def test_silence(self) -> None:
        """A server that answers nothing is given up, and everybody who waits is closed."""
        line = self.served(server_limits=Limits(timeout=1))
        waits, idle = self.client(get()), self.client()
        self.world.pass_by(0.9)
        self.assertFalse(waits.lost)
        self.world.pass_by(0.4)
        self.assertEqual((waits.lost, idle.lost, line.lost), (True, False, True))
        self.assertEqual(self.counters.upstream_silent, 1)
        self.assertEqual(len(self.lines("the server was silent for 1 s")), 1)
        self.assertEqual((self.counters.upstream_lost, self.counters.upstream_failed), (1, 0))

    def test_slow_is_not_silent(self) -> None:
        """A server is not silent while it sends anything, be it a byte at a time."""
        for size in (100, 70_000):
            line = self.served(server_limits=Limits(timeout=1))
            client = self.client(get())
            said = found(line.request(), b"v" * size).encode()
            for at in range(0, 100, 10):
                line.say(said[at : at + 10])
                self.world.pass_by(0.5)
            self.assertFalse(client.lost)
            line.say(said[100:])
            self.assertEqual(len(client.hear()), 1)

    def test_waiting_for_the_window_is_not_silence(self) -> None:
        """Time that a request waits here does not count as the server's."""
        line = self.served(server_limits=Limits(timeout=1), limits=TunnelLimits(window=1))
        client = self.client(*[get()] * 5)
        for _ in range(5):
            self.world.pass_by(0.8)
            line.say(found(line.request()))
        self.assertFalse(client.lost)
        self.assertEqual(len(client.hear()), 5)

    def test_lost_with_answers_pending(self) -> None:
        """Whoever may have lost an answer is closed; others stay, and are served by the next."""
        line = self.served()
        waits, quiet = self.client(get()), self.client(store(b"v", opcode=Opcode.SETQ))
        self.world.settle()
        idle = self.client()
        half = self.client(get().encode()[:-1])
        line.lose(ConnectionLost())
        self.world.settle()
        self.assertEqual((waits.lost, quiet.lost, idle.lost, half.lost), (True, True, False, False))
        self.assertEqual(self.counters.closed_upstream_lost, 2)
        idle.say(get())
        line = self.dials.accept()
        line.say(found(line.request()))
        half.say(get().encode()[-1:])
        self.world.settle()
        line.say(found(line.request()))
        self.assertEqual((len(idle.hear()), len(half.hear())), (1, 1))

    def test_unsent_are_served_by_the_next(self) -> None:
        """Requests of which nothing was sent do not suffer from the end of a connection."""
        line = self.served()
        self.client(get())
        waits = self.client(get(b"later"))  # its turn is at the end of the reactor's
        line.lose(ConnectionLost())
        self.world.settle()
        self.assertFalse(waits.lost)
        line = self.dials.accept()
        asked = line.request()
        self.assertEqual(asked.key, b"later")
        line.say(found(asked))
        self.assertEqual(len(waits.hear()), 1)

    def test_lost_inside_a_large_value(self) -> None:
        """Who got a part of a value gets the end of the connection, and nothing else."""
        line = self.served()
        client = self.client(get(b"a"), get(b"b", 2))
        said = found(line.requests()[0], b"v" * 200_000).encode()
        line.say(said[:150_000])
        line.lose(ConnectionLost())
        self.world.settle()
        self.assertTrue(client.lost)
        self.assertEqual(client.hear(), [])
        self.assertTrue(client.inside_answer)
        self.assertEqual(len(self.lines("inside an answer")), 1)

    def test_wrong_answer(self) -> None:
        """An answer out of turn ends the connection; what came before it is told."""
        line = self.served()
        first, second = self.client(get()), self.client(get())
        self.world.settle()
        one, two = line.requests()
        line.say(found(one), answer(two, status=Status.AUTHENTICATION_CONTINUE))
        self.world.settle()
        self.assertEqual(len(first.hear()), 1)
        self.assertFalse(first.lost)
        self.assertEqual(second.hear(), [])
        self.assertTrue(second.lost)
        self.assertTrue(line.lost)
        self.assertEqual((self.counters.upstream_lost, self.counters.upstream_failed), (1, 0))


class FairnessTests(GatewayTestCase):
    def test_flood(self) -> None:
        """Behind a flood of one client, another's get is answered in its turn."""
        line = self.served()
        flood = self.client(*[get(b"flood", n) for n in range(10_000)])
        for _ in range(40):  # the flood is at its full pace
            line.say(*map(found, line.requests()))
            self.world.settle()
        before = len(flood.hear())
        self.assertGreater(before, 1000)
        other = self.client(get(b"other"))
        self.world.settle()
        answered = 0
        while not other.hear():
            for request in line.requests():
                line.say(found(request))
                if request.key == b"other":
                    break
                answered += 1
            self.world.settle()
        self.assertLessEqual(answered, self.settings.limits.window + 2)

    def test_large_requests(self) -> None:
        """Each turn is one TLS record's worth of requests, or one larger request."""
        line = self.served()
        self.client(get())
        one, two = self.client(*[store(b"v" * 12_000)] * 4), self.client(*[get(b"small")] * 2)
        self.world.settle()
        self.assertEqual(
            [request.key for request in line.requests()],
            [b"key", b"key", b"small", b"small", b"key", b"key", b"key"],
        )
        self.assertFalse(one.lost or two.lost)

    def test_here_by_thousands(self) -> None:
        """Any number of requests that are answered here is answered, in order."""
        line = self.served()
        client = self.client(get(), *[Request(Opcode.SASL_LIST, opaque=n) for n in range(10_000)])
        client.say(get(b"last", 7))
        line.say(found(line.request()))
        self.world.settle()
        line.say(found(line.request()))
        told = client.hear()
        self.assertEqual([each.opaque for each in told], [1, *range(10_000), 7])
        self.assertEqual(told[1].status, Status.UNKNOWN_COMMAND)
