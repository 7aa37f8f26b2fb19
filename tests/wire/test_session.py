"""Tests of `txtlsmc.wire.session`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import PendingLimit, RemoteProtocolError
from txtlsmc.wire import operations as op
from txtlsmc.wire.frames import HEADER_SIZE, Request, RequestReader, Response
from txtlsmc.wire.opcodes import OPCODES, Key, Opcode, OpcodeRow, Quiet, Status
from txtlsmc.wire.session import FLIGHT, MAX_STATISTICS, Session

FLAGS = b"\0\0\0\x10"
Ended = list[tuple[str, list[Response]]]


def new_session(
    max_pending: int = 100,
    max_pending_bytes: int = 10_000,
    max_body: int = 1000,
    first_opaque: int = 0,
) -> Session[str]:
    return Session(
        max_pending=max_pending,
        max_pending_bytes=max_pending_bytes,
        max_body=max_body,
        first_opaque=first_opaque,
    )


def sent(session: Session[str]) -> list[Request]:
    """Return the requests that *session* sends now."""
    requests = []
    for frame in RequestReader(10_000).feed(session.data_to_send()):
        assert isinstance(frame, Request), frame
        requests.append(frame)
    return requests


def hit(request: Request, value: bytes = b"v", cas: int = 0) -> Response:
    """Return the answer to a read."""
    key = request.key if OPCODES[request.opcode].answer.key is Key.ECHOED else b""
    return Response(request.opcode, 0, request.opaque, cas, FLAGS, key, value)


def answer(request: Request, status: int = 0, value: bytes = b"", key: bytes = b"") -> Response:
    """Return an answer without extras."""
    return Response(request.opcode, status, request.opaque, key=key, value=value)


def encoded(*frames: Response) -> bytes:
    return b"".join(frame.encode() for frame in frames)


class _Tests(SynchronousTestCase):
    def assert_wrong(
        self, session: Session[str], stream: bytes, field: str, good: Ended | None = None
    ) -> None:
        """Assert that *stream* ends *good*, and that then *field* is wrong, for good."""
        self.assertEqual(session.receive(stream), good or [])
        assert session.error is not None
        self.assertEqual(session.error.field, field)
        error = self.assertRaises(RemoteProtocolError, session.receive, b"")
        self.assertEqual(error.field, field)


class OrderTests(_Tests):
    def test_order(self) -> None:
        """Answers end the tokens of their requests, in the order of the requests."""
        session = new_session()
        for token in ("a", "b", "c"):
            session.send(op.get(token).request, token)
        self.assertTrue(session.unsent)
        requests = sent(session)
        self.assertFalse(session.unsent)
        self.assertEqual([request.key for request in requests], [b"a", b"b", b"c"])
        self.assertEqual([request.opaque for request in requests], [0, 1, 2])
        answers = [hit(requests[0]), answer(requests[1], 1, b"Not found"), hit(requests[2], b"w")]
        ended = session.receive(encoded(*answers))
        self.assertEqual(ended, [("a", answers[:1]), ("b", answers[1:2]), ("c", answers[2:])])
        self.assertEqual(len(session), 0)
        self.assertIs(session.error, None)

    def test_sent_once(self) -> None:
        """What was handed out to be written is not handed out again; the first number is 0."""
        session: Session[str] = Session(max_pending=9, max_pending_bytes=999, max_body=999)
        self.assertEqual(session.data_to_send(), b"")
        session.send(op.noop().request, "a")
        self.assertEqual(session.data_to_send(), Request(Opcode.NOOP).encode())
        self.assertEqual(session.data_to_send(), b"")
        session.send(op.noop().request, "b")
        self.assertEqual(session.data_to_send(), Request(Opcode.NOOP, opaque=1).encode())

    def test_any_cut(self) -> None:
        """Where the network cuts the answers does not matter."""
        for cut in range(200):
            session = new_session()
            session.send(op.get("a").request, "a")
            session.send(op.getk("b", quiet=True).request, "b")
            session.send(op.getk("c", quiet=True).request, "c")
            session.send(op.stats().request, "d")
            a, _, c, d = sent(session)
            statistics = [answer(d, 0, b"1", b"pid"), answer(d, 0, b"2", b"x"), answer(d)]
            frames = [hit(a, b"long" * 10), hit(c), *statistics]
            stream = encoded(*frames)
            between = {len(encoded(*frames[:count])) for count in range(6)}
            ended = session.receive(stream[:cut])
            self.assertEqual(session.inside_answer, cut < len(stream) and cut not in between)
            ended += session.receive(stream[cut:])
            self.assertEqual(
                ended, [("a", frames[:1]), ("c", frames[1:2]), ("b", []), ("d", statistics)]
            )
            self.assertEqual((len(session), session.inside_answer), (0, False))
        self.assertLess(len(stream), 200)

    def test_opaque_wraps_around(self) -> None:
        """After the largest number comes 0, also inside a quiet run."""
        session = new_session(first_opaque=0xFFFFFFFD)
        for token in ("a", "b", "c", "d"):
            session.send(op.get(token, quiet=True).request, token)
        place = session.send(op.get("e", quiet=True).request, "e")
        requests = sent(session)
        self.assertEqual(
            [request.opaque for request in requests], [0xFFFFFFFD, 0xFFFFFFFE, 0xFFFFFFFF, 0, 1, 2]
        )
        self.assertTrue(session.is_sent(place))
        ended = session.receive(encoded(hit(requests[1]), hit(requests[3]), answer(requests[5])))
        self.assertEqual([token for token, _ in ended], ["b", "d", "a", "c", "e"])
        self.assertEqual([len(answers) for _, answers in ended], [1, 1, 0, 0, 0])
        self.assertEqual(len(session), 0)
        session.send(op.noop().request, "f")
        self.assertEqual(sent(session)[0].opaque, 3)

    def test_pending(self) -> None:
        """It tells what is pending: how many, which tokens, and which of them were sent."""
        session = new_session()
        places = [session.send(op.get(token).request, token) for token in ("a", "b")]
        self.assertEqual([session.is_sent(place) for place in places], [False, False])
        requests = sent(session)
        self.assertEqual([session.is_sent(place) for place in places], [True, True])
        places += [session.send(op.get(token).request, token) for token in ("c", "d")]
        self.assertEqual([session.is_sent(place) for place in places], [True, True, False, False])
        self.assertEqual((len(session), [*session.tokens()]), (4, ["a", "b", "c", "d"]))
        session.receive(encoded(hit(requests[0])))
        self.assertEqual((len(session), [*session.tokens()]), (3, ["b", "c", "d"]))
        session.abandon(places[2])
        self.assertEqual((len(session), [*session.tokens()]), (3, ["b", "d"]))

    def test_exchange(self) -> None:
        """The middle of a SASL exchange is an answer as any, to AUTH and STEP."""
        session = new_session()
        session.send(Request(Opcode.SASL_AUTH, b"SCRAM-SHA-256", value=b"n,,"), "auth")
        session.send(Request(Opcode.SASL_STEP, b"SCRAM-SHA-256"), "step")
        auth, step = sent(session)
        middle = [answer(auth, 0x21, b"r="), answer(step, 0x21, b"v=")]
        self.assertEqual(
            session.receive(encoded(*middle)), [("auth", middle[:1]), ("step", middle[1:])]
        )


class QuietTests(_Tests):
    def quiet_run(self, *tokens: str) -> tuple[Session[str], list[Request]]:
        session = new_session()
        for token in tokens:
            session.send(op.get(token, quiet=True).request, token)
        return session, sent(session)

    def test_fence(self) -> None:
        """A run that ends quiet gets a NOOP behind it, which is nobody's."""
        session, requests = self.quiet_run("a", "b")
        self.assertEqual([r.opcode for r in requests], [Opcode.GETQ, Opcode.GETQ, Opcode.NOOP])
        self.assertEqual((len(session), [*session.tokens()]), (3, ["a", "b"]))
        self.assertEqual(session.receive(encoded(answer(requests[2]))), [("a", []), ("b", [])])
        self.assertEqual(len(session), 0)

    def test_unanswered_fence(self) -> None:
        """The fence itself is never silent: what comes before its answer is out of order."""
        session, _ = self.quiet_run("a")
        session.send(op.get("b").request, "b")
        (request,) = sent(session)
        self.assert_wrong(session, encoded(hit(request)), "opaque")
        self.assertEqual(session.lose(), [("a", True), ("b", True)])

    def test_no_fence(self) -> None:
        """A run with a loud request behind it needs no fence."""
        session = new_session()
        session.send(op.get("a", quiet=True).request, "a")
        session.send(op.get("b").request, "b")
        requests = sent(session)
        self.assertEqual([r.opcode for r in requests], [Opcode.GETQ, Opcode.GET])
        ended = session.receive(encoded(answer(requests[1], 1)))
        self.assertEqual(ended, [("a", []), ("b", [answer(requests[1], 1)])])

    def test_a_fence_for_each_run(self) -> None:
        """Each run that is written has its own fence."""
        session, first = self.quiet_run("a")
        session.send(op.set("b", b"", quiet=True).request, "b")
        second = sent(session)
        self.assertEqual(
            [r.opcode for r in first + second],
            [Opcode.GETQ, Opcode.NOOP, Opcode.SETQ, Opcode.NOOP],
        )
        self.assertEqual(session.receive(encoded(answer(first[1]))), [("a", [])])
        self.assertEqual(session.receive(encoded(answer(second[1]))), [("b", [])])

    def test_every_quiet_opcode(self) -> None:
        """Whatever is quiet is fenced, and what is loud is not."""
        for opcode, row in OPCODES.items():
            session = new_session()
            session.send(Request(opcode, b"k", bytes(row.request.extras[-1])), "a")
            fenced = session.data_to_send()[-HEADER_SIZE:][:2] == bytes([0x80, Opcode.NOOP])
            loud = row.quiet is Quiet.NEVER
            expected = not loud and opcode != Opcode.QUITQ
            self.assertEqual(fenced and opcode != Opcode.NOOP, expected, row.opcode.name)

    def test_hits_and_misses(self) -> None:
        """In a quiet run each hit is for its own request, and the others were misses."""
        for hits in range(2**5):
            session, requests = self.quiet_run(*"abcde")
            answers = {
                chr(97 + place): [hit(requests[place], b"%d" % place)]
                for place in range(5)
                if hits >> place & 1
            }
            stream = encoded(*(frames[0] for frames in answers.values()), answer(requests[5]))
            ended = session.receive(stream)
            silent: Ended = [(token, []) for token in "abcde" if token not in answers]
            self.assertEqual(ended, [*answers.items(), *silent])
            self.assertEqual(len(session), 0)

    def test_silence_is_believed_at_the_fence(self) -> None:
        """A hit ends at once; that another was a miss is known when the fence is answered."""
        session, requests = self.quiet_run("a", "b", "c")
        hit_b = hit(requests[1])
        self.assertEqual(session.receive(encoded(hit_b)), [("b", [hit_b])])
        self.assertEqual((len(session), [*session.tokens()]), (3, ["a", "c"]))
        self.assertEqual(session.receive(encoded(answer(requests[3]))), [("a", []), ("c", [])])
        self.assertEqual(len(session), 0)

    def test_mixed_up_run(self) -> None:
        """A hit that comes behind a later one's was not silence: nothing passes for a miss."""
        session, requests = self.quiet_run("a", "b", "c")
        session.receive(encoded(hit(requests[2])))
        self.assert_wrong(session, encoded(hit(requests[1])), "opaque")
        self.assertEqual(session.lose(), [("a", True), ("b", True)])

    def test_silent_ones_count(self) -> None:
        """Who was passed over counts as pending until the fence."""
        session = new_session(max_pending=4)
        for token in "abc":
            session.send(op.get(token, quiet=True).request, token)
        requests = sent(session)
        session.receive(encoded(hit(requests[2])))
        self.assertRaises(PendingLimit, self.send_many, session, 2)

    def send_many(self, session: Session[str], count: int) -> None:
        for number in range(count):
            session.send(op.noop().request, str(number))

    def test_errors_are_sent(self) -> None:
        """A quiet request is silent about success only: its error is its answer."""
        session = new_session()
        session.send(op.set("a", b"", quiet=True).request, "a")
        session.send(op.set("b", b"", quiet=True).request, "b")
        session.send(op.incr("c", quiet=True).request, "c")
        requests = sent(session)
        refused = [answer(requests[1], 3, b"Too large."), answer(requests[2], 6)]
        ended = session.receive(encoded(*refused, answer(requests[3])))
        self.assertEqual(ended, [("b", refused[:1]), ("c", refused[1:]), ("a", [])])

    def test_needless_answers(self) -> None:
        """A server that answers what could have been silent does no harm."""
        session = new_session()
        session.send(op.get("a", quiet=True).request, "a")
        session.send(op.set("b", b"", quiet=True).request, "b")
        a, b, fence = sent(session)
        ended = session.receive(encoded(answer(a, 1), answer(b), answer(fence)))
        self.assertEqual(ended, [("a", [answer(a, 1)]), ("b", [answer(b)])])

    def test_quitq(self) -> None:
        """Behind QUITQ nothing is answered, so nothing is sent behind it."""
        session = new_session()
        session.send(op.get("a", quiet=True).request, "a")
        session.send(op.quit(quiet=True).request, "b")
        self.assertEqual([r.opcode for r in sent(session)], [Opcode.GETQ, Opcode.QUITQ])
        self.assertEqual(session.lose(), [("a", True), ("b", True)])

    def test_failed_fence(self) -> None:
        """A NOOP that failed proves nothing: no silence before it passes for a miss or success."""
        for status in (0x04, 0x20, 0x81, 0x82, 0x85, 0x99):
            session, requests = self.quiet_run("a", "b")
            self.assert_wrong(session, encoded(answer(requests[2], status)), "status")
            self.assertEqual(session.lose(), [("a", True), ("b", True)])
            session = new_session()
            session.send(op.set("a", b"", quiet=True).request, "a")
            session.send(op.noop().request, "noop")
            requests = sent(session)
            self.assert_wrong(session, encoded(answer(requests[1], status)), "status")

    def test_failed_noop(self) -> None:
        """A NOOP that failed is an answer as any where nothing silent is before it."""
        session = new_session()
        session.send(op.get("a", quiet=True).request, "a")
        session.send(op.noop().request, "noop")
        a, noop = sent(session)
        ended = session.receive(encoded(hit(a), answer(noop, 0x20)))
        self.assertEqual(ended, [("a", [hit(a)]), ("noop", [answer(noop, 0x20)])])

    @settings(deadline=None, database=None, max_examples=100)
    @given(st.data())
    def test_any_run(self, data: st.DataObject) -> None:
        """Any mixture of loud and quiet requests, in any pieces, ends as it was answered."""
        session = new_session(first_opaque=0xFFFFFFF0)
        expected: Ended = []
        stream = b""
        written: list[Request] = []
        for token in map(str, range(data.draw(st.integers(1, 20)))):
            quiet = data.draw(st.booleans())
            write = data.draw(st.booleans())
            key = f"key{token}"
            operation = op.set(key, b"v", quiet=quiet) if write else op.getk(key, quiet=quiet)
            session.send(operation.request, token)
            if data.draw(st.booleans()):
                written += sent(session)
        written += sent(session)
        number = 0
        for request in written:
            if request.opcode == Opcode.NOOP:
                stream += answer(request).encode()
                continue
            good = data.draw(st.booleans())
            if request.opcode in (Opcode.SET, Opcode.SETQ):
                response = answer(request) if good else answer(request, 5)
            else:
                response = hit(request, b"%d" % number) if good else answer(request, 1)
            silent = {Opcode.SETQ: good, Opcode.GETKQ: not good}.get(Opcode(request.opcode), False)
            expected.append((str(number), [] if silent else [response]))
            stream += b"" if silent else response.encode()
            number += 1
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
        ended: Ended = []
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            ended += session.receive(stream[start:end])
        self.assertEqual(sorted(ended, key=lambda pair: int(pair[0])), expected)
        self.assertEqual((len(session), session.error), (0, None))


class FlightTests(_Tests):
    def test_whole_requests(self) -> None:
        """A flight holds whole requests, as many as go into a TLS record."""
        session = new_session(max_pending=1000, max_pending_bytes=10**6)
        for number in range(500):
            session.send(op.set(f"key{number}", bytes(100)).request, str(number))
        flights = session.flights()
        self.assertTrue(all(len(flight) <= FLIGHT for flight in flights))
        self.assertTrue(all(len(flight) > FLIGHT - 200 for flight in flights[:-1]))
        readers = [RequestReader(10_000) for _ in flights]
        read = [len(each.feed(flight)) for each, flight in zip(readers, flights, strict=True)]
        self.assertEqual(sum(read), 500)
        self.assertFalse(any(reader.inside_frame for reader in readers))

    def test_exactly_full(self) -> None:
        """A record is filled to its last byte, and not one byte more."""
        for over, expected in ((0, [FLIGHT]), (1, [FLIGHT + 1 - 24 - 1, 24 + 1])):
            session = new_session(max_pending=1000, max_pending_bytes=10**6)
            rest = FLIGHT - 2 * 24 - 2 - 8 + over
            session.send(op.set("a", bytes(rest)).request, "a")
            session.send(op.get("b").request, "b")
            self.assertEqual([*map(len, session.flights())], expected)

    def test_large_one(self) -> None:
        """A request that does not fit into a record has flights of nobody else's."""
        session = new_session(max_pending=1000, max_pending_bytes=10**6)
        session.send(op.get("a").request, "a")
        session.send(op.set("b", bytes(2 * FLIGHT)).request, "b")
        session.send(op.get("c").request, "c")
        before, large, behind = session.flights()
        self.assertEqual((len(before), len(behind)), (25, 25))
        self.assertEqual(len(large), 2 * FLIGHT + 24 + 8 + 1)
        self.assertEqual(session.flights(), [])


class AbandonTests(_Tests):
    def test_late_answer_is_dropped(self) -> None:
        """The answer to an abandoned request is read and dropped; its neighbours live."""
        session = new_session()
        places = [session.send(op.get(token).request, token) for token in "abc"]
        requests = sent(session)
        session.abandon(places[1])
        self.assertEqual(len(session), 3)
        ended = session.receive(encoded(*map(hit, requests)))
        self.assertEqual([token for token, _ in ended], ["a", "c"])
        self.assertEqual((len(session), session.error), (0, None))

    def test_quiet(self) -> None:
        """Abandoned quiet requests are dropped, whether they were silent or not."""
        session = new_session()
        places = [session.send(op.get(token, quiet=True).request, token) for token in "abcd"]
        requests = sent(session)
        session.abandon(places[0])
        session.abandon(places[2])
        ended = session.receive(encoded(hit(requests[2]), hit(requests[3]), answer(requests[4])))
        self.assertEqual(ended, [("d", [hit(requests[3])]), ("b", [])])

    def test_before_it_was_sent(self) -> None:
        """What is abandoned before it was written is written all the same: it has its number."""
        session = new_session()
        place = session.send(op.get("a").request, "a")
        session.abandon(place)
        session.send(op.get("b").request, "b")
        a, b = sent(session)
        self.assertEqual(session.receive(encoded(hit(a), hit(b))), [("b", [hit(b)])])

    def test_late_answers_are_checked(self) -> None:
        """An abandoned place takes no other answer than its own."""
        session = new_session()
        place = session.send(op.getk("a").request, "a")
        (request,) = sent(session)
        session.abandon(place)
        other = Response(Opcode.GETK, 0, request.opaque, 0, FLAGS, b"b", b"v")
        self.assert_wrong(session, encoded(other), "key")

    def test_limits(self) -> None:
        """An abandoned place counts as pending, until its late answer came."""
        session = new_session(max_pending=1)
        session.abandon(session.send(op.get("a").request, "a"))
        self.assertRaises(PendingLimit, session.send, op.get("b").request, "b")
        (request,) = sent(session)
        session.receive(encoded(hit(request)))
        session.send(op.get("b").request, "b")

    def test_ended_before(self) -> None:
        """To abandon what has ended changes nothing."""
        session = new_session()
        place = session.send(op.get("a").request, "a")
        (request,) = sent(session)
        self.assertEqual(len(session.receive(encoded(hit(request)))), 1)
        session.abandon(place)
        session.send(op.get("b").request, "b")
        (request,) = sent(session)
        self.assertEqual(session.receive(encoded(hit(request))), [("b", [hit(request)])])


class StatisticsTests(_Tests):
    def stat(self, max_body: int = 1000) -> tuple[Session[str], Request]:
        session = new_session(max_body=max_body)
        self.place = session.send(op.stats().request, "stats")
        session.send(op.noop().request, "noop")
        return session, sent(session)[0]

    def test_many(self) -> None:
        """Statistics end their token together, with the empty one that ends them."""
        session, request = self.stat()
        answers = [answer(request, 0, b"%d" % i, b"key%d" % i) for i in range(20)]
        for each in answers:
            self.assertEqual(session.receive(encoded(each)), [])
        end = answer(request)
        noop = Response(Opcode.NOOP, opaque=request.opaque + 1)
        ended = session.receive(encoded(end, noop))
        self.assertEqual(ended, [("stats", [*answers, end]), ("noop", [noop])])

    def test_none(self) -> None:
        """There may be none."""
        session, request = self.stat()
        ended = session.receive(encoded(answer(request)))
        self.assertEqual(ended, [("stats", [answer(request)])])

    def test_error(self) -> None:
        """An error ends them, at the start or after some of them, which then do not count."""
        for before in (0, 3):
            session, request = self.stat()
            some = [answer(request, 0, b"1", b"key%d" % i) for i in range(before)]
            failed = answer(request, 1, b"Not found")
            ended = session.receive(encoded(*some, failed))
            self.assertEqual(ended, [("stats", [failed])])
            self.assertEqual(len(session), 1)

    def test_empty_value(self) -> None:
        """A statistic may be empty; it is the empty key that ends them."""
        session, request = self.stat()
        empty = answer(request, 0, b"", b"key")
        self.assertEqual(session.receive(encoded(empty)), [])
        ended = session.receive(encoded(answer(request)))
        self.assertEqual(ended, [("stats", [empty, answer(request)])])

    def test_value_without_a_key(self) -> None:
        """The one that ends them has no value either."""
        session, request = self.stat()
        self.assert_wrong(session, encoded(answer(request, 0, b"1")), "value")

    def test_wrong_shape(self) -> None:
        """A statistic has no extras."""
        session, request = self.stat()
        wrong = Response(Opcode.STAT, 0, request.opaque, 0, FLAGS, b"pid", b"1")
        self.assert_wrong(session, encoded(wrong), "extras length")

    def test_interrupted(self) -> None:
        """Another answer in the middle of them is not theirs."""
        session, request = self.stat()
        session.receive(encoded(answer(request, 0, b"1", b"pid")))
        self.assert_wrong(
            session, encoded(Response(Opcode.NOOP, opaque=request.opaque + 1)), "opaque"
        )

    def test_behind_quiet(self) -> None:
        """The last statistic, and none before it, is a fence to the quiet requests before."""
        session = new_session()
        session.send(op.get("a", quiet=True).request, "a")
        session.send(op.stats().request, "stats")
        _, request = sent(session)
        pid = answer(request, 0, b"1", b"pid")
        self.assertEqual(session.receive(encoded(pid)), [])
        self.assertEqual(
            session.receive(encoded(answer(request))),
            [("a", []), ("stats", [pid, answer(request)])],
        )

    def test_too_large(self) -> None:
        """Together they stay below the limit of one body, or nobody waits for their end."""
        session, request = self.stat(max_body=100)
        session.receive(encoded(*[answer(request, 0, b"v" * 20, b"k" * 5)] * 4))
        self.assertIs(session.error, None)
        self.assert_wrong(session, encoded(answer(request, 0, b"", b"k")), "body length")
        self.assertEqual(session.lose(), [("stats", True), ("noop", True)])

    def test_too_many(self) -> None:
        """Their number has a limit too, at which nothing is lost."""
        session, request = self.stat(max_body=10**6)
        answers = answer(request, 0, b"", b"k").encode() * MAX_STATISTICS
        ended = session.receive(answers + encoded(answer(request)))
        self.assertEqual(len(ended[0][1]), MAX_STATISTICS + 1)
        session, request = self.stat(max_body=10**6)
        self.assert_wrong(session, answers + encoded(answer(request, 0, b"", b"k")), "key")
        self.assertGreater(MAX_STATISTICS, 10_000)

    def test_abandoned(self) -> None:
        """Abandoned statistics are dropped, also those that came before, and the limits hold."""
        session, request = self.stat()
        pid = answer(request, 0, b"1", b"pid")
        session.receive(encoded(pid))
        session.abandon(self.place)
        noop = Response(Opcode.NOOP, opaque=request.opaque + 1)
        ended = session.receive(encoded(pid, answer(request), noop))
        self.assertEqual(ended, [("noop", [noop])])
        session, request = self.stat(max_body=10)
        session.abandon(self.place)
        self.assert_wrong(session, encoded(*[pid] * 3), "body length")


class ViolationTests(_Tests):
    def test_unsolicited(self) -> None:
        """An answer that nobody asked for is an error, with nothing pending or with something."""
        for opaque in (0, 1, 0xFFFFFFFF):
            session = new_session()
            self.assert_wrong(session, encoded(Response(Opcode.NOOP, opaque=opaque)), "opaque")
        for opaque in (2, 3, 0x80000000, 0xFFFFFFFF):
            session = new_session()
            session.send(op.noop().request, "a")
            session.send(op.noop().request, "b")
            sent(session)
            self.assert_wrong(session, encoded(Response(Opcode.NOOP, opaque=opaque)), "opaque")
            self.assertEqual(session.lose(), [("a", True), ("b", True)])

    def test_twice(self) -> None:
        """A second answer to the same request is an error; the first one counts."""
        for quiet in (False, True):
            session = new_session()
            session.send(op.get("a", quiet=quiet).request, "a")
            session.send(op.get("b", quiet=quiet).request, "b")
            a = hit(sent(session)[0])
            self.assert_wrong(session, encoded(a, a), "opaque", [("a", [a])])
            self.assertEqual(session.lose(), [("b", True)])

    def test_not_yet_sent(self) -> None:
        """An answer to what was not written yet is an error."""
        session = new_session()
        session.send(op.noop().request, "a")
        self.assert_wrong(session, encoded(Response(Opcode.NOOP, opaque=0)), "opaque")
        session = new_session()
        session.send(op.get("a", quiet=True).request, "a")
        requests = sent(session)
        session.send(op.noop().request, "b")
        self.assert_wrong(session, encoded(Response(Opcode.NOOP, opaque=2)), "opaque")
        self.assertEqual(session.lose(), [("a", True), ("b", False)])
        self.assertEqual(requests[1].opaque, 1)

    def test_skipped(self) -> None:
        """A loud request is never silent: an answer to a later one is an error."""
        for first in (op.get("a"), op.set("a", b""), op.noop(), op.stats()):
            session = new_session()
            session.send(op.get("q", quiet=True).request, "q")
            session.send(first.request, "a")
            session.send(op.get("b").request, "b")
            requests = sent(session)
            self.assert_wrong(session, encoded(hit(requests[2])), "opaque")
            assert session.error is not None
            self.assertIn("came before that to", str(session.error))
            self.assertEqual(session.lose(), [("q", True), ("a", True), ("b", True)])

    def test_swapped(self) -> None:
        """Two answers in the wrong order are nobody's."""
        session = new_session()
        session.send(op.get("a").request, "a")
        session.send(op.get("b").request, "b")
        a, b = sent(session)
        self.assert_wrong(session, encoded(hit(b), hit(a)), "opaque")

    def test_opcode(self) -> None:
        """The opcode of an answer is that of the request, whatever the status."""
        for status in (0, 1, 0x81):
            for opcode in range(256):
                if opcode != Opcode.GET:
                    session = new_session()
                    session.send(op.get("a").request, "a")
                    (request,) = sent(session)
                    other = Response(opcode, status, request.opaque, 0, FLAGS)
                    self.assert_wrong(session, encoded(other), "opcode")

    def test_opcode_of_a_quiet_run(self) -> None:
        """What comes with a number of a quiet run has the opcode of that request."""
        session = new_session()
        for token in "abc":
            session.send(op.get(token, quiet=True).request, token)
        requests = sent(session)
        noop = Response(Opcode.NOOP, 0, requests[1].opaque)
        self.assert_wrong(session, encoded(noop), "opcode")
        self.assertEqual([token for token, _ in session.lose()], ["a", "b", "c"])

    def test_every_answer_shape(self) -> None:
        """Of every opcode the legal shapes of an answer pass, and the wrong part is named."""
        legal = {Key.NONE: (b"",), Key.ECHOED: (b"key",), Key.OPTIONAL: (b"", b"key", b"oth")}
        for opcode, row in OPCODES.items():
            for extras in (0, 1, 3, 4, 5, 8, 20, 255):
                for key in (b"", b"key", b"oth"):
                    for value in (0, 1, 7, 8, 9):
                        session = new_session()
                        session.send(Request(opcode, b"key"), "token")
                        (place,) = [*session._places]
                        session.data_to_send()
                        response = Response(
                            opcode, 0, place.opaque, 0, bytes(extras), key, bytes(value)
                        )
                        session.receive(response.encode())
                        wrong = None if session.error is None else session.error.field
                        expected = None
                        if extras not in row.answer.extras:
                            expected = "extras length"
                        elif key not in legal[row.answer.key]:
                            expected = "key length" if row.answer.key is Key.NONE else "key"
                        elif value not in self.values(row, key, value):
                            expected = "value"
                        self.assertEqual(wrong, expected, f"{response}")

    def values(self, row: OpcodeRow, key: bytes, value: int) -> tuple[int, ...]:
        """Return which lengths of the value are legal, with *value* standing for any."""
        if row.opcode == Opcode.STAT and not key:
            return (0,)
        return (value if row.answer.value is None else row.answer.value,)

    def test_every_error_shape(self) -> None:
        """The answer that tells an error has a text, perhaps the request's key, and no extras."""
        for opcode, row in OPCODES.items():
            for status in (*Status, 0x07, 0xFFFF):
                if status == Status.OK:
                    continue
                for extras, key, field in (
                    (b"", b"", None),
                    (b"", b"key", None),
                    (b"", b"oth", "key"),
                    (FLAGS, b"", "extras length"),
                ):
                    session = new_session()
                    session.send(Request(opcode, b"key"), "token")
                    session.data_to_send()
                    response = Response(opcode, status, 0, 0, extras, key, b"Text")
                    ended = session.receive(response.encode())
                    wrong = None if session.error is None else session.error.field
                    if status == 0x21 and opcode not in (Opcode.SASL_AUTH, Opcode.SASL_STEP):
                        field = "status"
                    self.assertEqual(wrong, field, f"{row.opcode.name} {response}")
                    self.assertEqual(ended, [] if field else [("token", [response])])

    def test_broken_frame(self) -> None:
        """What the reader finds wrong is the session's error, behind the good answers before it."""
        for broken, field in (
            (b"\x80", "magic"),
            (b"HTTP/1.1 400 Bad Request\r\n", "magic"),
            (b"\x81" + bytes(4) + b"\1" + bytes(18), "data type"),
            (b"\x81" + bytes(7) + b"\xff" * 4 + bytes(12), "body length"),
            (b"\x81" + bytes(2) + b"\1" + bytes(20), "body length"),
        ):
            for cut in range(24 + len(broken) + 1):
                session = new_session()
                session.send(op.noop().request, "a")
                session.send(op.noop().request, "b")
                sent(session)
                done = Response(Opcode.NOOP)
                stream = encoded(done) + broken
                ended = session.receive(stream[:cut])
                if session.error is None:
                    ended += session.receive(stream[cut:])
                self.assertEqual(ended, [("a", [done])])
                assert session.error is not None
                self.assertEqual(session.error.field, field)
                self.assertFalse(session.inside_answer)
                self.assertEqual(session.lose(), [("b", True)])

    def test_nothing_behind_it(self) -> None:
        """Behind a wrong answer no right one counts, in the same piece or in a later one."""
        session = new_session()
        session.send(op.get("a").request, "a")
        session.send(op.get("b").request, "b")
        a, b = sent(session)
        self.assert_wrong(session, encoded(answer(a, 0x21), hit(a), hit(b)), "status")
        self.assertRaises(RemoteProtocolError, session.receive, encoded(hit(a)))
        self.assertEqual(session.lose(), [("a", True), ("b", True)])

    def test_sent_after_it(self) -> None:
        """What is sent after the error ends with the rest of what is pending."""
        session = new_session()
        session.send(op.noop().request, "a")
        sent(session)
        session.receive(b"\0")
        session.send(op.noop().request, "b")
        self.assertEqual(session.lose(), [("a", True), ("b", False)])

    def test_no_secret(self) -> None:
        """What is said about a wrong answer shows neither keys nor values."""
        session = new_session()
        session.send(Request(Opcode.GETK, b"secret-key"), "a")
        (request,) = sent(session)
        wrong = Response(Opcode.GETK, 0, request.opaque, 0, FLAGS, b"strange-key", b"secret-value")
        session.receive(wrong.encode())
        self.assertIsNot(session.error, None)
        for word in ("secret", "strange"):
            self.assertNotIn(word, str(session.error))


class LimitTests(_Tests):
    def assert_unchanged(self, session: Session[str], request: Request, limit: str) -> None:
        """Assert that *request* is over *limit*, and that nothing comes of it."""
        before = (len(session), [*session.tokens()], request.encode())
        error = self.assertRaises(PendingLimit, session.send, request, "over")
        self.assertEqual(error.limit, limit)
        self.assertEqual((len(session), [*session.tokens()], request.encode()), before)

    def test_count(self) -> None:
        """One request more than the limit is refused, and changes nothing."""
        session = new_session(max_pending=3)
        for token in "abc":
            session.send(op.get(token).request, token)
        self.assert_unchanged(session, op.get("d").request, "max_pending")
        requests = sent(session)
        self.assertEqual([request.key for request in requests], [b"a", b"b", b"c"])
        self.assert_unchanged(session, op.get("d").request, "max_pending")
        session.receive(encoded(hit(requests[0])))
        session.send(op.get("d").request, "d")
        self.assertEqual(sent(session)[0].opaque, 3)
        self.assert_unchanged(session, op.get("e").request, "max_pending")

    def test_bytes(self) -> None:
        """The bytes of what is unanswered are limited, headers included."""
        size = HEADER_SIZE + 8 + 1 + 100
        session = new_session(max_pending_bytes=2 * size)
        session.send(op.set("a", bytes(100)).request, "a")
        self.assert_unchanged(session, op.set("b", bytes(101)).request, "max_pending_bytes")
        session.send(op.set("b", bytes(100)).request, "b")
        self.assert_unchanged(session, op.noop().request, "max_pending_bytes")
        a, _ = sent(session)
        session.receive(encoded(answer(a)))
        self.assert_unchanged(session, op.set("b", bytes(101)).request, "max_pending_bytes")
        session.send(op.set("c", bytes(100)).request, "c")

    def test_one_large(self) -> None:
        """A single request may be larger than the limit: otherwise it could never be sent."""
        session = new_session(max_pending_bytes=50)
        session.send(op.set("a", bytes(100)).request, "a")
        self.assert_unchanged(session, op.noop().request, "max_pending_bytes")
        (a,) = sent(session)
        session.receive(encoded(answer(a)))
        session.send(op.set("b", bytes(100)).request, "b")

    def test_given_back(self) -> None:
        """However requests end, what they counted for is free again."""
        session = new_session(max_pending=10, max_pending_bytes=2000)
        for _ in range(50):
            for token in "abcdefgh":
                session.send(op.get(token, quiet=True).request, token)
            requests = sent(session)
            ended = session.receive(encoded(hit(requests[3]), answer(requests[-1])))
            self.assertEqual(len(ended), 8)
        for _ in range(50):
            session.abandon(session.send(op.set("a", bytes(1900)).request, "a"))
            session.lose()
        for _ in range(50):
            session.send(op.stats().request, "a")
            (request,) = sent(session)
            session.receive(encoded(answer(request, 0, b"1", b"pid"), answer(request)))
        session.send(op.set("a", bytes(1900)).request, "a")
        left = 2000 - (HEADER_SIZE + 8 + 1 + 1900) - HEADER_SIZE
        self.assert_unchanged(session, op.get("b" * (left + 1)).request, "max_pending_bytes")
        session.send(op.get("b" * left).request, "b")

    def test_fence(self) -> None:
        """The fence is sent at the limit too, or what is before it would never end."""
        session = new_session(max_pending=2, max_pending_bytes=60)
        session.send(op.get("a", quiet=True).request, "a")
        session.send(op.get("b", quiet=True).request, "b")
        requests = sent(session)
        self.assertEqual(requests[2].opcode, Opcode.NOOP)
        self.assertEqual(session.receive(encoded(answer(requests[2]))), [("a", []), ("b", [])])


class LossTests(_Tests):
    def test_sent(self) -> None:
        """What is lost tells for each request whether the server may have seen it."""
        session = new_session()
        places = [session.send(op.get(token).request, token) for token in "abc"]
        a, *_ = sent(session)
        session.receive(encoded(hit(a)))
        session.send(op.set("d", b"", quiet=True).request, "d")
        session.send(op.set("e", b"").request, "e")
        session.abandon(places[2])
        self.assertEqual(session.lose(), [("b", True), ("d", False), ("e", False)])
        self.assertEqual((len(session), [*session.tokens()]), (0, []))
        self.assertFalse(session.unsent)
        self.assertEqual((session.data_to_send(), session.lose()), (b"", []))

    def test_silent(self) -> None:
        """What was silent before the fence came is lost with the rest, and only once."""
        session = new_session()
        session.send(op.get("a", quiet=True).request, "a")
        session.send(op.get("b", quiet=True).request, "b")
        _, b, _ = sent(session)
        self.assertEqual(session.receive(encoded(hit(b))), [("b", [hit(b)])])
        self.assertEqual(session.lose(), [("a", True)])
        self.assertEqual((len(session), session.lose()), (0, []))

    def test_fence_is_nobodys(self) -> None:
        """The fence is lost in silence."""
        session = new_session()
        session.send(op.get("a", quiet=True).request, "a")
        sent(session)
        self.assertEqual(session.lose(), [("a", True)])

    def test_late_answer(self) -> None:
        """An answer to what was lost is one that nobody asked for."""
        session = new_session()
        session.send(op.get("a").request, "a")
        (request,) = sent(session)
        session.lose()
        self.assert_wrong(session, encoded(hit(request)), "opaque")

    def test_inside_answer(self) -> None:
        """A connection that ends in the middle of an answer can be told from one that does not."""
        session = new_session()
        session.send(op.get("a").request, "a")
        (request,) = sent(session)
        stream = encoded(hit(request))
        self.assertFalse(session.inside_answer)
        for byte in stream[:-1]:
            self.assertEqual(session.receive(bytes([byte])), [])
            self.assertTrue(session.inside_answer)
        self.assertEqual(len(session.receive(stream[-1:])), 1)
        self.assertFalse(session.inside_answer)
