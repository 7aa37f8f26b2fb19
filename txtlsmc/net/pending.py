"""
What the session keeps for each request of a connection, until it ends, once.

A `Call` has a Deferred of its own; the parts of a `Batch` share one, which fires with the outcome
of each, and so does a `RunCall`, which is one thing to the session too.  One that is cancelled by
the callback of another that the same read ended is over by then: its answer has come, and nobody
wants it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from typing import Protocol as Interface

from twisted.internet.defer import Deferred

from txtlsmc.errors import MemcacheError
from txtlsmc.wire.frames import Response
from txtlsmc.wire.places import Place, RunPlace
from txtlsmc.wire.runs import Run, RunOutcomes
from txtlsmc.wire.session import Session

T = TypeVar("T")


class Pending(Interface):
    """What the session keeps for a request of ours."""

    deadline: float
    timeout: float

    @property
    def place(self) -> Place[Pending]:
        """Where it is among the others."""

    def ended(self, responses: list[Response]) -> None:
        """Its answers have come."""

    def failed(self, error: MemcacheError) -> None:
        """There will be none."""


class Call(Generic[T]):
    """One request with a Deferred of its own."""

    __slots__ = ("deadline", "done", "place", "read", "session", "timeout")

    place: Place[Pending]

    def __init__(
        self,
        session: Session[Pending],
        read: Callable[[list[Response]], T],
        timeout: float,
        deadline: float,
    ) -> None:
        self.session, self.read = session, read
        self.timeout, self.deadline = timeout, deadline
        self.done: Deferred[T] = Deferred(self._cancelled)

    def _cancelled(self, done: Deferred[T]) -> None:
        self.session.abandon(self.place)

    def ended(self, responses: list[Response]) -> None:
        """Fire the Deferred with what the answers mean."""
        done = self.done
        if done.called:  # cancelled by the callback of one that the same read ended
            return
        try:
            result = self.read(responses)
        except MemcacheError as error:
            done.errback(error)
        else:
            done.callback(result)

    def failed(self, error: MemcacheError) -> None:
        """Fail the Deferred."""
        if not self.done.called:
            self.done.errback(error)


class Batch(Generic[T]):
    """Many requests with one Deferred, which fires with the outcome of each, in order."""

    __slots__ = ("done", "left", "outcomes", "parts", "session")

    def __init__(self, session: Session[Pending], size: int) -> None:
        self.session = session
        self.left = size
        self.outcomes: list[Any] = [None] * size
        self.parts: list[Part[T]] = []
        self.done: Deferred[list[T | MemcacheError]] = Deferred(self._cancelled)

    def _cancelled(self, done: Deferred[list[T | MemcacheError]]) -> None:
        for part in self.parts:
            part.over = True
            self.session.abandon(part.place)

    def settle(self, number: int, outcome: T | MemcacheError) -> None:
        """Keep the outcome of one part, and fire the Deferred with that of the last."""
        self.outcomes[number] = outcome
        self.left -= 1
        if not self.left:
            self.parts.clear()
            self.done.callback(self.outcomes)


class Part(Generic[T]):
    """One request of a batch."""

    __slots__ = ("batch", "deadline", "number", "over", "place", "read", "timeout")

    place: Place[Pending]

    def __init__(
        self,
        batch: Batch[T],
        number: int,
        read: Callable[[list[Response]], T],
        timeout: float,
        deadline: float,
    ) -> None:
        self.batch, self.number, self.read = batch, number, read
        self.timeout, self.deadline = timeout, deadline
        self.over = False

    def ended(self, responses: list[Response]) -> None:
        """Tell the batch what the answers mean."""
        if self.over:
            return
        outcome: T | MemcacheError
        try:
            outcome = self.read(responses)
        except MemcacheError as error:
            outcome = error
        self.over = True
        self.batch.settle(self.number, outcome)

    def failed(self, error: MemcacheError) -> None:
        """Tell the batch."""
        if not self.over:
            self.over = True
            self.batch.settle(self.number, error)


class RunCall(Generic[T]):
    """A run of requests, with one Deferred that fires with its outcomes."""

    __slots__ = ("deadline", "done", "place", "run", "session", "timeout")

    place: RunPlace[Pending]

    def __init__(
        self, session: Session[Pending], run: Run[T], timeout: float, deadline: float
    ) -> None:
        self.session, self.run = session, run
        self.timeout, self.deadline = timeout, deadline
        self.done: Deferred[RunOutcomes[T]] = Deferred(self._cancelled)

    def _cancelled(self, done: Deferred[RunOutcomes[T]]) -> None:
        self.session.abandon(self.place)

    def ended(self, responses: list[Response]) -> None:
        """Fire the Deferred with what the answers mean, and silence."""
        if not self.done.called:
            self.done.callback(self._outcomes(responses))

    def failed(self, error: MemcacheError) -> None:
        """Fire the Deferred: what was answered before keeps its outcome."""
        if self.done.called:
            return
        place = self.place
        outcomes = self._outcomes(place.others)
        answered = {number for number, *_ in place.hits}
        answered.update(map(place.number, place.others))
        for number in range(place.count):
            if number not in answered:
                outcomes.errors[number] = error
        self.done.callback(outcomes)

    def _outcomes(self, others: list[Response]) -> RunOutcomes[T]:
        run, place = self.run, self.place
        results = [run.silent] * place.count
        errors: dict[int, MemcacheError] = {}
        hit = run.hit
        for number, value, flags, cas in place.hits:
            try:
                results[number] = hit(value, flags, cas)
            except MemcacheError as error:
                errors[number] = error
        for response in others:
            number = place.number(response)
            try:
                results[number] = run.read(response)
            except MemcacheError as error:
                errors[number] = error
        return RunOutcomes(results, errors)
