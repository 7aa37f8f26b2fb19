"""Many clients over one connection: each gets its own answers, and nothing that is wrong."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import RemoteProtocolError
from txtlsmc.wire.conversation import FIRST_PACE, Conversation
from txtlsmc.wire.frames import Request, RequestReader, Response, ResponseReader
from txtlsmc.wire.opcodes import OPCODES, Opcode, Quiet, Status
from txtlsmc.wire.session import FLIGHT
from txtlsmc.wire.shared import LARGE, SharedSession

FLAGS = b"flag"
MISS = Status.KEY_NOT_FOUND


def answers_to(request: Request) -> list[Response]:
    """Answer as memcached would, where a key that begins with "m" is a miss."""
    row = OPCODES[request.opcode]
    if request.opcode == Opcode.STAT:
        statistics = [
            Response(request.opcode, 0, request.opaque, key=name, value=b"1")
            for name in (b"a", b"b")
        ]
        return [*statistics, Response(request.opcode, 0, request.opaque)]
    miss = request.key.startswith(b"m")
    if row.quiet is Quiet.ON_MISS and miss:
        return []
    if row.quiet is Quiet.ON_SUCCESS and not miss:
        return []
    keyed = row.loud == Opcode.GETK
    key = request.key if keyed else b""
    if miss:
        return [Response(request.opcode, MISS, request.opaque, key=key)]
    if row.loud in (Opcode.GET, Opcode.GETK):
        size = int(request.key.partition(b":")[2] or 10)
        return [Response(request.opcode, 0, request.opaque, 7, FLAGS, key, b"v" * size)]
    return [Response(request.opcode, 0, request.opaque, 8)]


class SharedTestCase(SynchronousTestCase):
    def made(self, **limits: int) -> SharedSession[str]:
        given = {"max_pending": 1000, "max_pending_bytes": 1 << 20, "max_body": 1 << 21}
        return SharedSession(**{**given, **limits}, first_opaque=0xFFFFFFFE)

    def client(self, *requests: Request, name: str = "a", window: int = 1000) -> Conversation[str]:
        conversation = Conversation(name, max_body=1 << 20, window=window)
        conversation.pace = window
        for request in requests:
            conversation.feed(request.encode())
        return conversation

    def sent(self, session: SharedSession[str]) -> list[Request]:
        reader, requests = RequestReader(1 << 30), []
        for flight in session.flights():
            for request in reader.feed(flight):
                assert isinstance(request, Request), request
                requests.append(request)
        return requests

    def told(self, conversation: Conversation[str]) -> list[Response]:
        reader = ResponseReader(1 << 30)
        told = [frame for data in conversation.answers for frame in reader.feed(bytes(data))]
        self.assertFalse(reader.inside_frame)
        conversation.answers.clear()
        return told


def request(opcode: int, key: bytes = b"k", opaque: int = 1) -> Request:
    row = OPCODES[opcode].request
    return Request(
        opcode, b"" if row.key.value == "none" else key, bytes(row.extras[0]), opaque=opaque
    )


class ExchangeTests(SharedTestCase):
    def test_two_clients(self) -> None:
        """Each client gets its answers under its own opaque, and all else untouched."""
        session = self.made()
        one = self.client(request(Opcode.GET, b"x:3", 7), request(Opcode.SET, b"y", 8), name="one")
        two = self.client(request(Opcode.GET, b"miss", 7), name="two")
        self.assertTrue(session.take(one))
        self.assertTrue(session.take(two))
        self.assertFalse(session.take(two))
        requests = self.sent(session)
        self.assertEqual([each.opaque for each in requests], [0xFFFFFFFE, 0xFFFFFFFF, 0])
        stream = b"".join(answer.encode() for each in requests for answer in answers_to(each))
        self.assertEqual(session.receive(stream), [one, two])
        self.assertEqual(
            self.told(one),
            [Response(Opcode.GET, 0, 7, 7, FLAGS, b"", b"vvv"), Response(Opcode.SET, 0, 8, 8)],
        )
        self.assertEqual(self.told(two), [Response(Opcode.GET, MISS, 7)])
        self.assertEqual((len(session), one.in_flight, two.in_flight), (0, 0, 0))

    def test_fence(self) -> None:
        """Quiet requests at the end get a fence, and nobody hears of its answer."""
        session = self.made()
        client = self.client(request(Opcode.GETKQ, b"miss"), request(Opcode.GETKQ, b"hit"))
        session.take(client)
        requests = self.sent(session)
        self.assertEqual([each.opcode for each in requests], [Opcode.GETKQ] * 2 + [Opcode.NOOP])
        stream = b"".join(answer.encode() for each in requests for answer in answers_to(each))
        self.assertEqual(session.receive(stream), [client])
        self.assertEqual([answer.key for answer in self.told(client)], [b"hit"])
        self.assertEqual((len(session), client.in_flight), (0, 0))

    def test_silence_is_news(self) -> None:
        """A client whose requests all stayed silent is named, as it may ask more."""
        session = self.made()
        client = self.client(request(Opcode.GETQ, b"miss"))
        session.take(client)
        fence = self.sent(session)[-1]
        self.assertEqual(session.receive(Response(Opcode.NOOP, 0, fence.opaque).encode()), [client])
        self.assertEqual(client.in_flight, 0)

    def test_statistics(self) -> None:
        """All answers to a STAT are passed on, and the last of them ends it."""
        session = self.made()
        client = self.client(request(Opcode.STAT, b"", 5))
        session.take(client)
        answers = [answer.encode() for answer in answers_to(self.sent(session)[0])]
        for answer in answers[:-1]:
            session.receive(answer)
            self.assertEqual(client.in_flight, 1)
        session.receive(answers[-1])
        self.assertEqual(client.in_flight, 0)
        self.assertEqual([answer.opaque for answer in self.told(client)], [5, 5, 5])

    def test_gone(self) -> None:
        """Answers to a client that has gone are dropped, and its neighbour gets its own."""
        session = self.made()
        one, two = self.client(request(Opcode.GET, b"x:9"), name="one"), self.client(name="two")
        two.feed(request(Opcode.GET, b"x:4").encode())
        session.take(one)
        session.take(two)
        one.gone = True
        requests = self.sent(session)
        session.receive(b"".join(answers_to(each)[0].encode() for each in requests))
        self.assertEqual(one.answers, [])
        self.assertEqual((session.answers, session.dropped), (2, 1))
        self.assertEqual(len(self.told(two)[0].value), 4)

    def test_waiting(self) -> None:
        """It is known whose answers would be lost, each client once."""
        session = self.made()
        one = self.client(request(Opcode.GET), request(Opcode.GET), name="one")
        two = self.client(request(Opcode.GETQ), name="two")
        for client in (one, two):
            session.take(client)
        self.sent(session)
        self.assertEqual(session.waiting(), [one, two])

    def test_flights(self) -> None:
        """Pieces are whole requests of at most one TLS record together."""
        session = self.made()
        for number in range(3):
            value = b"v" * 9000
            stored = Request(Opcode.SET, b"k", bytes(8), value)
            session.take(self.client(stored, name=str(number)))
        sizes = [len(flight) for flight in session.flights()]
        self.assertEqual(sizes, [9033] * 3)
        self.assertTrue(all(size <= FLIGHT for size in sizes))


class LimitTests(SharedTestCase):
    def test_window(self) -> None:
        """A client has no more in flight than its pace allows, and goes on as answers come."""
        session = self.made()
        client = self.client(*[request(Opcode.GET, b"x:1", n) for n in range(10)], window=3)
        session.take(client)
        self.assertEqual(client.in_flight, 3)
        self.assertFalse(session.take(client))
        session.receive(answers_to(self.sent(session)[0])[0].encode())
        session.take(client)
        self.assertEqual(client.in_flight, 3)

    def test_max_pending(self) -> None:
        """All clients together have no more pending than the limit."""
        session = self.made(max_pending=5)
        for name in "abc":
            session.take(self.client(*[request(Opcode.GET)] * 3, name=name))
        self.assertEqual(len(session), 5)

    def test_max_pending_bytes(self) -> None:
        """Nothing more is taken once so many bytes are pending."""
        session = self.made(max_pending_bytes=100)
        taken = [session.take(self.client(request(Opcode.GET, b"k" * 60), name=n)) for n in "abc"]
        self.assertEqual(taken, [True, True, False])

    def test_pace(self) -> None:
        """The pace grows with small answers up to the window, and falls with large ones."""
        session = self.made()
        client = self.client(window=6)
        client.pace = FIRST_PACE
        for size, expected in ((10, 5), (10, 6), (10, 6), (1_000_000, 2), (10, 3)):
            client.feed(request(Opcode.GET, b"x:%d" % size).encode())
            session.take(client)
            session.receive(answers_to(self.sent(session)[0])[0].encode())
            self.assertEqual(client.pace, expected)


class LargeTests(SharedTestCase):
    def test_passed_on(self) -> None:
        """A large value reaches the client as it comes, and none of it is kept."""
        session = self.made()
        client = self.client(request(Opcode.GET, b"x:1000000"), request(Opcode.GET, b"x:5"))
        session.take(client)
        requests = self.sent(session)
        stream = b"".join(answers_to(each)[0].encode() for each in requests)
        told = b""
        for at in range(0, len(stream), 50_000):
            self.assertEqual(client.in_flight, 2)
            session.receive(stream[at : at + 50_000])
            told += b"".join(client.answers)
            client.answers.clear()
            if at >= LARGE:
                self.assertEqual(len(told), min(at + 50_000, len(stream)))
            if at + 50_000 < len(stream):
                self.assertTrue(session.inside_answer)
        self.assertEqual(client.in_flight, 0)
        self.assertFalse(session.inside_answer)
        values = [len(answer.value) for answer in ResponseReader(1 << 21).feed(told)]
        self.assertEqual(values, [1_000_000, 5])


FAULTS: dict[str, Callable[[Response], list[bytes]]] = {
    "another opcode": lambda r: [Response(Opcode.GETK, 0, r.opaque, 0, FLAGS).encode()],
    "an opaque of nobody": lambda r: [
        Response(r.opcode, 0, (r.opaque + 99) & 0xFFFFFFFF, 0, FLAGS).encode()
    ],
    "twice": lambda r: [r.encode(), r.encode()],
    "no flags": lambda r: [Response(r.opcode, 0, r.opaque, value=b"v").encode()],
    "a key": lambda r: [Response(r.opcode, 0, r.opaque, 0, FLAGS, b"k", b"v").encode()],
    "another key": lambda r: [Response(r.opcode, MISS, r.opaque, key=b"other").encode()],
    "extras with an error": lambda r: [Response(r.opcode, MISS, r.opaque, 0, FLAGS).encode()],
    "go on": lambda r: [Response(r.opcode, 0x21, r.opaque).encode()],
    "a request": lambda r: [Request(r.opcode, b"k", opaque=r.opaque).encode()],
    "a data type": lambda r: [r.encode()[:5] + b"\1" + r.encode()[6:]],
    "lengths that lie": lambda r: [r.encode()[:8] + b"\0\0\0\1" + r.encode()[12:]],
    "over the limit": lambda r: [r.encode()[:8] + b"\x7f\0\0\0" + r.encode()[12:]],
}


class FaultTests(SharedTestCase):
    def test_faults(self) -> None:
        """An answer that can not be right ends it, and no client hears of it."""
        for name, fault in FAULTS.items():
            for cut in (False, True):
                with self.subTest(name, cut=cut):
                    session = self.made()
                    client = self.client(request(Opcode.GET, b"x:9"))
                    session.take(client)
                    stream = b"".join(fault(answers_to(self.sent(session)[0])[0]))
                    for piece in (
                        [stream[i : i + 1] for i in range(len(stream))] if cut else [stream]
                    ):
                        session.receive(piece)
                        if session.error is not None:
                            break
                    self.assertIsInstance(session.error, RemoteProtocolError)
                    self.assertEqual(len(self.told(client)), 1 if name == "twice" else 0)
                    self.assertRaises(RemoteProtocolError, session.receive, b"")

    def test_out_of_turn(self) -> None:
        """An answer before that to a loud request is a fault; before quiet ones it is none."""
        for opcode, wrong in ((Opcode.GET, True), (Opcode.GETQ, False)):
            session = self.made()
            client = self.client(request(opcode, b"miss"), request(Opcode.GET, b"x:1"))
            session.take(client)
            session.receive(answers_to(self.sent(session)[1])[0].encode())
            self.assertEqual(session.error is not None, wrong)

    def test_failed_fence(self) -> None:
        """When the fence fails, nobody knows what the silence before it means."""
        session = self.made()
        session.take(self.client(request(Opcode.SETQ)))
        fence = self.sent(session)[-1]
        session.receive(Response(Opcode.NOOP, Status.BUSY, fence.opaque, value=b"Busy").encode())
        self.assertIsNotNone(session.error)

    def test_not_sent_yet(self) -> None:
        """An answer to a request that was not sent is a fault."""
        session = self.made()
        client = self.client(request(Opcode.GET, b"x:1"))
        session.take(client)
        session.receive(Response(Opcode.GET, 0, 0xFFFFFFFE, 0, FLAGS, b"", b"v").encode())
        self.assertIsNotNone(session.error)
        self.assertEqual(self.told(client), [])

    def test_wrong_key(self) -> None:
        """An answer that repeats another key than was asked for never reaches a client."""
        session = self.made()
        client = self.client(request(Opcode.GETK, b"mine"))
        session.take(client)
        asked = self.sent(session)[0]
        session.receive(Response(Opcode.GETK, 0, asked.opaque, 0, FLAGS, b"hers", b"v").encode())
        self.assertIsNotNone(session.error)
        self.assertEqual(self.told(client), [])


OPCODES_ASKED = [
    *(Opcode.GET, Opcode.GETQ, Opcode.GETK, Opcode.GETKQ, Opcode.SET, Opcode.SETQ),
    *(Opcode.DELETE, Opcode.DELETEQ, Opcode.NOOP, Opcode.STAT),
]
KEYS = [b"m", b"miss", b"x:0", b"x:30", b"x:5000", b"x:70000"]


class ModelTests(SharedTestCase):
    @settings(deadline=None, max_examples=150)
    @given(st.data())
    def test_everybody_gets_their_own(self, data: st.DataObject) -> None:
        """However all is cut and mixed, each client is told just what it would be alone."""
        session = self.made(max_pending=data.draw(st.integers(2, 40)))
        clients = [
            Conversation(str(n), max_body=1 << 20, window=data.draw(st.integers(1, 9)))
            for n in range(3)
        ]
        expected: list[list[Response]] = [[] for _ in clients]
        streams = [b"" for _ in clients]
        for number in range(len(clients)):
            asked = data.draw(
                st.lists(st.tuples(st.sampled_from(OPCODES_ASKED), st.sampled_from(KEYS)))
            )
            for opaque, (opcode, key) in enumerate(asked):
                one = request(opcode, key if opcode != Opcode.STAT else b"", opaque)
                streams[number] += one.encode()
                expected[number] += answers_to(one)
        up, down = RequestReader(1 << 30), b""
        told = [b"" for _ in clients]
        while True:
            for number, client in enumerate(clients):
                size = data.draw(st.integers(0, 200))
                client.feed(streams[number][:size])
                streams[number] = streams[number][size:]
                session.take(client)
            for flight in session.flights():
                for asked_for in up.feed(flight):
                    assert isinstance(asked_for, Request)
                    down += b"".join(answer.encode() for answer in answers_to(asked_for))
            size = data.draw(st.sampled_from([1, 24, 300, 20_000, 200_000]))
            session.receive(down[:size])
            down = down[size:]
            self.assertIsNone(session.error)
            for number, client in enumerate(clients):
                self.assertLessEqual(client.in_flight, client.window)
                told[number] += b"".join(client.answers)
                client.answers.clear()
            idle = not down and not len(session) and not any(client.more for client in clients)
            if idle and not any(streams):
                break
            if not any(streams) and down and size < 300:
                session.receive(down)  # the cut was tried; the rest may come at once
                down = b""
        for number in range(len(clients)):
            self.assertEqual(ResponseReader(1 << 30).feed(told[number]), expected[number])
            self.assertEqual(clients[number].in_flight, 0)
