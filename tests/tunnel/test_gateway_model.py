"""
The gateway against a model: whatever several clients, the server and the network do, each client is
told what a memcached of its own would tell it, as far as it is told anything.
"""

from __future__ import annotations

from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.fakes import Line
from tests.tunnel.fakes import Client, GatewayTestCase
from txtlsmc.settings import Limits
from txtlsmc.tunnel.settings import TunnelLimits
from txtlsmc.wire.frames import Request, RequestReader, Response, error_response, refusal
from txtlsmc.wire.opcodes import OPCODES, Opcode, Quiet, Status

FLAGS = b"flag"
MAX_REQUEST = 600_000
KINDS = [
    *(Opcode.GET, Opcode.GETQ, Opcode.GETK, Opcode.GETKQ, Opcode.SET, Opcode.SETQ, Opcode.ADD),
    *(Opcode.DELETE, Opcode.DELETEQ, Opcode.NOOP, Opcode.STAT, Opcode.VERSION),
    *(Opcode.SASL_LIST, Opcode.SASL_AUTH),
]
SIZES = [0, 1, 30, 5000, 70_000, 400_000]


def served(request: Request) -> list[Response]:
    """Answer as memcached would, where a key with "miss" in it has no item."""
    opcode, opaque, key = request.opcode, request.opaque, request.key
    row = OPCODES[opcode]
    if opcode == Opcode.STAT:
        each = [Response(opcode, 0, opaque, key=name, value=key) for name in (b"a", b"b")]
        return [*each, Response(opcode, 0, opaque)]
    if opcode == Opcode.VERSION:
        return [Response(opcode, 0, opaque, value=b"1.6.18")]
    miss = b"miss" in key
    if (row.quiet is Quiet.ON_MISS and miss) or (row.quiet is Quiet.ON_SUCCESS and not miss):
        return []
    shown = key if row.loud == Opcode.GETK else b""
    if miss:
        return [Response(opcode, Status.KEY_NOT_FOUND, opaque, key=shown, value=b"Not found")]
    if row.loud in (Opcode.GET, Opcode.GETK):
        size = int(key.rpartition(b":")[2])
        value = (key * (size // len(key) + 1))[:size]
        return [Response(opcode, 0, opaque, 7, FLAGS, shown, value)]
    return [Response(opcode, 0, opaque, 8)]


def alone(request: Request) -> tuple[list[Response], bool]:
    """Return what a client is told that is alone, and whether it is closed behind that."""
    lengths = len(request.key), len(request.extras)
    body = sum(lengths) + len(request.value)
    refused = refusal(request.opcode, *lengths, body, MAX_REQUEST)
    if refused is not None:
        return [error_response(request, refused[0])], refused[1]
    if request.opcode in (Opcode.QUIT, Opcode.QUITQ):
        quiet = request.opcode == Opcode.QUITQ
        return ([] if quiet else [Response(request.opcode, 0, request.opaque)]), True
    if request.opcode in (Opcode.SASL_LIST, Opcode.SASL_AUTH):
        return [error_response(request, Status.UNKNOWN_COMMAND)], False
    return served(request), False


class Told:
    """
    A client, and what the model knows of it.

    Attributes:
        heard, expected: the answers it has read; those to all of its whole requests.
        rest: what it has not said yet.
        ended: whether its connection ends behind its answers.
        excused: whether it may have lost an answer.
    """

    def __init__(self, client: Client, name: int) -> None:
        self.client, self.name = client, name
        self.heard: list[Response] = []
        self.expected: list[Response] = []
        self.rest = b""
        self.numbers = 0
        self.ended = self.closing = self.excused = self.left = False
        self._said = RequestReader(1 << 30)
        self._asked: list[Request | None] = []  # None: garbage

    def wants(self, request: Request | None) -> None:
        """Have something to ask, or garbage."""
        self.rest += b"\x16garbage" if request is None else request.encode()
        self._asked.append(request)

    def say(self, size: int) -> None:
        """Say so many bytes, at most."""
        said, self.rest = self.rest[:size], self.rest[size:]
        self._whole += len(said)
        while self._asked and not self.ended:
            first = self._asked[0]
            needed = 1 if first is None else len(first.encode())
            if self._whole < needed and not self._refused_early(first):
                break
            if first is None:
                self.ended = True
                break
            self._whole -= needed
            self._asked.pop(0)
            answers, self.ended = alone(first)
            self.expected += answers
        if said and not self.client.lost:
            self.client.say(said)

    _whole = 0

    def _refused_early(self, request: Request | None) -> bool:
        """Whether the header is enough for an answer."""
        if request is None or self._whole < 24:
            return False
        lengths = len(request.key), len(request.extras)
        body = sum(lengths) + len(request.value)
        return refusal(request.opcode, *lengths, body, MAX_REQUEST) is not None

    @property
    def waits(self) -> bool:
        """Whether it has asked for more than it has heard, or could be inside of something."""
        return True if self.closing else len(self.heard) < len(self.expected) or self.silent

    silent = False  # whether it has asked something quiet since all was answered


class GatewayMachine(RuleBasedStateMachine):
    """Everybody does anything."""

    clients = Bundle("clients")

    def __init__(self) -> None:
        super().__init__()
        self.rig = GatewayTestCase()
        patient = TunnelLimits(
            window=6,
            max_pending=20,
            max_pending_bytes=200_000,
            max_request=MAX_REQUEST,
            stall_seconds=1e6,
            request_seconds=1e6,
        )
        self.line: Line | None = self.rig.served(limits=patient, server_limits=Limits(timeout=3))
        self.down = b""
        self.all: list[Told] = []

    # Clients

    @rule(target=clients)
    def connect(self) -> Told:
        """A client comes."""
        assume(sum(not told.client.lost for told in self.all) < 5)
        told = Told(self.rig.client(), len(self.all))
        self.all.append(told)
        told.excused = self.line is None  # it may come while the server is down
        return told

    @rule(
        told=clients,
        kinds=st.lists(
            st.tuples(st.sampled_from(KINDS), st.sampled_from(SIZES), st.booleans()), max_size=8
        ),
        last=st.sampled_from(
            ["", "", "", "quit", "quitq", "garbage", "unknown", "lie", "shape", "large"]
        ),
        keep=st.sampled_from([0, 0, 1, 30, 3000, 100_000]),
    )
    def ask(self, told: Told, kinds: list[tuple[int, int, bool]], last: str, keep: int) -> None:
        """A client asks for something; of the last of it a part may be missing."""
        if told.client.lost or told.ended or told.closing:
            return
        for kind, size, miss in kinds:
            told.wants(self._request(told, kind, size, miss=miss))
        told.numbers += 1
        odd = {
            "quit": Request(Opcode.QUIT, opaque=told.numbers),
            "quitq": Request(Opcode.QUITQ),
            "unknown": Request(0x77, b"key", b"", b"value", opaque=told.numbers),
            "shape": Request(Opcode.NOOP, b"key", opaque=told.numbers),
            "lie": Request(Opcode.GET, b"k" * 251, opaque=told.numbers),
            "large": Request(Opcode.SET, b"k", bytes(8), b"v" * MAX_REQUEST, opaque=told.numbers),
        }
        if last:
            told.wants(odd.get(last))
        told.silent = True
        self._say(told, max(len(told.rest) - keep, 0))

    def _say(self, told: Told, size: int) -> None:
        told.excused = told.excused or self.line is None  # who asks while it is down is closed
        told.say(size)

    def _request(self, told: Told, kind: int, size: int, *, miss: bool) -> Request:
        told.numbers += 1
        row = OPCODES[kind].request
        key = b"%s:%d:%d:%d" % (b"miss" if miss else b"hit", told.name, told.numbers, size)
        if row.key.value != "required":
            key = b""
        if kind == Opcode.SASL_AUTH:
            key = b"PLAIN"
        value = b"v" * size if row.value is None else b""
        # Clients choose the same numbers as each other, and as the gateway.
        opaque = 0x10000 + told.numbers % 7
        return Request(kind, key, bytes(row.extras[0]), value, opaque=opaque)

    @rule(told=clients, size=st.sampled_from([1, 23, 24, 400, 1 << 20]))
    def say_more(self, told: Told, size: int) -> None:
        """A client goes on."""
        self._say(told, size)

    @rule(told=clients)
    def half_close(self, told: Told) -> None:
        """A client will say no more; what it has not said of a request is never said."""
        if not told.client.lost and not told.closing:
            told.closing = True
            told.rest = b""
            told.client.half_close()

    @rule(told=clients)
    def reset(self, told: Told) -> None:
        """A client goes."""
        told.left = True
        told.client.lose()

    @rule(told=clients)
    def stop_reading(self, told: Told) -> None:
        """A client reads no more, for now."""
        told.client.wire.reads = False

    @rule(told=clients, size=st.sampled_from([1, 70_000]))
    def read_some(self, told: Told, size: int) -> None:
        """A client reads something."""
        if not told.client.lost:
            told.client.wire.take(size)

    @rule(told=clients)
    def read_on(self, told: Told) -> None:
        """A client reads again, all that comes."""
        self._read_on(told)

    def _read_on(self, told: Told) -> None:
        wire = told.client.wire
        while wire.waiting and not told.client.lost:
            wire.take(len(wire.waiting))
        wire.reads = True

    # The server and the network

    @precondition(lambda self: self.line is not None)
    @rule(size=st.sampled_from([1, 24, 1000, 80_000, 1 << 24]))
    def answer(self, size: int) -> None:
        """The server answers, as far as it gets."""
        line = self.line
        assert line is not None
        for request in line.requests():
            self.down += b"".join(response.encode() for response in served(request))
        said, self.down = self.down[:size], self.down[size:]
        if said:
            line.say(said)

    @precondition(lambda self: self.line is not None)
    @rule()
    def lose_upstream(self) -> None:
        """The server goes."""
        assert self.line is not None
        self.line.lose()

    @precondition(lambda self: self.line is None)
    @rule()
    def refuse(self) -> None:
        """The server refuses a connection."""
        self._excuse()
        for dial in self.rig.dials.open:
            dial.fail()

    @precondition(lambda self: self.line is None)
    @rule()
    def come_back(self) -> None:
        """The server is back, if it is dialled."""
        for dial in self.rig.dials.open:
            self.line, self.down = dial.accept(), b""

    @rule(seconds=st.sampled_from([0, 0, 0.1, 1]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self._pass(seconds)

    def _pass(self, seconds: float) -> None:
        for _ in range(5):
            self.rig.world.advance(seconds / 5)

    def _excuse(self) -> None:
        for told in self.all:
            told.excused = told.excused or told.waits or not told.client.wire.reads

    # What is always so

    @invariant()
    def all_is_well(self) -> None:
        """Each client has heard its own answers in order, and is there unless it has to go."""
        if self.line is not None and self.line.lost:
            self.line = None
            self._excuse()
        for told in self.all:
            told.heard += told.client.hear()
            assert told.heard == told.expected[: len(told.heard)], told.name
            if told.client.lost:
                excuse = told.excused or told.left or told.ended or told.closing
                assert excuse, f"client {told.name} was closed"
        assert self.rig.counters.answers >= sum(len(told.heard) for told in self.all)

    def teardown(self) -> None:
        """In the end everybody gets what is owed, and nothing is left behind."""
        try:
            self._finish()
        finally:
            self.rig.doCleanups()

    def _finish(self) -> None:
        for _ in range(400):
            if self.line is None:
                self.come_back()
            else:
                self.answer(1 << 26)
            for told in self.all:
                self._read_on(told)
            self._pass(0.1 if self.line is None else 0)
            self.all_is_well()
        for told in self.all:
            if told.left or (told.excused and told.client.lost):
                continue
            assert told.heard == told.expected, f"client {told.name} waits for ever"
            unread = told.client.unsaid and not told.client.lost  # what comes too late is not
            assert not unread, f"client {told.name} is not read"
            assert told.client.lost == (told.ended or told.closing), told.name
        counters, gateway = self.rig.counters, self.rig.gateway
        for told in self.all:
            told.client.lose()
        gone: list[object] = []
        gateway.drain(1).addCallback(gone.append)
        self._pass(0)
        assert gone == [None]
        assert self.rig.world.delayed() == []
        assert counters.requests == counters.forwarded + counters.answered_here
        assert (counters.local_connections, self.rig.hub.memory.total) == (0, 0)
        assert counters.local_connections_total == len(self.all)
        if not any(told.excused or told.left for told in self.all):
            assert counters.answers == sum(len(told.heard) for told in self.all)
            assert (counters.dropped_answers, counters.closed_upstream_lost) == (0, 0)


class GatewayModelTests(SynchronousTestCase):
    def test_model(self) -> None:
        """Whatever happens in whatever order, each client gets what is its own, and all of it."""
        run_state_machine_as_test(
            GatewayMachine,
            settings=settings(
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                max_examples=200,
                stateful_step_count=40,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
            ),
        )
