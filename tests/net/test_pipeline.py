"""What becomes of each request on one connection, when all goes well and when it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.net.fakes import Peer, answer, hit, miss, opcodes
from txtlsmc.errors import (
    ConnectionClosed,
    InvalidArgument,
    MemcacheError,
    PendingLimit,
    RemoteProtocolError,
    RequestTimeout,
    ServerError,
    ValueTooLarge,
)
from txtlsmc.settings import Limits
from txtlsmc.wire import operations
from txtlsmc.wire.frames import Request, Response
from txtlsmc.wire.opcodes import Opcode
from txtlsmc.wire.operations import RawItem
from txtlsmc.wire.runs import Run, RunOutcomes, run_of_gets

T = TypeVar("T")
E = TypeVar("E", bound=BaseException)


class PipelineTestCase(SynchronousTestCase):
    """One connection to a peer that does nothing by itself, with the default timeout of 2 s."""

    limits = Limits()

    def setUp(self) -> None:
        self.peer = Peer(self.limits)
        self.protocol = self.peer.protocol
        self.wire = self.peer.wire

    def error(self, done: Deferred[Any], kind: type[E]) -> E:
        """Return what *done* failed with, which is a *kind*."""
        failure = self.failureResultOf(done, kind)
        assert isinstance(failure.value, kind)
        return failure.value

    def assert_closed(self, done: Deferred[Any], words: str, *, sent: bool) -> None:
        error = self.error(done, ConnectionClosed)
        self.assertIn(words, str(error))
        self.assertIs(error.sent, sent)

    def assert_quiet_clock(self) -> None:
        self.assertEqual(self.peer.delayed(), [])


class WritingTests(PipelineTestCase):
    def test_idle(self) -> None:
        """A request that finds the connection idle is written at once."""
        self.protocol.get("a")
        self.assertEqual(len(self.wire.writes), 1)
        self.assertEqual(self.peer.request().key, b"a")

    def test_busy(self) -> None:
        """Requests that find the connection busy go out in one write when the turn ends."""
        for key in "abcd":
            self.protocol.get(key)
        self.assertEqual(len(self.wire.writes), 1)
        self.peer.advance(0)
        self.assertEqual(len(self.wire.writes), 2)
        self.assertEqual([r.key for r in self.peer.requests()], [b"a", b"b", b"c", b"d"])

    def test_idle_again(self) -> None:
        """Once everything is answered, the next request is written at once again."""
        for _ in range(3):
            self.protocol.get("a")
            self.peer.say(hit(self.peer.request()))
        self.assertEqual(len(self.wire.writes), 3)

    def test_later_turns(self) -> None:
        """Each turn of a busy connection has one write of its own, and an empty turn none."""
        self.protocol.get("a")
        for key in "bc":
            self.protocol.get(key)
            self.peer.advance(0)
            self.peer.advance(0)
        self.assertEqual(len(self.wire.writes), 3)

    def test_order(self) -> None:
        """Each request gets its own answer, however the stream is cut."""
        done = [self.protocol.get(key) for key in "abc"]
        self.peer.advance(0)
        stream = b"".join(hit(r, r.key).encode() for r in self.peer.requests())
        for place in range(len(stream)):
            self.peer.say(stream[place : place + 1])
        values = [self.successResultOf(d) for d in done]
        self.assertEqual([item and item.value for item in values], [b"a", b"b", b"c"])
        self.assertEqual(self.protocol.pending, 0)

    def test_answered_error(self) -> None:
        """A request that the server refuses fails, and the next one is as good as ever."""
        refused, done = self.protocol.set("a", b"x"), self.protocol.get("b")
        self.peer.advance(0)
        first, second = self.peer.requests()
        self.peer.say(answer(first, b"Too large.", status=3), hit(second, b"y"))
        self.assertEqual(self.error(refused, ValueTooLarge).text, "Too large.")
        self.assertEqual(self.successResultOf(done), RawItem(b"y", 0, 7))

    def test_pending(self) -> None:
        """`pending` counts what has no answer yet, abandoned or not."""
        first = self.protocol.get("a")
        self.protocol.get("b")
        self.assertEqual(self.protocol.pending, 2)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(self.protocol.pending, 2)
        self.peer.say(hit(self.peer.request()))
        self.assertEqual(self.protocol.pending, 1)

    def test_default_limits(self) -> None:
        """Without limits of its own a connection has those that the documentation tells."""
        self.assertEqual(Peer().protocol.limits, Limits())


class CancelTests(PipelineTestCase):
    def test_cancelled(self) -> None:
        """A cancelled request ends at once, its late answer is dropped, its neighbours live."""
        one, two, three = (self.protocol.get(key) for key in "abc")
        self.peer.advance(0)
        two.cancel()
        self.failureResultOf(two, CancelledError)
        self.peer.say(*(hit(r, r.key) for r in self.peer.requests()))
        self.assertEqual(self.successResultOf(one), RawItem(b"a", 0, 7))
        self.assertEqual(self.successResultOf(three), RawItem(b"c", 0, 7))
        self.assertEqual(self.wire.aborted, 0)

    def test_cancelled_before_written(self) -> None:
        """Cancelling a request that waits for the end of the turn keeps the answers in place."""
        self.protocol.get("a")
        gathered, done = self.protocol.get("b"), self.protocol.get("c")
        gathered.cancel()
        self.failureResultOf(gathered, CancelledError)
        self.peer.advance(0)
        self.peer.say(*(hit(r, r.key) for r in self.peer.requests()))
        self.assertEqual(self.successResultOf(done), RawItem(b"c", 0, 7))

    def test_cancelled_then_lost(self) -> None:
        """A cancelled request does not fail a second time with the connection."""
        done = self.protocol.get("a")
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.peer.lose()
        self.assert_quiet_clock()


class DeadlineTests(PipelineTestCase):
    def due(self) -> float:
        """Return in how many seconds the only delayed call is due."""
        (call,) = self.peer.delayed()
        return round(call.getTime() - self.peer.clock.seconds(), 6)

    def test_late(self) -> None:
        """A request without an answer fails at its deadline, to a tenth, and the rest lives."""
        late, done = self.protocol.get("a", timeout=0.5), self.protocol.get("b")
        self.peer.pass_by(0.49)
        self.assertNoResult(late)
        self.peer.pass_by(0.07)
        error = self.error(late, RequestTimeout)
        self.assertEqual((error.timeout, error.sent), (0.5, True))
        self.peer.say(*(hit(r, r.key) for r in self.peer.requests()))
        self.assertEqual(self.successResultOf(done), RawItem(b"b", 0, 7))
        self.assertEqual(self.wire.aborted, 0)

    def test_default(self) -> None:
        """Without a timeout of its own a request has the connection's."""
        done = self.protocol.get("a")
        self.peer.pass_by(1.99)
        self.assertNoResult(done)
        self.peer.pass_by(0.5)
        self.assertEqual(self.error(done, RequestTimeout).timeout, 2.0)
        self.assertEqual(len(self.wire.writes), 1)

    def test_sweep(self) -> None:
        """The sweep comes ten times within the timeout, with no timer for each request."""
        for key in "abc":
            self.protocol.get(key)
            self.peer.advance(0)
        self.assertEqual(self.due(), 0.2)
        self.peer.advance(0.2)
        self.assertEqual(self.due(), 0.2)

    def test_shortest_sweep(self) -> None:
        """However short a timeout is, the sweep waits 10 ms in between."""
        done = self.protocol.get("a", timeout=0.001)
        self.assertEqual(self.due(), 0.01)
        in_time: list[bool] = []
        self.peer.clock.callLater(0.01, lambda: in_time.append(done.called))
        self.peer.advance(0.01)
        self.error(done, RequestTimeout)
        self.assertEqual(in_time, [True])

    def test_faster(self) -> None:
        """A shorter timeout makes the sweep faster while it is pending, and no longer."""
        self.protocol.get("a")
        self.protocol.get("b", timeout=0.3)
        self.peer.advance(0)
        self.assertEqual(self.due(), 0.03)
        self.peer.advance(0.03)
        self.assertEqual(self.due(), 0.03)
        self.peer.say(*(hit(r) for r in self.peer.requests()))
        self.protocol.get("c")
        self.peer.advance(0.03)
        self.assertEqual(self.due(), 0.2)

    def test_not_slower(self) -> None:
        """A long timeout makes the sweep no slower than the connection's own does."""
        for timeout in (100.0, float("inf")):
            self.setUp()
            self.protocol.get("a", timeout=timeout)
            self.assertEqual(self.due(), 0.2)

    def test_asked_during_the_sweep(self) -> None:
        """What is asked when another is late does not slow the sweep for those who wait."""
        late = self.protocol.get("a", timeout=0.1)
        next_late = self.protocol.get("b", timeout=0.15)
        late.addErrback(lambda _: self.protocol.get("c", timeout=2))
        self.peer.pass_by(0.2)
        self.error(next_late, RequestTimeout)
        self.assertNoResult(late)

    def test_nothing_left(self) -> None:
        """Nothing waits on the reactor's clock once the sweep has found the connection idle."""
        done = self.protocol.get("a")
        self.peer.say(hit(self.peer.request()))
        self.successResultOf(done)
        self.peer.advance(0.2)
        self.assert_quiet_clock()
        self.protocol.get("b")
        self.assertEqual(self.due(), 0.2)

    def test_reactor_jumps_forward(self) -> None:
        """A jump of the reactor's clock makes nothing late: the monotonic clock counts."""
        done = self.protocol.get("a")
        self.peer.clock.advance(3600)
        self.assertNoResult(done)
        self.peer.pass_by(2.5)
        self.error(done, RequestTimeout)

    def test_reactor_jumps_back(self) -> None:
        """When the reactor's clock goes back, the next request sets the sweep going again."""
        late = self.protocol.get("a", timeout=0.5)
        gathered = self.protocol.get("b", timeout=0.5)
        self.peer.clock.rightNow -= 3600
        self.peer.pass_by(1.0)
        self.assertNoResult(late)
        done = self.protocol.get("c")
        self.peer.pass_by(0.02)
        self.error(late, RequestTimeout)
        self.error(gathered, RequestTimeout)
        self.assertEqual([r.key for r in self.peer.requests()], [b"a", b"b", b"c"])
        self.assertNoResult(done)
        self.peer.lose()
        self.assert_closed(done, "closed", sent=True)
        self.assert_quiet_clock()

    def test_timeout_is_never_sent_later(self) -> None:
        """A request that timed out while it waited to be written is told as sent, and is."""
        late: list[Deferred[Any]] = []

        def ask() -> None:
            late.append(self.protocol.incr("b", timeout=0.002))
            self.peer.now += 0.005

        self.peer.clock.callLater(0.01, ask)
        first = self.protocol.get("a", timeout=0.002)  # and a sweep in the same turn, behind that
        self.peer.advance(0.01)
        self.error(first, RequestTimeout)
        self.assertTrue(self.error(late[0], RequestTimeout).sent)
        self.assertEqual([r.key for r in self.peer.requests()], [b"a", b"b"])
        self.assertEqual(self.wire.aborted, 0)

    def test_reactor_held_up(self) -> None:
        """An answer that came while the reactor was held up is read before anything is late."""
        for _ in range(2):
            done = self.protocol.get("a")
            self.peer.pass_by(0.1)
            # As a reactor does after a long callback: first its timers, then the sockets.
            self.peer.clock.callLater(5, lambda: self.peer.say(hit(self.peer.request())))
            self.peer.advance(5)
            self.assertEqual(self.successResultOf(done), RawItem(b"value", 0, 7))
        self.protocol.get("b")
        self.peer.say(hit(self.peer.request()))
        self.peer.advance(5)  # an idle connection is not silent
        self.assertEqual(self.wire.aborted, 0)

    def test_reactor_held_up_for_long(self) -> None:
        """A reactor that is held up at every turn still ends what is late."""
        done = self.protocol.get("a")
        for _ in range(3):
            self.peer.advance(1.5)
        self.error(done, RequestTimeout)
        self.assertEqual(self.wire.aborted, 1)

    def test_wrong_timeout(self) -> None:
        """A timeout that is not above 0 is refused at once, and nothing is written."""
        for timeout in (0, -1.0, float("nan")):
            with self.assertRaisesRegex(InvalidArgument, "above 0"):
                self.protocol.get("a", timeout=timeout)
            with self.assertRaisesRegex(InvalidArgument, "above 0"):
                self.protocol.get_multi(["a"], timeout=timeout)
        self.assertEqual(self.wire.writes, [])
        self.assertEqual(self.protocol.pending, 0)
        self.assert_quiet_clock()


class SilenceTests(PipelineTestCase):
    def test_silent(self) -> None:
        """When nothing comes for the timeout, everything pending fails and the rest is history."""
        first = self.protocol.get("a", timeout=60)
        self.peer.pass_by(1)
        second = self.protocol.get("b", timeout=60)
        self.peer.pass_by(0.99)
        self.assertNoResult(first)
        self.peer.pass_by(0.5)
        for done in (first, second):
            self.assert_closed(done, "silent for 2 s", sent=True)
        self.assertEqual(self.wire.aborted, 1)
        self.assert_quiet_clock()
        self.peer.lose(ConnectionAborted())

    def test_deadline_and_silence(self) -> None:
        """A request that is late when the connection is given up fails as late, and only once."""
        late = self.protocol.get("a")
        self.peer.pass_by(1)
        other = self.protocol.get("b")
        self.peer.pass_by(1.5)
        self.error(late, RequestTimeout)
        self.assert_closed(other, "silent", sent=True)
        self.assertEqual(self.wire.aborted, 1)

    def test_abandoned(self) -> None:
        """A server that never answers is given up even if nobody waits for the answer any more."""
        done = self.protocol.get("a")
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.peer.pass_by(2.5)
        self.assertEqual(self.wire.aborted, 1)

    def test_trickle(self) -> None:
        """A byte now and then is no silence."""
        done = self.protocol.get("a", timeout=60)
        for byte in hit(self.peer.request()).encode():
            self.peer.pass_by(1.5, 0.1)
            self.peer.say(bytes([byte]))
        self.assertEqual(self.successResultOf(done), RawItem(b"value", 0, 7))
        self.assertEqual(self.wire.aborted, 0)

    def test_silence_counts_from_the_request(self) -> None:
        """A connection that was idle for long is not silent when it is used again."""
        self.protocol.get("a")
        self.peer.say(hit(self.peer.request()))
        self.peer.pass_by(60, 0.2)
        done = self.protocol.get("b")
        self.peer.pass_by(1.9)
        self.assertNoResult(done)
        self.assertEqual(self.wire.aborted, 0)


class LossTests(PipelineTestCase):
    def test_lost(self) -> None:
        """Each pending request fails once, and says whether it was sent."""
        sent = [self.protocol.get("a")]
        sent.append(self.protocol.get("b"))
        self.peer.advance(0)
        unsent = [self.protocol.get("c"), self.protocol.get("d")]
        self.peer.lose()
        for done in sent:
            self.assert_closed(done, "the server closed the connection", sent=True)
        for done in unsent:
            self.assert_closed(done, "the server closed the connection", sent=False)
        self.assert_quiet_clock()
        self.peer.advance(10)
        self.assertEqual(len(self.wire.writes), 2)

    def test_words(self) -> None:
        """The error tells how the connection was lost."""
        for reason, words in [
            (ConnectionAborted(), "the connection was aborted"),
            (ConnectionLost("cable\x1b"), "the connection was lost (Connection to the other side"),
        ]:
            self.setUp()
            done = self.protocol.get("a")
            self.peer.lose(reason)
            self.assert_closed(done, words, sent=True)

    def test_escaped(self) -> None:
        """What the wire says of the loss is escaped and cut."""
        done = self.protocol.get("a")
        self.peer.lose(ConnectionLost("\x1b[2J" + "x" * 1000))
        text = str(self.error(done, ConnectionClosed))
        self.assertNotIn("\x1b", text)
        self.assertLess(len(text), 300)

    def test_inside_answer(self) -> None:
        """An end of the stream inside an answer is told, and no value is made of what came."""
        done = self.protocol.get("a")
        self.peer.say(hit(self.peer.request(), b"long value").encode()[:-1])
        self.peer.lose()
        self.assert_closed(done, "inside an answer", sent=True)

    def test_lost_while_idle(self) -> None:
        """A connection that is lost while idle takes no requests any more."""
        self.peer.lose()
        self.assert_closed(self.protocol.get("a"), "the server closed the connection", sent=False)
        self.assert_quiet_clock()

    def test_lost_while_writing(self) -> None:
        """A connection that is lost by the very write leaves no timer behind."""
        self.wire.breaks = self.protocol
        done = self.protocol.get("a")
        self.assert_closed(done, "the server closed the connection", sent=True)
        self.assert_quiet_clock()


class BrokenProtocolTests(PipelineTestCase):
    def test_broken(self) -> None:
        """When the server breaks the protocol, each pending request fails with its own error."""
        done = [self.protocol.get("a"), self.protocol.get("b"), self.protocol.get("c")]
        self.peer.advance(0)
        first, second, _ = self.peer.requests()
        wrong = Response(Opcode.SET, opaque=second.opaque)
        self.peer.say(hit(first), wrong, b"whatever follows")
        self.assertEqual(self.successResultOf(done[0]), RawItem(b"value", 0, 7))
        errors = [self.error(d, RemoteProtocolError) for d in done[1:]]
        self.assertEqual([error.field for error in errors], ["opcode", "opcode"])
        self.assertIsNot(errors[0], errors[1])
        self.assertEqual(self.wire.aborted, 1)
        self.assert_quiet_clock()

    def test_nothing_more(self) -> None:
        """After a broken answer nothing is read or written; a new request says why."""
        self.protocol.get("a").addErrback(lambda _: None)
        self.peer.say(b"\0" * 24)
        self.peer.say(b"more of the same")
        self.assert_closed(self.protocol.get("b"), "broke the protocol", sent=False)
        self.assertEqual(self.wire.aborted, 1)
        self.peer.lose(ConnectionAborted())
        self.assertEqual(len(self.wire.writes), 1)

    def test_unsolicited(self) -> None:
        """An answer that nobody asked for ends an idle connection."""
        self.peer.say(Response(Opcode.NOOP))
        self.assertEqual(self.wire.aborted, 1)
        self.assert_closed(self.protocol.get("a"), "not pending", sent=False)

    def test_asked_before_the_broken_answer(self) -> None:
        """A request made by the callback of the last good answer is not sent into the mess."""
        again: list[Deferred[Any]] = []
        self.protocol.get("a").addCallback(lambda _: again.append(self.protocol.get("b")))
        self.peer.say(hit(self.peer.request()), b"\0" * 24)
        self.assert_closed(again[0], "broke the protocol", sent=False)
        self.assertEqual(len(self.wire.writes), 1)
        self.assertEqual(self.wire.aborted, 1)

    def test_announced_body(self) -> None:
        """A server that announces 4 GiB is left at the header, before any of it is kept."""
        done = self.protocol.get("a")
        header = bytearray(hit(self.peer.request()).encode()[:24])
        header[8:12] = b"\xff\xff\xff\xff"
        self.peer.say(bytes(header))
        self.assertEqual(self.error(done, RemoteProtocolError).field, "body length")
        self.assertEqual(self.wire.aborted, 1)


class LimitTests(PipelineTestCase):
    limits = Limits(max_pending=3, max_pending_bytes=200)

    def test_count(self) -> None:
        """A request beyond the most that may be pending fails, and nothing of it is sent."""
        done = [self.protocol.get(key) for key in "abc"]
        error = self.error(self.protocol.get("d"), PendingLimit)
        self.assertEqual((error.limit, error.value), ("max_pending", 3))
        done[1].cancel()  # abandoned places count
        self.failureResultOf(done[1], CancelledError)
        self.error(self.protocol.get("e"), PendingLimit)
        self.peer.advance(0)
        requests = self.peer.requests()
        self.assertEqual([r.key for r in requests], [b"a", b"b", b"c"])
        self.peer.say(hit(requests[0]))
        self.assertNoResult(self.protocol.get("f"))

    def test_bytes(self) -> None:
        """The size of what is pending is bounded too; a single request may be larger."""
        large = self.protocol.set("a", b"x" * 1000)
        error = self.error(self.protocol.get("b"), PendingLimit)
        self.assertEqual((error.limit, error.value), ("max_pending_bytes", 200))
        self.peer.say(answer(self.peer.request()))
        self.assertTrue(self.successResultOf(large))
        self.assertNoResult(self.protocol.get("b"))


def gets(*keys: str) -> list[operations.Operation[RawItem | None]]:
    return [operations.get(key, quiet=True) for key in keys]


class BatchTests(PipelineTestCase):
    limits = Limits(max_pending=5, max_pending_bytes=250)

    def outcomes(self, done: Deferred[list[T]]) -> list[Any]:
        """Return what *done* fired with: values, and the classes of errors."""
        return [
            type(o) if isinstance(o, MemcacheError) else o and getattr(o, "value", o)
            for o in self.successResultOf(done)
        ]

    def test_order(self) -> None:
        """The outcomes have the order of the operations; errors stand among them."""
        done = self.protocol.perform_all([*gets("a", "b", "c"), operations.get("d")])
        self.assertEqual(len(self.wire.writes), 1)
        a, b, c, d = self.peer.requests()
        refused = answer(c, b"no", status=0x85)
        self.peer.say(hit(a, b"1"), refused)
        self.assertNoResult(done)
        self.peer.say(miss(d))
        self.assertEqual(b.key, b"b")  # silent: a miss
        (first, second, third, fourth) = self.successResultOf(done)
        self.assertEqual((first, second, fourth), (RawItem(b"1", 0, 7), None, None))
        self.assertIsInstance(third, ServerError)

    def test_fenced(self) -> None:
        """A run that ends quiet is fenced, and ends when the fence is answered."""
        done = self.protocol.perform_all(gets("a", "b"))
        requests = self.peer.requests()
        self.assertEqual(opcodes(requests), [Opcode.GETQ, Opcode.GETQ, Opcode.NOOP])
        self.peer.say(answer(requests[2]))
        self.assertEqual(self.outcomes(done), [None, None])
        self.assertEqual(self.protocol.pending, 0)

    def test_gathered(self) -> None:
        """On a busy connection a batch is gathered with the others."""
        self.protocol.get("x")
        done = self.protocol.perform_all(gets("a", "b"))
        self.protocol.get("y")
        self.assertEqual(len(self.wire.writes), 1)
        self.peer.advance(0)
        self.assertEqual(len(self.wire.writes), 2)
        x, a, _, y = self.peer.requests()
        self.peer.say(miss(x), hit(a, b"1"), miss(y))
        self.assertEqual(self.outcomes(done), [b"1", None])

    def test_empty(self) -> None:
        """Nothing to do is done at once, also on a connection that is gone."""
        self.assertEqual(self.successResultOf(self.protocol.perform_all([])), [])
        self.peer.lose()
        self.assertEqual(self.successResultOf(self.protocol.perform_all([])), [])
        self.assertEqual(self.wire.writes, [])

    def test_limit_in_the_middle(self) -> None:
        """What is over a limit fails alone; the others are sent and answered."""
        sets = [operations.set(key, b"x" * size) for key, size in [("a", 90), ("b", 200), ("c", 9)]]
        done = self.protocol.perform_all(sets)
        first, third = self.peer.requests()
        self.assertEqual((first.key, third.key), (b"a", b"c"))
        self.peer.say(answer(first), answer(third))
        self.assertEqual(self.outcomes(done), [True, PendingLimit, True])

    def test_limit_for_all(self) -> None:
        """A batch of which nothing can be sent is over at once."""
        for key in "abcde":
            self.protocol.get(key)
        done = self.protocol.perform_all(gets("f", "g"))
        self.assertEqual(self.outcomes(done), [PendingLimit, PendingLimit])

    def test_partial_loss(self) -> None:
        """What was answered before the loss keeps its outcome; the rest fails, each by itself."""
        done = self.protocol.perform_all([operations.get("a"), operations.get("b")])
        a, _ = self.peer.requests()
        self.peer.say(hit(a, b"1"))
        self.peer.lose()
        item, error = self.successResultOf(done)
        self.assertEqual(item, RawItem(b"1", 0, 7))
        assert isinstance(error, ConnectionClosed)
        self.assertTrue(error.sent)

    def test_unsent_loss(self) -> None:
        """A batch that waited to be written when the connection was lost was not sent."""
        self.protocol.get("x").addErrback(lambda _: None)
        done = self.protocol.perform_all(gets("a", "b"))
        self.peer.lose()
        errors = self.successResultOf(done)
        self.assertEqual([getattr(error, "sent", None) for error in errors], [False, False])
        self.assertIsNot(errors[0], errors[1])

    def test_late(self) -> None:
        """What has no answer at the deadline fails; what had one keeps it."""
        done = self.protocol.perform_all([operations.get("a"), operations.get("b")], timeout=0.5)
        a, b = self.peer.requests()
        self.peer.say(hit(a, b"1"))
        self.peer.pass_by(0.6)
        self.assertEqual(self.outcomes(done), [b"1", RequestTimeout])
        self.peer.say(hit(b))  # dropped
        self.assertEqual(self.wire.aborted, 0)

    def test_cancelled(self) -> None:
        """Cancelling abandons what has no answer, whatever then comes for it."""
        for ending in (self.peer.lose, lambda: None):
            self.setUp()
            done = self.protocol.perform_all([operations.get("a"), operations.get("b")])
            after = self.protocol.get("c")
            self.peer.advance(0)
            a, b, c = self.peer.requests()
            self.peer.say(hit(a))
            done.cancel()
            self.failureResultOf(done, CancelledError)
            self.assertEqual(self.protocol.pending, 2)
            self.peer.say(hit(b), hit(c, b"3"))
            self.assertEqual(self.successResultOf(after), RawItem(b"3", 0, 7))
            ending()

    def test_cancelled_and_closed(self) -> None:
        """Nobody waits for the answers to a cancelled batch."""
        done = self.protocol.perform_all(gets("a", "b"))
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.protocol.close()
        self.assertEqual(self.wire.losing, 1)

    def test_late_and_lost(self) -> None:
        """An outcome that was told does not change, when late requests end in another way."""
        first = self.protocol.get("x").addErrback(lambda _: self.protocol.abort())
        done = self.protocol.perform_all(gets("a", "b"))
        self.peer.pass_by(2.5)
        self.successResultOf(first)
        self.assertEqual(self.outcomes(done), [ConnectionClosed, ConnectionClosed])

    def test_cancelled_by_a_neighbour(self) -> None:
        """A batch can be cancelled by the callback of an answer that came with its own."""
        first = self.protocol.get("x")
        done = self.protocol.perform_all([operations.get("a"), operations.get("b")])
        first.addCallback(lambda _: done.cancel())
        self.peer.advance(0)
        self.peer.say(*(hit(r) for r in self.peer.requests()))
        self.failureResultOf(done, CancelledError)

    def test_over(self) -> None:
        """On a connection that is gone each operation fails, with nothing sent."""
        self.peer.lose()
        errors = self.successResultOf(self.protocol.perform_all(gets("a", "b")))
        self.assertEqual([getattr(error, "sent", None) for error in errors], [False, False])
        self.assertIsNot(errors[0], errors[1])


class ReentrancyTests(PipelineTestCase):
    def three(self) -> tuple[list[Deferred[RawItem | None]], list[Request]]:
        """Return three gets that were sent, and their requests."""
        done = [self.protocol.get(key) for key in "abc"]
        self.peer.advance(0)
        return done, self.peer.requests()

    def test_send(self) -> None:
        """A callback may send: at once after the last answer of a read, gathered before it."""
        done, requests = self.three()
        again: list[Deferred[Any]] = []
        done[0].addCallback(lambda _: again.append(self.protocol.get("d")))
        self.peer.say(*map(hit, requests[:2]))
        self.assertEqual(len(self.wire.writes), 2)
        self.peer.advance(0)
        self.assertEqual(len(self.wire.writes), 3)
        done[2].addCallback(lambda _: again.append(self.protocol.get("e")))
        self.peer.say(hit(requests[2]), hit(self.peer.request(), b"4"))
        self.assertEqual(len(self.wire.writes), 4)
        self.assertEqual(self.successResultOf(again[0]), RawItem(b"4", 0, 7))
        self.peer.say(hit(self.peer.request(), b"5"))
        self.assertEqual(self.successResultOf(again[1]), RawItem(b"5", 0, 7))

    def test_cancel_a_neighbour(self) -> None:
        """A callback may cancel one that the same read has answered."""
        done, requests = self.three()
        done[0].addCallback(lambda _: done[1].cancel())
        self.peer.say(*map(hit, requests))
        self.failureResultOf(done[1], CancelledError)
        self.assertEqual(self.successResultOf(done[2]), RawItem(b"value", 0, 7))

    def test_cancel_a_late_neighbour(self) -> None:
        """An errback may cancel one that is late as well."""
        done, _ = self.three()
        done[0].addErrback(lambda _: done[1].cancel())
        self.peer.pass_by(2.5)
        self.failureResultOf(done[1], CancelledError)
        self.error(done[2], RequestTimeout)

    def test_cancel_a_lost_neighbour(self) -> None:
        """An errback may cancel one that is lost as well."""
        done, _ = self.three()
        done[0].addErrback(lambda _: done[1].cancel())
        self.peer.lose()
        self.failureResultOf(done[1], CancelledError)
        self.assert_closed(done[2], "closed", sent=True)

    def test_abort(self) -> None:
        """A callback may abort: what the same read has answered keeps its answer."""
        done, requests = self.three()
        done[0].addCallback(lambda _: self.protocol.abort())
        self.peer.say(*map(hit, requests[:2]))
        self.assertEqual(self.successResultOf(done[1]), RawItem(b"value", 0, 7))
        self.assert_closed(done[2], "aborted by this side", sent=True)
        self.assertEqual(self.wire.aborted, 1)

    def test_abort_from_the_sweep(self) -> None:
        """An errback may abort while others are late: each fails once."""
        done, _ = self.three()
        done[0].addErrback(lambda _: self.protocol.abort())
        self.peer.pass_by(2.5)
        self.assertIsNone(self.successResultOf(done[0]))
        for lost in done[1:]:
            self.assert_closed(lost, "aborted by this side", sent=True)
        self.assertEqual(self.wire.aborted, 1)
        self.assert_quiet_clock()

    def test_ends_from_the_end(self) -> None:
        """An errback of the end may abort, close and send again; all of it is over."""
        ends: list[Callable[[], object]] = [
            lambda: self.peer.say(b"\0" * 24),
            lambda: self.protocol.abort(),
            lambda: self.peer.pass_by(2.5),
        ]
        for end in ends:
            self.setUp()
            closed: list[Deferred[None]] = []
            sent: list[Deferred[Any]] = []

            def again(
                _: Failure, closed: list[Deferred[None]] = closed, sent: list[Any] = sent
            ) -> None:
                self.protocol.abort()
                closed.append(self.protocol.close())
                sent.append(self.protocol.get("d"))

            done, _ = self.three()
            done[0].addErrback(again)
            end()
            self.assert_closed(sent[0], "not sent", sent=False)
            self.failureResultOf(done[2], MemcacheError)
            self.failureResultOf(done[1], MemcacheError)
            self.assertEqual((self.wire.aborted, self.wire.losing), (1, 0))
            self.assertNoResult(closed[0])
            self.assert_quiet_clock()
            self.peer.lose(ConnectionAborted())
            self.successResultOf(closed[0])

    def test_close(self) -> None:
        """A callback may close: what is pending is still answered."""
        done, requests = self.three()
        closed: list[Deferred[None]] = []
        done[0].addCallback(lambda _: closed.append(self.protocol.close()))
        self.peer.say(hit(requests[0]))
        self.assertEqual(self.wire.losing, 0)
        self.peer.say(*map(hit, requests[1:]))
        self.assertEqual(self.wire.losing, 1)
        self.peer.lose()
        self.successResultOf(closed[0])
        self.successResultOf(done[2])

    def test_raise(self) -> None:
        """A callback that raises harms nobody else."""
        done, requests = self.three()
        done[0].addCallback(lambda _: 1 / 0)
        self.peer.say(*map(hit, requests))
        self.failureResultOf(done[0], ZeroDivisionError)
        for other in done[1:]:
            self.assertEqual(self.successResultOf(other), RawItem(b"value", 0, 7))


class ClosingTests(PipelineTestCase):
    def test_drains(self) -> None:
        """`close` lets what is pending finish, written or not, and refuses new requests."""
        done = [self.protocol.get("a"), self.protocol.get("b")]
        closed = self.protocol.close()
        self.assertEqual(self.wire.losing, 0)
        self.assert_closed(self.protocol.get("c"), "closed by this side", sent=False)
        self.peer.advance(0)
        self.peer.say(*map(hit, self.peer.requests()))
        for each in done:
            self.successResultOf(each)
        self.assertEqual((self.wire.losing, self.wire.aborted), (1, 0))
        self.assertNoResult(closed)
        self.peer.lose()
        self.assertIsNone(self.successResultOf(closed))
        self.assert_closed(self.protocol.get("c"), "closed by this side", sent=False)
        self.assert_quiet_clock()

    def test_idle(self) -> None:
        """An idle connection is closed at once."""
        closed = self.protocol.close()
        self.assertEqual(self.wire.losing, 1)
        self.peer.lose()
        self.successResultOf(closed)
        self.assert_quiet_clock()

    def test_twice(self) -> None:
        """Whoever closes, and however often, is told of the end; it is closed once."""
        done = self.protocol.get("a")
        closed = [self.protocol.close(), self.protocol.close()]
        self.peer.say(hit(self.peer.request()))
        closed.append(self.protocol.close())
        self.assertEqual(self.wire.losing, 1)
        self.peer.lose()
        for each in closed:
            self.successResultOf(each)
        self.successResultOf(done)

    def test_lost(self) -> None:
        """Closing what is already lost is done at once, and touches nothing."""
        self.peer.lose()
        self.successResultOf(self.protocol.close())
        self.assertEqual(self.wire.losing, 0)
        self.assert_quiet_clock()

    def test_peer_that_never_closes(self) -> None:
        """A server that does not close its side is cut off after the timeout."""
        closed = self.protocol.close()
        self.peer.pass_by(1.9)
        self.assertEqual(self.wire.aborted, 0)
        self.peer.pass_by(0.2)
        self.assertEqual(self.wire.aborted, 1)
        self.peer.lose(ConnectionAborted())
        self.successResultOf(closed)
        self.assert_quiet_clock()

    def test_lost_while_draining(self) -> None:
        """What is pending when the connection is lost fails, and the closing is done."""
        done = self.protocol.get("a")
        closed = self.protocol.close()
        self.peer.lose()
        self.assert_closed(done, "the server closed the connection", sent=True)
        self.successResultOf(closed)

    def test_deadline_while_draining(self) -> None:
        """Draining ends when nobody waits any more, also if the server trickles on for ever."""
        done = self.protocol.get("a", timeout=0.5)
        self.protocol.close()
        self.peer.say(b"\x81")
        self.peer.pass_by(0.6)
        self.error(done, RequestTimeout)
        self.assertEqual(self.wire.losing, 1)

    def test_abandoned(self) -> None:
        """Closing does not wait for answers that nobody wants."""
        done = self.protocol.get("a")
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.protocol.close()
        self.assertEqual(self.wire.losing, 1)

    def test_cancelled_while_draining(self) -> None:
        """Cancelling the last that was waited for ends the draining within the next sweep."""
        done = self.protocol.get("a")
        self.protocol.close()
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.peer.pass_by(0.2)
        self.assertEqual(self.wire.losing, 1)
        self.peer.lose()
        self.assert_quiet_clock()

    def test_abort(self) -> None:
        """`abort` ends everything now, once, and tells what was sent."""
        sent, unsent = self.protocol.get("a"), self.protocol.get("b")
        closed = self.protocol.close()
        self.protocol.abort()
        self.protocol.abort()
        self.assert_closed(sent, "aborted by this side", sent=True)
        self.assert_closed(unsent, "aborted by this side", sent=False)
        self.assertEqual((self.wire.aborted, self.wire.losing), (1, 0))
        self.assert_quiet_clock()
        self.assertNoResult(closed)
        self.assertNoResult(self.protocol.close())
        self.peer.lose(ConnectionAborted())
        self.successResultOf(closed)

    def test_abort_when_lost(self) -> None:
        """Aborting what is lost does nothing; a TLS transport would not stand it."""
        self.peer.lose()
        self.protocol.abort()
        self.assertEqual(self.wire.aborted, 0)

    def test_abort_while_lingering(self) -> None:
        """A connection that waits for the server's goodbye can be aborted."""
        self.protocol.close()
        self.protocol.abort()
        self.assertEqual(self.wire.aborted, 1)
        self.assert_quiet_clock()


class _Asked:
    """A request of the machine below, and how often it ended."""

    def __init__(self, keys: list[bytes]) -> None:
        self.keys = keys
        self.ended = 0
        self.cancelled = False


class _Interleaving(RuleBasedStateMachine):
    """Anything in any order; the server may be slow, but what it says is right until `broken`."""

    keys = st.sampled_from(["hit", "miss"])
    timeouts = st.sampled_from([None, 0.05, 0.5, 5.0])

    def __init__(self) -> None:
        super().__init__()
        self.peer = Peer(Limits(timeout=2.0, max_pending=8, max_pending_bytes=300))
        self.asked: list[_Asked] = []
        self.dones: list[Deferred[Any]] = []
        self.received: list[Request] = []  # and not answered yet
        self.seen: set[bytes] = set()
        self.told: dict[bytes, bool] = {}  # what each error says of having been sent
        self.unread = b""
        self.again = 0

    def alive(self) -> bool:
        wire = self.peer.wire
        return not (wire.gone or wire.aborted)

    def take(self) -> None:
        requests = self.peer.requests()
        self.received += requests
        self.seen.update(request.key for request in requests)

    def watch(self, asked: _Asked, done: Deferred[Any], react: str) -> None:
        self.asked.append(asked)
        self.dones.append(done)

        def ended(result: Any) -> None:
            asked.ended += 1
            self.check(asked, result)
            if self.again > 20:
                return
            self.again += 1
            if react == "ask":
                self.ask("hit", None, "no")
            elif react == "cancel":
                for other in self.dones[-3:]:
                    other.cancel()
            elif react == "abort":
                self.peer.protocol.abort()
            elif react == "close":
                self.peer.protocol.close()
            elif react == "raise":
                raise ZeroDivisionError

        done.addBoth(ended).addErrback(lambda failure: failure.trap(ZeroDivisionError) and None)

    def check(self, asked: _Asked, result: Any) -> None:
        """Whatever a request ended with, it is its own."""
        if isinstance(result, Failure):
            assert asked.cancelled or not result.check(CancelledError) or self.again
            results = [result.value] * len(asked.keys)
        elif isinstance(result, list):
            results = result
        elif isinstance(result, RunOutcomes):
            results = [result.errors.get(n, told) for n, told in enumerate(result.results)]
        else:
            results = [result]
        for key, outcome in zip(asked.keys, results, strict=True):
            if isinstance(outcome, RawItem):
                assert outcome.value == key, (outcome, key)
            elif outcome is None:
                assert key.startswith(b"miss"), key
            elif isinstance(outcome, PendingLimit):
                self.told[key] = False
            elif isinstance(outcome, ConnectionClosed | RequestTimeout):
                self.told[key] = outcome.sent
            else:
                assert isinstance(outcome, RemoteProtocolError | CancelledError), outcome

    reactions = st.sampled_from(["no", "no", "no", "ask", "cancel", "abort", "close", "raise"])

    @rule(kind=keys, timeout=timeouts, react=reactions)
    def ask(self, kind: str, timeout: float | None, react: str) -> None:
        key = f"{kind}{len(self.asked)}".encode()
        self.watch(_Asked([key]), self.peer.protocol.get(key, timeout=timeout), react)

    @rule(kinds=st.lists(keys, max_size=4), timeout=timeouts, react=reactions)
    def ask_many(self, kinds: list[str], timeout: float | None, react: str) -> None:
        keys = [f"{kind}{len(self.asked)}.{n}".encode() for n, kind in enumerate(kinds)]
        gets = [operations.get(key, quiet=True) for key in keys]
        self.watch(_Asked(keys), self.peer.protocol.perform_all(gets, timeout), react)

    @rule(kinds=st.lists(keys, max_size=4), timeout=timeouts, react=reactions)
    def ask_run(self, kinds: list[str], timeout: float | None, react: str) -> None:
        keys = [f"{kind}{len(self.asked)}.{n}".encode() for n, kind in enumerate(kinds)]
        run: Run[RawItem | None] = run_of_gets(keys, RawItem, None)
        self.watch(_Asked(keys), self.peer.protocol.perform_run(run, timeout), react)

    @precondition(lambda self: self.dones)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.dones) - 1))
        self.asked[number].cancelled = True
        self.dones[number].cancel()

    @rule(seconds=st.sampled_from([0, 0.01, 0.1, 0.3, 1.0, 3.0]))
    def wait(self, seconds: float) -> None:
        self.peer.advance(seconds)

    @rule(seconds=st.sampled_from([-100.0, 100.0]))
    def jump(self, seconds: float) -> None:
        self.peer.clock.rightNow += seconds

    @rule(count=st.integers(1, 6), size=st.integers(1, 80))
    def answer(self, count: int, size: int) -> None:
        self.take()
        for request in self.received[:count]:
            if request.key.startswith(b"hit"):
                self.unread += hit(request, request.key).encode()
            elif request.opcode == Opcode.NOOP:
                self.unread += answer(request).encode()
            elif request.opcode == Opcode.GET:
                self.unread += miss(request).encode()
        del self.received[:count]
        self.deliver(size)

    @rule(size=st.integers(1, 200))
    def deliver(self, size: int) -> None:
        data, self.unread = self.unread[:size], self.unread[size:]
        if data and not self.peer.wire.gone:
            self.peer.say(data)

    @precondition(lambda self: self.alive())
    @rule()
    def broken(self) -> None:
        self.peer.say(Response(Opcode.GET, opaque=0x7FFFFFFF))

    @rule()
    def close(self) -> None:
        self.peer.protocol.close()

    @rule()
    def abort(self) -> None:
        self.peer.protocol.abort()

    @precondition(lambda self: not self.peer.wire.gone)
    @rule()
    def lose(self) -> None:
        self.peer.lose()

    @invariant()
    def once(self) -> None:
        assert all(asked.ended <= 1 for asked in self.asked)
        assert self.peer.wire.aborted <= 1
        if not self.alive():
            assert all(asked.ended for asked in self.asked)
            assert not self.peer.delayed()

    def teardown(self) -> None:
        if not self.peer.wire.gone:
            self.peer.lose()
        self.once()
        self.take()
        for key, sent in self.told.items():
            assert sent is (key in self.seen), (key, sent)


class InterleavingTests(SynchronousTestCase):
    def test_any_interleaving(self) -> None:
        """Whatever happens in whatever order, each request ends once, and with its own answer."""
        run_state_machine_as_test(
            _Interleaving,
            settings=settings(
                max_examples=100,
                stateful_step_count=40,
                deadline=None,
                database=None,
                suppress_health_check=[HealthCheck.too_slow],  # others use the machine too
            ),
        )
