"""
One local client of the gateway: what it asks, in whole and legal requests, and what it is told.

Only what is complete and well formed leaves: memcached closes the connection behind a request with
wrong lengths, and that connection is shared with others.  So each request is judged by its header,
from the same table that client and embedded server use, and what memcached would close for is
answered here.  So are SASL and QUIT, which are between the client and the gateway.

Whatever is answered here waits in `Conversation.here` until all before it was answered: answers
come in the order of the requests.  Nothing behind it is looked at until then.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import Final, Generic, NamedTuple, TypeVar

from txtlsmc.wire.frames import HEADER, HEADER_SIZE, REQUEST_MAGIC, Refusal, Request, refusal
from txtlsmc.wire.opcodes import MAX_KEY, OPCODES, Key, Opcode, Quiet, Status
from txtlsmc.wire.runs import OPAQUES
from txtlsmc.wire.session import FLIGHT

T = TypeVar("T")

#: With so many unanswered requests a client begins; see `Conversation.pace`.
FIRST_PACE: Final = 4
#: Answers that are no larger let the pace grow.
SMALL: Final = 4096
#: The answers to what is in flight are to be no more than about so many bytes.
_IN_FLIGHT: Final = 2 * 2**20
#: Where in a header the opaque is.
OPAQUE: Final = Struct(">I")
OPAQUE_AT: Final = 12

_HERE: Final = frozenset(
    {Opcode.QUIT, Opcode.QUITQ, Opcode.SASL_LIST, Opcode.SASL_AUTH, Opcode.SASL_STEP}
)
#: What memcached answers before it knows who asks.
_OPEN: Final = frozenset({Opcode.SASL_LIST, Opcode.SASL_AUTH, Opcode.SASL_STEP, Opcode.VERSION})
_KEY_LENGTHS: Final = {Key.NONE: (0, 0), Key.REQUIRED: (1, MAX_KEY), Key.OPTIONAL: (0, MAX_KEY)}


class _Legal(NamedTuple):
    """What makes a request legal, once opcode and length of the extras are known."""

    shortest_key: int
    longest_key: int
    value: int  # -1: any
    quiet: bool
    keyed: bool  # the answer has the key again


def _legal(opcode: int) -> _Legal:
    row = OPCODES[opcode]
    shortest, longest = _KEY_LENGTHS[row.request.key]
    value = -1 if row.request.value is None else row.request.value
    quiet = row.quiet is not Quiet.NEVER
    return _Legal(shortest, longest, value, quiet, row.answer.key is Key.ECHOED)


#: What goes to the server, by opcode and length of the extras in one number: one look-up for each.
_UPSTREAM: Final = {
    opcode << 8 | extras: _legal(opcode)
    for opcode, row in OPCODES.items()
    if opcode not in _HERE
    for extras in row.request.extras
}
#: The same for a client that has still to prove who it is.
_LOCKED: Final = {Opcode.VERSION << 8: _legal(Opcode.VERSION)}


#: The place of one request among those that the server has not answered: whose it is (None: a fence
#: of ours), the client's own opaque, opcode, whether the server may keep silent, its size in bytes,
#: and the key that the answer has to repeat (empty: none).  A bare tuple, as one is made for each
#: request: a class would take three times as long.
Place = tuple["Conversation[T] | None", int, int, bool, int, bytes]


class Conversation(Generic[T]):
    """
    What one local client says and is told.

    Attributes:
        owner: whatever the caller knows it by.
        in_flight: requests upstream that have no answer yet.
        pace: how many may be.  It begins low, grows with each small answer up to the window, and
            falls with large ones, so that what comes for a client that stops reading is bounded.
        window: what the pace grows to.
        answers: what it is to be told, in order; whoever writes it empties the list.
        here: the next request, when it is not for the server; set to None once it was answered.
        more: whether there may be a whole request that `cut` has not given away.
        ended: whether nothing more is read of what the client says.
        locked: whether it has still to prove who it is.
        gone: whether it is not there any more; nothing is kept for it then.
        asked: how many requests it has made.
        choked: whether it does not take its answers; the caller asks nothing for it then.
    """

    __slots__ = (
        "_buffer",
        "_max_body",
        "_skip",
        "answers",
        "asked",
        "choked",
        "ended",
        "gone",
        "here",
        "in_flight",
        "locked",
        "more",
        "owner",
        "pace",
        "window",
    )

    def __init__(self, owner: T, *, max_body: int, window: int, locked: bool = False) -> None:
        """
        Args:
            owner: see the class.
            max_body: the largest body of a request, in bytes; above it the answer is "too large".
            window: the most that `pace` grows to.
            locked: whether SASL comes first.
        """
        self.owner = owner
        self.locked = locked
        self.in_flight = self.asked = 0
        self.pace = min(FIRST_PACE, window)
        self.answers: list[bytes | bytearray] = []
        self.here: Request | Refusal | None = None
        self.more = self.ended = self.gone = self.choked = False
        self._max_body, self.window = max_body, window
        self._buffer = bytearray()
        self._skip = 0  # bytes of a refused request that are still to come

    @property
    def buffered(self) -> int:
        """How many bytes of requests are kept."""
        return len(self._buffer)

    @property
    def inside_request(self) -> bool:
        """Whether a request has begun, and is not whole."""
        return not self.ended and (self._skip > 0 or (bool(self._buffer) and not self.more))

    @property
    def held_up(self) -> bool:
        """Whether nothing of its own keeps it from asking."""
        free = self.here is None and not self.choked and self.in_flight < self.pace
        return free and self.more

    def feed(self, data: bytes) -> None:
        """Take the next piece of what the client says."""
        if self.ended:
            return
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        self._buffer += data
        self.more = bool(self._buffer)

    def cut(self, places: deque[Place[T]], number: int, most: int) -> bytearray:
        """
        Give away the next requests for the server.

        Args:
            places: gets the place of each.
            number: the opaque for the first; those of the others follow.
            most: how many at most.

        Returns:
            Their bytes: whole requests, together at most `FLIGHT`, or a single larger one.
        """
        if self.here is not None:
            return bytearray()
        buffer, max_body = self._buffer, self._max_body
        legal = _LOCKED if self.locked else _UPSTREAM
        size, start = len(buffer), 0
        self.more = False
        while size - start >= HEADER_SIZE:
            magic, opcode, key_length, extras_length, _, _, body, opaque, _ = HEADER.unpack_from(
                buffer, start
            )
            row = legal.get(opcode << 8 | extras_length)
            value_length = body - extras_length - key_length
            if (
                row is None
                or magic != REQUEST_MAGIC
                or not row[0] <= key_length <= row[1]
                or (value_length != row[2] and (row[2] >= 0 or value_length < 0))
                or body > max_body
            ):
                return self._taken(start, self._keep_here(start))
            end = start + HEADER_SIZE + body
            if end > size:
                break
            if not most or (start and end > FLIGHT):
                self.more = True
                break
            OPAQUE.pack_into(buffer, start + OPAQUE_AT, number)
            key_start = start + HEADER_SIZE + extras_length
            key = bytes(buffer[key_start : key_start + key_length]) if row[4] else b""
            places.append((self, opaque, opcode, row[3], end - start, key))
            self.asked += 1
            number = (number + 1) & OPAQUES
            most -= 1
            start = end
        else:
            if size > start and buffer[start] != REQUEST_MAGIC:  # there may never be 24 bytes of it
                self.ended = True
        return self._taken(start, size if self.ended else start)

    def _keep_here(self, start: int) -> int:
        """
        Keep the request at *start* in `here`, if all of it is there that is needed.

        Returns:
            Where to go on: *start* itself when more has to come first.
        """
        buffer = self._buffer
        magic, opcode, key_length, extras_length, _, vbucket, body, opaque, cas = (
            HEADER.unpack_from(buffer, start)
        )
        if magic != REQUEST_MAGIC:
            self.ended = True  # memcached has no answer to that either
            return len(buffer)
        request = Request(opcode, cas=cas, opaque=opaque, vbucket=vbucket)
        refused = refusal(opcode, key_length, extras_length, body, self._max_body)
        # Lengths that lie are told to everybody, all else only to those who may ask.
        lies = refused is not None and refused[0] is Status.UNKNOWN_COMMAND and refused[1]
        if self.locked and not lies and opcode not in _OPEN:
            refused = Status.AUTHENTICATION_ERROR, True, "SASL comes first"
        end: int = start + HEADER_SIZE + body
        if refused is None:
            if end > len(buffer):
                return start
            key_start = start + HEADER_SIZE + extras_length
            request.key = bytes(buffer[key_start : key_start + key_length])
            request.value = bytes(buffer[key_start + key_length : end])
            self.here = request
        else:
            status, self.ended, reason = refused
            self.here = Refusal(request, status, self.ended, reason)
            self._skip = max(0, end - len(buffer))
        self.asked += 1
        self.more = True
        return len(buffer) if self.ended else min(end, len(buffer))

    def _taken(self, start: int, done: int) -> bytearray:
        """Return the bytes before *start*, and keep those from *done* on."""
        buffer = self._buffer
        if start == done == len(buffer):
            self._buffer = bytearray()
            return buffer
        taken = buffer[:start]
        del buffer[:done]
        return taken

    def slow_down(self, body: int) -> None:
        """Fall to a pace at which answers with such a *body* are not too much at once."""
        self.pace = min(self.pace, max(1, _IN_FLIGHT // body))

    def end(self) -> None:
        """Listen no more: the client has said QUIT, or something that can not be understood."""
        self.ended, self.more = True, False
        self._buffer = bytearray()
