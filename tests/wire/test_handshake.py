"""
The first words on a connection: what is sent, and what every answer means.

No password is in a variable of this module or of a test: the tracebacks that are searched for them
show those as well.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from struct import pack
from traceback import TracebackException, walk_tb

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import (
    AuthenticationError,
    CredentialsRefused,
    CredentialsRequired,
    InvalidSetting,
    MechanismNotOffered,
    MemcacheError,
    RemoteProtocolError,
    SASLUnavailable,
    ServerNotProven,
)
from txtlsmc.settings import MECHANISMS, Credentials
from txtlsmc.wire import handshake as module
from txtlsmc.wire.frames import Request, RequestReader, Response
from txtlsmc.wire.handshake import Answer, Handshake, State
from txtlsmc.wire.opcodes import Opcode, Status
from txtlsmc.wire.sasl import Outcome, server_exchange

PLAIN, CRAM, SCRAM = MECHANISMS
NONCE = "fyko+d2lbbFgONRv9qkxdawL"
LISTED = b"PLAIN CRAM-MD5 SCRAM-SHA-256"
CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"
STATUSES = {
    Outcome.CONTINUE: Status.AUTHENTICATION_CONTINUE,
    Outcome.SUCCESS: Status.OK,
    Outcome.FAILURE: Status.AUTHENTICATION_ERROR,
}


def password() -> str:
    """Return a password, which SASLprep leaves as it is."""
    return "".join(("Tr0ub", "4dor&3"))


def credentials(mechanism: str, spoiled: str = "") -> Credentials:
    return Credentials("alice", password() + spoiled, mechanism)


def made(mechanism: str | None, spoiled: str = "") -> Handshake:
    """Return a handshake that was not started; without credentials if *mechanism* is None."""
    known = None if mechanism is None else credentials(mechanism, spoiled)
    return Handshake("mc1:11211", known, NONCE)


def response(opcode: Opcode, opaque: int, status: int = 0, value: bytes = b"") -> bytes:
    return Response(opcode, status, opaque, value=value).encode()


def listed(value: bytes = LISTED, status: int = 0) -> bytes:
    """Return the answer to LIST, the first request."""
    return response(Opcode.SASL_LIST, 0, status, value)


def auth(status: int, value: bytes = b"") -> bytes:
    """Return the answer to AUTH, the second request."""
    return response(Opcode.SASL_AUTH, 1, status, value)


def noop(status: int = 0) -> bytes:
    return response(Opcode.NOOP, 0, status)


class Memcached:
    """A server that speaks SASL by `server_exchange`, as memcached with Cyrus SASL does."""

    def __init__(self, *offered: str, nonce: str = "3rfcNHYJY1ZVvWVs7j") -> None:
        self.offered, self.nonce = offered, nonce
        self.reader = RequestReader(2**20)
        self.heard: list[Request] = []

    def receive(self, data: bytes) -> bytes:
        """Return the answers to *data*."""
        return b"".join(map(self.answer, self.reader.feed(data)))

    def answer(self, request: object) -> bytes:
        assert isinstance(request, Request)
        self.heard.append(request)
        opcode = Opcode(request.opcode)
        if opcode == Opcode.SASL_LIST:
            return response(opcode, request.opaque, value=" ".join(self.offered).encode())
        mechanism = request.key.decode()
        if mechanism not in self.offered:
            return response(opcode, request.opaque, Status.AUTHENTICATION_ERROR)
        if opcode == Opcode.SASL_AUTH:
            self.exchange = server_exchange(mechanism, {"alice": password()}, self.nonce)
        outcome, value = self.exchange.step(request.value)
        return response(opcode, request.opaque, STATUSES[outcome], value)


def talk(handshake: Handshake, server: Memcached, size: int = 2**20) -> None:
    """Let both talk until the client has nothing to say, *size* bytes at a time."""
    words = handshake.start()
    while words:
        said = server.receive(words)
        words = b""
        for place in range(0, len(said), size):
            words += handshake.receive(said[place : place + size])


class FirstFlightTests(SynchronousTestCase):
    def requests(self, mechanism: str | None) -> list[object]:
        return list(RequestReader(1000).feed(made(mechanism).start()))

    def test_none(self) -> None:
        """Without credentials the first flight is a NOOP."""
        self.assertEqual(made(None).start(), pack(">BBHBBHIIQ", 0x80, 0x0A, *[0] * 7))

    def test_plain(self) -> None:
        """PLAIN goes out in one flight: LIST, and AUTH with the name and the password."""
        blob = b"\0alice\0" + password().encode()
        size = len(b"PLAIN") + len(blob)
        self.assertEqual(
            made(PLAIN).start(),
            pack(">BBHBBHIIQ", 0x80, 0x20, *[0] * 7)
            + pack(">BBHBBHIIQ", 0x80, 0x21, 5, 0, 0, 0, size, 1, 0)
            + b"PLAIN"
            + blob,
        )

    def test_cram_md5(self) -> None:
        """CRAM-MD5 starts with nothing to say."""
        self.assertEqual(
            self.requests(CRAM),
            [
                Request(Opcode.SASL_LIST),
                Request(Opcode.SASL_AUTH, b"CRAM-MD5", opaque=1),
            ],
        )

    def test_scram(self) -> None:
        """SCRAM starts with the name and the nonce."""
        self.assertEqual(
            self.requests(SCRAM),
            [
                Request(Opcode.SASL_LIST),
                Request(
                    Opcode.SASL_AUTH,
                    b"SCRAM-SHA-256",
                    value=b"n,,n=alice,r=" + NONCE.encode(),
                    opaque=1,
                ),
            ],
        )

    def test_long_password(self) -> None:
        """However long the password is, whether it is too long is for the server to say."""
        flight = made(PLAIN, "x" * 100_000).start()
        self.assertGreater(len(flight), 100_000)

    def test_unusable(self) -> None:
        """Credentials that the mechanism can not use are refused before there is a flight."""
        with self.assertRaises(InvalidSetting):
            made(SCRAM, "\x07")


class WholeRunTests(SynchronousTestCase):
    def test_ready(self) -> None:
        """With the right password every mechanism ends ready, however the stream is cut."""
        for mechanism, size in product(MECHANISMS, (1, 7, 2**20)):
            server, handshake = Memcached(*MECHANISMS), made(mechanism)
            self.assertFalse(handshake.ready)
            talk(handshake, server, size)
            self.assertTrue(handshake.ready, mechanism)
            self.assertEqual(handshake.offered, MECHANISMS)

    def test_scram(self) -> None:
        """The server's signature, which comes with "continue", is followed by one empty STEP."""
        server = Memcached(SCRAM)
        talk(made(SCRAM), server)
        self.assertEqual(
            [(Opcode(r.opcode), r.key, bool(r.value)) for r in server.heard],
            [
                (Opcode.SASL_LIST, b"", False),
                (Opcode.SASL_AUTH, b"SCRAM-SHA-256", True),
                (Opcode.SASL_STEP, b"SCRAM-SHA-256", True),
                (Opcode.SASL_STEP, b"SCRAM-SHA-256", False),
            ],
        )

    def test_ready_only_after_the_answer(self) -> None:
        """A run that wants one more answer is not ready."""
        server, handshake = Memcached(SCRAM), made(SCRAM)
        words = handshake.start()
        for _ in range(2):
            words = handshake.receive(server.receive(words))
            self.assertFalse(handshake.ready)
        self.assertEqual(handshake.receive(server.receive(words)), b"")
        self.assertTrue(handshake.ready)

    def test_wrong_password(self) -> None:
        """A wrong password is refused as that, and the mechanism is named."""
        for mechanism in MECHANISMS:
            with self.assertRaises(CredentialsRefused) as caught:
                talk(made(mechanism, "x"), Memcached(*MECHANISMS))
            self.assertIn(mechanism, str(caught.exception))
            self.assertIn("mc1:11211", str(caught.exception))

    def test_not_offered(self) -> None:
        """A mechanism that the server does not have is told, with those that it has."""
        with self.assertRaises(MechanismNotOffered) as caught:
            talk(made(SCRAM), Memcached(PLAIN, CRAM))
        self.assertEqual(caught.exception.mechanism, SCRAM)
        self.assertEqual(caught.exception.offered, (PLAIN, CRAM))
        with self.assertRaisesRegex(MechanismNotOffered, "but none"):
            talk(made(PLAIN), Memcached())

    def test_impostor(self) -> None:
        """A SCRAM server that says yes and can not prove that it knows the password is refused."""
        wrong = b"v=" + b64encode(bytes(32))
        for status, value in product((0, 0x21), (wrong, b"", b"v=", b"x=1")):
            server, handshake = Memcached(SCRAM), made(SCRAM)
            said = server.receive(handshake.receive(server.receive(handshake.start())))
            del said  # its own signature, which the impostor does not have
            with self.assertRaises(ServerNotProven):
                handshake.receive(response(Opcode.SASL_STEP, 2, status, value))
            self.assertFalse(handshake.ready)

    def test_signature_with_the_success(self) -> None:
        """A server that sends its signature along with the success is understood."""
        server, handshake = Memcached(SCRAM), made(SCRAM)
        said = server.receive(handshake.receive(server.receive(handshake.start())))
        handshake.receive(response(Opcode.SASL_STEP, 2, 0, said[24:]))
        self.assertTrue(handshake.ready)

    def test_success_before_the_proof(self) -> None:
        """A server that accepts a SCRAM client without having heard its proof is refused."""
        handshake = made(SCRAM)
        handshake.start()
        with self.assertRaises(ServerNotProven):
            handshake.receive(listed() + auth(0))
        self.assertFalse(handshake.ready)

    def test_endless(self) -> None:
        """A server that always wants to go on is refused, in every mechanism."""
        for mechanism in MECHANISMS:
            server, handshake = Memcached(SCRAM), made(mechanism)
            words = handshake.start()
            with self.assertRaises((RemoteProtocolError, ServerNotProven)):
                for opaque in range(1, 10):
                    said = server.receive(words) if mechanism == SCRAM and opaque < 3 else b""
                    if not said:
                        first = listed() if opaque == 1 else b""
                        opcode = Opcode.SASL_AUTH if opaque == 1 else Opcode.SASL_STEP
                        said = first + response(opcode, opaque, 0x21, CHALLENGE)
                    words = handshake.receive(said)
            self.assertLess(opaque, 5)


#: What becomes of each kind of answer in each state: the next state, or an error.
OUTCOMES: dict[tuple[State, Answer], State | type[MemcacheError]] = {
    (State.LISTING, Answer.OK): State.AUTHENTICATING,
    (State.LISTING, Answer.CONTINUE): RemoteProtocolError,
    (State.LISTING, Answer.DENIED): State.AUTHENTICATING,
    (State.LISTING, Answer.UNKNOWN): State.AUTHENTICATING,
    (State.LISTING, Answer.OTHER): State.AUTHENTICATING,
    (State.AUTHENTICATING, Answer.OK): State.READY,
    (State.AUTHENTICATING, Answer.CONTINUE): State.AUTHENTICATING,
    (State.AUTHENTICATING, Answer.DENIED): CredentialsRefused,
    (State.AUTHENTICATING, Answer.UNKNOWN): SASLUnavailable,
    (State.AUTHENTICATING, Answer.OTHER): AuthenticationError,
    (State.PROBING, Answer.OK): State.READY,
    (State.PROBING, Answer.CONTINUE): RemoteProtocolError,
    (State.PROBING, Answer.DENIED): CredentialsRequired,
    (State.PROBING, Answer.UNKNOWN): RemoteProtocolError,
    (State.PROBING, Answer.OTHER): RemoteProtocolError,
    (State.READY, Answer.OK): RemoteProtocolError,
    (State.READY, Answer.CONTINUE): RemoteProtocolError,
    (State.READY, Answer.DENIED): RemoteProtocolError,
    (State.READY, Answer.UNKNOWN): RemoteProtocolError,
    (State.READY, Answer.OTHER): RemoteProtocolError,
}
#: Each status that a server may send, by its kind.
KINDS: dict[Answer, list[int]] = {
    Answer.OK: [0],
    Answer.CONTINUE: [0x21],
    Answer.DENIED: [0x20],
    Answer.UNKNOWN: [0x81],
    Answer.OTHER: [1, 2, 3, 4, 5, 6, 8, 0x82, 0x83, 0x84, 0x85, 0x86, 0x7777, 0xFFFF],
}


def in_state(state: State, answer: Answer) -> tuple[Handshake, Opcode, int]:
    """Return a handshake in *state*, and opcode and opaque of what it waits for."""
    if state is State.PROBING:
        handshake = made(None)
        handshake.start()
        return handshake, Opcode.NOOP, 0
    # A mechanism in which the server may go on, where it is to do so.
    handshake = made(CRAM if answer is Answer.CONTINUE else PLAIN)
    handshake.start()
    if state is State.LISTING:
        return handshake, Opcode.SASL_LIST, 0
    handshake.receive(listed())
    if state is State.AUTHENTICATING:
        return handshake, Opcode.SASL_AUTH, 1
    if answer is Answer.CONTINUE:
        handshake.receive(auth(0x21, CHALLENGE))
        handshake.receive(response(Opcode.SASL_STEP, 2))
        return handshake, Opcode.SASL_STEP, 3
    handshake.receive(auth(0))
    return handshake, Opcode.SASL_STEP, 2


class EveryAnswerTests(SynchronousTestCase):
    def test_total(self) -> None:
        """For every state and kind of answer there is a move."""
        cells = set(product(State, Answer))
        self.assertEqual(set(module._MOVES), cells)
        self.assertEqual(set(OUTCOMES), cells)
        self.assertEqual(set(KINDS), set(Answer))

    def test_kinds(self) -> None:
        """Every status is of the kind that the tests take it for."""
        for kind, statuses in KINDS.items():
            for status in statuses:
                self.assertIs(Answer.of(status), kind)

    def test_every_answer(self) -> None:
        """Every answer in every state leads where the table of these tests says."""
        for (state, kind), outcome in OUTCOMES.items():
            for status in KINDS[kind]:
                handshake, opcode, opaque = in_state(state, kind)
                self.assertIs(handshake.state, state)
                value = CHALLENGE if opcode == Opcode.SASL_AUTH else b""
                said = response(opcode, opaque, status, value)
                if isinstance(outcome, State):
                    handshake.receive(said)
                    self.assertIs(handshake.state, outcome)
                    self.assertEqual(handshake.ready, outcome is State.READY)
                else:
                    with self.assertRaises(MemcacheError) as caught:
                        handshake.receive(said)
                    self.assertIs(type(caught.exception), outcome, (state, kind))

    def test_every_move(self) -> None:
        """The moves that the session keeps from happening would end the handshake as well."""
        for (state, kind), outcome in OUTCOMES.items():
            if outcome is not RemoteProtocolError:
                continue
            handshake, opcode, _ = in_state(state, kind)
            with self.assertRaises(RemoteProtocolError) as caught:
                module._MOVES[state, kind](handshake, Response(opcode, KINDS[kind][0]))
            self.assertEqual(caught.exception.field, "status")
            self.assertIn(f"0x{KINDS[kind][0]:02x}", str(caught.exception))

    def test_no_challenge_for_plain(self) -> None:
        """A server that wants PLAIN to go on is none."""
        handshake = made(PLAIN)
        handshake.start()
        with self.assertRaises(RemoteProtocolError):
            handshake.receive(listed() + auth(0x21))

    def test_no_sasl_is_never_fine(self) -> None:
        """A server without SASL is refused when there are credentials, whatever it lists."""
        for status in (0, 0x81, 0x20, 0x85):
            handshake = made(PLAIN)
            handshake.start()
            with self.assertRaisesRegex(SASLUnavailable, "memcached -S"):
                handshake.receive(listed(b"", status) + auth(0x81, b"Unknown command"))

    def test_list_fails(self) -> None:
        """A server that lists nothing and accepts the password is ready."""
        for status in (0x81, 0x20, 0x85):
            handshake = made(PLAIN)
            handshake.start()
            handshake.receive(listed(b"Unknown command", status) + auth(0))
            self.assertTrue(handshake.ready)
            self.assertIsNone(handshake.offered)

    def test_refused_without_a_list(self) -> None:
        """Where nothing was listed, a refusal is about the password."""
        handshake = made(PLAIN)
        handshake.start()
        with self.assertRaises(CredentialsRefused):
            handshake.receive(listed(b"no", 0x81) + auth(0x20))

    def test_other_status_is_told(self) -> None:
        """A status that means nothing here is told in our words: the server's may be anything."""
        for status, words in ((0x85, "busy"), (0x7777, "refused the request")):
            handshake = made(PLAIN)
            handshake.start()
            with self.assertRaises(AuthenticationError) as caught:
                handshake.receive(listed() + auth(status, b"\x1b[2J"))
            text = str(caught.exception)
            self.assertIn(f"0x{status:02x}", text)
            self.assertIn(words, text)
            self.assertTrue(text.isprintable())


class ListTests(SynchronousTestCase):
    def refusal(self, value: bytes) -> tuple[MemcacheError, Handshake]:
        """Return what a refused password is told as by a server that listed *value*."""
        handshake = made(PLAIN)
        handshake.start()
        with self.assertRaises(MemcacheError) as caught:
            handshake.receive(listed(value) + auth(0x20))
        return caught.exception, handshake

    def test_long_list(self) -> None:
        """A mechanism counts as offered wherever it stands in the list."""
        many = b" ".join(b"MECHANISM-%d" % n for n in range(100))
        error, handshake = self.refusal(many + b" PLAIN")
        self.assertIsInstance(error, CredentialsRefused)
        assert handshake.offered is not None
        self.assertLess(len(handshake.offered), 20)
        error, _ = self.refusal(many + b" PLAINER")
        self.assertIsInstance(error, MechanismNotOffered)
        self.assertLess(len(str(error)), 400)

    def test_letter_case(self) -> None:
        """The letter case of the list does not matter."""
        self.assertIsInstance(self.refusal(b"cram-md5 plain")[0], CredentialsRefused)

    def test_rubbish(self) -> None:
        """A list of rubbish is made fit to be read."""
        error, handshake = self.refusal(b"\x1b[2J \xff\xfe\0")
        self.assertIsInstance(error, MechanismNotOffered)
        for text in (str(error), *(handshake.offered or ())):
            self.assertTrue(text.isprintable(), text)


class StreamTests(SynchronousTestCase):
    def outcome(self, mechanism: str | None, *pieces: bytes) -> tuple[object, ...]:
        """Return how it ended, and what was sent meanwhile."""
        handshake = made(mechanism)
        handshake.start()
        sent = b""
        try:
            for piece in pieces:
                sent += handshake.receive(piece)
        except MemcacheError as error:
            return type(error), str(error), sent
        return handshake.state, handshake.offered, sent

    def test_any_cut(self) -> None:
        """Wherever the network cuts the stream, the outcome is the same."""
        streams = [
            (None, noop()),
            (None, noop(0x20)),
            (PLAIN, listed() + auth(0)),
            (PLAIN, listed() + auth(0x20)),
            (PLAIN, listed(b"CRAM-MD5") + auth(0x20, b"Auth failure.")),
            (PLAIN, listed(b"", 0x81) + auth(0x81)),
            (CRAM, listed() + auth(0x21, CHALLENGE)),
            (CRAM, listed() + auth(0x21, b"no challenge")),
            (SCRAM, listed() + auth(0)),
            (PLAIN, auth(0)),
        ]
        for mechanism, stream in streams:
            whole = self.outcome(mechanism, stream)
            for cut in range(len(stream) + 1):
                cut_up = self.outcome(mechanism, stream[:cut], stream[cut:])
                self.assertEqual(cut_up, whole, cut)

    def test_more_than_ready(self) -> None:
        """A server that says more than it was asked for is refused, wherever the stream is cut."""
        for mechanism, fine in [(None, noop()), (PLAIN, listed() + auth(0))]:
            for more in (b"\x81", noop()[:23], noop(), b"HTTP/1.1 400 Bad Request\r\n"):
                stream = fine + more
                for cut in range(len(stream) + 1):
                    kind, *_ = self.outcome(mechanism, stream[:cut], stream[cut:])
                    self.assertIs(kind, RemoteProtocolError, (more, cut))

    def test_nothing_is_said_into_a_broken_stream(self) -> None:
        """No proof follows when more came than the challenge."""
        kind, _, sent = self.outcome(CRAM, listed() + auth(0x21, CHALLENGE) + b"\0" * 24)
        self.assertIs(kind, RemoteProtocolError)
        self.assertEqual(sent, b"")

    def test_no_memcached(self) -> None:
        """Whatever else listens there is refused by its first words."""
        for words in (b"HTTP/1.1 400 Bad Request\r\n\r\n", b"220 mail.example ESMTP ready\r\n"):
            for mechanism in (None, PLAIN):
                kind, *_ = self.outcome(mechanism, words)
                self.assertIs(kind, RemoteProtocolError)

    def test_large_body(self) -> None:
        """An answer that announces more than 64 KiB is refused at its header."""
        for mechanism, opcode in ((None, Opcode.NOOP), (PLAIN, Opcode.SASL_LIST)):
            for size, refused in ((65_536, False), (65_537, True), (2**32 - 1, True)):
                header = pack(">BBHBBHIIQ", 0x81, opcode, 0, 0, 0, 0, size, 0, 0)
                kind, text, _ = self.outcome(mechanism, header)
                self.assertEqual(kind is RemoteProtocolError, refused, text)

    def test_wrong_order(self) -> None:
        """An answer to AUTH before that to LIST, or one that nobody asked for, is refused."""
        for stream in (
            auth(0),
            listed() + listed(),
            listed() + response(Opcode.SASL_STEP, 1),
            listed() + response(Opcode.SASL_AUTH, 2),
        ):
            kind, *_ = self.outcome(PLAIN, stream)
            self.assertIs(kind, RemoteProtocolError)


def secrets() -> Iterator[str]:
    """Yield all that must not be seen, in every form."""
    word = password()
    blob = f"\0alice\0{word}"
    for text in (word, blob):
        yield text
        yield repr(text)[1:-1]
        yield text.encode().hex()
        yield b64encode(text.encode()).decode().rstrip("=")


def shown_of(error: BaseException) -> str:
    """Return all that may be printed of *error* where it was caught."""
    failure = Failure(captureVars=True)
    lines = [str(error), repr(error), repr(vars(error)), repr(failure)]
    lines += TracebackException.from_exception(error, capture_locals=True).format()
    lines += [failure.getTraceback(), failure.getTraceback(detail="verbose")]
    for frame, _ in walk_tb(error.__traceback__):  # some reporters look into the objects
        lines += [repr(getattr(each, "__dict__", None)) for each in frame.f_locals.values()]
    return "\n".join(lines)


class SecretTests(SynchronousTestCase):
    def leaks(self, kind: type[BaseException], call: Callable[[], object]) -> list[str]:
        try:
            call()
        except kind as error:
            text = shown_of(error)
        else:
            self.fail(f"no {kind.__name__}")
        return [form for form in secrets() if form in text]

    def test_search(self) -> None:
        """The search finds the password in a careless function's error."""

        def careless(form: Callable[[str], object]) -> None:
            value = form(password())
            raise ValueError(f"{type(value)} is no good")

        forms: list[Callable[[str], object]] = [
            str,
            str.encode,
            lambda word: b64encode(word.encode()),
        ]
        for form in forms:
            self.assertNotEqual(self.leaks(ValueError, partial(careless, form)), [])

    def test_errors(self) -> None:
        """No error of a handshake shows the password, to whoever prints all there is."""
        endings: list[tuple[str, type[MemcacheError], bytes]] = [
            (PLAIN, CredentialsRefused, listed() + auth(0x20)),
            (PLAIN, MechanismNotOffered, listed(b"CRAM-MD5") + auth(0x20)),
            (PLAIN, SASLUnavailable, listed(b"", 0x81) + auth(0x81)),
            (PLAIN, AuthenticationError, listed() + auth(0x85)),
            (PLAIN, RemoteProtocolError, listed() + auth(0x21)),
            (PLAIN, RemoteProtocolError, listed() + auth(0) + b"more"),
            (PLAIN, RemoteProtocolError, b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            (CRAM, RemoteProtocolError, listed() + auth(0x21, b"no challenge")),
            (CRAM, RemoteProtocolError, listed() + auth(0x21, CHALLENGE) + b"\0" * 24),
            (SCRAM, ServerNotProven, listed() + auth(0)),
            (SCRAM, RemoteProtocolError, listed() + auth(0x21, b"r=1,s=,i=1")),
        ]
        for mechanism, kind, stream in endings:

            def run(mechanism: str = mechanism, stream: bytes = stream) -> None:
                handshake = made(mechanism)
                handshake.start()
                handshake.receive(stream)

            self.assertEqual(self.leaks(kind, run), [], f"{mechanism} {kind.__name__}")

    def test_echo(self) -> None:
        """A server that repeats what it was told gets nothing of it into an error."""

        def whole() -> None:
            handshake = made(PLAIN)
            handshake.receive(handshake.start())

        def value() -> None:
            handshake = made(PLAIN)
            handshake.receive(listed() + auth(0x85, handshake.start()[-20:]))

        self.assertEqual(self.leaks(RemoteProtocolError, whole), [])
        self.assertEqual(self.leaks(AuthenticationError, value), [])

    def test_first_flight(self) -> None:
        """Credentials that can not be used do not show in the error about them."""
        for mechanism, spoiled in ((SCRAM, "\x07"), (PLAIN, "\ud800"), (CRAM, "\ud800")):

            def run(mechanism: str = mechanism, spoiled: str = spoiled) -> None:
                made(mechanism, spoiled)

            self.assertEqual(self.leaks(InvalidSetting, run), [], mechanism)

    def test_repr(self) -> None:
        """A handshake that is printed on its way shows nothing."""
        handshake = made(PLAIN)
        handshake.start()
        text = repr(handshake) + repr(vars(handshake))
        self.assertEqual([form for form in secrets() if form in text], [])
