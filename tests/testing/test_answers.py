"""The embedded server answers every opcode as memcached 1.6.18 does, and hangs up when it does."""

from __future__ import annotations

import struct

from tests.testing.asking import Asking, MemoryServerTestCase, short
from txtlsmc.wire.frames import HEADER, HEADER_SIZE, Request, Response
from txtlsmc.wire.opcodes import OPCODES, QUIET_TWIN, Key, Opcode, Quiet, Status

STORE = struct.pack(">II", 0xDEADBEEF, 0)  # flags, exptime
NO_EXPTIME = struct.pack(">I", 0)
FLAGS = struct.pack(">I", 0xDEADBEEF)
DO_NOT_CREATE = 0xFFFFFFFF


def counting(delta: int, initial: int = 0, exptime: int = 0) -> bytes:
    return struct.pack(">QQI", delta, initial, exptime)


def number(value: int) -> bytes:
    return struct.pack(">Q", value)


def shaped(opcode: int, opaque: int = 0) -> Request:
    """Return a request of a legal shape."""
    shape = OPCODES[opcode].request
    key = b"" if shape.key is Key.NONE else b"key"
    extras = bytes(shape.extras[-1])
    return Request(opcode, key, extras, b"" if shape.value == 0 else b"value", opaque=opaque)


def header(opcode: int, key: int, extras: int, body: int) -> bytes:
    """Return a header of which only the lengths matter."""
    return HEADER.pack(0x80, opcode, key, extras, 0, 0, body, 0x0BADCAFE, 99)


class AnswersTestCase(MemoryServerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.server = self.make_server()
        self.client = self.connect(self.server)

    def one(self, request: Request) -> Response:
        """Return the one answer to *request*."""
        (response,) = self.ask(self.client, request)
        return response

    def set(self, key: bytes = b"key", value: bytes = b"value", opcode: int = Opcode.SET) -> int:
        """Store something, and return its version."""
        return self.one(Request(opcode, key, STORE, value)).cas


class ReadingTests(AnswersTestCase):
    def test_hit(self) -> None:
        """A get answers with flags, value and version, and echoes the opaque."""
        cas = self.set()
        for opcode, extras, key in (
            (Opcode.GET, b"", b""),
            (Opcode.GETQ, b"", b""),
            (Opcode.GETK, b"", b"key"),
            (Opcode.GETKQ, b"", b"key"),
            (Opcode.GAT, NO_EXPTIME, b""),
            (Opcode.GATQ, NO_EXPTIME, b""),
            (Opcode.GATK, NO_EXPTIME, b"key"),
            (Opcode.GATKQ, NO_EXPTIME, b"key"),
        ):
            self.assertEqual(
                self.one(Request(opcode, b"key", extras, opaque=0xFFFFFFFF)),
                Response(opcode, 0, 0xFFFFFFFF, cas, FLAGS, key, b"value"),
            )

    def test_miss(self) -> None:
        """A miss says so; the opcodes that answer with the key answer with it alone."""
        for opcode, extras, key, text in (
            (Opcode.GET, b"", b"", b"Not found"),
            (Opcode.GETK, b"", b"key", b""),
            (Opcode.GAT, NO_EXPTIME, b"", b"Not found"),
            (Opcode.GATK, NO_EXPTIME, b"key", b""),
            (Opcode.TOUCH, NO_EXPTIME, b"", b"Not found"),
        ):
            self.assertEqual(
                self.one(Request(opcode, b"key", extras, opaque=5)),
                Response(opcode, Status.KEY_NOT_FOUND, 5, key=key, value=text),
            )

    def test_quiet_miss(self) -> None:
        """The quiet gets are silent on a miss."""
        requests = [
            Request(opcode, b"key", extras)
            for opcode, extras in (
                (Opcode.GETQ, b""),
                (Opcode.GETKQ, b""),
                (Opcode.GATQ, NO_EXPTIME),
                (Opcode.GATKQ, NO_EXPTIME),
            )
        ]
        self.assertEqual(self.ask(self.client, *requests), [])
        self.assert_open(self.client)

    def test_touch(self) -> None:
        """Touch answers with flags and version, and without the value."""
        cas = self.set()
        self.assertEqual(
            self.one(Request(Opcode.TOUCH, b"key", struct.pack(">I", 10))),
            Response(Opcode.TOUCH, 0, 0, cas, FLAGS),
        )
        self.clock.advance(10)
        self.assertEqual(self.one(Request(Opcode.GET, b"key")).status, Status.KEY_NOT_FOUND)

    def test_gat(self) -> None:
        """Get-and-touch gives a new time to live."""
        self.set()
        self.one(Request(Opcode.GAT, b"key", struct.pack(">I", 10)))
        self.clock.advance(10)
        self.assertEqual(self.one(Request(Opcode.GET, b"key")).status, Status.KEY_NOT_FOUND)

    def test_any_key(self) -> None:
        """Keys of up to 250 bytes of any kind are keys."""
        for key in (b"\0", b" \r\n", b"k" * 250, bytes(range(250))):
            self.set(key)
            self.assertEqual(self.one(Request(Opcode.GET, key)).value, b"value")


class WritingTests(AnswersTestCase):
    def test_stored(self) -> None:
        """What was stored is answered with its version, and nothing else."""
        for opcode in (Opcode.SET, Opcode.REPLACE):
            cas = self.set(opcode=opcode)
            self.assertNotEqual(cas, 0)
            self.assertEqual(
                self.one(Request(Opcode.SET, b"key", STORE, b"v", cas=cas, opaque=9)),
                Response(Opcode.SET, 0, 9, cas + 1),
            )
        self.assertNotEqual(self.set(b"new", opcode=Opcode.ADD), 0)
        for opcode in (Opcode.APPEND, Opcode.PREPEND):
            response = self.one(Request(opcode, b"key", value=b"x"))
            self.assertEqual((response.status, response.value), (0, b""))
        self.assertEqual(self.one(Request(Opcode.GET, b"key")).value, b"xvx")
        self.assertEqual(self.one(Request(Opcode.DELETE, b"key")), Response(Opcode.DELETE))

    def test_not_stored(self) -> None:
        """What was not stored is answered with memcached's own words, quiet or not."""
        cas = self.set(b"there")
        exists, missing = b"Data exists for key.", b"Not found"
        for opcode, key, extras, version, status, text in (
            (Opcode.ADD, b"there", STORE, 0, Status.KEY_EXISTS, exists),
            (Opcode.REPLACE, b"none", STORE, 0, Status.KEY_NOT_FOUND, missing),
            (Opcode.SET, b"there", STORE, cas + 1, Status.KEY_EXISTS, exists),
            (Opcode.SET, b"none", STORE, cas, Status.KEY_NOT_FOUND, missing),
            (Opcode.APPEND, b"none", b"", 0, Status.NOT_STORED, b"Not stored."),
            (Opcode.PREPEND, b"none", b"", 0, Status.NOT_STORED, b"Not stored."),
            (Opcode.APPEND, b"there", b"", cas + 1, Status.KEY_EXISTS, exists),
            (Opcode.SET, b"large", STORE, 0, Status.VALUE_TOO_LARGE, b"Too large."),
        ):
            value = bytes(2**20) if key == b"large" else b"x"
            for each in (opcode, QUIET_TWIN[opcode]):
                self.assertEqual(
                    self.one(Request(each, key, extras, value, cas=version, opaque=3)),
                    Response(each, status, 3, value=text),
                )
        for each in (Opcode.DELETE, Opcode.DELETEQ):
            gone = self.one(Request(each, b"none"))
            self.assertEqual(gone, Response(each, Status.KEY_NOT_FOUND, value=missing))
            other = self.one(Request(each, b"there", cas=cas + 1))
            self.assertEqual(other, Response(each, Status.KEY_EXISTS, value=exists))
        self.assertEqual(self.one(Request(Opcode.GET, b"there")).value, b"value")

    def test_quiet(self) -> None:
        """The quiet writes are silent on success, and work."""
        self.set(b"a", b"1")
        asked = (
            Request(Opcode.SETQ, b"b", STORE, b"1"),
            Request(Opcode.ADDQ, b"c", STORE, b"1"),
            Request(Opcode.REPLACEQ, b"a", STORE, b"5"),
            Request(Opcode.APPENDQ, b"a", value=b"1"),
            Request(Opcode.PREPENDQ, b"a", value=b"1"),
            Request(Opcode.INCREMENTQ, b"a", counting(2)),
            Request(Opcode.DECREMENTQ, b"a", counting(1)),
            Request(Opcode.DELETEQ, b"b"),
        )
        self.assertEqual(self.ask(self.client, *asked), [])
        self.assertEqual(self.one(Request(Opcode.GET, b"a")).value, b"152")
        self.assertEqual(self.one(Request(Opcode.GET, b"b")).status, Status.KEY_NOT_FOUND)
        self.assertEqual(self.one(Request(Opcode.GET, b"c")).value, b"1")

    def test_refused_set(self) -> None:
        """A set that is too large removes the old value; what is longer than max_body does not."""
        for length, status in ((2**20, Status.KEY_NOT_FOUND), (5 * 2**20, Status.OK)):
            self.set()
            refused = self.one(Request(Opcode.SET, b"key", STORE, bytes(length)))
            self.assertEqual(refused.status, Status.VALUE_TOO_LARGE)
            self.assertEqual(self.one(Request(Opcode.GET, b"key")).status, status)

    def test_counting(self) -> None:
        """A counter answers with 64 bits and its version."""
        created = self.one(Request(Opcode.INCREMENT, b"n", counting(1, 10)))
        self.assertEqual(created, Response(Opcode.INCREMENT, cas=created.cas, value=number(10)))
        up = self.one(Request(Opcode.INCREMENT, b"n", counting(5)))
        self.assertEqual(up, Response(Opcode.INCREMENT, cas=created.cas + 1, value=number(15)))
        down = self.one(Request(Opcode.DECREMENT, b"n", counting(99)))
        self.assertEqual(down, Response(Opcode.DECREMENT, cas=created.cas + 2, value=number(0)))
        self.assertEqual(self.one(Request(Opcode.GET, b"n")).value, b"0 ")

    def test_not_counted(self) -> None:
        """What can not be counted is answered with an error, quiet or not."""
        cas = self.set(b"text")
        for opcode in (
            Opcode.INCREMENT,
            Opcode.DECREMENT,
            Opcode.INCREMENTQ,
            Opcode.DECREMENTQ,
        ):
            missing = self.one(Request(opcode, b"none", counting(1, 5, DO_NOT_CREATE)))
            self.assertEqual(missing.status, Status.KEY_NOT_FOUND)
            text = self.one(Request(opcode, b"text", counting(1)))
            self.assertEqual(
                (text.status, text.value),
                (Status.NON_NUMERIC_VALUE, b"Non-numeric server-side value for incr or decr"),
            )
            other = self.one(Request(opcode, b"text", counting(1), cas=cas + 1))
            self.assertEqual(other.status, Status.KEY_EXISTS)


class ServerTests(AnswersTestCase):
    def test_version(self) -> None:
        """VERSION tells what the server imitates, or what it was told to say."""
        self.assertEqual(self.one(Request(Opcode.VERSION)).value, b"1.6.18")
        other = self.connect(self.make_server(version="9.9"))
        self.assertEqual(self.ask(other, Request(Opcode.VERSION))[0].value, b"9.9")

    def test_noop(self) -> None:
        """NOOP is answered after all that came before it."""
        asked = (Request(Opcode.GETQ, b"none"), Request(Opcode.GET, b"none"), shaped(Opcode.NOOP))
        opcodes = [response.opcode for response in self.ask(self.client, *asked)]
        self.assertEqual(opcodes, [Opcode.GET, Opcode.NOOP])

    def test_quit(self) -> None:
        """QUIT is answered and QUITQ is not; behind either nothing is done."""
        for opcode, answers in (
            (Opcode.QUIT, [Response(Opcode.QUIT, opaque=8)]),
            (Opcode.QUITQ, []),
        ):
            client = self.connect(self.server)
            late = Request(Opcode.SETQ, b"late", STORE, b"x")
            self.assertEqual(self.ask(client, Request(opcode, opaque=8), late), answers)
            self.assertIsNotNone(client.lost)
        self.assertEqual(self.one(Request(Opcode.GET, b"late")).status, Status.KEY_NOT_FOUND)

    def test_flush(self) -> None:
        """FLUSH forgets everything, at once or later, quietly or not."""
        for opcode, answers in ((Opcode.FLUSH, [Response(Opcode.FLUSH)]), (Opcode.FLUSHQ, [])):
            for extras, seconds in ((b"", 0), (NO_EXPTIME, 0), (struct.pack(">I", 10), 10)):
                self.set()
                self.assertEqual(self.ask(self.client, Request(opcode, extras=extras)), answers)
                if seconds:
                    self.clock.advance(seconds - 1)
                    self.assertEqual(self.one(Request(Opcode.GET, b"key")).status, 0)
                    self.clock.advance(1)
                self.assertNotEqual(self.one(Request(Opcode.GET, b"key")).status, 0)

    def test_flush_disabled(self) -> None:
        """Where FLUSH is not allowed it is refused as an authentication error, and that is all."""
        client = self.connect(self.make_server(flush_enabled=False))
        self.ask(client, Request(Opcode.SET, b"key", STORE, b"value"))
        for opcode in (Opcode.FLUSH, Opcode.FLUSHQ):
            (refused,) = self.ask(client, Request(opcode))
            self.assertEqual(
                refused, Response(opcode, Status.AUTHENTICATION_ERROR, value=b"Auth failure.")
            )
        self.assertEqual(self.ask(client, Request(Opcode.GET, b"key"))[0].value, b"value")

    def test_every_opcode(self) -> None:
        """There is no opcode in the table that the server does not know."""
        for opcode, row in OPCODES.items():
            if row.loud != Opcode.QUIT:
                responses = self.ask(self.client, shaped(opcode), shaped(Opcode.NOOP, 7))
                self.assertEqual(responses[-1], Response(Opcode.NOOP, opaque=7))
                sasl = opcode in (Opcode.SASL_LIST, Opcode.SASL_AUTH, Opcode.SASL_STEP)
                unknown = [r.status == Status.UNKNOWN_COMMAND for r in responses[:-1]]
                self.assertEqual(any(unknown), sasl, row)

    def test_no_sasl(self) -> None:
        """A server without users knows no SASL, and goes on."""
        for opcode in (Opcode.SASL_LIST, Opcode.SASL_AUTH, Opcode.SASL_STEP):
            self.assertEqual(
                short(self.ask(self.client, shaped(opcode))),
                [(opcode, Status.UNKNOWN_COMMAND, b"Unknown command")],
            )
        self.assert_open(self.client)


class StatTests(AnswersTestCase):
    def stat(self, argument: bytes = b"") -> dict[bytes, bytes]:
        responses = self.ask(self.client, Request(Opcode.STAT, argument, opaque=6))
        self.assertEqual(responses[-1], Response(Opcode.STAT, opaque=6))
        for response in responses[:-1]:
            self.assertEqual(
                (response.opcode, response.status, response.opaque), (Opcode.STAT, 0, 6)
            )
            self.assertNotEqual(response.key, b"")
        return {response.key: response.value for response in responses[:-1]}

    def test_general(self) -> None:
        """STAT tells what memcached tells, by the same names."""
        self.set()
        self.one(Request(Opcode.GET, b"key"))
        self.one(Request(Opcode.GET, b"none"))
        self.clock.advance(61.5)
        general = self.stat()
        for name, value in {
            "uptime": b"61",
            "time": b"1800000000",
            "version": b"1.6.18",
            "curr_connections": b"1",
            "total_connections": b"1",
            "cmd_get": b"2",
            "cmd_set": b"1",
            "get_hits": b"1",
            "get_misses": b"1",
            "limit_maxbytes": b"67108864",
            "bytes": b"71",
            "curr_items": b"1",
            "total_items": b"1",
            "evictions": b"0",
            "bytes_read": b"119",
        }.items():
            self.assertEqual(general[name.encode()], value, name)
        self.assertTrue(general[b"pid"].isdigit())
        self.assertIn(general[b"pointer_size"], (b"32", b"64"))

    def test_reset(self) -> None:
        """`stats reset` begins to count anew, and forgets no item."""
        self.set()
        self.assertEqual(self.stat(b"reset"), {})
        general = self.stat()
        self.assertEqual((general[b"cmd_set"], general[b"curr_items"]), (b"0", b"1"))

    def test_groups(self) -> None:
        """The other groups are there too, with what there is to tell."""
        self.assertEqual(self.stat(b"items"), {})
        self.assertEqual(self.stat(b"slabs"), {b"active_slabs": b"0", b"total_malloced": b"0"})
        self.set()
        self.assertEqual(self.stat(b"items")[b"items:1:number"], b"1")
        self.assertEqual(self.stat(b"slabs")[b"1:used_chunks"], b"1")
        settings = self.stat(b"settings")
        self.assertEqual(settings[b"item_size_max"], b"1048576")
        self.assertEqual(settings[b"auth_enabled_sasl"], b"no")
        self.assertEqual(self.stat(b"sizes"), {b"sizes_status": b"disabled"})
        self.assertEqual(self.stat(b"detail dump"), {b"detailed": b"END\r\n"})
        self.assertEqual((self.stat(b"detail on"), self.stat(b"detail off")), ({}, {}))

    def test_unknown(self) -> None:
        """A group that nobody knows is not found."""
        for argument in (b"nosuch", b"item", b"detail", b"detail x"):
            self.assertEqual(
                short(self.ask(self.client, Request(Opcode.STAT, argument))),
                [(Opcode.STAT, Status.KEY_NOT_FOUND, b"Not found")],
            )


class ShapeTests(AnswersTestCase):
    def test_wrong_lengths(self) -> None:
        """Lengths that are wrong for the opcode are answered, and the connection is closed."""
        for opcode, row in OPCODES.items():
            extras, key, value = row.request
            wrong = [Request(opcode, b"key", bytes(max(extras) + 1), b"v")]
            if key is Key.NONE:
                wrong.append(Request(opcode, b"key", bytes(extras[-1])))
            if key is Key.REQUIRED:
                wrong.append(Request(opcode, b"", bytes(extras[-1])))
            if value == 0:
                wrong.append(Request(opcode, shaped(opcode).key, bytes(extras[-1]), b"v"))
            for request in wrong:
                client = self.connect(self.server)
                self.assert_closed(client, opcode, Status.INVALID_ARGUMENTS, request)

    def test_long_key(self) -> None:
        """A key of 251 bytes is answered, and the connection is closed."""
        self.assert_closed(
            self.client, Opcode.GET, Status.INVALID_ARGUMENTS, Request(Opcode.GET, b"k" * 251)
        )

    def test_lies(self) -> None:
        """Extras and a key that are longer than the body are an unknown command."""
        self.client.send(header(Opcode.GET, 4, 0, 3))
        self.clock.advance(0)
        self.assertEqual(
            self.client.take(),
            [Response(Opcode.GET, Status.UNKNOWN_COMMAND, 0x0BADCAFE, value=b"Unknown command")],
        )
        self.assertIsNotNone(self.client.lost)

    def test_before_and_behind(self) -> None:
        """What came before a wrong request is answered, what comes behind it is not done."""
        responses = self.ask(
            self.client,
            shaped(Opcode.VERSION),
            Request(Opcode.GET),
            Request(Opcode.SET, b"late", STORE),
        )
        self.assertEqual([r.opcode for r in responses], [Opcode.VERSION, Opcode.GET])
        late = self.ask(self.connect(self.server), Request(Opcode.GET, b"late"))
        self.assertEqual(late[0].status, Status.KEY_NOT_FOUND)

    def test_unknown_opcode(self) -> None:
        """An unknown opcode is answered; its body is skipped, and the connection lives."""
        for opcode in (0x1B, 0x1F, 0x25, 0xFF):
            self.assertEqual(
                short(self.ask(self.client, Request(opcode, b"key", b"ex", b"value"))),
                [(opcode, Status.UNKNOWN_COMMAND, b"Unknown command")],
            )
            self.assert_open(self.client)

    def test_magic(self) -> None:
        """Another magic ends the connection without an answer, behind those that were asked."""
        for first in (0x00, 0x16, 0x81, ord("G")):
            client = self.connect(self.server)
            garbage = bytes([first]) + bytes(HEADER_SIZE - 1)
            self.assertEqual(
                [r.opcode for r in self.ask(client, shaped(Opcode.NOOP), garbage)], [Opcode.NOOP]
            )
            self.assertIsNotNone(client.lost)

    def test_too_large(self) -> None:
        """A body over max_body is refused by its header, skipped, and the connection lives."""
        client = self.connect(self.make_server(max_body=2**20))
        for opcode, extras in ((Opcode.SET, 8), (Opcode.APPEND, 0)):
            client.send(header(opcode, 3, extras, 2**20 + 1))
            self.clock.advance(0)
            self.assertEqual(
                short(client.take()), [(opcode, Status.VALUE_TOO_LARGE, b"Too large.")]
            )
            client.send(bytes(2**20 + 1))
            self.assert_open(client)

    def test_any_cut(self) -> None:
        """Answers do not depend on where the network cuts the requests."""
        requests = (
            Request(Opcode.SET, b"key", STORE, b"value"),
            Request(Opcode.GETQ, b"none"),
            Request(Opcode.GETKQ, b"key"),
            Request(0x77, b"what"),
            Request(Opcode.NOOP),
        )
        stream = b"".join(request.encode() for request in requests)
        expected = short(self.ask(self.client, stream))
        self.assertEqual(len(expected), 4)
        for size in (1, 2, 7, 24, 25):
            answers: list[Response] = []
            for start in range(0, len(stream), size):
                answers += self.ask(self.client, stream[start : start + size])
            self.assertEqual(short(answers), expected)


class TableTests(MemoryServerTestCase):
    def test_quiet_twins(self) -> None:
        """An opcode and its quiet twin do the same: what differs is whether it is told."""
        for loud, quiet in QUIET_TWIN.items():
            if loud == Opcode.QUIT:
                continue
            told: list[list[Response]] = []
            for opcode in (loud, quiet):
                client = self.connect(self.make_server())
                self.ask(client, Request(Opcode.SET, b"key", STORE, b"5"))
                self.ask(
                    client, Request(opcode, b"" if loud == Opcode.FLUSH else b"key", *_rest(loud))
                )
                told.append(self.state(client))
            self.assertEqual(told[0], told[1], Opcode(loud))
            self.assertIsNot(OPCODES[quiet].quiet, Quiet.NEVER)

    def state(self, client: Asking) -> list[Response]:
        return self.ask(client, Request(Opcode.GETK, b"key"))


def _rest(loud: int) -> tuple[bytes, bytes]:
    shape = OPCODES[loud].request
    return bytes(shape.extras[-1]), b"" if shape.value == 0 else b"6"
