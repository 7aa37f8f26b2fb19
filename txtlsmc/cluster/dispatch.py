"""
Sending operations to the node of their key, and what a failure means.

Try once more, go elsewhere, a miss, or the caller's to handle: `txtlsmc.routing.Routing` says
which.  Nothing that changes something is sent twice, and all that is done about one call is done
within its one deadline.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from txtlsmc.cluster.factory import MemcacheClientFactory
from txtlsmc.cluster.link import Link
from txtlsmc.cluster.node import Node
from txtlsmc.errors import (
    CodecError,
    ConnectionClosed,
    InvalidArgument,
    MemcacheError,
    NodeDown,
    PartialResult,
)
from txtlsmc.wire.operations import Operation, copy_request
from txtlsmc.wire.runs import Run, RunOutcomes

T = TypeVar("T")


class Outcomes(Generic[T]):
    """
    What became of many requests.

    Attributes:
        results: of each its result; that of a failed one has no meaning.
        errors: the name of the server that was asked, and its error, by the number of the request.
    """

    __slots__ = ("errors", "results")

    def __init__(self, results: list[T]) -> None:
        self.results = results
        self.errors: dict[int, tuple[str, MemcacheError]] = {}

    def check(self, found: object, *, partial: bool = False) -> None:
        """Raise `PartialResult` with *found*, unless all is there, or a *partial* one will do."""
        if not self.errors:
            return
        errors: dict[str, MemcacheError] = {}
        unreadable = False  # it is there, and must not look like a miss
        for _, (server, error) in sorted(self.errors.items(), key=itemgetter(0)):
            errors.setdefault(server, error)
            unreadable = unreadable or isinstance(error, CodecError)
        if not (partial and not unreadable and len(self.errors) < len(self.results)):
            raise PartialResult(found, errors)


class Dispatcher:
    """
    Sends operations for a client.

    Attributes:
        factory: the nodes and the ring.
    """

    def __init__(self, factory: MemcacheClientFactory) -> None:
        """
        Args:
            factory: has the routing and the limits too.
        """
        self.factory = factory
        self._routing = factory.routing
        self._timeout = factory.limits.timeout

    def _seconds(self, timeout: float | None) -> float:
        if timeout is None:
            return self._timeout
        if not isinstance(timeout, (int, float)) or not timeout > 0:
            raise InvalidArgument(f"a timeout is a number of seconds above 0, not {timeout!r}")
        return timeout

    def ask(
        self,
        hashed: bytes,
        operation: Operation[T],
        timeout: float | None,
        *,
        read: bool = False,
        miss: Any = None,
    ) -> Deferred[T]:
        """
        Send *operation* to the node of its key.

        Args:
            hashed: the key, as the ring hashes it.
            operation: with the key as it travels.
            timeout: seconds, or None for the limits' own.
            read: it changes nothing, so that it may be sent twice.
            miss: what it fires with on a miss; see `Routing.on_failure`.
        """
        seconds = self._timeout if timeout is None else self._seconds(timeout)
        node = self.factory.node_for(hashed)
        done = node.link_for(hashed).perform(operation, seconds)
        if self._routing.retry or self._routing.on_failure != "fail":
            deadline = self.factory.now() + seconds
            done.addErrback(self._once_more, hashed, operation, deadline, read, miss)
        return done

    def _once_more(
        self,
        reason: Failure,
        hashed: bytes,
        operation: Operation[T],
        deadline: float,
        read: bool,
        miss: Any,
    ) -> Any:
        def missed(reason: Failure) -> Any:
            return miss if read and self._is_miss(reason.value) else reason

        if self.may_repeat(reason.value, read=read):
            left = deadline - self.factory.now()
            if left > 0:
                node = self.factory.node_for(hashed)
                again = node.link_for(hashed).perform(operation, left)
                return again.addErrback(missed)
        return missed(reason)

    def may_repeat(self, error: object, *, read: bool) -> bool:
        """Return whether what failed with *error* may be sent once more."""
        if self.factory.closed:
            return False
        if isinstance(error, NodeDown):  # it was waited for, and has another place now
            return self._routing.on_failure == "rehash"
        if not (self._routing.retry and isinstance(error, ConnectionClosed)):
            return False
        return read or not error.sent

    def _is_miss(self, error: object) -> bool:
        return self._routing.on_failure == "miss" and isinstance(error, NodeDown)

    def ask_run(
        self, run: Run[T], hashed: Sequence[bytes], timeout: float | None, *, read: bool = False
    ) -> Deferred[Outcomes[T]]:
        """
        Send many requests, all servers at once; it never fails by itself.

        Args:
            run: with the keys as they travel.
            hashed: each key, as the ring hashes it.
            timeout, read: as for `ask`; what is silent is a miss.
        """
        seconds = self._seconds(timeout)
        deadline = self.factory.now() + seconds
        asking = _AskingRun(self, run, hashed, deadline, read)

        def missed(_: None) -> Outcomes[T]:
            outcomes = asking.outcomes
            if read and outcomes.errors:
                errors = outcomes.errors
                for number in [each for each in errors if self._is_miss(errors[each][1])]:
                    outcomes.results[number] = run.silent
                    del errors[number]
            return outcomes

        return asking.spread(range(len(run)), seconds, again=True).addCallback(missed)

    def ask_each(self, operation: Operation[T], timeout: float | None) -> Deferred[dict[str, T]]:
        """
        Send *operation* to every node; fires with the results by the name of the server.

        Fails:
            PartialResult: a node could not do it; holds the results of the others.
        """
        seconds = self._seconds(timeout)
        self.factory.enter()
        answers: dict[str, T] = {}
        errors: dict[str, MemcacheError] = {}

        def one(node: Node) -> Deferred[None]:
            def answered(answer: T) -> None:
                answers[node.server.name] = answer

            def failed(reason: Any) -> None:
                reason.trap(MemcacheError)
                errors[node.server.name] = reason.value

            # A request of its own for each: its number is written into it.
            request = copy_request(operation.request)
            done = node.links[0].perform(Operation(request, operation.read), seconds)
            return done.addCallbacks(answered, failed)

        def told(_: object) -> dict[str, T]:
            if errors:
                raise PartialResult(answers, errors)
            return answers

        return _all([one(node) for node in self.factory.nodes]).addCallback(told)


class _AskingRun(Generic[T]):
    """A run on its way to the servers of its keys.  (No closures: these would be a cycle.)"""

    __slots__ = ("_deadline", "_dispatcher", "_hashed", "_read", "_run", "outcomes")

    def __init__(
        self,
        dispatcher: Dispatcher,
        run: Run[T],
        hashed: Sequence[bytes],
        deadline: float,
        read: bool,
    ) -> None:
        self.outcomes = Outcomes([run.silent] * len(run))
        self._dispatcher, self._run, self._hashed = dispatcher, run, hashed
        self._deadline, self._read = deadline, read

    def spread(self, numbers: Sequence[int], seconds: float, *, again: bool) -> Deferred[None]:
        """Ask the server of each of *numbers*; of what is lost once more, if *again*."""
        factory = self._dispatcher.factory
        shares = factory.share_out(self._hashed, numbers) if numbers else []
        return _all([self._ask(*share, seconds, again) for share in shares])

    def _ask(
        self, node: Node, link: Link, numbers: Sequence[int], seconds: float, again: bool
    ) -> Deferred[None]:
        whole = len(numbers) == len(self._run)
        if whole:
            numbers = range(len(self._run))  # in the order of the run
        asked = self._run if whole else self._run.part(numbers)
        done = link.perform_run(asked, seconds)
        server = node.server.name
        told = done.addCallbacks(
            self._answered, self._failed, (server, numbers), {}, (server, numbers)
        )
        return told.addCallback(self._once_more, numbers) if again else told

    def _answered(self, told: RunOutcomes[T], server: str, numbers: Sequence[int]) -> None:
        outcomes = self.outcomes
        if len(numbers) == len(outcomes.results):
            outcomes.results = told.results
        else:
            for number, result in zip(numbers, told.results, strict=True):
                outcomes.results[number] = result
        for place, error in told.errors.items():
            outcomes.errors[numbers[place]] = (server, error)

    def _failed(self, reason: Any, server: str, numbers: Sequence[int]) -> None:
        reason.trap(MemcacheError)
        self.outcomes.errors.update(dict.fromkeys(numbers, (server, reason.value)))

    def _once_more(self, _: None, numbers: Sequence[int]) -> Deferred[None] | None:
        errors, may_repeat = self.outcomes.errors, self._dispatcher.may_repeat
        if not errors:
            return None
        left = self._deadline - self._dispatcher.factory.now()
        if left <= 0:
            return None
        lost = [n for n in numbers if n in errors and may_repeat(errors[n][1], read=self._read)]
        for number in lost:
            del errors[number]
        return self.spread(lost, left, again=False) if lost else None


def _all(parts: Sequence[Deferred[None]]) -> Deferred[None]:
    """
    Return a Deferred that fires when all of *parts* have, and whose cancelling cancels them.

    (With `gatherResults` a cancelled call would fail with a `FirstError`, and each part but the
    first leave an unhandled error.)
    """

    def cancelled(done: Deferred[None]) -> None:
        for part in parts:
            part.cancel()

    done: Deferred[None] = Deferred(cancelled)
    left = len(parts)

    def ended(_: None) -> None:
        nonlocal left
        left -= 1
        if not left and not done.called:
            done.callback(None)

    def failed(reason: Failure) -> None:
        if not done.called:
            done.errback(reason)

    for part in parts:
        part.addCallbacks(ended, failed)
    if not parts:
        done.callback(None)
    return done
