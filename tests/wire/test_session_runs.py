"""Tests of `txtlsmc.wire.session` with runs, which end as their requests one by one would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import PendingLimit
from txtlsmc.wire import operations as op
from txtlsmc.wire.frames import HEADER, HEADER_SIZE, Request, RequestReader, Response
from txtlsmc.wire.opcodes import Opcode, Status
from txtlsmc.wire.operations import RawItem
from txtlsmc.wire.places import Place, RunPlace
from txtlsmc.wire.runs import Run, run_of_deletes, run_of_gets, run_of_sets
from txtlsmc.wire.session import FLIGHT, Session

FLAGS = b"\0\0\0\x10"
MAX_BODY = 100


def run_of(opcode: int, keys: Sequence[bytes]) -> Run[Any]:
    """Return a run that only the session looks at."""
    extras: Sequence[bytes] = [bytes(8)] * len(keys) if opcode == Opcode.SETQ else ()
    if opcode == Opcode.GATQ:
        extras = [bytes(4)] * len(keys)
    values = [b"v"] * len(keys) if opcode == Opcode.SETQ else ()
    return Run(opcode, keys, None, RawItem, lambda response: None, extras, values)


def keys_of(count: int) -> list[bytes]:
    return [b"key%d" % number for number in range(count)]


def requests_in(data: bytes) -> list[Request]:
    requests = []
    for frame in RequestReader(10_000).feed(data):
        assert isinstance(frame, Request), frame
        requests.append(frame)
    return requests


def hit(request: Request, value: bytes = b"v", cas: int = 0) -> Response:
    return Response(request.opcode, 0, request.opaque, cas, FLAGS, b"", value)


def answer(request: Request, status: int = 0) -> Response:
    return Response(request.opcode, status, request.opaque)


def encoded(*frames: Response) -> bytes:
    return b"".join(frame.encode() for frame in frames)


class RunTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.session = self.new_session()

    def new_session(self, max_pending: int = 1000, first_opaque: int = 7) -> Session[str]:
        return Session(
            max_pending=max_pending,
            max_pending_bytes=100_000,
            max_body=MAX_BODY,
            first_opaque=first_opaque,
        )

    def gets(self, count: int) -> tuple[RunPlace[str], list[Request]]:
        """Send a run of so many gets; return its place, and all that travels."""
        place = self.session.send_run(run_of_gets(keys_of(count), RawItem, None), "run")
        return place, requests_in(self.session.data_to_send())

    def test_frames(self) -> None:
        """A run travels as its requests one by one would, and ends with a fence."""
        keys = keys_of(3)
        runs: list[tuple[Run[Any], Callable[[bytes], op.Operation[Any]]]] = [
            (run_of_gets(keys, RawItem, None), lambda key: op.get(key, quiet=True)),
            (run_of_deletes(keys), lambda key: op.delete(key, quiet=True)),
            (
                run_of_sets(keys, keys, [1, 2, 1], 60),
                lambda key: op.set(
                    key, key, flags=2 if key == b"key1" else 1, exptime=60, quiet=True
                ),
            ),
        ]
        for run, one in runs:
            for first in (7, 0xFFFFFFFE):
                session, other = (self.new_session(first_opaque=first) for _ in range(2))
                session.send_run(run, "run")
                for key in keys:
                    other.send(one(key).request, "one")
                self.assertEqual(len(session), 3)
                data = session.data_to_send()
                self.assertEqual(data, other.data_to_send())
                self.assertEqual(requests_in(data)[-1].opcode, Opcode.NOOP)
                self.assertEqual(run.size, len(data) - HEADER_SIZE)

    def test_any_cut(self) -> None:
        """What a run ends with does not depend on where the network cuts the stream."""
        _, requests = self.gets(4)
        first, _, third, fourth, fence = requests
        refused = Response(third.opcode, Status.BUSY, third.opaque, value=b"busy")
        stream = encoded(hit(first, b"one", 5), refused, hit(fourth, b""), answer(fence))
        for cut in range(len(stream) + 1):
            self.session = self.new_session()
            place, _ = self.gets(4)
            ended = self.session.receive(stream[:cut]) + self.session.receive(stream[cut:])
            self.assertIsNone(self.session.error)
            self.assertEqual(ended, [("run", [refused])])
            self.assertEqual(place.hits, [(0, b"one", 16, 5), (3, b"", 16, 0)])
            self.assertEqual(len(self.session), 0)

    def test_silence(self) -> None:
        """Silence is believed when the fence is answered, and not before."""
        place, (*gets, fence) = self.gets(3)
        self.assertEqual(self.session.receive(encoded(hit(gets[2]))), [])
        self.assertEqual(len(self.session), 4)
        self.assertEqual(self.session.receive(encoded(answer(fence))), [("run", [])])
        self.assertEqual([number for number, *_ in place.hits], [2])
        self.assertEqual(len(self.session), 0)

    def test_all_answered(self) -> None:
        """A run all of whose requests are answered has ended, before its fence."""
        _, (*gets, fence) = self.gets(3)
        self.assertEqual(self.session.receive(encoded(*map(hit, gets))), [("run", [])])
        self.assertEqual(len(self.session), 1)
        self.assertEqual(self.session.receive(encoded(answer(fence))), [])

    def test_passed_over(self) -> None:
        """A quiet answer behind a run does not end it, and nothing can come for it any more."""
        for late, field in ((None, None), (1, "opaque")):
            self.session = self.new_session()
            self.session.send_run(run_of_gets(keys_of(2), RawItem, None), "run")
            self.session.send(op.get("x", quiet=True).request, "x")
            *gets, x, fence = requests_in(self.session.data_to_send())
            self.assertEqual(self.session.receive(encoded(hit(x))), [("x", [hit(x)])])
            if late is not None:
                self.assertEqual(self.session.receive(encoded(hit(gets[late]))), [])
                assert self.session.error is not None
                self.assertEqual(self.session.error.field, field)
            else:
                self.assertEqual(self.session.receive(encoded(answer(fence))), [("run", [])])

    def test_failed_fence(self) -> None:
        """A fence that fails says nothing of the silence before it."""
        _, (*gets, fence) = self.gets(2)
        self.session.receive(encoded(hit(gets[1])))
        self.assertEqual(self.session.receive(encoded(answer(fence, Status.BUSY))), [])
        assert self.session.error is not None
        self.assertEqual(self.session.error.field, "status")

    def test_wrong_length(self) -> None:
        """An item without room for its flags, or longer than may be, ends the connection."""
        for body in (*range(4), MAX_BODY + 1):
            self.session = self.new_session()
            place, (first, *_) = self.gets(1)
            wrong = HEADER.pack(0x81, Opcode.GETQ, 0, 4, 0, 0, body, first.opaque, 0)
            self.assertEqual(self.session.receive(wrong + bytes(200)), [])
            assert self.session.error is not None
            self.assertEqual(self.session.error.field, "body length")
            self.assertEqual((place.hits, place.others), ([], []))
        self.session = self.new_session()
        _, (first, *_) = self.gets(1)
        longest = hit(first, bytes(MAX_BODY - 4))
        self.assertEqual(self.session.receive(encoded(longest)), [("run", [])])

    def test_wrong_length_alone(self) -> None:
        """The same holds for the item that a single read is answered with."""
        for body in (*range(4), MAX_BODY + 1):
            self.session = self.new_session()
            self.session.send(op.get("key").request, "one")
            wrong = HEADER.pack(0x81, Opcode.GET, 0, 4, 0, 0, body, 7, 0)
            self.session.data_to_send()
            self.assertEqual(self.session.receive(wrong + bytes(200)), [])
            assert self.session.error is not None
            self.assertEqual(self.session.error.field, "body length")

    def test_unsent(self) -> None:
        """Nothing can be answered before it was sent."""
        place = self.session.send_run(run_of_gets(keys_of(2), RawItem, None), "run")
        self.assertFalse(self.session.is_sent(place))
        early = Response(Opcode.GETQ, 0, place.opaque, extras=FLAGS)
        self.assertEqual(self.session.receive(encoded(early)), [])
        assert self.session.error is not None
        self.assertEqual(self.session.error.field, "opaque")
        self.assertEqual((place.hits, place.others), ([], []))

    def test_abandoned(self) -> None:
        """What comes for an abandoned run is dropped, and its neighbours live."""
        place, (*gets, fence) = self.gets(3)
        self.session.receive(encoded(hit(gets[0])))
        self.session.abandon(place)
        self.assertEqual([*self.session.tokens()], [])
        self.session.send(op.get("x").request, "x")
        (x,) = requests_in(self.session.data_to_send())
        late = [hit(gets[1]), Response(gets[2].opcode, Status.BUSY, gets[2].opaque)]
        ended = self.session.receive(encoded(*late, answer(fence), hit(x)))
        self.assertEqual(ended, [("x", [hit(x)])])
        self.assertEqual((len(place.hits), place.others), (1, []))
        self.assertEqual(len(self.session), 0)

    def test_lost(self) -> None:
        """A run is lost as one, and was sent as one."""
        self.gets(3)
        self.session.send_run(run_of_deletes(keys_of(2)), "deletes")
        self.assertEqual([*self.session.tokens()], ["run", "deletes"])
        self.assertEqual(self.session.lose(), [("run", True), ("deletes", False)])
        self.assertEqual(len(self.session), 0)

    def test_limits(self) -> None:
        """Each request of a run counts; one too many, and nothing of it was done."""
        self.session = self.new_session(max_pending=4)
        self.session.send(op.get("x").request, "x")
        self.session.data_to_send()
        error = self.assertRaises(PendingLimit, self.gets, 4)
        self.assertEqual((error.limit, error.value), ("max_pending", 4))
        self.assertFalse(self.session.unsent)
        self.session.send_run(run_of_gets(keys_of(3), RawItem, None), "run")
        self.assertRaises(PendingLimit, self.session.send, op.get("y").request, "y")

    def test_limit_of_bytes(self) -> None:
        """The bytes of a run count until it ends."""
        size = run_of_deletes(keys_of(10)).size
        session: Session[str] = Session(max_pending=99, max_pending_bytes=size + 50, max_body=99)
        session.send_run(run_of_deletes(keys_of(10)), "first")
        self.assertRaises(PendingLimit, session.send_run, run_of_deletes(keys_of(2)), "second")
        *_, fence = requests_in(session.data_to_send())
        self.assertEqual(session.receive(encoded(answer(fence))), [("first", [])])
        session.send_run(run_of_deletes(keys_of(10)), "second")

    def test_flights(self) -> None:
        """A long run is cut between requests, each piece no longer than a TLS record."""
        values = [bytes(3000)] * 20
        self.session.send_run(run_of_sets(keys_of(20), values, [0] * 20, 0), "run")
        flights = self.session.flights()
        self.assertEqual([len(requests_in(flight)) for flight in flights], [5, 5, 5, 6])
        self.assertLessEqual(max(map(len, flights)), FLIGHT)
        self.assertEqual(self.session.flights(), [])

    def test_nothing_shown(self) -> None:
        """A run shows neither keys nor values."""
        run = run_of_sets([b"secret"], [b"secret"], [0], 0)
        self.assertEqual(repr(run), "<Run of 1>")


SINGLES = (Opcode.GET, Opcode.GETQ, Opcode.SETQ, Opcode.NOOP)
RUNS = (Opcode.GETQ, Opcode.GETQ, Opcode.GETKQ, Opcode.GATQ, Opcode.SETQ, Opcode.DELETEQ)
SILENT_MISS = (Opcode.GETQ, Opcode.GETKQ, Opcode.GATQ)
READS = (Opcode.GET, *SILENT_MISS)
OUTCOMES = ("good", "good", "good", "silent", "silent", "refused", "talkative")


def said(request: Request, outcome: str) -> list[Response]:
    """Return what a server says to *request*."""
    opcode = request.opcode
    if opcode == Opcode.NOOP:
        return [answer(request)]
    if outcome == "refused":
        return [Response(opcode, Status.BUSY, request.opaque, value=b"busy")]
    if opcode in READS:
        if outcome == "good":
            key = request.key if opcode == Opcode.GETKQ else b""
            value = b"value of " + request.key
            return [Response(opcode, 0, request.opaque, request.opaque, FLAGS, key, value)]
        if outcome == "silent" and opcode != Opcode.GET:
            return []
        return [answer(request, Status.KEY_NOT_FOUND)]
    return [answer(request)] if outcome == "talkative" else []


def twice(frames: list[bytes], at: int) -> None:
    frames.insert(at, frames[at])


def swapped(frames: list[bytes], at: int) -> None:
    frames[at - 1], frames[at] = frames[at], frames[at - 1]


def forgotten(frames: list[bytes], at: int) -> None:
    del frames[at]


def another_byte(place: int, value: int) -> Callable[[list[bytes], int], None]:
    def changed(frames: list[bytes], at: int) -> None:
        frame = bytearray(frames[at])
        frame[place] = value
        frames[at] = bytes(frame)

    return changed


#: What may be wrong: the order, or a byte of the header (magic to body length, and the opaque).
WRONGS = st.one_of(
    st.none(),
    st.sampled_from([twice, swapped, forgotten]),
    st.builds(another_byte, st.sampled_from([*range(12), 15]), st.integers(0, 40)),
    st.builds(another_byte, st.just(15), st.integers(0, 255)),
)


class _Twins:
    """The same requests in two sessions: with runs in one, and one by one in the other."""

    def __init__(self, groups: list[tuple[Opcode, int, bool]], first_opaque: int) -> None:
        self.with_runs: Session[int] = self._session(first_opaque)
        self.one_by_one: Session[int] = self._session(first_opaque)
        self.groups: dict[int, list[int]] = {}  # the tokens of a group's requests, by its own
        self.places: dict[int, Place[int]] = {}
        self.their_places: dict[int, Place[int]] = {}
        self.ended: set[int] = set()
        self.answers: dict[int, list[bytes]] = {}
        self.theirs: dict[int, list[bytes]] = {}
        serial = 0
        for group, (opcode, count, alone) in enumerate(groups):
            keys = [b"%d" % number for number in range(serial, serial + count)]
            self.groups[group] = [*range(serial, serial + count)]
            run = run_of(opcode, keys)
            if alone:
                self.places[group] = self.with_runs.send(self._request(run), group)
                self.their_places[serial] = self.one_by_one.send(self._request(run), serial)
            else:
                self.places[group] = self.with_runs.send_run(run, group)
                for number, operation in enumerate(run.operations(), serial):
                    place = self.one_by_one.send(operation.request, number)
                    self.their_places[number] = place
            serial += count

    def _request(self, run: Run[Any]) -> Request:
        (operation,) = run.operations()
        return Request(Opcode.NOOP) if run.opcode == Opcode.NOOP else operation.request

    def _session(self, first_opaque: int) -> Session[int]:
        return Session(
            max_pending=999,
            max_pending_bytes=99999,
            max_body=MAX_BODY,
            first_opaque=first_opaque,
        )

    def sent(self) -> list[Request]:
        data = self.with_runs.data_to_send()
        assert data == self.one_by_one.data_to_send()
        return requests_in(data)

    def abandon(self, group: int) -> None:
        if group not in self.ended:
            self.with_runs.abandon(self.places[group])
            for serial in self.groups[group]:
                self.one_by_one.abandon(self.their_places[serial])
            del self.groups[group]

    def receive(self, piece: bytes) -> bool:
        """Take a piece of the stream in both; return whether it can go on."""
        for group, responses in self.with_runs.receive(piece):
            assert group not in self.ended, "a token ended twice"
            self.ended.add(group)
            if not isinstance(self.places[group], RunPlace):
                (serial,) = self.groups[group]
                self.answers[serial] = [response.encode() for response in responses]
        for serial, responses in self.one_by_one.receive(piece):
            self.theirs[serial] = [response.encode() for response in responses]
        self.compare()
        return self.with_runs.error is None

    def compare(self) -> None:
        for group, serials in self.groups.items():
            place = self.places[group]
            if isinstance(place, RunPlace):
                answers = self._told(place, group in self.ended)
                self.answers.update((serials[number], told) for number, told in answers.items())
        live = {serial for serials in self.groups.values() for serial in serials}
        assert {serial: told for serial, told in self.answers.items() if serial in live} == {
            serial: told for serial, told in self.theirs.items() if serial in live
        }
        assert str(self.with_runs.error) == str(self.one_by_one.error)
        assert [*self.with_runs.tokens()] == [g for g in self.groups if g not in self.ended]

    def _told(self, place: RunPlace[int], ended: bool) -> dict[int, list[bytes]]:
        """Return the answers to the requests of a run, by number; none for silence."""
        told: dict[int, list[bytes]] = {n: [] for n in range(place.count)} if ended else {}
        for number, value, flags, cas in place.hits:
            opaque = (place.opaque + number) & 0xFFFFFFFF
            extras = flags.to_bytes(4)
            told[number] = [Response(place.opcode, 0, opaque, cas, extras, b"", value).encode()]
        for response in place.others:
            told[place.number(response)] = [response.encode()]
        return told


class TwinTests(SynchronousTestCase):
    @settings(max_examples=400, deadline=None, database=None, suppress_health_check=[*HealthCheck])
    @given(data=st.data())
    def test_runs(self, data: st.DataObject) -> None:
        """Whatever the server does, a run ends as its requests one by one would."""
        single = st.tuples(st.sampled_from(SINGLES), st.just(1), st.just(True))
        run = st.tuples(st.sampled_from(RUNS), st.integers(1, 5), st.just(False))
        first = data.draw(st.sampled_from([0, 0xFFFFFFFD, 0x10000]))
        twins = _Twins(data.draw(st.lists(st.one_of(single, run), min_size=1, max_size=6)), first)
        frames = []
        for request in twins.sent():
            frames += said(request, data.draw(st.sampled_from(OUTCOMES)))
        stream = [frame.encode() for frame in frames]
        wrong = data.draw(WRONGS)
        if wrong is not None and stream:
            wrong(stream, data.draw(st.integers(0, len(stream) - 1)))
        rest = b"".join(stream)
        while rest:
            size = data.draw(st.one_of(st.integers(1, 60), st.just(10**6)))
            piece, rest = rest[:size], rest[size:]
            if not twins.receive(piece):
                break
            if data.draw(st.integers(0, 3)) == 3 and twins.groups:
                twins.abandon(data.draw(st.sampled_from([*twins.groups])))
        lost = {serial for serial, _ in twins.one_by_one.lose()}
        for group, sent in twins.with_runs.lose():
            assert sent
            told = {s for s in twins.groups[group] if s in twins.theirs}
            assert told | lost >= set(twins.groups[group])
