"""
No error of an exchange shows the password, or what was made from it.

The passwords here are made up in functions, and never kept in a variable of this module or of a
test: the tracebacks that are searched show those as well.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from traceback import TracebackException, walk_tb

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from tests.wire.test_scram import (
    CHALLENGE,
    CLIENT_NONCE,
    FIRST,
    MALFORMED_CHALLENGES,
    NONCES,
    NOT_PROVEN,
)
from txtlsmc.errors import (
    CredentialsRefused,
    InvalidArgument,
    InvalidSetting,
    MemcacheError,
    RemoteProtocolError,
    ServerNotProven,
)
from txtlsmc.settings import MECHANISMS, Credentials
from txtlsmc.wire.exchange import MAX_DATA
from txtlsmc.wire.sasl import ClientExchange, ServerExchange, client_exchange, server_exchange

PLAIN, CRAM, SCRAM = MECHANISMS
CRAM_CHALLENGE = b"<1896.697170952@postoffice.reston.mci.net>"


def password() -> str:
    """Return a password, which SASLprep leaves as it is."""
    return "".join(("Tr0ub", "4dor&3"))


def secrets() -> Iterator[bytes]:
    """Yield all that must not be seen: the password, and what each mechanism makes of it."""
    yield password().encode()
    yield b"\0user\0" + password().encode()
    yield hmac.new(password().encode(), CRAM_CHALLENGE, "md5").digest()
    # RFC 5802, section 3.
    salted = hashlib.pbkdf2_hmac(
        "sha256", password().encode(), bytes.fromhex("5b6d99689d12358eeca04b141236fa81"), 4096
    )
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    stored_key = hashlib.sha256(client_key).digest()
    dialogue = FIRST[3:] + b"," + CHALLENGE + b",c=biws,r=" + NONCES
    mask = hmac.digest(stored_key, dialogue, "sha256")
    yield from (salted, client_key, stored_key, hmac.digest(salted, b"Server Key", "sha256"))
    yield bytes(a ^ b for a, b in zip(client_key, mask, strict=True))


def leaks(text: str) -> list[str]:
    """Return in what form *text* shows something that it must not."""
    found = []
    for number, secret in enumerate(secrets()):
        forms = {
            "as it is": secret.decode("latin-1"),
            "repr": repr(secret)[2:-1],
            "base64": b64encode(secret).decode().rstrip("="),
            "hex": secret.hex(),
        }
        found += [f"secret {number}, {name}" for name, form in forms.items() if form in text]
    return found


def told(call: Callable[..., object], *arguments: object) -> tuple[BaseException | None, str]:
    """Make *call*, and return its error and all that may be printed of it."""
    try:
        call(*arguments)
    except Exception as error:
        failure = Failure(captureVars=True)
        lines = [str(error), repr(error), repr(vars(error))]
        lines += TracebackException.from_exception(error, capture_locals=True).format()
        lines += [failure.getTraceback(), failure.getTraceback(detail="verbose"), repr(failure)]
        # Some reporters look into the objects.
        for frame, _ in walk_tb(error.__traceback__):
            for value in frame.f_locals.values():
                lines.append(repr(getattr(value, "__dict__", None)))
        return error, "\n".join(lines)
    return None, ""


def client(
    mechanism: str, *, name: str = "user", spoiled: str = "", nonce: str = CLIENT_NONCE
) -> ClientExchange:
    credentials = Credentials(name, password() + spoiled, mechanism)
    return client_exchange(credentials, nonce, server="mc1:11211")


def server(mechanism: str, nonce: str, host: str, iterations: int) -> ServerExchange:
    return server_exchange(mechanism, {"user": password()}, nonce, host=host, iterations=iterations)


def started(mechanism: str) -> ClientExchange:
    exchange = client(mechanism)
    exchange.start()
    return exchange


def answered(mechanism: str) -> ClientExchange:
    exchange = started(mechanism)
    exchange.step(CHALLENGE if mechanism == SCRAM else CRAM_CHALLENGE)
    return exchange


class SecretTests(SynchronousTestCase):
    def assert_quiet(
        self, kind: type[MemcacheError], call: Callable[..., object], *arguments: object
    ) -> None:
        error, text = told(call, *arguments)
        self.assertIsInstance(error, kind)
        self.assertEqual(leaks(text), [], f"{type(error).__name__}: {error}")

    def test_search(self) -> None:
        """The search finds every secret in a careless function's error, in every form."""

        def careless(number: int, form: Callable[[bytes], object]) -> None:
            value = form(list(secrets())[number])
            raise ValueError(f"{type(value)} is no good")

        def hopeless(number: int, form: Callable[[bytes], object]) -> None:
            raise ValueError(form(list(secrets())[number]))

        for call in (careless, hopeless):
            for number in range(len(list(secrets()))):
                for form in (bytes, b64encode, bytes.hex):
                    error, text = told(call, number, form)
                    self.assertIsInstance(error, ValueError)
                    self.assertNotEqual(leaks(text), [], (call, number, form))

    def test_right_answers(self) -> None:
        """The secrets that are looked for are those that the exchanges use."""
        self.assertIn(client(PLAIN).start(), list(secrets()))
        answer = started(CRAM).step(CRAM_CHALLENGE)
        self.assertIn(bytes.fromhex(answer.split(b" ")[1].decode()), list(secrets()))
        proof = started(SCRAM).step(CHALLENGE).rpartition(b",p=")[2]
        self.assertIn(proof, [b64encode(secret) for secret in secrets()])

    def test_settings(self) -> None:
        """A password that SCRAM can not use is not shown by the error that says so."""
        for spoiled in ("\x07", "\u06271", "\U0001f511"):
            self.assert_quiet(InvalidSetting, partial(client, SCRAM, spoiled=spoiled))
        self.assert_quiet(InvalidSetting, partial(client, SCRAM, name="\x07"))
        self.assert_quiet(InvalidArgument, partial(client, SCRAM, nonce="a,b"))

    def test_order(self) -> None:
        """Errors for calls out of turn show nothing."""
        for mechanism in MECHANISMS:
            self.assert_quiet(InvalidArgument, client(mechanism).step, b"")
            self.assert_quiet(InvalidArgument, client(mechanism).finish, b"")
            self.assert_quiet(InvalidArgument, started(mechanism).start)
        self.assert_quiet(RemoteProtocolError, started(PLAIN).step, b"")
        self.assert_quiet(RemoteProtocolError, started(PLAIN).finish, bytes(MAX_DATA + 1))
        self.assert_quiet(RemoteProtocolError, started(CRAM).finish, b"")
        self.assert_quiet(ServerNotProven, started(SCRAM).finish, b"")

    def test_cram_md5(self) -> None:
        """Errors of CRAM-MD5 show nothing."""
        for challenge in (b"", b"garbage", bytes(MAX_DATA + 1)):
            self.assert_quiet(RemoteProtocolError, started(CRAM).step, challenge)
        self.assert_quiet(RemoteProtocolError, answered(CRAM).step, CRAM_CHALLENGE)

    def test_scram(self) -> None:
        """Errors of SCRAM show nothing, whether before the proof was made or after."""
        for challenge, _ in MALFORMED_CHALLENGES:
            exchange = started(SCRAM)
            self.assert_quiet(RemoteProtocolError, exchange.step, challenge)
            self.assert_quiet(RemoteProtocolError, exchange.finish, b"")
        for data, _ in NOT_PROVEN:
            self.assert_quiet(ServerNotProven, answered(SCRAM).step, data)
            self.assert_quiet(ServerNotProven, answered(SCRAM).finish, data)
        for call in (started(SCRAM).step, answered(SCRAM).step, answered(SCRAM).finish):
            self.assert_quiet(CredentialsRefused, call, b"e=other-error")

    def test_server(self) -> None:
        """A server's settings may be wrong without its users' passwords being shown."""
        self.assert_quiet(InvalidArgument, server, "NOSUCH", "a", "host", 4096)
        self.assert_quiet(InvalidArgument, server, CRAM, "a,b", "host", 4096)
        self.assert_quiet(InvalidArgument, server, CRAM, "a", "ho st", 4096)
        self.assert_quiet(InvalidArgument, server, SCRAM, "a,b", "host", 4096)
        self.assert_quiet(InvalidArgument, server, SCRAM, "a", "host", 0)
