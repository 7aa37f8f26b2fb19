"""
What the dialogues of all SASL mechanisms have in common, on both sides.

An exchange is pure: it is handed its nonce and what the peer says, and returns what to say.  It is
for one run, and the first thing that is wrong ends it.

No frame that can raise holds a secret in a variable, because a traceback may show those.  Passwords
and what is made from them live in a `Secret`, and are joined to a message in the very expression
that returns it.  Callers keep that up by not naming what `start` and `step` return.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import ClassVar, Final, NamedTuple

from txtlsmc.errors import InvalidArgument, MemcacheError, RemoteProtocolError

#: The most that a peer may say at once.  Real messages have a few hundred bytes; this bounds the
#: work that somebody who has proven nothing can ask for.
MAX_DATA: Final = 16_384

_NONCE: Final = re.compile(r"[\x21-\x2b\x2d-\x7e]+")


class Secret:
    """Bytes that no `repr` shows."""

    __slots__ = ("value",)

    def __init__(self, value: bytes) -> None:
        self.value: Final = value

    def __repr__(self) -> str:
        return "<secret>"


def strict_b64decode(text: bytes) -> bytes | None:
    """Return what *text* is the canonical base64 of, or None."""
    try:
        decoded = b64decode(text)  # which skips what is not base64, and so it is compared
    except ValueError:
        return None
    return decoded if b64encode(decoded) == text else None


def require_nonce(nonce: str) -> None:
    """
    Check the nonce that a mechanism was handed.

    Raises:
        InvalidArgument: it can not be one.
    """
    if not _NONCE.fullmatch(nonce):
        raise InvalidArgument(f"a nonce is printable ASCII without comma and space, not {nonce!r}")


# The client's side --------------------------------------------------------------------------


class State(Enum):
    """How far a client's exchange has come."""

    NEW = "not started"
    STARTED = "waiting for the answer to AUTH"
    ANSWERED = "waiting for the verdict"
    PROVEN = "waiting for the success that the server announced"
    ENDED = "ended"


class Call(Enum):
    """What can happen to a client's exchange."""

    START = "start"
    STEP = "a challenge"
    FINISH = "success"


class ClientExchange(ABC):
    """
    Our side of one run of a mechanism.

    Attributes:
        mechanism: its name, as it travels.
        moves: what may happen in which state, and the state behind it.  All that is not listed
            is an error, and every error ends the exchange.
    """

    mechanism: ClassVar[str]
    moves: ClassVar[Mapping[tuple[State, Call], State]]

    def __init__(self, server: str) -> None:
        self._server = server or "the server"
        self._state = State.NEW

    def start(self) -> bytes:
        """
        Return the value of AUTH.

        Raises:
            InvalidArgument: it was started before.
        """
        return self._run(Call.START, b"")

    def step(self, challenge: bytes) -> bytes:
        """
        Return the value of the STEP that answers *challenge*.

        Args:
            challenge: the value of the response that said "authentication continues".

        Raises:
            RemoteProtocolError: there is no such challenge, or none can come now.
            CredentialsRefused: it says that we are refused.
            ServerNotProven: the server does not know the password.
            InvalidArgument: the exchange was not started.
        """
        return self._run(Call.STEP, challenge)

    def finish(self, data: bytes) -> None:
        """
        Learn that the server accepted us; returns if we may accept the server.

        Args:
            data: the value of the response that said so.

        Raises:
            RemoteProtocolError: it can not have done so, or not yet.
            CredentialsRefused: its last words say that we are refused.
            ServerNotProven: it has not proven that it knows the password, as the mechanism wants.
            InvalidArgument: the exchange was not started.
        """
        self._run(Call.FINISH, data)

    def _run(self, call: Call, data: bytes) -> bytes:
        before, self._state = self._state, State.ENDED
        after = self.moves.get((before, call))
        if after is None:
            raise self._out_of_order(before, call)
        if len(data) > MAX_DATA:
            raise RemoteProtocolError("sasl", f"{call.value} with {len(data)} bytes")
        self._take(before, data)
        self._state = after
        return self._words(after)

    def _out_of_order(self, state: State, call: Call) -> MemcacheError:
        if state is State.NEW or call is Call.START:
            return InvalidArgument(f"{call.value} of an exchange that is {state.value}")
        return RemoteProtocolError(
            "sasl", f"{call.value} came to an exchange of {self.mechanism} that is {state.value}"
        )

    @abstractmethod
    def _take(self, state: State, data: bytes) -> None:
        """Check what the server said in *state*, and keep what is needed of it."""

    @abstractmethod
    def _words(self, state: State) -> bytes:
        """Return what we say on coming into *state*.  Must not raise: it handles the secrets."""


# The server's side --------------------------------------------------------------------------


class Outcome(Enum):
    """What a server's step means; each is a status of the response."""

    CONTINUE = "authentication continues"
    SUCCESS = "the peer is who it says"
    FAILURE = "authentication error"


class ServerStep(NamedTuple):
    """
    What a server answers.

    Attributes:
        outcome: gives the status.
        data: the value.
    """

    outcome: Outcome
    data: bytes = b""


class Accounts:
    """Who may log in: names and passwords, which no `repr` shows."""

    __slots__ = ("_users",)

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = users

    def names(self) -> Iterator[str]:
        """Return the names of all users."""
        return iter(self._users)

    def password(self, username: str) -> Secret | None:
        """Return the password of *username*; None when there is none that can travel."""
        try:
            return Secret(self._users[username].encode())
        except (KeyError, UnicodeEncodeError):
            return None

    def __repr__(self) -> str:
        return f"<{len(self._users)} accounts>"


class ServerExchange(ABC):
    """
    The server's side of one run of a mechanism.

    It never raises for what the peer says: all that is wrong is a failure, and ends it.

    Attributes:
        mechanism: its name, as it travels.
        username: who the peer says it is, once it has; true only when a step was a success.
    """

    mechanism: ClassVar[str]

    def __init__(self, accounts: Accounts) -> None:
        self.username: str | None = None
        self._accounts = accounts
        # What the next step is for.  A step that leaves it alone was the last one.
        self._next: Callable[[bytes], ServerStep] = self._begin

    def step(self, data: bytes) -> ServerStep:
        """Return the answer to *data*, the value of AUTH first and then of each STEP."""
        move, self._next = self._next, self._after_the_end
        return move(data) if len(data) <= MAX_DATA else ServerStep(Outcome.FAILURE)

    @abstractmethod
    def _begin(self, data: bytes) -> ServerStep:
        """Take the first words."""

    def _after_the_end(self, data: bytes) -> ServerStep:
        return ServerStep(Outcome.FAILURE)
