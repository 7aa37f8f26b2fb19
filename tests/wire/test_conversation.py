"""What a local client says, cut and judged."""

from __future__ import annotations

from collections import deque

from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.wire.conversation import FIRST_PACE, Conversation, Place
from txtlsmc.wire.frames import HEADER_SIZE, Refusal, Request, RequestReader, refusal
from txtlsmc.wire.opcodes import MAX_KEY, OPCODES, Opcode, Status
from txtlsmc.wire.session import FLIGHT

STORE = bytes(8)


def get(key: bytes, opaque: int = 0, opcode: int = Opcode.GET) -> bytes:
    return Request(opcode, key, opaque=opaque).encode()


def store(key: bytes, value: bytes, opaque: int = 0) -> bytes:
    return Request(Opcode.SET, key, STORE, value, opaque=opaque).encode()


def frame(opcode: int, extras: int, key: int, value: int) -> bytes:
    return Request(opcode, b"k" * key, bytes(extras), b"v" * value, opaque=9).encode()


class ConversationTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.places: deque[Place[str]] = deque()

    def made(self, *, locked: bool = False, max_body: int = 1 << 20) -> Conversation[str]:
        return Conversation("a", max_body=max_body, window=64, locked=locked)

    def fed(self, *data: bytes, locked: bool = False, max_body: int = 1 << 20) -> Conversation[str]:
        conversation = self.made(locked=locked, max_body=max_body)
        for piece in data:
            conversation.feed(piece)
        return conversation

    def cut(self, conversation: Conversation[str], most: int = 1000) -> list[Request]:
        """Return all that the server would get."""
        reader, requests = RequestReader(1 << 30), []
        while data := conversation.cut(self.places, 100 + len(self.places), most):
            for request in reader.feed(bytes(data)):
                assert isinstance(request, Request), request
                requests.append(request)
        self.assertFalse(reader.inside_frame)
        return requests


class CutTests(ConversationTestCase):
    def test_numbers(self) -> None:
        """Requests go up under our numbers, and all else of them as it came."""
        stored = Request(Opcode.SET, b"k", b"flagsexp", b"value", 77, 5, 3)
        requests = self.cut(self.fed(stored.encode(), get(b"other", 5)))
        expected = Request(Opcode.SET, b"k", b"flagsexp", b"value", 77, 100, 3)
        self.assertEqual(requests, [expected, Request(Opcode.GET, b"other", opaque=101)])
        self.assertEqual([place[1] for place in self.places], [5, 5])

    def test_any_cut(self) -> None:
        """What goes up does not depend on where the network cuts."""
        stream = store(b"k", b"v" * 30, 1) + get(b"k", 2) + get(b"l", 3, Opcode.GETKQ)
        for at in range(len(stream) + 1):
            self.places.clear()
            conversation = self.fed(stream[:at])
            requests = self.cut(conversation)
            conversation.feed(stream[at:])
            requests += self.cut(conversation)
            self.assertEqual([request.key for request in requests], [b"k", b"k", b"l"], at)
            self.assertFalse(conversation.inside_request)

    def test_half(self) -> None:
        """Half a request stays here."""
        conversation = self.fed(store(b"k", b"v" * 100)[:-1])
        self.assertEqual(self.cut(conversation), [])
        self.assertTrue(conversation.inside_request)
        self.assertFalse(conversation.more)

    def test_most(self) -> None:
        """No more are given away than asked for, and it is known that there are more."""
        conversation = self.fed(get(b"k") * 5)
        conversation.cut(self.places, 0, 3)
        self.assertEqual(len(self.places), 3)
        self.assertTrue(conversation.more)
        self.assertFalse(conversation.inside_request)
        conversation.cut(self.places, 3, 3)
        self.assertFalse(conversation.more)

    def test_flight(self) -> None:
        """A piece is whole requests of one TLS record together, or a single larger one."""
        sizes = [5000, 5000, 5000, 5000, 40_000, 100]
        conversation = self.fed(b"".join(store(b"k", b"v" * size) for size in sizes))
        pieces = []
        while data := conversation.cut(self.places, 0, 100):
            pieces.append(len(data))
        overhead = HEADER_SIZE + 9
        self.assertEqual(pieces, [15_000 + 3 * overhead, 5000 + overhead, 40_000 + overhead, 133])
        self.assertTrue(all(size <= FLIGHT for size in pieces if size != 40_000 + overhead))

    def test_quiet_and_keyed(self) -> None:
        """It is noted which may stay unanswered, and whose answer repeats the key."""
        self.cut(
            self.fed(
                get(b"a", 0, Opcode.GETQ), get(b"b", 0, Opcode.GETKQ), get(b"c", 0, Opcode.GETK)
            )
        )
        self.assertEqual(
            [(place[3], place[5]) for place in self.places],
            [(True, b""), (True, b"b"), (False, b"c")],
        )

    def test_pace(self) -> None:
        """A large answer slows down, to what fits a bound."""
        conversation = self.made()
        self.assertEqual(conversation.pace, FIRST_PACE)
        conversation.pace = 64
        conversation.slow_down(100_000)
        self.assertEqual(conversation.pace, 20)
        conversation.slow_down(10_000)
        self.assertEqual(conversation.pace, 20)
        conversation.slow_down(1 << 30)
        self.assertEqual(conversation.pace, 1)


class HereTests(ConversationTestCase):
    def test_every_shape(self) -> None:
        """Of all lengths just the legal ones go up; the others are refused as memcached does."""
        legal = refused = 0
        for opcode in range(256):
            for extras in (0, 1, 4, 8, 12, 20, 21):
                for key in (0, 1, MAX_KEY, MAX_KEY + 1):
                    for value in (0, 1, 8):
                        given = (opcode, extras, key, value)
                        conversation = self.fed(frame(*given) + get(b"next"))
                        requests = self.cut(conversation)
                        judged = refusal(opcode, key, extras, extras + key + value, 1 << 20)
                        here = conversation.here
                        if judged is None and isinstance(here, Request):
                            self.assertIn(
                                opcode,
                                (Opcode.QUIT, Opcode.QUITQ, *range(0x20, 0x23)),
                                given,
                            )
                            self.assertEqual((here.opcode, here.key), (opcode, b"k" * key))
                            self.assertEqual((here.value, here.opaque), (b"v" * value, 9))
                        elif judged is None:
                            legal += 1
                            self.assertIsNone(here, given)
                            self.assertEqual(len(requests), 2, given)
                            self.assertEqual(requests[0].opcode, opcode)
                        else:
                            refused += 1
                            self.assertEqual(requests, [], given)
                            assert isinstance(here, Refusal), given
                            self.assertEqual((here.status, here.closes), judged[:2], given)
                            self.assertEqual(here.request.opaque, 9)
                            self.assertEqual(conversation.ended, here.closes)
        self.assertGreater(legal, 50)
        self.assertGreater(refused, 10_000)

    def test_order(self) -> None:
        """Nothing behind a request that is answered here goes up before that is done."""
        conversation = self.fed(get(b"a"), frame(Opcode.SASL_LIST, 0, 0, 0), get(b"b"))
        self.assertEqual([request.key for request in self.cut(conversation)], [b"a"])
        self.assertTrue(conversation.more)
        self.assertEqual(self.cut(conversation), [])
        conversation.here = None
        self.assertEqual([request.key for request in self.cut(conversation)], [b"b"])

    def test_garbage(self) -> None:
        """Another magic ends it, as soon as its first byte is there, behind what was asked."""
        for garbage in (b"\x81", b"GET / HTTP/1.1\r\n\r\n" * 3, b"\x16"):
            conversation = self.fed(get(b"a") + garbage)
            self.assertEqual([request.key for request in self.cut(conversation)], [b"a"])
            self.assertTrue(conversation.ended)
            self.assertIsNone(conversation.here)
            self.assertEqual(conversation.buffered, 0)
            conversation.feed(get(b"b"))
            self.assertEqual(self.cut(conversation), [])

    def test_closing_refusal_is_last(self) -> None:
        """Behind a refusal that closes nothing is read."""
        conversation = self.fed(frame(Opcode.NOOP, 0, 1, 0) + get(b"b"))
        self.cut(conversation)
        conversation.here = None
        self.assertEqual(self.cut(conversation), [])
        self.assertEqual(conversation.buffered, 0)

    def test_too_large(self) -> None:
        """A value over the limit is refused by its header, and skipped as it comes."""
        stream = store(b"k", b"v" * 5000, 4)
        conversation = self.made(max_body=1000)
        kept = 0
        for at in range(0, len(stream), 100):
            conversation.feed(stream[at : at + 100])
            self.cut(conversation)
            kept = max(kept, conversation.buffered)
        self.assertLess(kept, 200)
        here = conversation.here
        assert isinstance(here, Refusal)
        self.assertEqual((here.status, here.closes), (Status.VALUE_TOO_LARGE, False))
        conversation.here = None
        conversation.feed(get(b"next"))
        self.assertEqual([request.key for request in self.cut(conversation)], [b"next"])

    def test_unknown_opcode_is_skipped(self) -> None:
        """An unknown request is refused, and those behind it are found."""
        conversation = self.fed(frame(0x77, 0, 5, 30) + get(b"next"))
        self.cut(conversation)
        conversation.here = None
        self.assertEqual([request.key for request in self.cut(conversation)], [b"next"])

    def test_locked(self) -> None:
        """Who has not proven who it is gets SASL and the version, and is refused all else."""
        for opcode, row in OPCODES.items():
            extras, value = row.request.extras[0], row.request.value or 0
            shape = frame(opcode, extras, 1 if row.request.key.value == "required" else 0, value)
            conversation = self.fed(shape, locked=True)
            requests = self.cut(conversation)
            if opcode == Opcode.VERSION:
                self.assertEqual(len(requests), 1)
                continue
            self.assertEqual(requests, [])
            if opcode in (Opcode.SASL_LIST, Opcode.SASL_AUTH, Opcode.SASL_STEP):
                self.assertIsInstance(conversation.here, Request)
            else:
                here = conversation.here
                assert isinstance(here, Refusal), opcode
                self.assertEqual((here.status, here.closes), (Status.AUTHENTICATION_ERROR, True))

    def test_sasl_comes_whole(self) -> None:
        """The words of SASL are collected before they are looked at."""
        auth = Request(Opcode.SASL_AUTH, b"PLAIN", b"", b"\0alice\0secret").encode()
        conversation = self.fed(auth[:-1])
        self.cut(conversation)
        self.assertIsNone(conversation.here)
        conversation.feed(auth[-1:])
        self.cut(conversation)
        assert isinstance(conversation.here, Request)
        self.assertEqual(conversation.here.value, b"\0alice\0secret")
