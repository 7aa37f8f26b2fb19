"""
The first words on a fresh connection, until it is ready.

A connection is ready when the server has answered something that only a server answers whom we may
use: AUTH, or a NOOP where there are no credentials.  (VERSION proves nothing: memcached answers it
before authentication.)  The first flight holds SASL only, or that NOOP: a server without SASL
answers AUTH with "unknown command" and would go on to *run* what travelled behind it.

LIST and AUTH go out together, so that PLAIN costs one round trip, and the answer to LIST is there
to tell a mechanism that is not offered from a wrong password.  LIST is first because memcached logs
a session out again when it comes behind a successful AUTH.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Final

from txtlsmc.errors import (
    SERVER_ERRORS,
    AuthenticationError,
    CredentialsRefused,
    CredentialsRequired,
    MechanismNotOffered,
    RemoteProtocolError,
    SASLUnavailable,
    ServerError,
)
from txtlsmc.settings import Credentials
from txtlsmc.wire.frames import Request, Response
from txtlsmc.wire.opcodes import Opcode, Status
from txtlsmc.wire.sasl import client_exchange
from txtlsmc.wire.session import Session

#: Answers to LIST, AUTH, STEP and NOOP are short; who announces more is no memcached.
_MAX_BODY: Final = 65_536
#: Our own words are as long as the password; whether that is too long is for the server to say.
_MAX_WORDS: Final = 2**32
#: The name of a mechanism (RFC 4422, section 3.1); what is none gets into no error.
_MECHANISM: Final = re.compile(rb"[A-Z0-9_-]{1,20}")
#: How many mechanisms of a server's list an error repeats.
_MAX_LISTED: Final = 16


class State(Enum):
    """What the next answer is for."""

    LISTING = "the list of mechanisms"
    AUTHENTICATING = "AUTH, or a STEP of it"
    PROBING = "NOOP"
    READY = "nothing: it is ready"


class Answer(Enum):
    """The kinds of answers, by status."""

    OK = "success"
    CONTINUE = "the exchange goes on"
    DENIED = "authentication error"
    UNKNOWN = "unknown command"
    OTHER = "any other status"

    @classmethod
    def of(cls, status: int) -> Answer:
        """Return the kind of an answer with *status*."""
        return _ANSWERS.get(status, cls.OTHER)


_ANSWERS: Final[dict[int, Answer]] = {
    Status.OK: Answer.OK,
    Status.AUTHENTICATION_CONTINUE: Answer.CONTINUE,
    Status.AUTHENTICATION_ERROR: Answer.DENIED,
    Status.UNKNOWN_COMMAND: Answer.UNKNOWN,
}


class Handshake:
    """
    One run of it, on one connection.

    Attributes:
        state: what the next answer is for.
        offered: the first of the mechanisms that the server listed, made fit to be read; None
            when it did not list any.
    """

    def __init__(self, server: str, credentials: Credentials | None, nonce: str) -> None:
        """
        Args:
            server: its name, for the errors.
            credentials: None: the server is to be used without.
            nonce: random printable ASCII without a comma, never used before.

        Raises:
            InvalidSetting: the mechanism can not use these credentials.
        """
        self.offered: tuple[str, ...] | None = None
        self.state = State.PROBING if credentials is None else State.LISTING
        self._server = server
        self._offers_ours = True  # for all we know
        self._session: Session[str] = Session(
            max_pending=2, max_pending_bytes=_MAX_WORDS, max_body=_MAX_BODY
        )
        self._exchange = (
            None if credentials is None else client_exchange(credentials, nonce, server=server)
        )

    @property
    def ready(self) -> bool:
        """Whether the connection is."""
        return self.state is State.READY

    def start(self) -> bytes:
        """Return the first flight."""
        if self._exchange is None:
            self._session.send(Request(Opcode.NOOP), "noop")
        else:
            self._session.send(Request(Opcode.SASL_LIST), "list")
            self._step(Opcode.SASL_AUTH, self._exchange.start)
        return self._session.data_to_send()

    def _step(self, opcode: Opcode, said: Callable[[], bytes]) -> None:
        # What the exchange says is never in a variable: a traceback may show those.
        assert self._exchange is not None
        mechanism = self._exchange.mechanism.encode()
        self._session.send(Request(opcode, mechanism, value=said()), "exchange")

    def receive(self, data: bytes) -> bytes:
        """
        Take the next piece of what the server sends.

        Returns:
            What to send now; possibly nothing.

        Raises:
            AuthenticationError: one of its kinds: it will not be ready.
            RemoteProtocolError: this is no memcached.
        """
        ended = self._session.receive(data)
        # A peer may repeat what it heard, the password, and a traceback may show variables.
        del data
        for _, responses in ended:
            response = responses[0]
            _MOVES[self.state, Answer.of(response.status)](self, response)
        if self._session.error is not None:
            raise self._session.error
        if self.ready and self._session.inside_answer:
            # Nobody else would ever see these bytes.
            raise RemoteProtocolError("opaque", "more came behind the answer that makes it ready")
        return self._session.data_to_send()

    # The moves, one for each cell of the table below.

    def _listed(self, response: Response) -> None:
        assert self._exchange is not None
        names = response.value.upper().split()
        self._offers_ours = self._exchange.mechanism.encode() in names
        legal = [name.decode() for name in names if _MECHANISM.fullmatch(name)]
        self.offered = tuple(legal[:_MAX_LISTED])
        self.state = State.AUTHENTICATING

    def _not_listed(self, response: Response) -> None:
        # The answer to AUTH, which is on its way, decides.
        self.state = State.AUTHENTICATING

    def _proceed(self, response: Response) -> None:
        exchange = self._exchange
        assert exchange is not None
        self._step(Opcode.SASL_STEP, lambda: exchange.step(response.value))

    def _authenticated(self, response: Response) -> None:
        assert self._exchange is not None
        self._exchange.finish(response.value)
        self.state = State.READY

    def _denied(self, response: Response) -> None:
        assert self._exchange is not None
        mechanism = self._exchange.mechanism
        if not self._offers_ours:
            raise MechanismNotOffered(self._server, mechanism, self.offered or ())
        raise CredentialsRefused(
            self._server, f"refuses the user name or the password ({mechanism})"
        )

    def _no_sasl(self, response: Response) -> None:
        raise SASLUnavailable(
            self._server,
            "has no SASL, but credentials are set: start it with SASL (memcached -S),"
            " or take the credentials out of the settings",
        )

    def _failed(self, response: Response) -> None:
        # Not in the server's words: they may repeat the password.
        summary = SERVER_ERRORS.get(response.status, ServerError).summary
        raise AuthenticationError(
            self._server,
            f"answers the authentication with status 0x{response.status:02x}: {summary}",
        )

    def _probed(self, response: Response) -> None:
        self.state = State.READY

    def _required(self, response: Response) -> None:
        raise CredentialsRequired(
            self._server, "wants a user name and a password (SASL): set credentials"
        )

    def _refused(self, response: Response) -> None:
        raise RemoteProtocolError("status", f"0x{response.status:02x} is no answer to NOOP")

    def _impossible(self, response: Response) -> None:
        raise RemoteProtocolError("status", f"0x{response.status:02x} came for {self.state.value}")


_Move = Callable[[Handshake, Response], None]

#: What every kind of answer means in every state.
_MOVES: Final[dict[tuple[State, Answer], _Move]] = {
    (State.LISTING, Answer.OK): Handshake._listed,
    (State.LISTING, Answer.CONTINUE): Handshake._impossible,
    (State.LISTING, Answer.DENIED): Handshake._not_listed,
    (State.LISTING, Answer.UNKNOWN): Handshake._not_listed,
    (State.LISTING, Answer.OTHER): Handshake._not_listed,
    (State.AUTHENTICATING, Answer.OK): Handshake._authenticated,
    (State.AUTHENTICATING, Answer.CONTINUE): Handshake._proceed,
    (State.AUTHENTICATING, Answer.DENIED): Handshake._denied,
    (State.AUTHENTICATING, Answer.UNKNOWN): Handshake._no_sasl,
    (State.AUTHENTICATING, Answer.OTHER): Handshake._failed,
    (State.PROBING, Answer.OK): Handshake._probed,
    (State.PROBING, Answer.CONTINUE): Handshake._impossible,
    (State.PROBING, Answer.DENIED): Handshake._required,
    (State.PROBING, Answer.UNKNOWN): Handshake._refused,
    (State.PROBING, Answer.OTHER): Handshake._refused,
    (State.READY, Answer.OK): Handshake._impossible,
    (State.READY, Answer.CONTINUE): Handshake._impossible,
    (State.READY, Answer.DENIED): Handshake._impossible,
    (State.READY, Answer.UNKNOWN): Handshake._impossible,
    (State.READY, Answer.OTHER): Handshake._impossible,
}
