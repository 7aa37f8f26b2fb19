"""
Places: what a session keeps for what was asked, and what may come for it.

A `Place` is that of one request, a `RunPlace` that of a whole run of quiet ones, whose numbers are
consecutive: its answers come in the order of its requests, and silence in between is a miss, or
success.  What the server finds fit to say is held against the table of the opcodes here, for every
answer.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final, Generic, NamedTuple, TypeVar

from txtlsmc.errors import RemoteProtocolError
from txtlsmc.wire.frames import HEADER_SIZE, RESPONSE_MAGIC, Response
from txtlsmc.wire.opcodes import OPCODES, Key, Opcode, Status, opcode_name
from txtlsmc.wire.runs import OPAQUES, Run

T = TypeVar("T")

#: The header of an answer to a read, and its flags: all before the body length as one number, that
#: length, opaque, cas, flags.
ITEM: Final = Struct(">QIIQI")
_FLAGS_SIZE: Final = 4
_CAN_CONTINUE: Final = (Opcode.SASL_AUTH, Opcode.SASL_STEP)
# To look up a member of an enumeration takes as long as to compare ten numbers.
_STAT: Final = int(Opcode.STAT)
_ECHOED: Final = Key.ECHOED
_NONE: Final = Key.NONE
#: How an answer starts that carries an item, up to the status, by the opcode.
ITEM_STARTS: Final = {
    opcode: RESPONSE_MAGIC << 56 | opcode << 48 | _FLAGS_SIZE << 24
    for opcode, row in OPCODES.items()
    if row.answer.extras == (_FLAGS_SIZE,) and row.answer.key is Key.NONE
}


class Place(Generic[T]):
    """The place of one request among the pending ones."""

    __slots__ = ("key", "opaque", "opcode", "quiet", "size", "statistics", "token")

    #: How many requests it is for.
    count = 1

    def __init__(
        self, token: T | None, opcode: int, key: bytes, opaque: int, quiet: bool, size: int
    ) -> None:
        self.token = token  # None: abandoned, or a fence of ours
        self.opaque = opaque
        self.opcode = opcode
        self.key = key
        self.quiet = quiet
        self.size = size
        self.statistics: Statistics | None = None

    def item_at(self, stream: bytes, start: int, max_body: int) -> Response | None:
        """
        Return the item at *start*, where there is room for one without a value, if it is for this.

        That is what most answers are, and it is checked in one go.  None: it is something else,
        right or wrong, or not whole.
        """
        begins, body, opaque, cas, _ = ITEM.unpack_from(stream, start)
        if begins != ITEM_STARTS.get(self.opcode) or opaque != self.opaque:
            return None
        end = start + HEADER_SIZE + body
        if not _FLAGS_SIZE <= body <= max_body or end > len(stream):
            return None
        value = start + ITEM.size
        extras = stream[value - _FLAGS_SIZE : value]
        return Response(self.opcode, 0, opaque, cas, extras, b"", stream[value:end])


class Statistics:
    """The answers to one STAT so far."""

    __slots__ = ("count", "kept", "size")

    def __init__(self) -> None:
        self.kept: list[Response] = []
        self.count = self.size = 0


class Hit(NamedTuple):
    """
    The answer to a read, for the request *number* of a run.

    Attributes:
        number: counted from 0.
        value, flags, cas: the item.
    """

    number: int
    value: bytes
    flags: int
    cas: int


class RunPlace(Place[T]):
    """
    The place of a run.

    Attributes:
        keys: of the requests.
        count: how many there are.
        left: how many of them have no answer.
        hits: the items that came, each as a `Hit` or a tuple like it.
        others: the other answers, in the order of the requests.
    """

    __slots__ = ("_next", "_start", "count", "hits", "keys", "left", "others")

    def __init__(self, token: T | None, run: Run[Any], opaque: int, size: int) -> None:
        super().__init__(token, run.opcode, b"", opaque, True, size)
        self.keys = run.keys
        self.count = self.left = len(run.keys)
        self.hits: list[tuple[int, bytes, int, int]] = []
        self.others: list[Response] = []
        self._next = 0  # the first request that may still be answered
        self._start = ITEM_STARTS.get(run.opcode)

    def number(self, response: Response) -> int:
        """Return which of the requests *response* is for."""
        return (response.opaque - self.opaque) & OPAQUES

    def is_over(self, number: int) -> bool:
        """Return whether request *number* was answered, or passed over."""
        return number < self._next

    def answer(self, number: int, response: Response) -> None:
        """Take the answer to request *number*, which is not over, in the right shape."""
        self._next = number + 1
        self.left -= 1
        if self.token is not None:
            self.others.append(response)

    def take_hits(self, stream: bytes, start: int, max_body: int) -> int:
        """
        Take the items at *start* that are the next answers to this run, as far as they are whole.

        What is otherwise than it is most of the time, right or wrong, is left where it is.

        Returns:
            Where the first thing is that was not taken.
        """
        expected = self._start
        if expected is None:
            return start
        unpack, kept = ITEM.unpack_from, self.token is not None
        first, next_, count, hits = self.opaque, self._next, self.count, self.hits
        last = len(stream) - HEADER_SIZE - _FLAGS_SIZE
        taken = 0
        while start <= last:
            begins, body, opaque, cas, flags = unpack(stream, start)
            number = (opaque - first) & OPAQUES
            end: int = start + HEADER_SIZE + body
            if (
                begins != expected
                or not next_ <= number < count
                or not _FLAGS_SIZE <= body <= max_body
                or end > len(stream)
            ):
                break
            if kept:
                hits.append((number, stream[start + HEADER_SIZE + _FLAGS_SIZE : end], flags, cas))
            next_ = number + 1
            taken += 1
            start = end
        self._next = next_
        self.left -= taken
        return start


def unsolicited(response: Response) -> RemoteProtocolError:
    """Return the error for an answer that nobody waits for."""
    return RemoteProtocolError(
        "opaque",
        f"an answer ({opcode_name(response.opcode)}) to request {response.opaque},"
        " which is not pending",
    )


def mismatch(
    opcode: int, key: bytes, response: Response, value_length: int
) -> RemoteProtocolError | None:
    """
    Return what is wrong with an answer, or None.

    Args:
        opcode, key: of the request.
        response: the answer; its value is not looked at, and may be missing.
        value_length: of its value.
    """
    if response.opcode != opcode:
        return RemoteProtocolError(
            "opcode",
            f"{opcode_name(response.opcode)} in the answer to {opcode_name(opcode)}",
        )
    status, extras, echoed = response.status, len(response.extras), response.key
    if status:
        if status == Status.AUTHENTICATION_CONTINUE and opcode not in _CAN_CONTINUE:
            return RemoteProtocolError("status", f"0x21 is no answer to {opcode_name(opcode)}")
        if extras:
            return RemoteProtocolError("extras length", f"extras of {extras} bytes with an error")
        if echoed and echoed != key:
            return RemoteProtocolError("key", "an error carries another key than the request")
        return None
    shape = OPCODES[opcode].answer
    if extras not in shape.extras:
        return RemoteProtocolError(
            "extras length", f"{opcode_name(opcode)} answered with extras of {extras} bytes"
        )
    if shape.key is _ECHOED:
        if echoed != key:
            return RemoteProtocolError("key", "the answer carries another key than the request")
    elif echoed and shape.key is _NONE:
        return RemoteProtocolError(
            "key length", f"{opcode_name(opcode)} answered with a key of {len(echoed)} bytes"
        )
    if shape.value is not None and value_length != shape.value:
        return RemoteProtocolError(
            "value",
            f"{opcode_name(opcode)} answered with a value of {value_length} bytes"
            f" instead of {shape.value}",
        )
    if opcode == _STAT and not echoed and value_length:
        return RemoteProtocolError("value", "the end of the statistics carries a value")
    return None
