"""
Frames: what travels in both directions, and how to cut a byte stream into them.

A frame is a header of 24 bytes and a body, which is extras, key and value in this order (binary
protocol, section 2).  A reader takes the stream in whatever pieces it comes and gives the same
frames for every cut.  It keeps what came and never what was announced, and refuses a body over its
limit when the header is there, before any of it is kept.

When the stream breaks the protocol, the frames before that are still good: `feed` returns them
and leaves in `error` what is wrong.  There is no next frame to look for after that.  A wrong magic
is found in the first byte of a frame: who speaks something else may never send 24.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import ClassVar, Final, Generic, Protocol, TypeVar

from txtlsmc.errors import RemoteProtocolError
from txtlsmc.wire.opcodes import MAX_KEY, OPCODES, STATUS_TEXTS, Key, Status, opcode_name

REQUEST_MAGIC: Final = 0x80
RESPONSE_MAGIC: Final = 0x81
#: magic, opcode, key length, extras length, data type, vbucket or status, body length, opaque, cas
HEADER: Final = Struct(">BBHBBHIIQ")
HEADER_SIZE: Final = HEADER.size


class Frame(Protocol):
    """What requests and responses have in common."""

    opcode: int
    opaque: int
    cas: int
    extras: bytes
    key: bytes
    value: bytes


def _described(frame: Frame, last: str) -> str:
    # Neither key nor value: they are the users' data, or a password on its way.
    return (
        f"<{type(frame).__name__} {opcode_name(frame.opcode)} opaque={frame.opaque}"
        f" cas={frame.cas} extras={len(frame.extras)} key={len(frame.key)}"
        f" value={len(frame.value)} {last}>"
    )


@dataclass(slots=True, repr=False)
class Request:
    """
    What a client asks.

    Attributes:
        opcode: see `txtlsmc.wire.opcodes.Opcode`.
        key, extras, value: the parts of the body.
        cas: the version the item must have; 0 is any.
        opaque: comes back in the answer.
        vbucket: 0 for memcached, which does not look at it.
    """

    opcode: int
    key: bytes = b""
    extras: bytes = b""
    value: bytes = b""
    cas: int = 0
    opaque: int = 0
    vbucket: int = 0

    def encode(self) -> bytes:
        """Return the bytes of the frame."""
        extras, key, value = self.extras, self.key, self.value
        keyed, extra = len(key), len(extras)
        body = extra + keyed + len(value)
        header = HEADER.pack(
            REQUEST_MAGIC, self.opcode, keyed, extra, 0, self.vbucket, body, self.opaque, self.cas
        )
        return header + key if body == keyed else b"".join((header, extras, key, value))

    def __repr__(self) -> str:
        return _described(self, f"vbucket={self.vbucket}")


@dataclass(slots=True, repr=False)
class Response:
    """
    What a server answers.

    Attributes:
        opcode, opaque: those of the request.
        status: see `txtlsmc.wire.opcodes.Status`.
        cas: the version of the item, where there is one.
        key, extras, value: the parts of the body.
    """

    opcode: int
    status: int = 0
    opaque: int = 0
    cas: int = 0
    extras: bytes = b""
    key: bytes = b""
    value: bytes = b""

    def encode(self) -> bytes:
        """Return the bytes of the frame."""
        extras, key, value = self.extras, self.key, self.value
        header = HEADER.pack(
            RESPONSE_MAGIC,
            self.opcode,
            len(key),
            len(extras),
            0,
            self.status,
            len(extras) + len(key) + len(value),
            self.opaque,
            self.cas,
        )
        return b"".join((header, extras, key, value))

    def __repr__(self) -> str:
        return _described(self, f"status=0x{self.status:02x}")


def error_response(request: Request, status: int) -> Response:
    """Return the answer to *request* with an error *status*, in memcached's words."""
    return Response(request.opcode, status, request.opaque, value=STATUS_TEXTS[status])


@dataclass(slots=True)
class Refusal:
    """
    A request that can be answered by its header alone, and goes no further.

    Attributes:
        request: opcode, opaque and cas as they came; no body.
        status: what memcached answers.
        closes: whether it closes the connection behind that answer.
        reason: what is wrong, in words.
    """

    request: Request
    status: int
    closes: bool
    reason: str


F = TypeVar("F")


class _FrameReader(Generic[F]):
    """Collect bytes until a frame is whole; linear in what came, however it was cut."""

    __slots__ = ("_kept", "_needed", "error", "max_body")

    _magic: ClassVar[int]
    _kind: ClassVar[str]

    def __init__(self, max_body: int) -> None:
        """
        Args:
            max_body: the largest body that is taken, in bytes.
        """
        self.max_body = max_body
        self.error: RemoteProtocolError | None = None
        # Not a list of the pieces: of tiny ones each would take twenty times its size.
        self._kept = bytearray()
        self._needed = HEADER_SIZE

    @property
    def inside_frame(self) -> bool:
        """Whether the stream, if it ended now, would end in the middle of a frame."""
        return bool(self._kept)

    def feed(self, data: bytes) -> list[F]:
        """
        Take the next piece of the stream.

        Args:
            data: any number of bytes.

        Returns:
            Every frame that *data* completes, in wire order.  When the stream breaks the protocol
            behind them, `error` is set.

        Raises:
            RemoteProtocolError: it had broken the protocol before.
        """
        stream = self.gather(data)
        frames: list[F] = []
        start, size = 0, len(stream)
        while start < size:
            start = self.read(stream, start, frames)
        return frames

    def gather(self, data: bytes) -> bytes:
        """
        Return what was kept and *data*, for `read`; nothing while the first frame is not whole.

        Raises:
            RemoteProtocolError: the stream had broken the protocol before.
        """
        if self.error is not None:
            raise self.error
        if self._kept:
            self._kept += data
            if len(self._kept) < self._needed:
                return b""
            data = bytes(self._kept)
            self._kept.clear()
        return data

    def read(self, stream: bytes, start: int, frames: list[F]) -> int:
        """
        Append the frame that starts at *start* to *frames*.

        Returns:
            Where the next one starts.  That is the end of *stream* too when this one is not whole:
            then what there is of it is kept; and when `error` was set.
        """
        size = len(stream)
        if stream[start] != self._magic:
            self.error = RemoteProtocolError(
                "magic",
                f"{self._kind} starts with 0x{stream[start]:02x} instead of 0x{self._magic:02x}",
            )
            return size
        end = start + HEADER_SIZE
        if end <= size:
            end = self._take(stream, start, size, frames)
            if self.error is not None:
                return size
        if end > size:
            self._kept += stream[start:]
            self._needed = end - start
            return size
        return end

    def _take(self, data: bytes, start: int, size: int, frames: list[F]) -> int:
        """
        Append the frame whose header is at *start*, if all of it is there.

        Returns:
            Where it ends; or anything, with `error` set.
        """
        raise NotImplementedError


class ResponseReader(_FrameReader[Response]):
    """Cut what a server sends into responses."""

    __slots__ = ()

    _magic = RESPONSE_MAGIC
    _kind = "an answer"

    def _take(self, data: bytes, start: int, size: int, frames: list[Response]) -> int:
        _, opcode, key_length, extras_length, data_type, status, body, opaque, cas = (
            HEADER.unpack_from(data, start)
        )
        extras_start: int = start + HEADER_SIZE
        key_start = extras_start + extras_length
        value_start = key_start + key_length
        end: int = extras_start + body
        if data_type or value_start > end or body > self.max_body:
            self.error = self._violation(key_length, extras_length, data_type, body)
        elif end <= size:
            frames.append(
                Response(
                    opcode,
                    status,
                    opaque,
                    cas,
                    data[extras_start:key_start],
                    data[key_start:value_start],
                    data[value_start:end],
                )
            )
        return end

    def _violation(
        self, key_length: int, extras_length: int, data_type: int, body: int
    ) -> RemoteProtocolError:
        if data_type:
            return RemoteProtocolError("data type", f"the data type is {data_type} instead of 0")
        if body > self.max_body:
            return RemoteProtocolError(
                "body length", f"a body of {body} bytes is over max_body, {self.max_body}"
            )
        return RemoteProtocolError(
            "body length",
            f"extras of {extras_length} and a key of {key_length} bytes do not fit"
            f" into a body of {body}",
        )


def refusal(
    opcode: int, key_length: int, extras_length: int, body: int, max_body: int
) -> tuple[Status, bool, str] | None:
    """
    Judge a request by its header, as memcached 1.6.18 does.

    Args:
        opcode, key_length, extras_length, body: what the header says.
        max_body: the largest body that is taken.

    Returns:
        The status of the answer, whether the connection is closed behind it, and why; None for a
        request that is legal.
    """
    value_length = body - key_length - extras_length
    if value_length < 0:
        return Status.UNKNOWN_COMMAND, True, "extras and key are longer than the body"
    if key_length > MAX_KEY:
        return Status.INVALID_ARGUMENTS, True, f"a key of {key_length} bytes"
    row = OPCODES.get(opcode)
    if row is None:
        # memcached loses its place in the stream here when there is a body; we skip it.
        return Status.UNKNOWN_COMMAND, False, f"opcode 0x{opcode:02x} is unknown"
    shape = row.request
    if extras_length not in shape.extras:
        return Status.INVALID_ARGUMENTS, True, f"extras of {extras_length} bytes"
    if (key_length and shape.key is Key.NONE) or (not key_length and shape.key is Key.REQUIRED):
        return Status.INVALID_ARGUMENTS, True, f"a key of {key_length} bytes"
    if shape.value is not None and value_length != shape.value:
        return Status.INVALID_ARGUMENTS, True, f"a value of {value_length} bytes"
    if body > max_body:
        return Status.VALUE_TOO_LARGE, False, f"a body of {body} bytes"
    return None


class RequestReader(_FrameReader[Request | Refusal]):
    """
    Cut what a client sends into requests, and refuse by their header those that memcached refuses.

    A refusal that closes is the last thing of the stream; the body of one that does not is skipped.
    """

    __slots__ = ("_closed", "_skip")

    _magic = REQUEST_MAGIC
    _kind = "a request"

    def __init__(self, max_body: int) -> None:
        """
        Args:
            max_body: the largest body that is taken; above it the answer is VALUE_TOO_LARGE.
        """
        super().__init__(max_body)
        self._skip = 0
        self._closed = False

    @property
    def inside_frame(self) -> bool:
        """Whether the stream, if it ended now, would end in the middle of a frame."""
        return self._skip > 0 or super().inside_frame

    def feed(self, data: bytes) -> list[Request | Refusal]:
        """
        Take the next piece of the stream.

        Returns:
            The requests and refusals that it completes, in wire order; nothing behind a refusal
            that closes.  Another magic than 0x80 sets `error`.
        """
        if self._skip:
            skipped = min(self._skip, len(data))
            self._skip -= skipped
            data = data[skipped:]
        return [] if self._closed else super().feed(data)

    def _take(self, data: bytes, start: int, size: int, frames: list[Request | Refusal]) -> int:
        _, opcode, key_length, extras_length, _, vbucket, body, opaque, cas = HEADER.unpack_from(
            data, start
        )
        extras_start = start + HEADER_SIZE
        end: int = extras_start + body
        refused = refusal(opcode, key_length, extras_length, body, self.max_body)
        if refused is not None:
            status, closes, reason = refused
            request = Request(opcode, cas=cas, opaque=opaque, vbucket=vbucket)
            frames.append(Refusal(request, status, closes, reason))
            self._closed = closes
            self._skip = 0 if closes else max(0, end - size)
            return size if closes else min(end, size)
        if end <= size:
            key_start = extras_start + extras_length
            value_start = key_start + key_length
            frames.append(
                Request(
                    opcode,
                    data[key_start:value_start],
                    data[extras_start:key_start],
                    data[value_start:end],
                    cas,
                    opaque,
                    vbucket,
                )
            )
        return end
