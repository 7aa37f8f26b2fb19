"""
The shared session: the requests of many local clients over one connection to the server.

Each request goes up under a number of ours and its answer comes back under the client's own; the
rest of the bytes is passed on as it came.  As in `txtlsmc.wire.session` the numbers are consecutive
and the server answers in their order, so an answer passes over the quiet requests before its own,
which were silent; a run that ends quiet gets a NOOP of ours behind it, so nothing stays open.

Values over `LARGE` are passed on as they come.  Everything else is looked at when it is whole: an
answer that is out of turn or out of shape never reaches a client.  It sets `error`, and the
connection is over: nobody can tell whose the next one would be.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final, Generic, TypeVar

from txtlsmc.errors import RemoteProtocolError
from txtlsmc.wire.conversation import OPAQUE, OPAQUE_AT, SMALL, Conversation, Place
from txtlsmc.wire.frames import HEADER, HEADER_SIZE, RESPONSE_MAGIC, Request, Response
from txtlsmc.wire.opcodes import OPCODES, Key, Opcode, opcode_name
from txtlsmc.wire.places import mismatch
from txtlsmc.wire.runs import OPAQUES
from txtlsmc.wire.session import in_flights

T = TypeVar("T")

#: An answer with a larger body is passed on piece by piece.
LARGE: Final = 65_536
_NOOP: Final = int(Opcode.NOOP)
_STAT: Final = int(Opcode.STAT)
#: Answers with status 0 and without a key of which nothing else has to be looked at, by opcode and
#: length of the extras in one number.
_PLAIN: Final = frozenset(
    opcode << 8 | extras
    for opcode, row in OPCODES.items()
    if row.answer.key is Key.NONE and row.answer.value is None
    for extras in row.answer.extras
)


class SharedSession(Generic[T]):
    """
    One connection to the server; knows nothing of sockets.

    Attributes:
        error: what the server did wrong, once it has.
        answers: how many have come for clients.
        dropped: how many for clients that had gone.
    """

    def __init__(
        self, *, max_pending: int, max_pending_bytes: int, max_body: int, first_opaque: int = 0
    ) -> None:
        """
        Args:
            max_pending: the most requests without an answer, of all clients together.
            max_pending_bytes: the most bytes of these; a single one may be larger.
            max_body: the largest body of an answer.
            first_opaque: the number of the first request.
        """
        self.error: RemoteProtocolError | None = None
        self.answers = self.dropped = 0
        self._places: deque[Place[T]] = deque()
        self._max_pending, self._max_pending_bytes = max_pending, max_pending_bytes
        self._max_body = max_body
        self._pending_bytes = 0
        self._first = self._next = first_opaque  # of the places; of the next request
        self._unsent: list[bytes | bytearray] = []
        self._unsent_requests = 0
        self._kept = bytearray()  # of an answer that is not whole yet
        self._needed = HEADER_SIZE  # so much of it is needed to go on
        self._to_pass = 0  # of a large answer to the first place, on its way
        self._passing_last = True  # whether that place ends with it

    def __len__(self) -> int:
        """Return how many requests have no answer, fences included."""
        return len(self._places)

    @property
    def full(self) -> bool:
        """Whether nothing more is taken before there are answers."""
        return (
            len(self._places) >= self._max_pending or self._pending_bytes >= self._max_pending_bytes
        )

    @property
    def inside_answer(self) -> bool:
        """Whether the stream, if it ended now, would end in the middle of an answer."""
        return bool(self._kept) or self._to_pass > 0

    def waiting(self) -> list[Conversation[T]]:
        """Return whose requests have no answer, each once."""
        return list(dict.fromkeys(place[0] for place in self._places if place[0] is not None))

    # What goes up

    def take(self, conversation: Conversation[T]) -> bool:
        """
        Take some requests of *conversation*, as far as its pace and the limits allow.

        Returns:
            Whether there was anything to take: then there may be more.
        """
        if conversation.choked:
            return False
        places = self._places
        before = len(places)
        room = min(conversation.pace - conversation.in_flight, self._max_pending - before)
        if self._pending_bytes >= self._max_pending_bytes:
            room = 0
        data = conversation.cut(places, self._next, max(room, 0))
        if not data:
            return False
        taken = len(places) - before
        self._next = (self._next + taken) & OPAQUES
        self._pending_bytes += len(data)
        conversation.in_flight += taken
        self._unsent.append(data)
        self._unsent_requests += taken
        return True

    def flights(self) -> list[bytes]:
        """
        Return what has to be written now, and count it as sent.

        A run of quiet requests that would end it is fenced.

        Returns:
            Pieces of whole requests, as `txtlsmc.wire.session.Session.flights` cuts them and for
            the same reason.
        """
        unsent = self._unsent
        if not unsent:
            return []
        if self._places[-1][3]:
            unsent.append(Request(_NOOP, opaque=self._next).encode())
            self._places.append((None, 0, _NOOP, False, HEADER_SIZE, b""))
            self._pending_bytes += HEADER_SIZE
            self._next = (self._next + 1) & OPAQUES
        flights = in_flights(unsent)
        unsent.clear()
        self._unsent_requests = 0
        return flights

    # What comes down

    def receive(self, data: bytes) -> list[Conversation[T]]:
        """
        Take the next piece of what the server sends.

        Returns:
            The conversations with something new, each once: answers to be told, or only room for
            further requests.  When an answer behind these is wrong, `error` is set.

        Raises:
            RemoteProtocolError: `error` was set before.
        """
        if self.error is not None:
            raise self.error
        touched: dict[Conversation[T], None] = {}
        if self._to_pass:
            data = self._pass_on(data, touched)
        if self._kept:
            self._kept += data
            if len(self._kept) < self._needed:
                return list(touched)
            buffer, self._kept = self._kept, bytearray()
        else:
            buffer = bytearray(data)
        places, size, start = self._places, len(buffer), 0
        self._needed = HEADER_SIZE
        told: Conversation[T] | None = None  # whose the answers just before *start* are …
        told_from = 0  # … and where they begin
        answers = told_since = 0  # … and which it is
        while size - start >= HEADER_SIZE:
            magic, opcode, key_length, extras_length, data_type, status, body, opaque, _ = (
                HEADER.unpack_from(buffer, start)
            )
            value_start = start + HEADER_SIZE + extras_length + key_length
            end = start + HEADER_SIZE + body
            if magic != RESPONSE_MAGIC or data_type or value_start > end or body > self._max_body:
                self.error = _malformed(magic, data_type, body, self._max_body)
                break
            if end > size and (body <= LARGE or value_start > size):
                self._needed = (end if body <= LARGE else value_start) - start
                break
            skipped = (opaque - self._first) & OPAQUES
            if skipped >= len(places) - self._unsent_requests:
                self.error = RemoteProtocolError(
                    "opaque", f"an answer to request {opaque}, which is not one that was asked"
                )
                break
            if skipped and not self._pass_over(skipped, opcode, status, touched):
                break
            conversation, own, asked, _, _, key = places[0]
            # A look-up for what comes nearly always: success, no key, any value.
            if (
                opcode != asked
                or status
                or key_length
                or (opcode << 8 | extras_length) not in _PLAIN
            ):
                extras_start = start + HEADER_SIZE
                key_start = extras_start + extras_length
                parts = bytes(buffer[extras_start:key_start]), bytes(buffer[key_start:value_start])
                self.error = mismatch(
                    asked, key, Response(opcode, status, opaque, 0, *parts), end - value_start
                )
                if self.error is not None:
                    break
            last = opcode != _STAT or status or not key_length
            if conversation is not told:
                if told is not None:
                    if told.gone:
                        self.dropped += answers - told_since
                    else:
                        told.answers.append(buffer[told_from:start])
                told, told_from, told_since = conversation, start, answers
            if conversation is not None:
                answers += 1
                OPAQUE.pack_into(buffer, start + OPAQUE_AT, own)
                touched[conversation] = None
                if body > SMALL:
                    conversation.slow_down(body)
                elif conversation.pace < conversation.window:
                    conversation.pace += 1
            if end > size:
                self._passing_last = last
                self._to_pass = end - size
                start = size
                break
            if last:
                self._end()
            start = end
        if told is not None and start > told_from:
            if told.gone:
                self.dropped += answers - told_since
            else:
                told.answers.append(buffer[told_from:start])
        self.answers += answers
        if start < size and self.error is None:
            del buffer[:start]
            self._kept = buffer
        return list(touched)

    def _end(self) -> None:
        """End the first place."""
        conversation, _, _, _, size, _ = self._places.popleft()
        self._first = (self._first + 1) & OPAQUES
        self._pending_bytes -= size
        if conversation is not None:
            conversation.in_flight -= 1

    def _pass_over(
        self, skipped: int, opcode: int, status: int, touched: dict[Conversation[T], None]
    ) -> bool:
        """End that many places, which were silent; return False, with `error` set, if not so."""
        for place in islice(self._places, skipped):
            if not place[3]:
                self.error = RemoteProtocolError(
                    "opaque", f"an answer came before that to {opcode_name(place[2])}"
                )
                return False
        if status and opcode == _NOOP:
            # It did not run, so who knows what did: silence would pass for a miss, or for success.
            self.error = RemoteProtocolError(
                "status", f"the NOOP behind quiet requests failed: 0x{status:02x}"
            )
            return False
        for _ in range(skipped):
            conversation = self._places[0][0]
            if conversation is not None:
                touched[conversation] = None
            self._end()
        return True

    def _pass_on(self, data: bytes, touched: dict[Conversation[T], None]) -> bytes:
        """Pass on the next piece of a large answer; return what is behind it."""
        conversation = self._places[0][0]
        piece = data[: self._to_pass]
        self._to_pass -= len(piece)
        if conversation is not None:
            touched[conversation] = None
            if not conversation.gone:
                conversation.answers.append(piece)
        if not self._to_pass and self._passing_last:
            self._end()
        return data[len(piece) :]


def _malformed(magic: int, data_type: int, body: int, max_body: int) -> RemoteProtocolError:
    if magic != RESPONSE_MAGIC:
        return RemoteProtocolError("magic", f"an answer starts with 0x{magic:02x} instead of 0x81")
    if data_type:
        return RemoteProtocolError("data type", f"the data type is {data_type} instead of 0")
    if body > max_body:
        reason = f"a body of {body} bytes is over max_body, {max_body}"
        return RemoteProtocolError("body length", reason)
    return RemoteProtocolError("body length", "extras and key do not fit into the body")
