"""
SCRAM-SHA-256 (RFC 5802 and 7677), both sides, without channel binding.

Both sides prove that they know the password and neither shows it.  A server that accepts us without
its own proof is no success: it may be anybody.  memcached (Cyrus SASL) sends that proof as a last
challenge, which wants an empty STEP; others send it along with the success.  Both are understood.

Cyrus SASL 2.1.28 skips SASLprep.  A password that SASLprep changes ("e" and a combining accent) or
refuses (an emoji) can therefore not be used with memcached's SCRAM, though it can with PLAIN.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64encode
from functools import partial
from typing import ClassVar, Final

from txtlsmc.errors import (
    CredentialsRefused,
    InvalidArgument,
    InvalidSetting,
    MemcacheError,
    RemoteProtocolError,
    ServerNotProven,
    shown,
)
from txtlsmc.settings import Credentials
from txtlsmc.wire.exchange import (
    Accounts,
    Call,
    ClientExchange,
    Outcome,
    Secret,
    ServerExchange,
    ServerStep,
    State,
    require_nonce,
    strict_b64decode,
)
from txtlsmc.wire.saslprep import Unprepared, prepare

#: RFC 7677 wants this many at least: with fewer, an impostor finds a weak password from our proof.
MIN_ITERATIONS: Final = 4096
#: Nothing else happens while they are made, and a million took 0.25 s where it was measured.
MAX_ITERATIONS: Final = 1_000_000

#: The GS2 header: no channel binding, and no other name to act under.
_HEADER: Final = b"n,,"
#: What may stand behind ``e=`` (RFC 5802, section 7); other text could repeat our own secrets.
_SERVER_ERRORS: Final = frozenset(
    {
        "invalid-encoding",
        "extensions-not-supported",
        "invalid-proof",
        "channel-bindings-dont-match",
        "server-does-support-channel-binding",
        "channel-binding-not-supported",
        "unsupported-channel-binding-type",
        "unknown-user",
        "invalid-username-encoding",
        "no-resources",
        "other-error",
    }
)
_PRINTABLE: Final = re.compile(rb"[\x21-\x2b\x2d-\x7e]+")
_COUNT: Final = re.compile(rb"[1-9][0-9]*")
_ATTRIBUTE: Final = re.compile(rb"[A-Za-z]=.+", re.DOTALL)
_FIRST_WORDS: Final = re.compile(
    r"(?P<header>(?:[ny]|(?P<binding>p=[^,]*)),(?:a=(?P<other>[^,]*))?,)"
    r"(?P<bare>n=(?P<name>(?:[^=,]|=2C|=3D)+),r=(?P<nonce>[\x21-\x2b\x2d-\x7e]+)"
    r"(?:,[A-Za-z]=[^,]+)*)"
)
_LAST_WORDS: Final = re.compile(
    rb"(?P<unproven>c=(?P<header>[^,]+),r=(?P<nonces>[^,]+)(?:,[A-Za-z]=[^,]+)*),p=(?P<proof>[^,]+)"
)


class Keys:
    """What is made from a password, a salt and an iteration count (RFC 5802, section 3)."""

    __slots__ = ("_client", "_server", "_stored")

    def __init__(self, password: Secret, salt: bytes, iterations: int) -> None:
        salted = Secret(hashlib.pbkdf2_hmac("sha256", password.value, salt, iterations))
        self._client = Secret(hmac.digest(salted.value, b"Client Key", "sha256"))
        self._stored = Secret(hashlib.sha256(self._client.value).digest())
        self._server = Secret(hmac.digest(salted.value, b"Server Key", "sha256"))

    def proof(self, dialogue: bytes) -> Secret:
        """Return what only a client that knows the password can say about *dialogue*."""
        mask = hmac.digest(self._stored.value, dialogue, "sha256")
        return Secret(bytes(a ^ b for a, b in zip(self._client.value, mask, strict=True)))

    def signature(self, dialogue: bytes) -> Secret:
        """Return what only a server that knows it can say about *dialogue*."""
        return Secret(hmac.digest(self._server.value, dialogue, "sha256"))


# The client's side --------------------------------------------------------------------------


class ScramClient(ClientExchange):
    """Our side."""

    mechanism = "SCRAM-SHA-256"
    moves: ClassVar = {
        (State.NEW, Call.START): State.STARTED,
        (State.STARTED, Call.STEP): State.ANSWERED,
        (State.ANSWERED, Call.STEP): State.PROVEN,
        (State.ANSWERED, Call.FINISH): State.ENDED,
        (State.PROVEN, Call.FINISH): State.ENDED,
    }

    def __init__(self, credentials: Credentials, nonce: str, server: str) -> None:
        super().__init__(server)
        require_nonce(nonce)
        username = prepare(credentials.username, stored=False)
        if isinstance(username, Unprepared):
            raise _unusable("user name", username)
        # The password comes last: where this frame can still raise, no variable holds it.
        password = prepare(credentials.password, stored=True)
        if isinstance(password, Unprepared):
            raise _unusable("password", password)
        self._password = Secret(password.encode())
        self._nonce = nonce.encode()
        name = username.replace("=", "=3D").replace(",", "=2C")
        self._first = f"n={name},r={nonce}".encode()
        self._unproven = b""
        self._proof = self._signature = Secret(b"")

    def _take(self, state: State, data: bytes) -> None:
        if state is State.STARTED:
            self._take_challenge(data)
        elif state is State.ANSWERED:
            self._take_signature(data)

    def _words(self, state: State) -> bytes:
        if state is State.STARTED:
            return _HEADER + self._first
        if state is State.ANSWERED:
            return self._unproven + b",p=" + b64encode(self._proof.value)
        return b""

    def _out_of_order(self, state: State, call: Call) -> MemcacheError:
        if (state, call) == (State.STARTED, Call.FINISH):
            return self._not_proven("it did not wait for our proof")
        return super()._out_of_order(state, call)

    def _take_challenge(self, data: bytes) -> None:
        self._refuse_error(data)
        nonce, salt, iterations = _read_challenge(data, self._nonce)
        self._unproven = b"c=" + b64encode(_HEADER) + b",r=" + nonce
        dialogue = b",".join((self._first, data, self._unproven))
        keys = Keys(self._password, salt, iterations)
        self._proof, self._signature = keys.proof(dialogue), keys.signature(dialogue)

    def _take_signature(self, data: bytes) -> None:
        self._refuse_error(data)
        if not data.startswith(b"v="):
            raise self._not_proven("no signature came")
        given = strict_b64decode(data[2:].partition(b",")[0])
        if given is None or not hmac.compare_digest(given, self._signature.value):
            raise self._not_proven("its signature is wrong")

    def _refuse_error(self, data: bytes) -> None:
        if data.startswith(b"e="):
            error = data[2:].decode("ascii", "replace")
            said = error if error in _SERVER_ERRORS else "an error that RFC 5802 does not have"
            raise CredentialsRefused(
                self._server, f"refuses the user name or the password ({self.mechanism}: {said})"
            )

    def _not_proven(self, reason: str) -> ServerNotProven:
        return ServerNotProven(
            self._server,
            f"has not proven that it knows the password ({reason}): it may be an impostor, so find"
            " out whom the address leads to",
        )


def _unusable(what: str, why: Unprepared) -> InvalidSetting:
    return InvalidSetting(
        f"SCRAM-SHA-256 can not use the {what}: it {why.value} (SASLprep, RFC 4013);"
        f" choose another {what}, or another mechanism"
    )


def _read_challenge(data: bytes, our_nonce: bytes) -> tuple[bytes, bytes, int]:
    # Returns the nonce of both, the salt and the iteration count.
    parts = data.split(b",")
    for part in parts:
        if part.startswith(b"m="):
            raise _malformed(f"the server wants an extension that we do not have: {shown(part)}")
        if not _ATTRIBUTE.fullmatch(part):
            raise _malformed(f"{shown(part)!r} is no attribute")
    nonce = _attribute(parts, 0, b"r=", "nonce")
    if not (nonce.startswith(our_nonce) and len(nonce) > len(our_nonce)):
        raise _malformed("the server's nonce does not go on from ours")
    if not _PRINTABLE.fullmatch(nonce):
        raise _malformed(f"the nonce {shown(nonce)!r} is not printable")
    salt = strict_b64decode(_attribute(parts, 1, b"s=", "salt"))
    if salt is None:
        raise _malformed("the salt is not base64")
    count = _attribute(parts, 2, b"i=", "iteration count")
    # The length first: a number of thousands of digits is work to read.
    if not _COUNT.fullmatch(count):
        raise _malformed(f"the iteration count {shown(count)!r} is no number")
    if len(count) > len(str(MAX_ITERATIONS)) or not MIN_ITERATIONS <= int(count) <= MAX_ITERATIONS:
        raise _malformed(
            f"the iteration count {shown(count)} is not from {MIN_ITERATIONS} to {MAX_ITERATIONS}"
        )
    return nonce, salt, int(count)


def _attribute(parts: list[bytes], place: int, name: bytes, what: str) -> bytes:
    if place >= len(parts) or not parts[place].startswith(name):
        raise _malformed(f"the {what} is missing")
    return parts[place][len(name) :]


def _malformed(reason: str) -> RemoteProtocolError:
    return RemoteProtocolError("sasl", f"in the SCRAM challenge, {reason}")


# The server's side --------------------------------------------------------------------------


class ScramServer(ServerExchange):
    """
    The server's side, in the order of memcached with Cyrus SASL.

    An unknown user is refused at once, as there, and the signature is a challenge of its own.
    """

    mechanism = "SCRAM-SHA-256"

    def __init__(self, accounts: Accounts, nonce: str, salt: bytes | None, iterations: int) -> None:
        super().__init__(accounts)
        require_nonce(nonce)
        if iterations < 1:
            raise InvalidArgument(f"the iteration count must be 1 or more, not {iterations}")
        self._nonce = nonce
        self._salt = hashlib.sha256(nonce.encode()).digest()[:16] if salt is None else salt
        self._iterations = iterations

    def _begin(self, data: bytes) -> ServerStep:
        if data:
            return self._take_first(data)
        self._next = self._take_first  # AUTH without a value: memcached asks for one
        return ServerStep(Outcome.CONTINUE)

    def _take_first(self, data: bytes) -> ServerStep:
        try:
            first = _FIRST_WORDS.fullmatch(data.decode())
        except UnicodeDecodeError:
            return _failure("invalid-encoding")
        if first is None:
            return _failure("other-error")
        if first["binding"] is not None:
            return _failure("channel-binding-not-supported")
        username = prepare(_unescaped(first["name"]), stored=False)
        if isinstance(username, Unprepared):
            return _failure("invalid-username-encoding")
        self.username = username
        if first["other"] is not None and _unescaped(first["other"]) != username:
            return _failure("other-error")
        password = _prepared_password(self._accounts, username)
        if password is None:
            return _failure("unknown-user")
        nonces = first["nonce"] + self._nonce
        challenge = f"r={nonces},s={b64encode(self._salt).decode()},i={self._iterations}"
        self._next = partial(
            self._take_proof,
            Keys(password, self._salt, self._iterations),
            b64encode(first["header"].encode()),
            nonces.encode(),
            f"{first['bare']},{challenge},".encode(),
        )
        return ServerStep(Outcome.CONTINUE, challenge.encode())

    def _take_proof(
        self, keys: Keys, header: bytes, nonces: bytes, dialogue: bytes, data: bytes
    ) -> ServerStep:
        last = _LAST_WORDS.fullmatch(data)
        if last is None or last["nonces"] != nonces:
            return _failure("other-error")
        if last["header"] != header:
            return _failure("channel-bindings-dont-match")
        dialogue += last["unproven"]
        proof = strict_b64decode(last["proof"])
        if proof is None or not hmac.compare_digest(proof, keys.proof(dialogue).value):
            return _failure("invalid-proof")
        self._next = self._take_consent
        signature = keys.signature(dialogue).value
        return ServerStep(Outcome.CONTINUE, b"v=" + b64encode(signature))

    def _take_consent(self, data: bytes) -> ServerStep:
        return ServerStep(Outcome.FAILURE if data else Outcome.SUCCESS)


def _failure(error: str) -> ServerStep:
    return ServerStep(Outcome.FAILURE, b"e=" + error.encode())


def _unescaped(name: str) -> str:
    return name.replace("=2C", ",").replace("=3D", "=")


def _prepared_password(accounts: Accounts, username: str) -> Secret | None:
    # None as well for a password that has no prepared form: nobody can know it.
    for known in accounts.names():
        if username in (known, prepare(known, stored=False)):
            password = accounts.password(known)
            prepared = password and prepare(password.value.decode(), stored=True)
            return Secret(prepared.encode()) if isinstance(prepared, str) else None
    return None
