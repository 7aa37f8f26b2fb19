"""One local connection of the gateway: what it speaks, how fast it reads, and how it ends."""

from __future__ import annotations

from socket import socket

from tests.net.fakes import answer
from tests.tunnel.fakes import HIGH, GatewayTestCase, found, get, store
from txtlsmc.tunnel.settings import TunnelLimits
from txtlsmc.wire.frames import Request, Response
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

    def test_is_read_again(self) -> None:
        """A large request that waits behind unread answers stops the reading only until it goes."""
        line = self.served()
        client = self.client()
        client.wire.reads = False
        # Four are on their way at first, so the large one waits, and what is behind it is not read.
        client.say(*[get()] * 4, store(b"v" * 400_000))
        client.say(get())
        self.world.settle()
        for _ in range(3):  # its answer finds the client not reading
            line.say(
                *(
                    Response(each.opcode, 0, each.opaque, 0, _flags(each))
                    for each in line.requests()
                )
            )
            client.wire.take(1 << 20)
            self.world.settle()
        client.wire.reads = True
        while client.wire.waiting:
            client.wire.take(1 << 20)
        self.world.settle()
        line.say(*map(found, line.requests()))
        self.assertEqual(len(client.hear()), 6)

    def test_nothing_behind_a_lost_answer(self) -> None:
        """Behind an answer that was cut comes nothing that could be taken for the rest of it."""
        line = self.served()
        client = self.client(get(opaque=1), Request(Opcode.SASL_LIST, opaque=2))
        client.wire.reads = False
        whole = found(line.request(), b"v" * 400_000).encode()
        line.say(whole[:-24])
        line.lose()
        for _ in range(10):
            client.wire.take(HIGH)
        self.world.settle()
        said = client.raw()
        self.assertEqual((len(said), said[-1:]), (len(whole) - 24, b"v"))
        self.assertTrue(client.lost)


def _flags(request: Request) -> bytes:
    return bytes(4) if request.opcode == Opcode.GET else b""


class AdmissionTests(GatewayTestCase):
    def test_max_connections(self) -> None:
        """One connection too many is closed at once, and there is room again when another ends."""
        self.served(limits=TunnelLimits(max_connections=2))
        first, second, third = (self.client() for _ in range(3))
        self.world.settle()
        self.assertEqual((first.lost, second.lost, third.lost), (False, False, True))
        self.assertEqual(self.counters.refused_max_connections, 1)
        self.assertEqual(len(self.lines("limit reached: max_connections of 2")), 1)
        first.lose()
        self.assertFalse(self.client().lost)
        self.assertEqual(
            (self.gateway.local_connections(), self.counters.local_connections), (2, 2)
        )

    def test_descriptors(self) -> None:
        """What is kept of file descriptors for upstream connections no local one gets."""
        self.served(descriptors=lambda: 40, limits=TunnelLimits(reserved_descriptors=40))
        with socket() as handle:
            client = self.client_over(handle)
            self.world.settle()
        self.assertTrue(client.lost)
        self.assertEqual(self.counters.refused_descriptors, 1)
        self.assertEqual(len(self.lines("limit reached: descriptors of 40")), 1)


class FirstByteTests(GatewayTestCase):
    def test_not_binary(self) -> None:
        """What is not the binary protocol is closed, with a hint in the log."""
        line = self.served()
        for said, hint in (
            (b"\x16\x03\x01\x02\x00", "it speaks TLS"),
            (b"\x81", "it sends responses"),
            (b"GET / HTTP/1.1\r\n", "it speaks HTTP"),
            (b"get key\r\n", "text protocol"),
        ):
            client = self.client(said, get().encode())
            self.world.settle()
            self.assertTrue(client.lost)
            self.assertEqual(client.raw(), b"")
            self.assertEqual(len(self.lines(hint)), 1, hint)
        self.assertEqual(self.counters.refused_first_byte, 4)
        self.assertEqual(line.requests(), [])

    def test_later(self) -> None:
        """Garbage behind requests ends the connection once these are answered."""
        line = self.served()
        client = self.client(get(), b"GET / HTTP/1.1\r\n" * 3, get())
        self.world.settle()
        self.assertFalse(client.lost)
        line.say(found(line.request()))
        self.world.settle()
        self.assertEqual((len(client.hear()), client.lost), (1, True))


class LimitTests(GatewayTestCase):
    def test_window(self) -> None:
        """No more than the window is upstream without an answer."""
        line = self.served(limits=TunnelLimits(window=7))
        client = self.client(*[get()] * 100)
        heard, most = 0, 0
        while heard < 100:
            asked = line.requests()
            most = max(most, len(asked))
            line.say(*map(found, asked))
            self.world.settle()
            heard += len(client.hear())
        self.assertEqual(most, 7)

    def test_max_request(self) -> None:
        """A request over the limit is refused, and those behind it are served."""
        line = self.served(limits=TunnelLimits(max_request=1000))
        client = self.client(store(b"v" * 5000), get())
        self.assertEqual(line.request().opcode, Opcode.GET)
        self.assertEqual([told.status for told in client.hear()], [Status.VALUE_TOO_LARGE])
        self.assertEqual(self.counters.refused_max_request, 1)
        self.assertEqual(len(self.lines("limit reached: max_request of 1000")), 1)

    def test_request_seconds(self) -> None:
        """A request that does not become whole ends the connection; a slow run of them does not."""
        line = self.served(limits=TunnelLimits(request_seconds=2))
        half, busy = self.client(get().encode()[:-1]), self.client()
        for _ in range(30):
            busy.say(get().encode()[:10])
            self.world.pass_by(0.1)
            busy.say(get().encode()[10:])
            line.say(found(line.request()))
        self.assertEqual((half.lost, busy.lost), (True, False))
        self.assertEqual(self.counters.closed_request_seconds, 1)
        self.assertEqual(len(self.lines("limit reached: request_seconds of 2")), 1)

    def test_stall_seconds(self) -> None:
        """Who takes nothing of its answers is closed; who takes a little of them is not."""
        line = self.served(limits=TunnelLimits(stall_seconds=2))
        stalls, slow = self.client(get()), self.client(get())
        self.world.settle()
        stalls.wire.reads = slow.wire.reads = False
        line.say(*(found(request, b"v" * 3_000_000) for request in line.requests()))
        for _ in range(30):
            slow.wire.take(HIGH)
            self.world.pass_by(0.1)
        self.assertEqual((stalls.lost, slow.lost), (True, False))
        self.assertEqual(self.counters.closed_stalled, 1)
        self.assertEqual(len(self.lines("limit reached: stall_seconds of 2")), 1)
        self.assertLess(self.hub.memory.total, 3_000_000)

    def test_max_unread(self) -> None:
        """Who leaves too much unread is closed, and nobody else."""
        line = self.served(limits=TunnelLimits(max_unread=1_000_000))
        client, other = self.client(*[get()] * 4), self.client()
        client.wire.reads = False
        line.say(*(found(request, b"v" * 500_000) for request in line.requests()))
        self.world.settle()
        self.assertEqual((client.lost, other.lost), (True, False))
        self.assertEqual((self.counters.closed_unread, self.hub.memory.total), (1, 0))
        self.assertEqual(len(self.lines("limit reached: max_unread of 1000000")), 1)

    def test_max_unread_in_all(self) -> None:
        """When all leave too much unread, who has most of it is closed."""
        line = self.served(limits=TunnelLimits(max_unread_in_all=1_500_000))
        clients = [self.client(get()) for _ in range(3)]
        self.world.settle()
        for client, request, size in zip(clients, line.requests(), (700, 900, 600), strict=True):
            client.wire.reads = False
            line.say(found(request, b"v" * (size * 1000)))
        self.world.settle()
        self.assertEqual([client.lost for client in clients], [False, True, False])
        self.assertEqual(self.counters.closed_unread, 1)
        self.assertEqual(len(self.lines("limit reached: max_unread_in_all of 1500000")), 1)

    def test_a_stalled_reader_costs_little(self) -> None:
        """A client that does not read is asked nothing more for."""
        line = self.served()
        client = self.client(*[get()] * 200)
        client.wire.reads = False
        for _ in range(200):
            line.say(*(found(request, b"v" * 900_000) for request in line.requests()))
            self.world.settle()
        self.assertLess(self.hub.memory.total, 6 * 2**20)
        self.assertLess(self.counters.forwarded, 8)


class MomentTests(GatewayTestCase):
    def test_gone_at_every_moment(self) -> None:
        """Whenever a client goes nobody else notices, and nothing is left of it."""
        line = self.served(limits=TunnelLimits(window=2))
        stream = (
            get(b"a").encode()
            + store(b"v" * 300, opcode=Opcode.SETQ).encode()
            + Request(Opcode.SASL_LIST).encode()
            + get(b"b").encode() * 4
        )
        for said in range(0, len(stream) + 1, 7):
            for answered in range(4):
                other = self.client(get(b"other"))
                client = self.client()
                for at in range(0, said, 50):
                    client.say(stream[at : min(at + 50, said)])
                for _ in range(answered):
                    line.say(*(answers_of(line.requests())))
                    self.world.settle()
                client.lose()
                while requests := line.requests():
                    line.say(*answers_of(requests))
                    self.world.settle()
                self.assertEqual(len(other.hear()), 1)
                other.lose()
        self.assertEqual(self.gateway.local_connections(), 0)
        self.assertEqual((self.counters.local_connections, self.hub.memory.total), (0, 0))
        self.assertFalse(line.lost)

    def test_half_close(self) -> None:
        """Who has asked and will ask no more gets all of its answers, and then the end."""
        line = self.served(limits=TunnelLimits(window=4))
        client = self.client(*[get(opaque=n) for n in range(100)])
        client.half_close()
        while requests := line.requests():
            self.assertFalse(client.lost)
            line.say(*map(found, requests))
            self.world.settle()
        self.assertEqual([told.opaque for told in client.hear()], list(range(100)))
        self.assertTrue(client.lost)

    def test_half_close_of_quiet_requests(self) -> None:
        """The same when the last requests stay without an answer."""
        line = self.served()
        client = self.client(store(b"v", opcode=Opcode.SETQ))
        client.half_close()
        self.world.settle()
        self.assertFalse(client.lost)
        line.say(answer(line.requests()[-1]))
        self.world.settle()
        self.assertTrue(client.lost)

    def test_half_close_while_idle(self) -> None:
        """Who has asked nothing and will not is closed at once."""
        self.served()
        client = self.client()
        client.half_close()
        self.world.settle()
        self.assertTrue(client.lost)

    def test_behind_quit(self) -> None:
        """What is behind a QUIT is not done."""
        line = self.served()
        for opcode, answers in ((Opcode.QUIT, [Opcode.GET, Opcode.QUIT]), (Opcode.QUITQ, [0])):
            client = self.client(get(), Request(opcode), get())
            self.world.settle()
            line.say(found(line.request()))
            self.world.settle()
            self.assertEqual([told.opcode for told in client.hear()], answers)
            self.assertTrue(client.lost)
        self.assertEqual(line.requests(), [])


def answers_of(requests: list[Request]) -> list[Response]:
    """Answer as the server does, which is silent on SETQ."""
    return [
        found(request) if request.opcode == Opcode.GET else answer(request)
        for request in requests
        if request.opcode != Opcode.SETQ
    ]
