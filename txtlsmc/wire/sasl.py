"""
SASL: who we are, proven by one of the mechanisms that memcached has, for both sides.

PLAIN (RFC 4616) and CRAM-MD5 (RFC 2195) are here, SCRAM-SHA-256 is in `scram`, and what they share
in `exchange`.

PLAIN and CRAM-MD5 send and compare names and passwords as they were given.  RFC 4616 leaves it to
the server to prepare them (SASLprep), and memcached with Cyrus SASL does not: it compares bytes, so
a client that prepared them would be refused with the right password.  Our server does the same,
because a test that passes on it is to pass on memcached.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import ClassVar, Final

from txtlsmc.errors import InvalidArgument, RemoteProtocolError, shown
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
)
from txtlsmc.wire.scram import ScramClient, ScramServer

__all__ = [
    "ClientExchange",
    "Outcome",
    "ServerExchange",
    "ServerStep",
    "client_exchange",
    "server_exchange",
]

#: How many iterations our SCRAM server asks for: what Cyrus SASL does.
DEFAULT_ITERATIONS: Final = 4096

_CRAM_CHALLENGE: Final = re.compile(rb"<[\x21-\x7e]+>")
# HMAC does not rest on what is broken in MD5; without the flag a FIPS build has no MD5 at all.
_MD5: Final = partial(hashlib.md5, usedforsecurity=False)


def client_exchange(credentials: Credentials, nonce: str, *, server: str = "") -> ClientExchange:
    """
    Return our side of the mechanism that *credentials* name.

    Args:
        credentials: who we are.
        nonce: random printable ASCII without comma and space, never used before; for SCRAM.
        server: its name, for the errors.

    Raises:
        InvalidSetting: SCRAM can not use this user name or password.
        InvalidArgument: the nonce can not be one.
    """
    return _CLIENTS[credentials.mechanism](credentials, nonce, server)


def server_exchange(
    mechanism: str,
    users: Mapping[str, str],
    nonce: str,
    *,
    host: str = "localhost",
    salt: bytes | None = None,
    iterations: int = DEFAULT_ITERATIONS,
) -> ServerExchange:
    """
    Return the server's side of *mechanism*.

    Args:
        mechanism: its name, in any letter case, as memcached takes it.
        users: the passwords, under the names.
        nonce: random printable ASCII without comma and space, never used before; for CRAM-MD5 and
            SCRAM.
        host: the server's name, which a challenge of CRAM-MD5 carries.
        salt: for SCRAM; made from the nonce, so that it is new in every run, unless it is given.
        iterations: for SCRAM; as many hashes are made for every login.

    Raises:
        InvalidArgument: there is no such mechanism, or one of the others can not be right.
    """
    accounts = Accounts(users)
    del users  # what is in a variable here is in the traceback of what is raised below
    name = mechanism.upper()
    if name == PlainServer.mechanism:
        return PlainServer(accounts)
    if name == CramMD5Server.mechanism:
        return CramMD5Server(accounts, nonce, host)
    if name == ScramServer.mechanism:
        return ScramServer(accounts, nonce, salt, iterations)
    raise InvalidArgument(f"there is no SASL mechanism {shown(mechanism)}")


class _NamedClient(ClientExchange):
    """One that sends the name and uses the password as they are."""

    def __init__(self, credentials: Credentials, nonce: str, server: str) -> None:
        super().__init__(server)
        self._username = credentials.username.encode()
        self._password = Secret(credentials.password.encode())


class PlainClient(_NamedClient):
    """Our side of PLAIN: the password itself, to a server that was verified."""

    mechanism = "PLAIN"
    moves: ClassVar = {
        (State.NEW, Call.START): State.STARTED,
        (State.STARTED, Call.FINISH): State.ENDED,
    }

    def _take(self, state: State, data: bytes) -> None:
        """Nothing that the server says with its success matters."""

    def _words(self, state: State) -> bytes:
        if state is State.STARTED:
            return b"\0".join((b"", self._username, self._password.value))
        return b""


class PlainServer(ServerExchange):
    """The server's side of PLAIN."""

    mechanism = "PLAIN"

    def _begin(self, data: bytes) -> ServerStep:
        if data:
            return self._take_password(data)
        self._next = self._take_password  # AUTH without a value: memcached asks for one
        return ServerStep(Outcome.CONTINUE)

    def _take_password(self, data: bytes) -> ServerStep:
        parts = data.split(b"\0")
        if len(parts) != 3 or not parts[1]:
            return ServerStep(Outcome.FAILURE)
        other, name, given = parts
        try:
            self.username = name.decode()
        except UnicodeDecodeError:
            return ServerStep(Outcome.FAILURE)
        known = self._accounts.password(self.username)
        # Compared for unknown users too: how long it takes is not to tell who exists.
        right = hmac.compare_digest(given, b"" if known is None else known.value)
        fine = right and given != b"" and other in (b"", name)
        return ServerStep(Outcome.SUCCESS if fine else Outcome.FAILURE)


class CramMD5Client(_NamedClient):
    """Our side of CRAM-MD5: a keyed hash of the server's challenge."""

    mechanism = "CRAM-MD5"
    moves: ClassVar = {
        (State.NEW, Call.START): State.STARTED,
        (State.STARTED, Call.STEP): State.ANSWERED,
        (State.ANSWERED, Call.FINISH): State.ENDED,
    }
    _challenge = b""

    def _take(self, state: State, data: bytes) -> None:
        if state is not State.STARTED:
            return
        if not _CRAM_CHALLENGE.fullmatch(data):
            raise RemoteProtocolError("sasl", f"{shown(data)!r} is no challenge of CRAM-MD5")
        self._challenge = data

    def _words(self, state: State) -> bytes:
        if state is State.ANSWERED:
            return self._username + b" " + _cram_answer(self._password, self._challenge)
        return b""


class CramMD5Server(ServerExchange):
    """The server's side of CRAM-MD5."""

    mechanism = "CRAM-MD5"

    def __init__(self, accounts: Accounts, nonce: str, host: str) -> None:
        super().__init__(accounts)
        require_nonce(nonce)
        self._challenge = f"<{nonce}@{host}>".encode()
        if not _CRAM_CHALLENGE.fullmatch(self._challenge):
            raise InvalidArgument(f"the host {host!r} is not printable ASCII without spaces")

    def _begin(self, data: bytes) -> ServerStep:
        if data:  # the first word is the server's
            return ServerStep(Outcome.FAILURE)
        self._next = self._take_answer
        return ServerStep(Outcome.CONTINUE, self._challenge)

    def _take_answer(self, data: bytes) -> ServerStep:
        name, _, given = data.rpartition(b" ")
        try:
            self.username = name.decode()
        except UnicodeDecodeError:
            return ServerStep(Outcome.FAILURE)
        known = self._accounts.password(self.username)
        answer = _cram_answer(Secret(b"") if known is None else known, self._challenge)
        right = hmac.compare_digest(given, answer)
        return ServerStep(Outcome.SUCCESS if right and known is not None else Outcome.FAILURE)


def _cram_answer(password: Secret, challenge: bytes) -> bytes:
    return hmac.new(password.value, challenge, _MD5).hexdigest().encode()


_CLIENTS: Final[dict[str, Callable[[Credentials, str, str], ClientExchange]]] = {
    kind.mechanism: kind for kind in (PlainClient, CramMD5Client, ScramClient)
}
