"""
The session: which answer belongs to which request.

Only this module numbers requests.  Each request takes a *place*, or a whole run of quiet ones takes
one together; places wait in the order of the requests, and their opaques are consecutive, so an
answer's opaque says which place it is for.  The server answers in the order of the requests, so an
answer passes over the places before its own: they must be quiet ones, which were silent.  They end
with the next answer to a loud request, the fence, and not before: a server that mixes up the order
of a quiet run would otherwise have us tell a miss whose hit is still to come.  What ends quiet gets
a fence of our own behind it, a NOOP.

A place is taken with an opaque *token* of the caller's (a Deferred in the client, a local
connection's place in the gateway), and every token ends exactly once:

- with its answers: `receive` hands back ``(token, responses)``; those to a run that are items stand
  in its place, as hits;
- abandoned, by `abandon`: what then comes for it is read and dropped;
- or lost, with everything else: `lose`.

When an answer is not what was asked for, nobody can tell to whom the next one belongs: `error` is
set, and all that is left to do is `lose`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any, Final, Generic, TypeVar

from txtlsmc.errors import PendingLimit, RemoteProtocolError
from txtlsmc.wire.frames import HEADER_SIZE, Request, Response, ResponseReader
from txtlsmc.wire.opcodes import OPCODES, Opcode, Quiet, Status, opcode_name
from txtlsmc.wire.places import (
    ITEM,
    Place,
    RunPlace,
    Statistics,
    mismatch,
    unsolicited,
)
from txtlsmc.wire.runs import OPAQUES, Run

T = TypeVar("T")

#: The most answers to one STAT; memcached's longest (``cachedump``) has some ten thousands.
MAX_STATISTICS: Final = 65_536
#: The most that a TLS record holds, and what memcached reads at once.
FLIGHT: Final = 16_384
# To look up a member of an enumeration takes as long as to compare ten numbers.
_OK: Final = int(Status.OK)
_STAT: Final = int(Opcode.STAT)
_NOOP: Final = int(Opcode.NOOP)
_QUITQ: Final = int(Opcode.QUITQ)
_QUIET: Final = frozenset(opcode for opcode, row in OPCODES.items() if row.quiet is not Quiet.NEVER)


def in_flights(frames: Iterable[bytes | bytearray]) -> list[bytes]:
    """Join *frames*, in order, to pieces of at most `FLIGHT` bytes, or a single larger one."""
    flights: list[bytes] = []
    flight: list[bytes | bytearray] = []
    size = 0
    for frame in frames:
        size += len(frame)
        if size > FLIGHT and flight:
            flights.append(b"".join(flight))
            flight, size = [], len(frame)
        flight.append(frame)
    flights.append(b"".join(flight))
    return flights


class Session(Generic[T]):
    """
    One connection's requests and their answers; knows nothing of sockets.

    Attributes:
        pending: how many requests are, abandoned ones included; those of a run until it ends.
        error: what the peer did wrong, once it has; nothing is received then, and what is sent
            has no answer to wait for, and ends with `lose`.
    """

    def __init__(
        self,
        *,
        max_pending: int,
        max_pending_bytes: int,
        max_body: int,
        first_opaque: int = 0,
    ) -> None:
        """
        Args:
            max_pending: the most requests without an answer, abandoned ones included.
            max_pending_bytes: the most bytes of such requests; a single one may be larger.
            max_body: the largest body of an answer.
            first_opaque: the number of the first request.
        """
        self.error: RemoteProtocolError | None = None
        self._reader = ResponseReader(max_body)
        self._max_body = max_body
        self._max_pending = max_pending
        self._max_pending_bytes = max_pending_bytes
        self._places: deque[Place[T]] = deque()
        self._silent: list[Place[T]] = []  # passed over by an answer, and no fence behind them yet
        self.pending = self._pending_bytes = 0
        self._next_opaque = first_opaque
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0

    def __len__(self) -> int:
        """Return how many requests are pending."""
        return self.pending

    @property
    def unsent(self) -> bool:
        """Whether `data_to_send` has something."""
        return bool(self._unsent)

    @property
    def inside_answer(self) -> bool:
        """Whether the stream, if it ended now, would end in the middle of an answer."""
        return self._reader.inside_frame

    def is_sent(self, place: Place[T]) -> bool:
        """Return whether the request of *place*, which has not ended, was handed out as bytes."""
        return (self._next_opaque - place.opaque) & OPAQUES > len(self._unsent)

    def tokens(self) -> Iterator[T]:
        """Iterate over the tokens that have not ended, oldest first."""
        for place in chain(self._silent, self._places):
            if place.token is not None:
                yield place.token

    def send(self, request: Request, token: T) -> Place[T]:
        """
        Take a place for *request* and number it; `data_to_send` then has its bytes.

        Args:
            request: its opaque is set here.
            token: comes back with the answer.

        Returns:
            The place, to `abandon` it with.

        Raises:
            PendingLimit: too much is pending; nothing was changed.
        """
        size = HEADER_SIZE + len(request.extras) + len(request.key) + len(request.value)
        if self.pending >= self._max_pending:
            raise PendingLimit("max_pending", self._max_pending)
        if self.pending and self._pending_bytes + size > self._max_pending_bytes:
            raise PendingLimit("max_pending_bytes", self._max_pending_bytes)
        opcode = request.opcode
        request.opaque = opaque = self._next_opaque
        place = Place(token, opcode, request.key, opaque, opcode in _QUIET, size)
        self._take(place, 1, size)
        self._unsent.append(request.encode())
        return place

    def _take(self, place: Place[T], count: int, size: int) -> None:
        self._places.append(place)
        self._next_opaque = (self._next_opaque + count) & OPAQUES
        self.pending += count
        self._pending_bytes += size
        self._unsent_bytes += size

    def send_run(self, run: Run[Any], token: T) -> RunPlace[T]:
        """
        Take one place for all requests of *run*; the rest is as for `send`.

        Args:
            run: not empty.
            token: comes back with the answers: the other ones, in the order of the requests.

        Returns:
            The place, which has the hits.

        Raises:
            PendingLimit: not all of it may be pending; nothing was changed.
        """
        count, size = len(run), run.size
        if self.pending + count > self._max_pending:
            raise PendingLimit("max_pending", self._max_pending)
        if self._pending_bytes + size > self._max_pending_bytes:
            raise PendingLimit("max_pending_bytes", self._max_pending_bytes)
        opaque = self._next_opaque
        place = RunPlace(token, run, opaque, size)
        self._take(place, count, size)
        self._unsent += run.frames(opaque)
        return place

    def data_to_send(self) -> bytes:
        """Return all that has to be written now, and count it as sent; see `flights`."""
        return b"".join(self.flights())

    def flights(self) -> list[bytes]:
        """
        Return what has to be written now, piece by piece, and count it as sent.

        A run of quiet requests that would end it is fenced.

        Returns:
            Whole requests, together at most `FLIGHT` bytes, or a single larger one.  Each piece
            should start a TLS record of its own: a memcached before 1.6.39 takes a record into a
            buffer of this size, and forgets about what is left of it behind a request that does
            not fit, until more comes ("tls: fix potential hang when pipelining sets").
        """
        if not self._unsent:
            return []
        last = self._places[-1]
        if last.quiet and last.opcode != _QUITQ:  # behind that one nothing is answered
            fence = Request(_NOOP, opaque=self._next_opaque)
            self._take(Place(None, _NOOP, b"", fence.opaque, False, HEADER_SIZE), 1, HEADER_SIZE)
            self._unsent.append(fence.encode())
        frames, self._unsent = self._unsent, []
        total, self._unsent_bytes = self._unsent_bytes, 0
        return [b"".join(frames)] if total <= FLIGHT else in_flights(frames)

    def receive(self, data: bytes) -> list[tuple[T, list[Response]]]:
        """
        Take the next piece of what the server sends.

        Returns:
            The tokens that it ends, each with its answers, in the order of the requests; those of
            quiet requests that stayed silent just before that of the fence.  When an answer
            behind them is wrong, `error` is set.

        Raises:
            RemoteProtocolError: `error` was set before.
        """
        if self.error is not None:
            raise self.error
        ended: list[tuple[T, list[Response]]] = []
        places, reader = self._places, self._reader
        stream = reader.gather(data)
        start, size = 0, len(stream)
        unsent = (self._next_opaque - len(self._unsent)) & OPAQUES
        responses: list[Response] = []
        while start < size:
            first = places[0] if places else None
            if first is not None and first.opaque != unsent:
                if isinstance(first, RunPlace):
                    start = first.take_hits(stream, start, self._max_body)
                    if not first.left:
                        self._end(places.popleft(), first.others, ended)
                        continue
                    if start == size:
                        break
                elif not self._silent and size - start >= ITEM.size:
                    item = first.item_at(stream, start, self._max_body)
                    if item is not None:
                        self._end(places.popleft(), [item], ended)
                        start += ITEM.size + len(item.value)
                        continue
            start = reader.read(stream, start, responses)
            if responses:
                self._answer(responses.pop(), unsent, ended)
                if self.error is not None:
                    return ended
        self.error = reader.error
        return ended

    def _answer(
        self, response: Response, unsent: int, ended: list[tuple[T, list[Response]]]
    ) -> None:
        """Take one answer to the requests before number *unsent*, or set `error`."""
        places = self._places
        if not places:
            self.error = unsolicited(response)
            return
        place = places[0]
        ahead = (response.opaque - place.opaque) & OPAQUES
        if ahead >= (unsent - place.opaque) & OPAQUES:
            self.error = unsolicited(response)
            return
        skipped = 0
        while ahead >= place.count:
            ahead -= place.count
            skipped += 1
            place = places[skipped]
        key = place.key
        if isinstance(place, RunPlace):
            if place.is_over(ahead):
                self.error = unsolicited(response)
                return
            key = place.keys[ahead]
        if skipped or self._silent:
            self.error = self._out_of_turn(skipped, place, response)
            if self.error is not None:
                return
        self.error = mismatch(place.opcode, key, response, len(response.value))
        if self.error is not None:
            return
        for _ in range(skipped):
            self._silent.append(places.popleft())
        if isinstance(place, RunPlace):
            place.answer(ahead, response)
            if not place.left:
                self._end(places.popleft(), place.others, ended)
            return
        responses = [response]
        if place.opcode == _STAT and response.status == _OK:
            statistics = self._statistics(place, response)
            if statistics is None:
                return
            responses = statistics
        places.popleft()
        if self._silent and not place.quiet:
            for silent in self._silent:
                self._end(silent, silent.others if isinstance(silent, RunPlace) else [], ended)
            self._silent.clear()
        self._end(place, responses, ended)

    def _out_of_turn(
        self, skipped: int, place: Place[T], response: Response
    ) -> RemoteProtocolError | None:
        """Return why *response*, for *place*, can not mean that those before it were silent."""
        for before in islice(self._places, skipped):
            if not before.quiet:
                return RemoteProtocolError(
                    "opaque",
                    f"the answer to request {response.opaque} came before that"
                    f" to {opcode_name(before.opcode)}, request {before.opaque}",
                )
        if response.status and response.opcode == place.opcode == _NOOP:
            # It did not run, so who knows what did: silence would pass for a miss, or for success.
            return RemoteProtocolError(
                "status", f"the NOOP behind quiet requests failed: 0x{response.status:02x}"
            )
        return None

    def _statistics(self, place: Place[T], response: Response) -> list[Response] | None:
        """Keep one statistic; return all of them once *response* is the one that ends the run."""
        statistics = place.statistics
        if statistics is None:
            statistics = place.statistics = Statistics()
        if not response.key:
            return [*statistics.kept, response]
        statistics.count += 1
        statistics.size += len(response.key) + len(response.value)
        if statistics.count > MAX_STATISTICS:
            reason = f"more than {MAX_STATISTICS} answers to one STAT"
            self.error = RemoteProtocolError("key", reason)
        elif statistics.size > self._max_body:
            reason = f"the answers to one STAT are together over max_body, {self._max_body}"
            self.error = RemoteProtocolError("body length", reason)
        elif place.token is not None:
            statistics.kept.append(response)
        return None

    def _end(
        self, place: Place[T], responses: list[Response], ended: list[tuple[T, list[Response]]]
    ) -> None:
        self.pending -= place.count
        self._pending_bytes -= place.size
        if place.token is not None:
            ended.append((place.token, responses))
            # Tokens have their places, and cycles would be left to the garbage collector.
            place.token = None

    def abandon(self, place: Place[T]) -> None:
        """End the token of *place* here and now; its late answer will be dropped."""
        place.token = None

    def lose(self) -> list[tuple[T, bool]]:
        """
        End everything: the connection is over.

        Returns:
            Each token that had not ended, oldest first, and whether its request was sent.
        """
        lost = [
            (place.token, self.is_sent(place))
            for place in chain(self._silent, self._places)
            if place.token is not None
        ]
        self._silent.clear()
        self._places.clear()
        self._unsent.clear()
        self.pending = self._pending_bytes = self._unsent_bytes = 0
        return lost
