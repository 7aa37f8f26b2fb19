"""Tests of `txtlsmc.wire.frames`."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, cycle, pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import RemoteProtocolError
from txtlsmc.wire.frames import (
    HEADER,
    HEADER_SIZE,
    Refusal,
    Request,
    RequestReader,
    Response,
    ResponseReader,
)
from txtlsmc.wire.opcodes import MAX_KEY, OPCODES, Key, Opcode, Status

Reader = RequestReader | ResponseReader

HIT = Response(Opcode.GETK, 0, 7, 9, b"\0\0\0\x10", b"Hello", b"World")
MISS = Response(Opcode.GET, Status.KEY_NOT_FOUND, 8, value=b"Not found")
DONE = Response(Opcode.NOOP, opaque=0xFFFFFFFF)
ANSWERS = b"".join(frame.encode() for frame in (HIT, DONE, MISS))

SET = Request(Opcode.SET, b"Hello", b"\xde\xad\xbe\xef\0\0\x0e\x10", b"World", cas=3, opaque=1)
NOOP = Request(Opcode.NOOP, opaque=0xFFFFFFFF)
UNKNOWN = Request(0x1B, b"key", b"abcd", b"value", opaque=5)

quickly = settings(deadline=None, database=None, max_examples=150)


def cut(stream: bytes, *places: int) -> list[bytes]:
    """Return the pieces of *stream* between *places*."""
    return [stream[start:end] for start, end in pairwise((0, *sorted(places), len(stream)))]


def pieces(stream: bytes, size: int) -> Iterator[bytes]:
    """Iterate over *stream* in pieces of *size*."""
    return (stream[start : start + size] for start in range(0, len(stream), size))


@dataclass
class Outcome:
    """What a reader made of a stream: its frames, and the field that was wrong."""

    frames: list[Any]
    field: str | None
    inside: bool


def read(reader: Reader, *parts: bytes) -> Outcome:
    """Feed *parts* to *reader*, until there is an error."""
    frames: list[Any] = []
    for part in parts:
        frames += reader.feed(part)
        if reader.error is not None:
            return Outcome(frames, reader.error.field, reader.inside_frame)
    return Outcome(frames, None, reader.inside_frame)


def header(
    magic: int = 0x81,
    opcode: int = 0,
    key: int = 0,
    extras: int = 0,
    data_type: int = 0,
    status: int = 0,
    body: int = 0,
) -> bytes:
    """Return a header whose fields say what they are told to."""
    return HEADER.pack(magic, opcode, key, extras, data_type, status, body, 0xDEADBEEF, 1)


small = st.binary(max_size=12)
opcodes = st.one_of(st.sampled_from([*OPCODES]), st.integers(0, 255))
responses = st.builds(
    Response,
    opcode=opcodes,
    status=st.integers(0, 0xFFFF),
    opaque=st.integers(0, 0xFFFFFFFF),
    cas=st.integers(0, 2**64 - 1),
    extras=small,
    key=small,
    value=st.binary(max_size=200),
)


@st.composite
def legal_requests(draw: st.DrawFn) -> Request:
    """Draw a request of a legal shape."""
    shape = OPCODES[draw(st.sampled_from([*OPCODES]))]
    extras = draw(st.sampled_from(shape.request.extras))
    least = 1 if shape.request.key is Key.REQUIRED else 0
    most = 0 if shape.request.key is Key.NONE else 9
    value = shape.request.value
    return Request(
        shape.opcode,
        draw(st.binary(min_size=least, max_size=most)),
        draw(st.binary(min_size=extras, max_size=extras)),
        draw(st.binary(max_size=80)) if value is None else bytes(value),
        draw(st.integers(0, 2**64 - 1)),
        draw(st.integers(0, 0xFFFFFFFF)),
        draw(st.integers(0, 0xFFFF)),
    )


any_requests = st.builds(
    Request, opcode=opcodes, key=small, extras=st.one_of(small, st.just(bytes(20))), value=small
)


@st.composite
def cuts(draw: st.DrawFn, stream: bytes) -> list[bytes]:
    """Draw a way to cut *stream*."""
    return cut(stream, *draw(st.lists(st.integers(0, len(stream)), max_size=30)))


class FrameTests(SynchronousTestCase):
    def test_request_bytes(self) -> None:
        """A request is laid out as the specification has it."""
        self.assertEqual(
            SET.encode(),
            b"\x80\x01\x00\x05\x08\x00\x00\x00\x00\x00\x00\x12\x00\x00\x00\x01"
            b"\x00\x00\x00\x00\x00\x00\x00\x03\xde\xad\xbe\xef\x00\x00\x0e\x10HelloWorld",
        )
        self.assertEqual(
            Request(Opcode.GETQ, b"k", vbucket=0x0203, opaque=0x04050607).encode(),
            b"\x80\x09\x00\x01\x00\x00\x02\x03\x00\x00\x00\x01\x04\x05\x06\x07" + bytes(8) + b"k",
        )

    def test_response_bytes(self) -> None:
        """A response is laid out as the specification has it."""
        self.assertEqual(
            HIT.encode(),
            b"\x81\x0c\x00\x05\x04\x00\x00\x00\x00\x00\x00\x0e\x00\x00\x00\x07"
            b"\x00\x00\x00\x00\x00\x00\x00\x09\x00\x00\x00\x10HelloWorld",
        )
        self.assertEqual(
            MISS.encode(),
            b"\x81\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x09\x00\x00\x00\x08"
            + bytes(8)
            + b"Not found",
        )

    def test_defaults(self) -> None:
        """What is not said of a frame is zero or empty."""
        self.assertEqual(Request(0x0A).encode(), b"\x80\x0a" + bytes(22))
        self.assertEqual(Response(0x0A).encode(), b"\x81\x0a" + bytes(22))

    def test_repr(self) -> None:
        """A frame shows its numbers, and neither its key nor its value: they may be secret."""
        secret = Request(Opcode.SASL_AUTH, b"PLAIN", value=b"\0alice\0secret", opaque=3, vbucket=2)
        self.assertEqual(
            repr(secret), "<Request SASL_AUTH opaque=3 cas=0 extras=0 key=5 value=13 vbucket=2>"
        )
        self.assertEqual(
            repr(HIT), "<Response GETK opaque=7 cas=9 extras=4 key=5 value=5 status=0x00>"
        )
        self.assertIn("0x1b", repr(UNKNOWN))
        for text in (repr(Refusal(secret, 4, True, "why")), repr([secret]), f"{secret}"):
            self.assertNotIn("PLAIN", text)
            self.assertNotIn("alice", text)


class ResponseReaderTests(SynchronousTestCase):
    def test_every_cut(self) -> None:
        """Frames do not depend on where the network cuts the stream."""
        for places in combinations(range(len(ANSWERS) + 1), 2):
            outcome = read(ResponseReader(64), *cut(ANSWERS, *places))
            self.assertEqual(outcome, Outcome([HIT, DONE, MISS], None, False))

    def test_one_byte_at_a_time(self) -> None:
        """A frame is there with its last byte, and not before."""
        reader = ResponseReader(64)
        ends = {38: [HIT], 62: [DONE], 95: [MISS]}
        for place, byte in enumerate(pieces(ANSWERS, 1), 1):
            self.assertEqual(reader.feed(byte), ends.get(place, []))
            self.assertEqual(reader.inside_frame, place not in ends)
        self.assertEqual(len(ANSWERS), 95)

    def test_nothing(self) -> None:
        """Nothing changes nothing."""
        reader = ResponseReader(64)
        self.assertEqual(read(reader, b"", ANSWERS[:30], b"", b""), Outcome([], None, True))
        self.assertEqual(read(reader, ANSWERS[30:]).frames, [HIT, DONE, MISS])

    @quickly
    @given(st.data())
    def test_any_stream(self, data: st.DataObject) -> None:
        """What one side encodes the other reads, however it is cut."""
        sent = data.draw(st.lists(responses, max_size=8))
        parts = data.draw(cuts(b"".join(frame.encode() for frame in sent)))
        self.assertEqual(read(ResponseReader(1000), *parts), Outcome(sent, None, False))

    @settings(quickly, max_examples=50)
    @given(st.lists(st.integers(1, 400), min_size=1, max_size=20))
    def test_long_stream(self, sizes: list[int]) -> None:
        """A long pipeline of answers comes out whole, whatever the sizes of its pieces."""
        sent = [Response(Opcode.GETK, opaque=i, key=b"%d" % i, value=bytes(i)) for i in range(300)]
        stream = b"".join(frame.encode() for frame in sent)
        parts, start, size = [], 0, cycle(sizes)
        while start < len(stream):
            parts.append(stream[start : start + next(size)])
            start += len(parts[-1])
        self.assertEqual(read(ResponseReader(1000), *parts), Outcome(sent, None, False))

    def assert_violation(self, stream: bytes, field: str, max_body: int = 64) -> None:
        """Assert that *field* is wrong at every cut, and that the frames before are good."""
        for good in ([], [HIT, MISS]):
            whole = b"".join(frame.encode() for frame in good) + stream
            for place in range(len(whole) + 1):
                reader = ResponseReader(max_body)
                outcome = read(reader, *cut(whole, place))
                self.assertEqual(outcome, Outcome(good, field, False))
                again = self.assertRaises(RemoteProtocolError, reader.feed, DONE.encode())
                self.assertEqual(again.field, field)

    def test_magic(self) -> None:
        """What does not start like an answer is found at its first byte, whatever follows."""
        for magic in range(256):
            if magic != 0x81:
                self.assert_violation(bytes([magic]), "magic")
        self.assert_violation(SET.encode(), "magic")
        self.assert_violation(b"ERROR\r\n", "magic")
        reader = ResponseReader(64)
        reader.feed(b"\x48")
        self.assertIn("starts with 0x48 instead of 0x81", str(reader.error))

    def test_data_type(self) -> None:
        """The data type is 0."""
        for data_type in (1, 0x80, 0xFF):
            self.assert_violation(header(data_type=data_type), "data type")

    def test_lying_lengths(self) -> None:
        """Extras and key fit into the body, or nothing of it is believed."""
        for key, extras, body in (
            (1, 0, 0),
            (0, 1, 0),
            (5, 4, 8),
            (0xFFFF, 0, 64),
            (0xFFFF, 0xFF, 0),
            (0, 0xFF, 64),
            (64, 1, 64),
        ):
            self.assert_violation(header(key=key, extras=extras, body=body), "body length")
        for key, extras in ((60, 4), (64, 0), (0, 64), (1, 63), (0, 0)):
            whole = header(key=key, extras=extras, body=64) + bytes(64)
            self.assertEqual(len(read(ResponseReader(64), whole).frames), 1)

    def test_body_limit(self) -> None:
        """A body of the limit is taken; one byte more is refused when the header is there."""
        for limit in (1, 9, 64, 2**20):
            whole = Response(0, value=bytes(limit)).encode()
            self.assertEqual(len(read(ResponseReader(limit), whole).frames), 1)
            outcome = read(ResponseReader(limit), header(body=limit + 1))
            self.assertEqual(outcome, Outcome([], "body length", False))
        self.assert_violation(header(body=65), "body length")
        self.assert_violation(header(body=0xFFFFFFFF), "body length", 32 * 2**20)
        reader = ResponseReader(64)
        reader.feed(header(body=0xFFFFFFFF))
        self.assertIn("a body of 4294967295 bytes is over max_body, 64", str(reader.error))

    def test_memory_announced(self) -> None:
        """Memory is taken for what came, not for what was announced."""
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(10):
            reader = ResponseReader(2**32)
            self.assertEqual(read(reader, header(body=0xFFFFFFFF) + b"x"), Outcome([], None, True))
        _, peak = tracemalloc.get_traced_memory()
        self.assertLess(peak - before, 100_000)

    def test_memory_of_tiny_pieces(self) -> None:
        """A stream in tiny pieces takes no more memory than what came, a few times."""
        frame = Response(0, value=bytes(2**17)).encode()
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        reader = ResponseReader(2**20)
        before, _ = tracemalloc.get_traced_memory()
        frames = []
        for piece in pieces(frame, 2):
            frames += reader.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
        self.assertEqual(len(frames), 1)
        self.assertLess(peak - before, 4 * len(frame))

    def test_linear(self) -> None:
        """A large value is looked at a few times only, however small its pieces are."""
        looked_at: list[int] = []

        class Watched(ResponseReader):
            def _take(self, data: bytes, start: int, size: int, frames: list[Response]) -> int:
                looked_at.append(len(data))
                return super()._take(data, start, size, frames)

        frame = Response(0, extras=bytes(4), value=bytes(2**20)).encode()
        for size in (7, 100, 2**10, 2**16 - 1, 2**20):
            looked_at.clear()
            outcome = read(Watched(2**21), *pieces(frame * 2, size))
            self.assertEqual(len(outcome.frames), 2)
            self.assertLessEqual(len(looked_at), 4)
            self.assertLess(sum(looked_at), 4 * len(frame * 2))


class RequestReaderTests(SynchronousTestCase):
    def test_every_cut(self) -> None:
        """Requests, and what is refused among them, do not depend on the cut."""
        stream = SET.encode() + UNKNOWN.encode() + NOOP.encode()
        for places in combinations(range(len(stream) + 1), 2):
            first, refusal, last = read(RequestReader(64), *cut(stream, *places)).frames
            self.assertEqual((first, last), (SET, NOOP))
            self.assertEqual((refusal.status, refusal.closes), (Status.UNKNOWN_COMMAND, False))
            self.assertEqual(refusal.request, Request(0x1B, opaque=5))

    @quickly
    @given(st.data())
    def test_legal_streams(self, data: st.DataObject) -> None:
        """Every request of a legal shape is read as it was sent, however it is cut."""
        sent = data.draw(st.lists(legal_requests(), max_size=8))
        parts = data.draw(cuts(b"".join(frame.encode() for frame in sent)))
        self.assertEqual(read(RequestReader(1000), *parts), Outcome(sent, None, False))

    @quickly
    @given(st.data())
    def test_any_stream(self, data: st.DataObject) -> None:
        """Any mixture of requests means the same at every cut."""
        sent = data.draw(st.lists(st.one_of(legal_requests(), any_requests), max_size=8))
        stream = b"".join(frame.encode() for frame in sent) + data.draw(small)
        whole = read(RequestReader(40), stream)
        self.assertEqual(read(RequestReader(40), *data.draw(cuts(stream))), whole)
        closing = [isinstance(frame, Refusal) and frame.closes for frame in whole.frames]
        self.assertNotIn(True, closing[:-1])

    def test_every_shape(self) -> None:
        """Of every opcode the legal shapes pass, and every other is answered with 4 and a close."""
        for opcode, row in OPCODES.items():
            for extras in range(22):
                for key in (0, 1, MAX_KEY, MAX_KEY + 1, 0xFFFF):
                    for value in (0, 1, 8, 5000):
                        legal = (
                            extras in row.request.extras
                            and key <= MAX_KEY
                            and (row.request.key is not Key.NONE or not key)
                            and (row.request.key is not Key.REQUIRED or bool(key))
                            and row.request.value in (None, value)
                        )
                        self.assert_shape(opcode, extras, key, value, legal)

    def assert_shape(self, opcode: int, extras: int, key: int, value: int, legal: bool) -> None:
        request = Request(opcode, b"k" * key, bytes(extras), bytes(value), opaque=1, cas=2)
        (frame,) = read(RequestReader(2**20), request.encode() + NOOP.encode()).frames[:1]
        what = f"{opcode:#x}: {extras}, {key}, {value}"
        if legal:
            self.assertEqual(frame, request, what)
            return
        assert isinstance(frame, Refusal), what
        self.assertEqual((frame.status, frame.closes), (Status.INVALID_ARGUMENTS, True), what)
        self.assertEqual(frame.request, Request(opcode, opaque=1, cas=2), what)
        self.assertTrue(frame.reason)

    def test_lying_lengths(self) -> None:
        """Extras and key that do not fit into the body are answered with 0x81 and a close."""
        for opcode in (*OPCODES, 0x1B, 0xFF):
            for key, extras, body in ((1, 0, 0), (0, 1, 0), (0xFFFF, 0xFF, 300), (251, 0, 250)):
                lying = header(0x80, opcode, key, extras, body=body)
                (refusal,) = read(RequestReader(64), lying, SET.encode()).frames
                self.assertEqual(refusal.status, Status.UNKNOWN_COMMAND)
                self.assertTrue(refusal.closes)

    def test_unknown_opcodes(self) -> None:
        """An unknown opcode is answered with 0x81; its body is skipped, and the stream goes on."""
        for opcode in {*range(256)} - {*OPCODES}:
            unknown = Request(opcode, b"key", b"extras", b"value", 2, 1, 3)
            refusal, following = read(RequestReader(64), unknown.encode() + NOOP.encode()).frames
            self.assertEqual((refusal.status, refusal.closes), (Status.UNKNOWN_COMMAND, False))
            self.assertEqual(refusal.request, Request(opcode, b"", b"", b"", 2, 1, 3))
            self.assertEqual(following, NOOP)

    def test_too_large(self) -> None:
        """A value over the limit is refused by its header and skipped, and the stream goes on."""
        fits = Request(Opcode.SET, b"k", bytes(8), bytes(55))
        self.assertEqual(read(RequestReader(64), fits.encode()).frames, [fits])
        large = Request(Opcode.SET, b"k", bytes(8), b"\x80" * 56, opaque=6)
        stream = large.encode() + NOOP.encode()
        for place in range(HEADER_SIZE, len(stream) + 1):
            reader = RequestReader(64)
            first = reader.feed(stream[:place])
            assert isinstance(first[0], Refusal)
            self.assertEqual((first[0].status, first[0].closes), (Status.VALUE_TOO_LARGE, False))
            self.assertEqual(first[0].request, Request(Opcode.SET, opaque=6))
            self.assertEqual(reader.inside_frame, place not in (len(large.encode()), len(stream)))
            self.assertEqual((first + reader.feed(stream[place:]))[1:], [NOOP])
            self.assertFalse(reader.inside_frame)

    def test_skipping_takes_no_memory(self) -> None:
        """A body of 4 GiB is skipped without being kept, and ends where it was announced to."""
        announced = header(0x80, Opcode.SET, 1, 8, body=0xFFFFFFFF)
        reader = RequestReader(64)
        (refusal,) = reader.feed(announced)
        assert isinstance(refusal, Refusal)
        self.assertEqual(refusal.status, Status.VALUE_TOO_LARGE)
        piece = bytes(2**16)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(2**16 - 1):
            reader.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
        self.assertLess(peak - before, 2**18)
        self.assertTrue(reader.inside_frame)
        self.assertEqual(reader.feed(piece[1:] + NOOP.encode()), [NOOP])

    def test_nothing_behind_a_close(self) -> None:
        """What comes behind a request that closes the connection is not read."""
        bad = Request(Opcode.NOOP, b"key").encode()
        for behind in (NOOP.encode(), b"GET / HTTP/1.1\r\n", bad):
            for place in range(len(bad), len(bad + behind) + 1):
                reader = RequestReader(64)
                outcome = read(reader, *cut(bad + behind, place))
                self.assertEqual(len(outcome.frames), 1)
                self.assertEqual((outcome.field, outcome.inside), (None, False))
                self.assertEqual(reader.feed(NOOP.encode()), [])

    def test_magic(self) -> None:
        """What does not start like a request is found at its first byte; those before are good."""
        for magic in range(256):
            if magic != 0x80:
                reader = RequestReader(64)
                outcome = read(reader, SET.encode() + UNKNOWN.encode() + bytes([magic]))
                self.assertEqual(outcome.frames[0], SET)
                self.assertEqual((len(outcome.frames), outcome.field), (2, "magic"))
                self.assertRaises(RemoteProtocolError, reader.feed, b"")
        reader = RequestReader(64)
        reader.feed(b"get")
        self.assertIn("a request starts with 0x67 instead of 0x80", str(reader.error))

    def test_unread_fields(self) -> None:
        """Data type and vbucket of a request mean nothing to memcached, nor to us."""
        (request,) = RequestReader(64).feed(header(0x80, Opcode.NOOP, data_type=7, status=3))
        self.assertEqual(request, Request(Opcode.NOOP, b"", b"", b"", 1, 0xDEADBEEF, 3))
