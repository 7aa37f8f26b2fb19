"""Tests of `txtlsmc.cluster.link`."""

from __future__ import annotations

from itertools import pairwise
from math import inf

from twisted.internet.defer import CancelledError, DeferredSemaphore
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase

from tests.cluster.fakes import Dials, Line, World, outcome
from tests.net.fakes import answer, hit
from txtlsmc.cluster.link import Link
from txtlsmc.errors import (
    ConnectFailed,
    ConnectionClosed,
    CredentialsRefused,
    MemcacheError,
    PendingLimit,
    RemoteProtocolError,
    RequestTimeout,
    ServerSilent,
)
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.routing import Backoff
from txtlsmc.settings import Limits
from txtlsmc.wire import operations
from txtlsmc.wire.operations import RawItem
from txtlsmc.wire.runs import RunOutcomes, run_of_gets


class Watcher:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.refuses: MemcacheError | None = None

    def refusal(self) -> MemcacheError | None:
        """Refuse, if the test wants it."""
        return self.refuses

    def link_ready(self) -> None:
        """Note it."""
        self.told.append("ready")

    def link_failed(self, error: MemcacheError) -> None:
        """Note it."""
        self.told.append(error)

    def link_lost(self, error: MemcacheError) -> None:
        """Note it."""
        self.told.append("lost")

    def link_useful(self) -> None:
        """Note it."""
        self.told.append("useful")


class LinkTests(SynchronousTestCase):
    """What is common to the tests of a link."""

    jitter = 1.0

    def setUp(self) -> None:
        self.world = World()
        self.dials = Dials(self.world)
        self.watcher = Watcher()
        self.make()

    def make(self, limits: Limits | None = None, backoff: Backoff | None = None) -> Link:
        """Make another link instead of the usual one."""
        limits = limits or Limits()
        world = self.world

        def build(address: IAddress | None) -> MemcacheProtocol:
            return MemcacheProtocol(world.clock, limits=limits, monotonic=world.monotonic)

        self.link = Link(
            world.clock,
            self.dials,
            build,
            self.watcher,
            server="a:1",
            limits=limits,
            backoff=backoff or Backoff(),
            handshakes=DeferredSemaphore(2),
            jitter=lambda: self.jitter,
            monotonic=world.monotonic,
        )
        return self.link

    def get(self, timeout: float = 2.0) -> list[object]:
        """Ask for a key; return where the outcome will be."""
        return outcome(self.link.perform(operations.get("key"), timeout))

    def up(self) -> Line:
        """Start, and connect."""
        self.link.start()
        return self.dials.accept()

    def serve(self, line: Line) -> None:
        """Have one call answered."""
        got = self.get()
        line.say(hit(line.request(), b"one"))
        self.assertEqual(got, [RawItem(b"one", 0, 7)])

    def gaps(self, since: int = 0) -> list[float]:
        """Return the time between one attempt and the next."""
        times = self.dials.times[since:]
        return [round(b - a, 3) for a, b in pairwise(times)]

    def assert_gaps(self, expected: list[float], since: int = 0) -> None:
        """Fail unless that was the time between attempts, up to the steps in which it passes."""
        gaps = self.gaps(since)[: len(expected)]
        self.assertEqual(len(gaps), len(expected))
        for gap, wanted in zip(gaps, expected, strict=True):
            self.assertTrue(wanted - 0.001 <= gap < wanted + 0.06, f"{gaps} is not {expected}")

    def refuse_for(self, seconds: float, error: MemcacheError | None = None) -> None:
        """Refuse every attempt."""
        for _ in range(round(seconds / 0.05)):
            if self.dials.open:
                self.dials.fail(error)
            self.world.advance(0.05)
        if self.dials.open:
            self.dials.fail(error)


class BackoffTests(LinkTests):
    def test_grows(self) -> None:
        """A server that refuses is dialled at once, then after 0.1 s, doubling, up to 5 s."""
        self.link.start()
        self.refuse_for(22)
        self.assert_gaps([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])

    def test_jitter(self) -> None:
        """Up to half of a pause is left out at random, so that clients do not come in step."""
        self.jitter = 0.0
        self.link.start()
        self.refuse_for(3)
        self.assert_gaps([0.05, 0.1, 0.2, 0.4, 0.8])

    def test_at_once_after_a_useful_connection(self) -> None:
        """A connection that had answered somebody is made anew at once, whatever was before."""
        self.link.start()
        self.refuse_for(1)
        self.world.pass_by(1)
        line = self.dials.accept()
        self.serve(line)
        before = len(self.dials.all)
        line.lose()
        self.world.advance(0)
        self.assertEqual(len(self.dials.all), before + 1)
        self.refuse_for(1)
        self.assert_gaps([0.1, 0.2, 0.4], before)
        self.assertEqual(self.watcher.told.count("useful"), 1)

    def test_at_once_after_a_long_connection(self) -> None:
        """A connection that lasted, though nobody used it, is made anew at once."""
        line = self.up()
        self.world.pass_by(5.1)
        line.lose()
        self.world.advance(0)
        self.assertEqual(len(self.dials.all), 2)

    def test_flapping(self) -> None:
        """A server that accepts and hangs up is not dialled in a tight loop."""
        self.link.start()
        for _ in range(400):
            if self.dials.open:
                self.dials.accept().lose()
            self.world.advance(0.05)
        self.assert_gaps([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0])

    def test_refused_credentials(self) -> None:
        """Refused credentials are tried once a minute, and nobody who waits makes it sooner."""
        self.link.start()
        refused = CredentialsRefused("a:1", "the password is wrong")
        for _ in range(130):
            if self.dials.open:
                self.dials.fail(refused)
            self.get(0.5)
            self.link.wake()
            self.world.advance(1)
        self.assert_gaps([60.0, 60.0])

    def test_fails_before_it_returns(self) -> None:
        """An attempt that fails at once, as by credentials that raise, is repeated like another."""
        self.dials.at_once = lambda dial: dial.fail()
        self.link.start()
        self.world.pass_by(1)
        self.assert_gaps([0.1, 0.2, 0.4])

    def test_connects_before_it_returns(self) -> None:
        """A connection that is ready at once serves."""
        lines: list[Line] = []
        self.dials.at_once = lambda dial: lines.append(dial.accept())
        self.link.start()
        self.serve(lines[0])


class WakingTests(LinkTests):
    def test_a_call_wakes(self) -> None:
        """A call that waits has the server dialled now instead of at the end of the pause."""
        self.link.start()
        self.refuse_for(5)
        before = len(self.dials.all)
        got = self.get()
        self.world.advance(0)
        self.assertEqual(len(self.dials.all), before + 1)
        line = self.dials.accept()
        line.say(hit(line.request()))
        self.assertEqual(len(got), 1)

    def test_at_most_once_a_second(self) -> None:
        """However many calls wait, they have the server dialled once a second."""
        self.link.start()
        self.refuse_for(30)
        before = len(self.dials.all)
        for _ in range(60):  # three seconds
            self.get(0.5)
            self.world.advance(0.05)
            if self.dials.open:
                self.dials.fail()
        self.assertIn(len(self.dials.all) - before, (3, 4))
        self.assertGreaterEqual(min(self.gaps(before)), 0.95)

    def test_woken_too_soon(self) -> None:
        """A call that comes too soon after another has the server dialled when it is time again."""
        self.link.start()
        self.refuse_for(20)
        before = len(self.dials.all)
        self.get()
        self.world.advance(0)
        self.dials.fail()
        self.world.pass_by(0.3)
        self.get()
        self.world.pass_by(1)
        self.assert_gaps([1.0], before)

    def test_refused_calls_wake_too(self) -> None:
        """A call that fails fast, since the node is down, has it looked at again."""
        self.link.start()
        self.refuse_for(5)
        before = len(self.dials.all)
        self.watcher.refuses = ConnectionClosed(sent=False)
        self.assertIs(self.get()[0], self.watcher.refuses)
        self.world.advance(0)
        self.assertEqual(len(self.dials.all), before + 1)


class WaitingTests(LinkTests):
    def test_sent_in_order(self) -> None:
        """Calls that waited for the connection go out in the order in which they were made."""
        self.link.start()
        for key in "abc":
            self.link.perform(operations.get(key), 2)
        line = self.dials.accept()
        self.world.advance(0)
        self.assertEqual([request.key for request in line.requests()], [b"a", b"b", b"c"])

    def test_many(self) -> None:
        """Many operations may wait as one, too."""
        self.link.start()
        got = outcome(self.link.perform_run(run_of_gets([b"a", b"b"], RawItem, None), 2))
        line = self.dials.accept()
        first, _, fence = line.requests()
        line.say(hit(first, b"A"), answer(fence))
        self.assertEqual(got, [RunOutcomes([RawItem(b"A", 0, 7), None], {})])

    def test_deadline(self) -> None:
        """The deadline of a call holds while it waits for a connection."""
        self.link.start()
        got = self.get(0.5)
        self.world.pass_by(0.45)
        self.assertEqual(got, [])
        self.world.pass_by(0.15)
        (error,) = got
        assert isinstance(error, RequestTimeout)
        self.assertEqual((error.timeout, error.sent), (0.5, False))
        self.dials.accept()
        self.assertEqual(self.world.delayed(), [])

    def test_deadline_is_monotonic(self) -> None:
        """A step of the wall clock ends no call that waits; time that passes does."""
        self.link.start()
        got = self.get(0.5)
        self.world.clock.advance(3600)
        self.assertEqual(got, [])
        self.world.now += 0.5
        self.world.clock.advance(0.05)
        self.assertIsInstance(got[0], RequestTimeout)

    def test_clock_goes_back(self) -> None:
        """When the wall clock is set back, a further call sees to it that deadlines hold again."""
        self.link.start()
        got = self.get(0.5)
        self.world.clock.rightNow -= 3600
        other = self.get(0.5)
        self.world.pass_by(0.6)
        self.assertEqual([type(error) for error in got + other], [RequestTimeout] * 2)

    def test_one_deadline_in_all(self) -> None:
        """The time that the wait took is not there for the answer any more."""
        self.link.start()
        got = self.get(1.0)
        self.world.pass_by(0.8)
        self.dials.accept()
        self.world.pass_by(0.15)
        self.assertEqual(got, [])
        self.world.pass_by(0.15)
        self.assertIsInstance(got[0], RequestTimeout)

    def test_too_late(self) -> None:
        """A call whose time was over when the connection came is not sent."""
        self.link.start()
        got = self.get(0.5)
        self.world.now += 0.6  # the reactor was busy, and did not get to its timers
        line = self.dials.accept()
        self.assertEqual(line.requests(), [])
        self.assertIsInstance(got[0], RequestTimeout)

    def test_shorter_deadline_behind_a_longer(self) -> None:
        """A call with a short deadline does not wait for the sweep of one with a long deadline."""
        self.make(Limits(timeout=100))
        self.link.start()
        self.get(100)
        got = self.get(0.2)
        self.world.pass_by(0.3, 0.01)
        self.assertIsInstance(got[0], RequestTimeout)

    def test_for_ever(self) -> None:
        """A call may wait for ever; the reactor still is not asked to."""
        self.link.start()
        self.get(inf)
        self.assertLess(max(call.getTime() for call in self.world.delayed()), inf)

    def test_bounded(self) -> None:
        """No more than *max_pending* calls wait; further ones fail at once."""
        self.make(Limits(max_pending=2))
        self.link.start()
        first, second, third = self.get(), self.get(), self.get()
        self.assertEqual((first, second), ([], []))
        self.assertIsInstance(third[0], PendingLimit)

    def test_cancel(self) -> None:
        """A call that is cancelled while it waits is never sent, and its neighbour is."""
        self.link.start()
        done = self.link.perform(operations.get("a"), 2)
        got = outcome(done)
        self.link.perform(operations.get("b"), 2)
        done.cancel()
        self.assertIsInstance(got[0], CancelledError)
        self.assertEqual(self.dials.accept().request().key, b"b")

    def test_cancelled_ones_are_forgotten(self) -> None:
        """Those that were cancelled do not count towards the bound for long."""
        self.make(Limits(max_pending=1))
        self.link.start()
        done = self.link.perform(operations.get("a"), 2)
        done.addErrback(lambda _: None)
        done.cancel()
        self.world.advance(0.2)
        self.assertEqual(self.get(), [])
        self.world.pass_by(2.5)
        self.assertEqual(len(self.world.delayed()), 0)

    def test_loses_it_while_handing_out(self) -> None:
        """Who still waits when the new connection breaks at once goes on waiting."""
        self.link.start()

        def abort(_: object) -> None:
            assert self.link.live is not None
            self.link.live.abort()

        asked = self.link.perform(operations.get("a"), 0.5)
        asked.addErrback(abort)
        got = self.get()
        self.world.now += 0.6
        line = self.dials.accept()
        self.assertEqual((got, line.requests()), ([], []))
        self.world.pass_by(0.2)
        line = self.dials.accept()
        line.say(hit(line.request()))
        self.assertEqual(len(got), 1)


class ToldTests(LinkTests):
    def test_cannot_connect(self) -> None:
        """Whatever keeps a connection from being ready counts."""
        self.link.start()
        error = ConnectFailed("a:1", "no")
        self.dials.fail(error)
        self.assertEqual(self.watcher.told, [error])

    def test_error_of_another_kind(self) -> None:
        """An error that is none of ours is told by its class: its text may hold a secret."""
        self.link.start()
        self.dials.fail(ValueError("hunter2"))
        (error,) = self.watcher.told
        self.assertIsInstance(error, ConnectFailed)
        self.assertIn("a:1: ", str(error))
        self.assertIn("ValueError", str(error))
        self.assertNotIn("hunter2", str(error))

    def test_silent(self) -> None:
        """A connection on which nothing comes is given up, and counts."""
        line = self.up()
        got = self.get()
        self.world.pass_by(2.5)
        self.assertIsInstance(got[0], (RequestTimeout, ServerSilent))
        self.assertTrue(line.lost)
        self.assertIsInstance(self.watcher.told[1], ServerSilent)

    def test_protocol_broken(self) -> None:
        """A server that breaks the protocol counts."""
        line = self.up()
        got = self.get()
        line.say(b"\0" * 24)
        self.assertIsInstance(got[0], RemoteProtocolError)
        self.assertIsInstance(self.watcher.told[1], RemoteProtocolError)

    def test_just_lost(self) -> None:
        """A connection that just ends is nobody's failure."""
        line = self.up()
        line.lose()
        self.assertEqual(self.watcher.told, ["ready", "lost"])

    def test_useful_before_it_failed(self) -> None:
        """A connection that served is told so before the failure that ended it."""
        line = self.up()
        self.serve(line)
        line.say(b"\0" * 24)
        self.assertEqual(self.watcher.told[:2], ["ready", "useful"])
        self.assertIsInstance(self.watcher.told[2], RemoteProtocolError)

    def test_dismissed(self) -> None:
        """Those who wait can be sent away with an error each."""
        self.link.start()
        first, second = self.get(), self.get()
        self.link.dismiss(lambda: ConnectionClosed(sent=False))
        self.assertIsInstance(first[0], ConnectionClosed)
        self.assertIsNot(first[0], second[0])


class ClosingTests(LinkTests):
    def close(self, timeout: float = 1.0) -> list[object]:
        """Close; return where the outcome will be."""
        return outcome(self.link.close(timeout))

    def check_over(self, closed: list[object]) -> None:
        """Nothing is left, and nothing begins again."""
        self.assertEqual(closed, [None])
        self.assertEqual(self.world.delayed(), [])
        self.assertEqual(self.dials.open, [])
        dials = len(self.dials.all)
        self.assertIsInstance(self.get()[0], ConnectionClosed)
        self.assertIsInstance(
            outcome(self.link.perform_run(run_of_gets([b"k"], RawItem, None), 1))[0],
            ConnectionClosed,
        )
        self.world.pass_by(10)
        self.assertEqual(len(self.dials.all), dials)

    def test_never_started(self) -> None:
        """What was never used can be closed."""
        self.check_over(self.close())

    def test_connecting(self) -> None:
        """Closing while the server is dialled ends the attempt, and those who wait."""
        self.link.start()
        got = self.get()
        closed = self.close()
        self.assertIsInstance(got[0], ConnectionClosed)
        self.assertTrue(self.dials.all[0].cancelled)
        self.check_over(closed)
        self.assertEqual(self.watcher.told, [])

    def test_in_a_pause(self) -> None:
        """Closing between two attempts ends the pause, and those who wait."""
        self.link.start()
        self.refuse_for(1)
        got = self.get(5)
        closed = self.close()
        self.assertIsInstance(got[0], ConnectionClosed)
        self.check_over(closed)

    def test_idle(self) -> None:
        """A connection on which nothing is pending is closed at once."""
        line = self.up()
        closed = self.close()
        self.world.advance(0)
        self.assertTrue(line.lost)
        self.check_over(closed)

    def test_drains(self) -> None:
        """What is pending is waited for, and nothing new is taken meanwhile."""
        line = self.up()
        got = self.get()
        closed = self.close()
        late = self.get()
        self.assertIsInstance(late[0], ConnectionClosed)
        self.world.pass_by(0.5)
        self.assertEqual((closed, line.lost), ([], False))
        line.say(hit(line.request(), b"value"))
        self.world.advance(0)
        self.assertEqual(got, [RawItem(b"value", 0, 7)])
        self.check_over(closed)

    def test_drains_no_longer_than_it_may(self) -> None:
        """What has no answer when the time is over fails, and the connection ends."""
        self.up()
        got = self.get(30)
        closed = self.close(1.0)
        self.world.pass_by(0.9)
        self.assertEqual(got, [])
        self.world.pass_by(0.2)
        self.assertIsInstance(got[0], ConnectionClosed)
        self.check_over(closed)

    def test_twice(self) -> None:
        """Closing again while it drains changes nothing, and both are told of the end."""
        line = self.up()
        self.get()
        first = self.close()
        second = self.close()
        line.say(hit(line.request(), b"value"))
        self.world.advance(0)
        self.assertEqual(first, [None])
        self.check_over(second)
        self.check_over(self.close())

    def test_twice_while_connecting(self) -> None:
        """The same while the server is dialled."""
        self.link.start()
        first, second = self.close(), self.close()
        self.assertEqual(first, [None])
        self.check_over(second)

    def test_after_it_broke(self) -> None:
        """Closing between the breaking of a connection and its end waits for the end."""
        line = self.up()
        self.get()
        line.say(b"\0" * 24)
        closed = self.close()
        self.world.advance(0)
        self.assertTrue(line.lost)
        self.check_over(closed)

    def test_by_a_callback(self) -> None:
        """It may be closed by whoever gets the answer, also while the connection is handed out."""
        self.link.start()
        closed: list[list[object]] = []
        done = self.link.perform(operations.get("a"), 0.5)
        done.addErrback(lambda _: closed.append(self.close()))
        self.world.now += 0.6
        self.dials.accept()
        self.world.advance(0)
        self.check_over(closed[0])
