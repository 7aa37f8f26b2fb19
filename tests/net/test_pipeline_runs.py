"""Tests of `txtlsmc.net.pipeline` with runs: many quiet requests that end as one."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from tests.net.fakes import answer, hit, opcodes
from tests.net.test_pipeline import PipelineTestCase
from txtlsmc.errors import (
    CodecError,
    ConnectionClosed,
    NotPermitted,
    PendingLimit,
    RemoteProtocolError,
    RequestTimeout,
    ServerError,
    ServerSilent,
)
from txtlsmc.settings import Limits
from txtlsmc.wire.opcodes import Opcode
from txtlsmc.wire.operations import RawItem
from txtlsmc.wire.runs import Run, RunOutcomes, run_of_deletes, run_of_gets, run_of_sets


def gets(*keys: str) -> Run[Any]:
    return run_of_gets([key.encode() for key in keys], RawItem, None)


class RunTests(PipelineTestCase):
    limits = Limits(max_pending=5, max_pending_bytes=250)

    def outcomes(self, done: Deferred[RunOutcomes[Any]]) -> list[Any]:
        """Return what *done* fired with: values, and the classes of errors, which are kept."""
        told = self.successResultOf(done)
        self.errors = told.errors
        return [
            type(told.errors[number]) if number in told.errors else getattr(result, "value", result)
            for number, result in enumerate(told.results)
        ]

    def test_reads(self) -> None:
        """A run of gets fires with the items, nothing for what was silent, and each error."""
        done = self.protocol.perform_run(gets("a", "b", "c"))
        self.assertEqual(len(self.wire.writes), 1)
        a, _, c, fence = self.peer.requests()
        self.peer.say(hit(a, b"1", flags=3), answer(c, b"no", status=0x85))
        self.assertNoResult(done)
        self.peer.say(answer(fence))
        told = self.successResultOf(done)
        self.assertEqual(told.results[:2], [RawItem(b"1", 3, 7), None])
        self.assertEqual([*told.errors], [2])
        self.assertIsInstance(told.errors[2], ServerError)
        self.assertEqual(self.protocol.pending, 0)

    def test_writes(self) -> None:
        """Silence after a write is success; what was not so comes with its number."""
        done = self.protocol.perform_run(run_of_deletes([b"a", b"b", b"c"]))
        requests = self.peer.requests()
        self.assertEqual(opcodes(requests), [Opcode.DELETEQ] * 3 + [Opcode.NOOP])
        refused = answer(requests[2], status=0x20)
        self.peer.say(answer(requests[1], status=1), refused, answer(requests[3]))
        self.assertEqual(self.outcomes(done)[:2], [True, False])
        self.assertEqual([*self.errors], [2])

    def test_unreadable(self) -> None:
        """An item that can not be read is an error of its own."""

        def read(value: bytes, flags: int, cas: int) -> bytes:
            if flags:
                raise CodecError("codec", "no", flags=flags)
            return value

        done = self.protocol.perform_run(run_of_gets([b"a", b"b"], read, None))
        a, b, fence = self.peer.requests()
        self.peer.say(hit(a, b"1", flags=1), hit(b, b"2"), answer(fence))
        self.assertEqual(self.outcomes(done), [CodecError, b"2"])

    def test_gathered(self) -> None:
        """On a busy connection a run is gathered with the others, and needs no fence of its own."""
        self.protocol.get("x")
        done = self.protocol.perform_run(gets("a", "b"))
        self.protocol.get("y")
        self.peer.advance(0)
        self.assertEqual(len(self.wire.writes), 2)
        x, a, _, y = self.peer.requests()
        self.peer.say(hit(x), hit(a, b"1"), hit(y))
        self.assertEqual(self.outcomes(done), [b"1", None])

    def test_empty(self) -> None:
        """Nothing to do is done at once, also on a connection that is gone."""
        self.assertEqual(self.outcomes(self.protocol.perform_run(gets())), [])
        self.peer.lose()
        self.assertEqual(self.outcomes(self.protocol.perform_run(gets())), [])
        self.assertEqual(self.wire.writes, [])

    def test_limit_in_the_middle(self) -> None:
        """What is over a limit fails alone; the others are sent and answered."""
        values = [b"x" * size for size in (70, 200, 9)]
        run = run_of_sets([b"a", b"b", b"c"], values, [0] * 3, 0)
        done = self.protocol.perform_run(run)
        first, third, fence = self.peer.requests()
        self.assertEqual((first.key, third.key), (b"a", b"c"))
        self.peer.say(answer(third, status=0x82), answer(fence))
        self.assertEqual(self.outcomes(done)[:2], [True, PendingLimit])
        self.assertEqual([*self.errors], [1, 2])

    def test_limit_for_all(self) -> None:
        """A run of which nothing can be sent is over at once."""
        for key in "abcde":
            self.protocol.get(key)
        done = self.protocol.perform_run(gets("f", "g"))
        self.assertEqual(self.outcomes(done), [PendingLimit, PendingLimit])

    def test_each_counts(self) -> None:
        """Each request of a run counts as pending until the run has ended."""
        self.protocol.perform_run(gets("a", "b", "c", "d"))
        self.assertEqual(self.protocol.pending, 5)
        self.error(self.protocol.get("x"), PendingLimit)
        *_, fence = self.peer.requests()
        self.peer.say(answer(fence))
        self.assertEqual(self.protocol.pending, 0)

    def test_lost(self) -> None:
        """What was answered before the loss keeps its outcome; the rest fails."""
        done = self.protocol.perform_run(gets("a", "b", "c", "d"))
        requests = self.peer.requests()
        self.peer.say(hit(requests[1], b"2"), answer(requests[2], status=0x20))
        self.peer.lose()
        self.assertEqual(
            self.outcomes(done), [ConnectionClosed, b"2", NotPermitted, ConnectionClosed]
        )
        error = self.errors[0]
        assert isinstance(error, ConnectionClosed)
        self.assertTrue(error.sent)

    def test_unsent(self) -> None:
        """A run that waited to be written when the connection was lost was not sent."""
        self.protocol.get("x").addErrback(lambda _: None)
        done = self.protocol.perform_run(gets("a", "b"))
        self.peer.lose()
        told = self.successResultOf(done)
        self.assertEqual([getattr(e, "sent", None) for e in told.errors.values()], [False, False])

    def test_broken(self) -> None:
        """When the server breaks the protocol, what was answered before keeps its outcome."""
        done = self.protocol.perform_run(gets("a", "b"))
        a, *_ = self.peer.requests()
        self.peer.say(hit(a, b"1"), hit(a, b"2"))
        self.assertEqual(self.outcomes(done), [b"1", RemoteProtocolError])
        self.assertEqual(self.wire.aborted, 1)

    def test_late(self) -> None:
        """What has no answer at the deadline fails; what had one keeps it."""
        done = self.protocol.perform_run(gets("a", "b"), timeout=0.5)
        a, b, fence = self.peer.requests()
        self.peer.say(hit(a, b"1"))
        self.peer.pass_by(0.6)
        self.assertEqual(self.outcomes(done), [b"1", RequestTimeout])
        self.peer.say(hit(b), answer(fence))  # dropped
        self.assertEqual((self.wire.aborted, self.protocol.pending), (0, 0))

    def test_silent(self) -> None:
        """A silent connection is given up, and the run with it."""
        done = self.protocol.perform_run(gets("a", "b"), timeout=9)
        self.peer.pass_by(2.5)
        self.assertEqual(self.outcomes(done), [ServerSilent, ServerSilent])

    def test_cancelled(self) -> None:
        """Cancelling abandons a run, whatever then comes for it."""
        for ending in (self.peer.lose, lambda: None):
            self.setUp()
            done = self.protocol.perform_run(gets("a", "b"))
            after = self.protocol.get("c")
            self.peer.advance(0)
            a, b, *others = self.peer.requests()
            self.peer.say(hit(a))
            done.cancel()
            self.failureResultOf(done, CancelledError)
            fence, c = others
            self.peer.say(hit(b), answer(fence), hit(c, b"3"))
            self.assertEqual(self.successResultOf(after), RawItem(b"3", 0, 7))
            ending()

    def test_cancelled_and_closed(self) -> None:
        """Nobody waits for the answers to a cancelled run."""
        done = self.protocol.perform_run(gets("a", "b"))
        done.cancel()
        self.failureResultOf(done, CancelledError)
        self.protocol.close()
        self.assertEqual(self.wire.losing, 1)

    def test_cancelled_by_a_neighbour(self) -> None:
        """A run can be cancelled by the callback of an answer that came with its own."""
        first = self.protocol.get("x")
        done = self.protocol.perform_run(gets("a", "b"))
        first.addCallback(lambda _: done.cancel())
        self.peer.advance(0)
        x, a, b, fence = self.peer.requests()
        self.peer.say(hit(x), hit(a), hit(b), answer(fence))
        self.failureResultOf(done, CancelledError)

    def test_late_and_lost(self) -> None:
        """An outcome that was told does not change, when late requests end in another way."""
        first = self.protocol.get("x").addErrback(lambda _: self.protocol.abort())
        done = self.protocol.perform_run(gets("a", "b"))
        self.peer.pass_by(2.5)
        self.successResultOf(first)
        self.assertEqual(self.outcomes(done), [ConnectionClosed, ConnectionClosed])

    def test_over(self) -> None:
        """On a connection that is gone each request fails, with nothing sent."""
        self.peer.lose()
        told = self.successResultOf(self.protocol.perform_run(gets("a", "b")))
        self.assertEqual([getattr(e, "sent", None) for e in told.errors.values()], [False, False])
