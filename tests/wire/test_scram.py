"""SCRAM-SHA-256: both sides prove themselves, and what is not as it should be ends in an error."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from typing import TypeVar

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.errors import (
    CredentialsRefused,
    InvalidArgument,
    InvalidSetting,
    MemcacheError,
    RemoteProtocolError,
    ServerNotProven,
)
from txtlsmc.settings import Credentials
from txtlsmc.wire.exchange import MAX_DATA
from txtlsmc.wire.sasl import (
    ClientExchange,
    Outcome,
    ServerExchange,
    ServerStep,
    client_exchange,
    server_exchange,
)
from txtlsmc.wire.saslprep import prepare

# RFC 7677, section 3.
USERS = {"user": "pencil"}
CLIENT_NONCE = "rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
NONCES = (CLIENT_NONCE + SERVER_NONCE).encode()
SALT = b"W22ZaJ0SNY7soEsUEjb6gQ=="
FIRST = b"n,,n=user,r=" + CLIENT_NONCE.encode()
CHALLENGE = b"r=" + NONCES + b",s=" + SALT + b",i=4096"
PROOF = b"c=biws,r=" + NONCES + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SIGNATURE = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

FAILURE = Outcome.FAILURE
Error = TypeVar("Error", bound=MemcacheError)

#: Characters that may be in a stored string; there may still be too many directions in a text.
USABLE = st.one_of(
    st.characters(max_codepoint=0x7E),
    st.characters(max_codepoint=0xFFFF, categories=("L", "N", "M", "P", "S", "Zs")),
).filter(lambda character: isinstance(prepare(character, stored=True), str))


def client(
    username: str = "user",
    password: str = "pencil",
    nonce: str = CLIENT_NONCE,
    server: str = "mc1.example:11211",
) -> ClientExchange:
    return client_exchange(Credentials(username, password, "SCRAM-SHA-256"), nonce, server=server)


def started() -> ClientExchange:
    exchange = client()
    exchange.start()
    return exchange


def answered() -> ClientExchange:
    exchange = started()
    exchange.step(CHALLENGE)
    return exchange


def server(users: dict[str, str] = USERS, iterations: int = 4096) -> ServerExchange:
    return server_exchange(
        "SCRAM-SHA-256",
        users,
        SERVER_NONCE,
        salt=bytes.fromhex("5b6d99689d12358eec a04b14 1236fa81"),
        iterations=iterations,
    )


def challenged() -> ServerExchange:
    exchange = server()
    exchange.step(FIRST)
    return exchange


class VectorTests(SynchronousTestCase):
    """The example of RFC 7677, section 3."""

    def test_client(self) -> None:
        """Our side says what the RFC's client says, and believes the RFC's server."""
        exchange = client()
        self.assertEqual(exchange.mechanism, "SCRAM-SHA-256")
        self.assertEqual(exchange.start(), FIRST)
        self.assertEqual(exchange.step(CHALLENGE), PROOF)
        exchange.finish(SIGNATURE)

    def test_client_of_memcached(self) -> None:
        """memcached's signature comes as a challenge, is answered with nothing, and then counts."""
        exchange = answered()
        self.assertEqual(exchange.step(SIGNATURE), b"")
        exchange.finish(b"Authenticated")

    def test_server(self) -> None:
        """The server's side says what the RFC's server says, one step at a time."""
        exchange = server()
        self.assertEqual(exchange.step(FIRST), ServerStep(Outcome.CONTINUE, CHALLENGE))
        self.assertEqual(exchange.step(PROOF), ServerStep(Outcome.CONTINUE, SIGNATURE))
        self.assertEqual(exchange.step(b""), ServerStep(Outcome.SUCCESS, b""))
        self.assertEqual(exchange.username, "user")


class DialogueTests(SynchronousTestCase):
    """Both sides against each other."""

    def dialogue(
        self, ours: ClientExchange, theirs: ServerExchange, *, first: bool = True
    ) -> Outcome:
        step = theirs.step(ours.start() if first else b"")
        if not first:
            self.assertEqual(step, ServerStep(Outcome.CONTINUE))
            step = theirs.step(ours.start())
        while step.outcome is Outcome.CONTINUE:
            step = theirs.step(ours.step(step.data))
        if step.outcome is Outcome.SUCCESS:
            ours.finish(step.data)
        return step.outcome

    @settings(max_examples=40, deadline=None)
    @given(st.text(USABLE, min_size=1), st.text(USABLE, min_size=1))
    def test_any_text(self, username: str, password: str) -> None:
        """Whatever name and password SASLprep lets pass, both sides agree on them."""
        name = prepare(username, stored=False)
        assume(isinstance(name, str) and isinstance(prepare(password, stored=True), str))
        theirs = server({username: password})
        self.assertEqual(self.dialogue(client(username, password), theirs), Outcome.SUCCESS)
        self.assertEqual(theirs.username, name)

    def test_prepared(self) -> None:
        """A name and a password are the same with either spelling of an accent."""
        for mine in ("e\u0301 \u2168", "\u00e9\u00a0IX"):
            for known in ("e\u0301 \u2168", "\u00e9\u00a0IX"):
                outcome = self.dialogue(client(mine, mine), server({"other": "x", known: known}))
                self.assertEqual(outcome, Outcome.SUCCESS, ascii((mine, known)))

    def test_escapes(self) -> None:
        """Commas and equals signs in a name travel escaped, and arrive."""
        for name, sent in (("a,b=c", b"a=2Cb=3Dc"), ("=2C", b"=3D2C"), ("=", b"=3D")):
            first = client(name).start()
            self.assertEqual(first, b"n,,n=" + sent + b",r=" + CLIENT_NONCE.encode())
            theirs = server({name: "pencil"})
            self.assertEqual(self.dialogue(client(name), theirs), Outcome.SUCCESS)
            self.assertEqual(theirs.username, name)

    def test_empty_auth(self) -> None:
        """A client may send its first words behind an AUTH without any, as with memcached."""
        self.assertEqual(self.dialogue(client(), server(), first=False), Outcome.SUCCESS)

    def test_iterations(self) -> None:
        """The number of iterations is the server's choice, from 4096 to a million."""
        for iterations in (4096, 10_000, 1_000_000):
            outcome = self.dialogue(client(), server(iterations=iterations))
            self.assertEqual(outcome, Outcome.SUCCESS)

    def test_wrong_password(self) -> None:
        """A wrong password is refused, and the server's signature is not given away."""
        theirs = server()
        ours = client(password="pencils")
        step = theirs.step(ours.step(theirs.step(ours.start()).data))
        self.assertEqual(step, ServerStep(FAILURE, b"e=invalid-proof"))

    def test_salt(self) -> None:
        """Unless a salt is given, each run has one of its own."""
        steps = [
            server_exchange("SCRAM-SHA-256", USERS, nonce).step(FIRST).data.split(b",")[1]
            for nonce in ("one", "two", "one")
        ]
        self.assertNotEqual(steps[0], steps[1])
        self.assertEqual(steps[0], steps[2])


#: What a server can send instead of a challenge, and how our error describes it.
MALFORMED_CHALLENGES: tuple[tuple[bytes, str], ...] = (
    (b"", "'' is no attribute"),
    (b"\x00\xff\xfe", "is no attribute"),
    (b"Authenticated", "'Authenticated' is no attribute"),
    (CHALLENGE + b",", "'' is no attribute"),
    (CHALLENGE + b",xy", "'xy' is no attribute"),
    (CHALLENGE + b",1=x", "'1=x' is no attribute"),
    (b"r=" + NONCES, "the salt is missing"),
    (b"r=" + NONCES + b",s=" + SALT, "the iteration count is missing"),
    (b"s=" + SALT + b",i=4096", "the nonce is missing"),
    (b"r=" + NONCES + b",i=4096,s=" + SALT, "the salt is missing"),
    (b"x=1," + CHALLENGE, "the nonce is missing"),
    (SIGNATURE, "the nonce is missing"),
    (b"r=," + CHALLENGE.partition(b",")[2], "'r=' is no attribute"),
    (b"m=x," + CHALLENGE, "an extension that we do not have: m=x"),
    (CHALLENGE + b",m=x", "an extension that we do not have: m=x"),
    (CHALLENGE.replace(NONCES, CLIENT_NONCE.encode()), "nonce does not go on from ours"),
    (CHALLENGE.replace(NONCES, SERVER_NONCE.encode()), "nonce does not go on from ours"),
    (CHALLENGE.replace(NONCES, NONCES.swapcase()), "nonce does not go on from ours"),
    (CHALLENGE.replace(NONCES, NONCES[:-40]), "nonce does not go on from ours"),
    (CHALLENGE.replace(NONCES, NONCES + b" "), "is not printable"),
    (CHALLENGE.replace(NONCES, NONCES + b"\n"), "is not printable"),
    (CHALLENGE.replace(NONCES, NONCES + b"\xc3\xa9"), "is not printable"),
    (CHALLENGE.replace(SALT, b""), "'s=' is no attribute"),
    (CHALLENGE.replace(SALT, b"***"), "the salt is not base64"),
    (CHALLENGE.replace(SALT, SALT[:-1]), "the salt is not base64"),
    (CHALLENGE.replace(SALT, SALT + b"="), "the salt is not base64"),
    (CHALLENGE.replace(SALT, b"W22Z aJ0S"), "the salt is not base64"),
    (CHALLENGE.replace(SALT, b"W22ZaJ0S\n"), "the salt is not base64"),
    (CHALLENGE.replace(SALT, b"QR=="), "the salt is not base64"),
    (CHALLENGE.replace(b"4096", b""), "'i=' is no attribute"),
    (CHALLENGE.replace(b"4096", b"x"), "the iteration count 'x' is no number"),
    (CHALLENGE.replace(b"4096", b"-4096"), "the iteration count '-4096' is no number"),
    (CHALLENGE.replace(b"4096", b"+4096"), "the iteration count '+4096' is no number"),
    (CHALLENGE.replace(b"4096", b"04096"), "the iteration count '04096' is no number"),
    (CHALLENGE.replace(b"4096", b"4_096"), "the iteration count '4_096' is no number"),
    (CHALLENGE.replace(b"4096", b"4096\n"), "is no number"),
    (CHALLENGE.replace(b"4096", b"0"), "the iteration count '0' is no number"),
    (CHALLENGE.replace(b"4096", b"1"), "the iteration count 1 is not from 4096 to 1000000"),
    (CHALLENGE.replace(b"4096", b"4095"), "the iteration count 4095 is not from"),
    (CHALLENGE.replace(b"4096", b"1000001"), "the iteration count 1000001 is not from"),
    (CHALLENGE.replace(b"4096", b"4294967296"), "the iteration count 4294967296 is not from"),
    (CHALLENGE.replace(b"4096", b"9" * 9000), "is not from 4096 to 1000000"),
    (CHALLENGE + b",x=" + b"y" * MAX_DATA, f"a challenge with {len(CHALLENGE) + 3 + MAX_DATA}"),
)

#: What a server can send instead of its signature.
NOT_PROVEN: tuple[tuple[bytes, str], ...] = (
    (b"", "no signature came"),
    (b"Authenticated", "no signature came"),
    (b"x=1," + SIGNATURE, "no signature came"),
    (CHALLENGE, "no signature came"),
    (b"v=", "its signature is wrong"),
    (b"v=***", "its signature is wrong"),
    (SIGNATURE[:-1], "its signature is wrong"),
    (SIGNATURE[:-5], "its signature is wrong"),
    (SIGNATURE + b"\n", "its signature is wrong"),
    (SIGNATURE.replace(b"6", b"7", 1), "its signature is wrong"),
    (b"v=" + b64encode(bytes(32)), "its signature is wrong"),
    (b"v=" + PROOF.rpartition(b",p=")[2], "its signature is wrong"),
)


class HostileServerTests(SynchronousTestCase):
    def assert_error(
        self, kind: type[Error], reason: str, call: Callable[[bytes], object], data: bytes
    ) -> Error:
        error: Error = self.assertRaises(kind, call, data)
        self.assertIs(type(error), kind)
        self.assertIn(reason, str(error), data[:80])
        return error

    def test_challenges(self) -> None:
        """A challenge that is none is a broken protocol, and the error says what is wrong."""
        for challenge, reason in MALFORMED_CHALLENGES:
            exchange = started()
            error = self.assert_error(RemoteProtocolError, reason, exchange.step, challenge)
            self.assertEqual(error.field, "sasl")
            self.assertLess(len(str(error)), 350)
            self.assert_error(RemoteProtocolError, "is ended", exchange.step, CHALLENGE)
            self.assert_error(RemoteProtocolError, "is ended", exchange.finish, SIGNATURE)

    def test_extensions(self) -> None:
        """What a server adds at its end, and is not mandatory, is ignored, as the RFC wants."""
        exchange = started()
        self.assertTrue(exchange.step(CHALLENGE + b",x=y,Z=\xff"))
        exchange = answered()
        exchange.finish(SIGNATURE + b",x=y")

    def test_not_proven_by_challenge(self) -> None:
        """A last challenge without the right signature is a server that has proven nothing."""
        for data, reason in NOT_PROVEN:
            exchange = answered()
            error = self.assert_error(ServerNotProven, reason, exchange.step, data)
            self.assertEqual(error.server, "mc1.example:11211")
            self.assert_error(RemoteProtocolError, "is ended", exchange.finish, SIGNATURE)

    def test_not_proven_by_success(self) -> None:
        """A success without the right signature is a server that has proven nothing."""
        for data, reason in NOT_PROVEN:
            self.assert_error(ServerNotProven, reason, answered().finish, data)

    def test_success_at_once(self) -> None:
        """A server that accepts us before it asked has proven nothing, whatever it says."""
        for data in (b"", b"Authenticated", SIGNATURE, b"e=other-error"):
            self.assert_error(ServerNotProven, "did not wait", started().finish, data)

    def test_refused(self) -> None:
        """A server that says "e=" refuses us, wherever it says so; unknown words are not told."""
        for call in (started().step, answered().step, answered().finish):
            error = self.assert_error(
                CredentialsRefused, "SCRAM-SHA-256: invalid-proof", call, b"e=invalid-proof"
            )
            self.assertTrue(str(error).startswith("mc1.example:11211: refuses the user name or"))
            self.assertEqual(error.server, "mc1.example:11211")
        error = self.assert_error(
            CredentialsRefused, "RFC 5802 does not have", started().step, b"e=\x1b[2Jpencil"
        )
        self.assertNotIn("pencil", str(error))

    def test_endless(self) -> None:
        """A server that goes on after its signature has broken the protocol."""
        for more in (b"", SIGNATURE, CHALLENGE, b"e=other-error"):
            exchange = answered()
            exchange.step(SIGNATURE)
            self.assert_error(RemoteProtocolError, "a challenge came", exchange.step, more)
            self.assert_error(RemoteProtocolError, "is ended", exchange.finish, SIGNATURE)

    def test_success_is_bounded(self) -> None:
        """The words that come with a success are bounded, too."""
        data = SIGNATURE + b",x=" + b"y" * MAX_DATA
        self.assert_error(RemoteProtocolError, "success with", answered().finish, data)

    def test_nameless(self) -> None:
        """Without the server's name an error is still a sentence."""
        exchange = client(server="")
        exchange.start()
        error = self.assert_error(ServerNotProven, "has not proven", exchange.finish, b"")
        self.assertTrue(str(error).startswith("the server: has not proven"), str(error))

    @given(st.binary(max_size=80), st.booleans())
    def test_any_bytes(self, data: bytes, answer: bool) -> None:
        """Whatever a server says, it is an error of ours, and never a success."""
        exchange = answered() if answer else started()
        self.assertRaises(MemcacheError, exchange.step, data)


#: What a client can send first, and the error it is told.
WRONG_FIRST: tuple[tuple[bytes, bytes], ...] = (
    (b"garbage", b"other-error"),
    (b"\xff\xff", b"invalid-encoding"),
    (b"n,,", b"other-error"),
    (b"n,,n=user", b"other-error"),
    (b"n,,r=abc", b"other-error"),
    (b"n,,r=abc,n=user", b"other-error"),
    (b"n,,n=,r=abc", b"other-error"),
    (b"n,,n=user,r=", b"other-error"),
    (b"n,,n=user,r=a b", b"other-error"),
    (b"n,,n=user,r=abc,", b"other-error"),
    (b"n,,n=user,r=abc,garbage", b"other-error"),
    (b"n,,m=x,n=user,r=abc", b"other-error"),
    (b"n,,n=us=er,r=abc", b"other-error"),
    (b"n,,n=user=2c,r=abc", b"other-error"),
    (b"x,,n=user,r=abc", b"other-error"),
    (b"n=user,r=abc", b"other-error"),
    (b"n,b=user,n=user,r=abc", b"other-error"),
    (b"n,a=other,n=user,r=abc", b"other-error"),
    (b"p=tls-exporter,,n=user,r=abc", b"channel-binding-not-supported"),
    (b"n,,n=us\x07er,r=abc", b"invalid-username-encoding"),
    (b"n,,n=nobody,r=abc", b"unknown-user"),
)

#: What a client can send as its proof, and the error it is told.
WRONG_PROOFS: tuple[tuple[bytes, bytes], ...] = (
    (b"", b"other-error"),
    (b"garbage", b"other-error"),
    (b"\xff\xff", b"other-error"),
    (PROOF.rpartition(b",p=")[0], b"other-error"),
    (PROOF.rpartition(b",p=")[0] + b",p=", b"other-error"),
    (PROOF + b",x=y", b"other-error"),
    (PROOF.replace(NONCES, NONCES[:-1]), b"other-error"),
    (PROOF.replace(NONCES, CLIENT_NONCE.encode()), b"other-error"),
    (PROOF.replace(NONCES, NONCES + b"x"), b"other-error"),
    (PROOF.replace(b"c=biws", b"c=eSws"), b"channel-bindings-dont-match"),  # "y,,"
    (PROOF.replace(b"c=biws", b"c=biw="), b"channel-bindings-dont-match"),
    (PROOF.replace(b"c=biws", b"c=*"), b"channel-bindings-dont-match"),
    (PROOF.replace(b"c=biws,", b""), b"other-error"),
    (PROOF.replace(b"dHzb", b"dHzc"), b"invalid-proof"),
    (PROOF.replace(b"dHzb", b"*Hzb"), b"invalid-proof"),
    (PROOF.replace(b"dHzb", b""), b"invalid-proof"),
    (PROOF[:-1], b"invalid-proof"),
    (PROOF.replace(b",p=", b",x=y,p="), b"invalid-proof"),  # the proof is for all before it
)


class HostileClientTests(SynchronousTestCase):
    def test_first_words(self) -> None:
        """First words that are wrong are refused, and end the exchange."""
        for data, error in WRONG_FIRST:
            exchange = server()
            self.assertEqual(exchange.step(data), ServerStep(FAILURE, b"e=" + error), data)
            self.assertEqual(exchange.step(PROOF), ServerStep(FAILURE), data)

    def test_proofs(self) -> None:
        """A proof that is wrong is refused, and there is no second try."""
        for data, error in WRONG_PROOFS:
            exchange = challenged()
            self.assertEqual(exchange.step(data), ServerStep(FAILURE, b"e=" + error), data)
            self.assertEqual(exchange.step(PROOF), ServerStep(FAILURE), data)

    def test_consent(self) -> None:
        """The last word of the client is empty, and there is nothing behind it."""
        for data in (b"x", PROOF, SIGNATURE):
            exchange = challenged()
            exchange.step(PROOF)
            self.assertEqual(exchange.step(data), ServerStep(FAILURE), data)
            self.assertEqual(exchange.step(b""), ServerStep(FAILURE), data)
        exchange = challenged()
        exchange.step(PROOF)
        self.assertEqual(exchange.step(b"").outcome, Outcome.SUCCESS)
        self.assertEqual(exchange.step(b""), ServerStep(FAILURE))

    def test_headers(self) -> None:
        """A client may say that it could bind channels, or name itself twice."""
        for header in (b"y,,", b"n,a=user,", b"y,a=user,"):
            step = server().step(header + FIRST[3:])
            self.assertEqual(step, ServerStep(Outcome.CONTINUE, CHALLENGE), header)

    def test_asked_once(self) -> None:
        """The server asks once for first words that did not come."""
        exchange = server()
        self.assertEqual(exchange.step(b""), ServerStep(Outcome.CONTINUE))
        self.assertEqual(exchange.step(b"").outcome, FAILURE)

    def test_bounded(self) -> None:
        """Words without end are refused."""
        step = server().step(FIRST + b",x=" + b"y" * MAX_DATA)
        self.assertEqual(step, ServerStep(FAILURE))

    def test_unusable_password(self) -> None:
        """Nobody can log in with a stored password that SASLprep refuses."""
        for password in ("\x07", "\ud800", "key\U0001f511"):
            step = server({"user": password}).step(FIRST)
            self.assertEqual(step, ServerStep(FAILURE, b"e=unknown-user"), ascii(password))

    @given(st.binary(max_size=80), st.booleans())
    def test_any_bytes(self, data: bytes, first: bool) -> None:
        """Whatever a client says, it is answered, and never with success."""
        exchange = server() if first else challenged()
        exchange.step(data)
        self.assertIsNot(exchange.step(b"").outcome, Outcome.SUCCESS)


class SettingTests(SynchronousTestCase):
    def test_credentials(self) -> None:
        """A name or password that SASLprep refuses is an error before anything is sent."""
        for username, password, words in (
            ("us\x07er", "pencil", "can not use the user name: it holds a control character"),
            ("\u00ad", "pencil", "can not use the user name: it is empty"),
            ("\u06271", "pencil", "can not use the user name: it mixes"),
            ("user", "pen\x07cil", "can not use the password: it holds a control character"),
            ("user", "\u200d", "can not use the password: it is empty"),
            ("user", "\u06271", "can not use the password: it mixes"),
            ("user", "key\U0001f511", "can not use the password: it holds a character that is not"),
        ):
            error = self.assertRaises(InvalidSetting, client, username, password)
            self.assertIn(words, str(error))
            self.assertIn("or another mechanism", str(error))
        self.assertTrue(client("\U0001f511").start())  # a query, in which they pass

    def test_nonces(self) -> None:
        """A nonce that can not travel is refused, on both sides."""
        for nonce in ("", "a,b", "a b", "a\n", "\u00e9", "\x7f"):
            self.assertRaises(InvalidArgument, client, nonce=nonce)
            self.assertRaises(InvalidArgument, server_exchange, "SCRAM-SHA-256", USERS, nonce)

    def test_server_iterations(self) -> None:
        """A server does not count to nothing."""
        for iterations in (0, -1):
            self.assertRaises(InvalidArgument, server, iterations=iterations)
