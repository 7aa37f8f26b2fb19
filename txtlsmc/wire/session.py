"""
The session: which answer belongs to which request.

Only this module numbers requests.  Each request takes a *place*; places wait in the order of the
requests, and their opaques are consecutive, so an answer's opaque says which place it is for
without a search.  The server answers in the order of the requests, so an answer passes over the
places before its own: they must be quiet ones, which were silent.  They end with the next answer to
a loud request, the fence, and not before: a server that mixes up the order of a quiet run would
otherwise have us tell a miss whose hit is still to come.  A run that ends quiet gets a fence of our
own behind it, a NOOP.

A place is taken with an opaque *token* of the caller's (a Deferred in the client, a local
connection's place in the gateway), and every token ends exactly once:

- with its answers: `receive` hands back ``(token, responses)``;
- abandoned, by `abandon`: what then comes for it is read and dropped;
- or lost, with everything else: `lose`.

When an answer is not what was asked for, nobody can tell to whom the next one belongs: `error` is
set, and all that is left to do is `lose`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import chain, islice
from typing import Final, Generic, TypeVar

from txtlsmc.errors import PendingLimit, RemoteProtocolError
from txtlsmc.wire.frames import HEADER_SIZE, Request, Response, ResponseReader
from txtlsmc.wire.opcodes import OPCODES, Key, Opcode, Quiet, Status, opcode_name

T = TypeVar("T")

_OPAQUES: Final = 0xFFFFFFFF
#: The most answers to one STAT; memcached's longest (``cachedump``) has some ten thousands.
MAX_STATISTICS: Final = 65_536
#: The most that a TLS record holds, and what memcached reads at once.
FLIGHT: Final = 16_384
_CAN_CONTINUE: Final = (Opcode.SASL_AUTH, Opcode.SASL_STEP)
# To look up a member of an enumeration takes as long as to compare ten numbers.
_OK: Final = int(Status.OK)
_STAT: Final = int(Opcode.STAT)
_NOOP: Final = int(Opcode.NOOP)
_ECHOED: Final = Key.ECHOED
_NONE: Final = Key.NONE
_QUIET: Final = frozenset(opcode for opcode, row in OPCODES.items() if row.quiet is not Quiet.NEVER)


class Place(Generic[T]):
    """The place of one request among the pending ones."""

    __slots__ = ("key", "opaque", "opcode", "quiet", "size", "statistics", "token")

    def __init__(self, token: T | None, request: Request, quiet: bool, size: int) -> None:
        self.token = token  # None: abandoned, or a fence of ours
        self.opaque = request.opaque
        self.opcode = request.opcode
        self.key = request.key
        self.quiet = quiet
        self.size = size
        self.statistics: _Statistics | None = None


class _Statistics:
    """The answers to one STAT so far."""

    __slots__ = ("count", "kept", "size")

    def __init__(self) -> None:
        self.kept: list[Response] = []
        self.count = self.size = 0


class Session(Generic[T]):
    """
    One connection's requests and their answers; knows nothing of sockets.

    Attributes:
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
        self._pending_bytes = 0
        self._next_opaque = first_opaque
        self._unsent: list[bytes] = []

    def __len__(self) -> int:
        """Return how many places are taken, abandoned ones included."""
        return len(self._silent) + len(self._places)

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
        return (self._next_opaque - place.opaque) & _OPAQUES > len(self._unsent)

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
        pending = len(self._silent) + len(self._places)
        if pending >= self._max_pending:
            raise PendingLimit("max_pending", self._max_pending)
        if pending and self._pending_bytes + size > self._max_pending_bytes:
            raise PendingLimit("max_pending_bytes", self._max_pending_bytes)
        return self._take(request, token, request.opcode in _QUIET, size)

    def _take(self, request: Request, token: T | None, quiet: bool, size: int) -> Place[T]:
        request.opaque = self._next_opaque
        self._next_opaque = (self._next_opaque + 1) & _OPAQUES
        place = Place(token, request, quiet, size)
        self._places.append(place)
        self._pending_bytes += size
        self._unsent.append(request.encode())
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
        if last.quiet and last.opcode != Opcode.QUITQ:  # behind that one nothing is answered
            self._take(Request(Opcode.NOOP), None, False, HEADER_SIZE)
        flights: list[bytes] = []
        flight: list[bytes] = []
        size = 0
        for frame in self._unsent:
            size += len(frame)
            if size > FLIGHT and flight:
                flights.append(b"".join(flight))
                flight, size = [], len(frame)
            flight.append(frame)
        flights.append(b"".join(flight))
        self._unsent.clear()
        return flights

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
        places = self._places
        for response in self._reader.feed(data):
            sent = len(places) - len(self._unsent)
            if not sent:
                self.error = _unsolicited(response)
                return ended
            place = places[0]
            if response.opaque != place.opaque:
                skipped = (response.opaque - place.opaque) & _OPAQUES
                if skipped >= sent:
                    self.error = _unsolicited(response)
                    return ended
                place = places[skipped]
            else:
                skipped = 0
            if skipped or self._silent:
                self.error = self._out_of_turn(skipped, place, response)
                if self.error is not None:
                    return ended
            self.error = _mismatch(place, response)
            if self.error is not None:
                return ended
            for _ in range(skipped):
                self._silent.append(places.popleft())
            if place.opcode == _STAT and response.status == _OK:
                responses = self._statistics(place, response)
                if responses is None:
                    if self.error is not None:
                        return ended
                    continue
            else:
                responses = [response]
            places.popleft()
            if self._silent and not place.quiet:
                for silent in self._silent:
                    self._end(silent, [], ended)
                self._silent.clear()
            self._end(place, responses, ended)
        self.error = self._reader.error
        return ended

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
            statistics = place.statistics = _Statistics()
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
        self._pending_bytes -= place.size
        if place.token is not None:
            ended.append((place.token, responses))

    def abandon(self, place: Place[T]) -> None:
        """End the token of *place* here and now; its late answer will be dropped."""
        place.token = None

    def lose(self) -> list[tuple[T, bool]]:
        """
        End everything: the connection is over.

        Returns:
            Each token that had not ended, oldest first, and whether its request was sent.
        """
        sent = len(self) - len(self._unsent)
        lost = [
            (place.token, number < sent)
            for number, place in enumerate(chain(self._silent, self._places))
            if place.token is not None
        ]
        self._silent.clear()
        self._places.clear()
        self._unsent.clear()
        self._pending_bytes = 0
        return lost


def _unsolicited(response: Response) -> RemoteProtocolError:
    return RemoteProtocolError(
        "opaque",
        f"an answer ({opcode_name(response.opcode)}) to request {response.opaque},"
        " which is not pending",
    )


def _mismatch(place: Place[T], response: Response) -> RemoteProtocolError | None:
    """Return what is wrong with *response* as the answer for *place*."""
    if response.opcode != place.opcode:
        return RemoteProtocolError(
            "opcode",
            f"{opcode_name(response.opcode)} in the answer to {opcode_name(place.opcode)}",
        )
    status, extras, key = response.status, len(response.extras), response.key
    if status:
        if status == Status.AUTHENTICATION_CONTINUE and place.opcode not in _CAN_CONTINUE:
            return RemoteProtocolError(
                "status", f"0x21 is no answer to {opcode_name(place.opcode)}"
            )
        if extras:
            return RemoteProtocolError("extras length", f"extras of {extras} bytes with an error")
        if key and key != place.key:
            return RemoteProtocolError("key", "an error carries another key than the request")
        return None
    shape = OPCODES[place.opcode].answer
    if extras not in shape.extras:
        return RemoteProtocolError(
            "extras length", f"{opcode_name(place.opcode)} answered with extras of {extras} bytes"
        )
    if shape.key is _ECHOED:
        if key != place.key:
            return RemoteProtocolError("key", "the answer carries another key than the request")
    elif key and shape.key is _NONE:
        return RemoteProtocolError(
            "key length", f"{opcode_name(place.opcode)} answered with a key of {len(key)} bytes"
        )
    if shape.value is not None and len(response.value) != shape.value:
        return RemoteProtocolError(
            "value",
            f"{opcode_name(place.opcode)} answered with a value of {len(response.value)} bytes"
            f" instead of {shape.value}",
        )
    if place.opcode == _STAT and not key and response.value:
        return RemoteProtocolError("value", "the end of the statistics carries a value")
    return None
