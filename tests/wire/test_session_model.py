"""
Tests of `txtlsmc.wire.session` against a model, by any interleaving of what can happen to it.

The session finds out by opaques which answer is whose.  The model never looks at them: each
request carries a serial number in its cas, the model's server answers strictly in order, and
knows from that alone which answer ends which requests.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import PendingLimit, RemoteProtocolError
from txtlsmc.wire.frames import HEADER, HEADER_SIZE, Request, Response
from txtlsmc.wire.opcodes import Opcode, Status
from txtlsmc.wire.places import Place
from txtlsmc.wire.session import Session

MAX_PENDING = 25
MAX_BODY = 200

#: Extras of the request, and whether it has a key and a value.
KINDS = {
    Opcode.GET: (0, True, False),
    Opcode.GETQ: (0, True, False),
    Opcode.GETKQ: (0, True, False),
    Opcode.GATQ: (4, True, False),
    Opcode.SET: (8, True, True),
    Opcode.SETQ: (8, True, True),
    Opcode.APPENDQ: (0, True, True),
    Opcode.INCREMENTQ: (20, True, False),
    Opcode.TOUCH: (4, True, False),
    Opcode.NOOP: (0, False, False),
    Opcode.VERSION: (0, False, False),
    Opcode.STAT: (0, True, False),
}
READS = (Opcode.GET, Opcode.GETQ, Opcode.GETKQ, Opcode.GATQ)
SILENT_MISS = (Opcode.GETQ, Opcode.GETKQ, Opcode.GATQ)
SILENT_SUCCESS = (Opcode.SETQ, Opcode.APPENDQ, Opcode.INCREMENTQ)
QUIET = SILENT_MISS + SILENT_SUCCESS

#: How a server can break the protocol.
WRONGS = (
    "broken frame",
    "twice",
    "too early",
    "not sent",
    "out of turn",
    "another opcode",
    "forgotten",
    "failed fence",
)
BROKEN = (
    (b"\x80" + bytes(23), "magic"),
    (b"ERROR\r\n", "magic"),
    (HEADER.pack(0x81, 0x0A, 0, 0, 1, 0, 0, 0, 0), "data type"),
    (HEADER.pack(0x81, 0x0A, 3, 0, 0, 0, 2, 0, 0), "body length"),
    (HEADER.pack(0x81, 0x0A, 0, 0, 0, 0, 2**32 - 1, 0, 0), "body length"),
)
#: So many things happen on a connection before it can go wrong.
CALM = 10

GOOD, UNMET, FAILED, TALKATIVE = "good", "unmet", "failed", "talkative"
OUTCOMES = st.sampled_from([GOOD, GOOD, GOOD, UNMET, UNMET, FAILED, TALKATIVE])


@dataclass
class Asked:
    """A request, as the model follows it; without a serial it is a fence of the session's."""

    serial: int
    opcode: int
    opaque: int = 0
    abandoned: bool = False
    passed: bool = False  # silent, and a later one was answered: its turn is over
    answers: list[Response] = field(default_factory=list)

    @property
    def key(self) -> bytes:
        return b"key%d" % self.serial if KINDS[Opcode(self.opcode)][1] else b""


@dataclass
class Sent:
    """A frame on its way to the client, and the requests that end when all of it is there."""

    frame: bytes
    ends: list[Asked]


def answers(asked: Asked, outcome: str) -> list[Response]:
    """Return what a server says to *asked*; every value tells whose it is."""
    opcode, serial = Opcode(asked.opcode), b"%d" % asked.serial
    failed = Response(opcode, Status.OUT_OF_MEMORY, asked.opaque, value=b"error " + serial)
    if outcome == FAILED and opcode != Opcode.NOOP:
        return [failed]
    if opcode == Opcode.STAT:
        some = [
            Response(opcode, 0, asked.opaque, key=b"%d" % number, value=serial)
            for number in range(asked.serial % 4)
        ]
        return [*some, failed if outcome == UNMET else Response(opcode, 0, asked.opaque)]
    unmet = outcome == UNMET or (outcome == TALKATIVE and asked.serial % 2 == 0)
    if opcode in READS:
        if unmet:
            miss = Response(opcode, Status.KEY_NOT_FOUND, asked.opaque, value=b"miss " + serial)
            return [] if opcode in SILENT_MISS and outcome != TALKATIVE else [miss]
        key = asked.key if opcode == Opcode.GETKQ else b""
        return [Response(opcode, 0, asked.opaque, asked.serial, bytes(4), key, b"value " + serial)]
    if unmet and opcode not in (Opcode.NOOP, Opcode.VERSION):
        return [Response(opcode, Status.NOT_STORED, asked.opaque, value=b"unmet " + serial)]
    if opcode in SILENT_SUCCESS and outcome != TALKATIVE:
        return []
    value = b""
    if opcode == Opcode.INCREMENTQ:
        value = asked.serial.to_bytes(8)
    elif opcode == Opcode.VERSION:
        value = b"version " + serial
    return [Response(opcode, 0, asked.opaque, asked.serial, value=value)]


class SessionMachine(RuleBasedStateMachine):
    """One connection after the other, each with a session, a server, and two streams of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.serial = 0
        self.ended: set[int] = set()
        self.ever_asked: set[int] = set()

    @initialize(opaque=st.sampled_from([0, 0xFFFFFFFF, 0xFFFFFFF0, 0x7FFFFFFF]))
    def connect(self, opaque: int) -> None:
        """Begin with a new connection."""
        self.session: Session[int] = Session(
            max_pending=MAX_PENDING, max_pending_bytes=10**6, max_body=MAX_BODY, first_opaque=opaque
        )
        self.unsent: list[Asked] = []
        self.unserved: deque[Asked] = deque()
        self.silent: list[Asked] = []  # served, and not answered
        self.pending: list[Asked] = []  # as the session should see it
        self.places: dict[int, Place[int]] = {}
        self.coming: deque[Sent] = deque()
        self.arrived = 0  # bytes of the first one of these
        self.last = b""
        self.wrong: str | None = None  # the field of the wrong answer that is on its way
        self.rules_left = CALM

    def end(self, asked: Asked) -> None:
        assert asked.serial not in self.ended, "a token ended twice"
        self.ended.add(asked.serial)

    # What the client does

    @rule(opcodes=st.lists(st.sampled_from([*KINDS]), min_size=1, max_size=6))
    def ask(self, opcodes: list[Opcode]) -> None:
        for opcode in opcodes:
            self.serial += 1
            asked = Asked(self.serial, opcode)
            extras, _, has_value = KINDS[opcode]
            value = b"v" if has_value else b""
            request = Request(opcode, asked.key, bytes(extras), value, cas=self.serial)
            if len(self.pending) >= MAX_PENDING:
                try:
                    self.session.send(request, self.serial)
                except PendingLimit:
                    continue
                raise AssertionError("the limit does not hold")
            self.places[self.serial] = self.session.send(request, self.serial)
            self.ever_asked.add(self.serial)
            self.unsent.append(asked)
            self.pending.append(asked)

    @rule()
    def write(self) -> None:
        data, expected = self.session.data_to_send(), self.unsent
        if expected and expected[-1].opcode in QUIET:
            fence = Asked(0, Opcode.NOOP)
            expected = [*expected, fence]
            self.pending.append(fence)
        start = 0
        for asked in expected:
            _, opcode, key, _, _, _, body, asked.opaque, serial = HEADER.unpack_from(data, start)
            assert (opcode, serial) == (asked.opcode, asked.serial)
            assert key == (len(asked.key) if serial else 0)
            start += HEADER_SIZE + body
        assert start == len(data), "more was sent than was asked"
        self.unserved += expected
        self.unsent = []

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def abandon(self, data: st.DataObject) -> None:
        live = [asked for asked in self.pending if asked.serial and not asked.abandoned]
        if live:
            asked = data.draw(st.sampled_from(live))
            self.session.abandon(self.places[asked.serial])
            asked.abandoned = True
            self.end(asked)

    @precondition(lambda self: self.rules_left <= 0)
    @rule(opaque=st.sampled_from([0, 0xFFFFFFFA]))
    def lose(self, opaque: int) -> None:
        live = [asked for asked in self.pending if asked.serial and not asked.abandoned]
        unsent = {asked.serial for asked in self.unsent}
        lost = self.session.lose()
        assert lost == [(asked.serial, asked.serial not in unsent) for asked in live]
        for asked in live:
            self.end(asked)
        assert len(self.session) == 0
        self.connect(opaque)

    # What the server does

    @precondition(lambda self: self.unserved)
    @rule(outcomes=st.lists(OUTCOMES, min_size=1, max_size=12))
    def serve(self, outcomes: list[str]) -> None:
        for outcome in outcomes:
            if not self.unserved:
                break
            asked = self.unserved.popleft()
            asked.answers = answers(asked, outcome)
            self.silent.append(asked)
            quiet = asked.opcode in SILENT_MISS or asked.opcode in SILENT_SUCCESS
            for number, response in enumerate(asked.answers, 1):
                finished: list[Asked] = []
                if number == len(asked.answers):
                    for other in self.silent[:-1]:
                        other.passed = True
                    # Silence is believed when a loud request behind it is answered.
                    finished = [self.silent.pop()] if quiet else self.silent
                    self.silent = self.silent if quiet else []
                self.last = response.encode()
                # Behind a wrong answer no right one counts.
                self.coming.append(Sent(self.last, finished if self.wrong is None else []))
            if asked.answers and asked.answers[-1].status:
                del asked.answers[:-1]  # statistics that end with an error are that error

    def next_unanswered(self) -> list[Asked]:
        return [asked for asked in (*self.silent, *self.unserved) if not asked.passed]

    def send_wrong(self, response: Response | bytes, wrong: str) -> None:
        frame = response if isinstance(response, bytes) else response.encode()
        self.coming.append(Sent(frame, []))
        self.wrong = wrong

    @precondition(lambda self: self.rules_left <= 0 and self.wrong is None)
    @rule(kind=st.sampled_from(WRONGS), number=st.integers(0, 2**31), outcome=OUTCOMES)
    def misbehave(self, kind: str, number: int, outcome: str) -> None:
        if kind == "too early" and self.unsent:
            first = self.unsent[0]
            opaque = self.places[first.serial].opaque
            self.send_wrong(Response(first.opcode, Status.BUSY, opaque), "opaque")
            self.deliver(10**9)  # and not after it was written
            return
        self.write()
        unanswered = self.next_unanswered()
        place = number % len(unanswered) if unanswered else 0
        before, later = unanswered[:place], unanswered[place:]
        skips = any(asked.opcode not in QUIET for asked in before)
        if kind == "broken frame":
            self.send_wrong(*BROKEN[number % len(BROKEN)])
        elif kind == "twice" and self.last:
            self.send_wrong(self.last, "opaque")
        elif kind == "not sent" and self.places:
            newest = self.places[max(self.places)].opaque
            opaque = newest + 2 + number  # behind the newest there may be a fence
            self.send_wrong(Response(Opcode.NOOP, 0, opaque & 0xFFFFFFFF), "opaque")
            self.deliver(10**9)  # and not after something was sent with that number
        elif kind == "out of turn":
            for asked in [asked for asked in self.silent if asked.passed][:1]:
                self.send_wrong(answers(asked, TALKATIVE)[0], "opaque")
        elif kind == "another opcode" and later:
            other = Response(Opcode.DELETE, 0, later[0].opaque)
            self.send_wrong(other, "opaque" if skips else "opcode")
        elif kind == "forgotten" and later and skips:
            for response in answers(later[0], outcome)[:1]:
                self.send_wrong(response, "opaque")
        elif kind == "failed fence":
            loud = next((asked for asked in unanswered if asked.opcode not in QUIET), None)
            fenced = self.silent or (unanswered and unanswered[0] is not loud)
            if loud is not None and loud.opcode == Opcode.NOOP and fenced:
                self.send_wrong(Response(Opcode.NOOP, Status.BUSY, loud.opaque), "status")

    # What the network does

    @precondition(lambda self: self.coming)
    @rule(size=st.one_of(st.integers(1, 60), st.integers(1, 5000)))
    def deliver(self, size: int) -> None:
        piece = b""
        due: list[Asked] = []
        while self.coming and len(piece) < size:
            first = self.coming[0]
            part = first.frame[self.arrived :][: size - len(piece)]
            piece += part
            self.arrived += len(part)
            if self.arrived == len(first.frame):
                due += first.ends
                self.coming.popleft()
                self.arrived = 0
        at_the_end = not self.coming
        ended = self.session.receive(piece)
        expected = [asked for asked in due if asked.serial and not asked.abandoned]
        assert ended == [(asked.serial, asked.answers) for asked in expected]
        for asked in expected:
            self.end(asked)
        for asked in due:
            self.pending.remove(asked)
        error = self.session.error
        assert error is None or error.field == self.wrong, str(error)
        if self.wrong is not None and at_the_end:
            assert error is not None, f"the wrong {self.wrong} was not seen"
        if error is not None:
            try:
                self.session.receive(b"")
            except RemoteProtocolError:
                self.lose(0)
            else:
                raise AssertionError("it goes on after a wrong answer")

    @precondition(lambda self: self.pending)
    @rule(outcomes=st.lists(OUTCOMES, min_size=1, max_size=MAX_PENDING))
    def catch_up(self, outcomes: list[str]) -> None:
        self.write()
        if self.unserved:
            self.serve(outcomes)
        if self.coming:
            self.deliver(10**9)

    # What always holds

    @invariant()
    def holds(self) -> None:
        self.rules_left -= 1
        live = [asked.serial for asked in self.pending if asked.serial and not asked.abandoned]
        assert [*self.session.tokens()] == live
        assert len(self.session) == len(self.pending)
        assert self.session.unsent == bool(self.unsent)
        assert self.session.inside_answer == bool(self.arrived)
        unsent = {asked.serial for asked in self.unsent}
        for serial in live:
            assert self.session.is_sent(self.places[serial]) == (serial not in unsent)
        assert self.ended | set(live) == self.ever_asked

    def teardown(self) -> None:
        """Let everything come to its end, and see that it did."""
        if not self.ever_asked:
            return
        self.write()
        while self.unserved and self.wrong is None:
            self.serve([GOOD])
        if self.coming:
            self.deliver(10**9)
        assert len(self.session) == 0
        assert self.ended == self.ever_asked


class SessionModelTests(SynchronousTestCase):
    def test_model(self) -> None:
        """Whatever happens in whatever order, each request ends once, with its own answer."""
        run_state_machine_as_test(
            SessionMachine,
            settings=settings(
                deadline=None,
                database=None,
                max_examples=400,
                stateful_step_count=50,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
