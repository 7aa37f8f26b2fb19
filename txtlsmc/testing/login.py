"""
SASL on one connection of the embedded server, as memcached with Cyrus SASL does it.

`txtlsmc.wire.sasl` speaks the mechanisms.  What is here is the state around them, oddities
included, because a client has to live with those:

- Every LIST, AUTH and STEP logs out first.
- A session that was logged in by PLAIN or CRAM-MD5 refuses the next AUTH, whatever it holds, and
  takes the one behind that.
- Once the proof of SCRAM was right, whatever comes next will do, and not only an empty STEP.
"""

from __future__ import annotations

from txtlsmc.testing.options import ServerOptions
from txtlsmc.wire.exchange import Outcome, ServerExchange, ServerStep
from txtlsmc.wire.sasl import server_exchange

_FAILURE = ServerStep(Outcome.FAILURE)
#: Of these Cyrus SASL itself looks at whether AUTH has a value, whatever went before: the server
#: has the first word in one, and the client in the other.
_WANTS_VALUE = {"CRAM-MD5": False, "PLAIN": True}


class Login:
    """
    Who the peer of one connection is.

    Attributes:
        authenticated: whether it may ask for more than SASL and the version.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.authenticated = False
        self._options = options
        self._exchange: ServerExchange | None = None
        self._started = False
        self._finished = False
        self._proven = False

    def mechanisms(self) -> bytes:
        """Answer LIST: the names of the mechanisms."""
        self.authenticated = False
        return " ".join(self._options.mechanisms).encode()

    def auth(self, mechanism: bytes, data: bytes) -> ServerStep:
        """Answer AUTH: *mechanism* in any letter case, up to a NUL, and its first words."""
        self.authenticated = False
        step = self._start(mechanism.partition(b"\0")[0].decode("latin-1").upper(), data)
        self._started = step.outcome is not Outcome.FAILURE
        if not self._started:
            self._finished = False
        return self._noted(step)

    def step(self, data: bytes) -> ServerStep:
        """Answer STEP: the next words."""
        self.authenticated = False
        return self._noted(self._go_on(data) if self._started else _FAILURE)

    def _start(self, mechanism: str, data: bytes) -> ServerStep:
        users = self._options.users
        if users is None or mechanism not in self._options.mechanisms:
            return _FAILURE
        self._exchange = server_exchange(mechanism, users, self._options.nonce())
        if _WANTS_VALUE.get(mechanism, bool(data)) is not bool(data):
            return self._exchange.step(data)  # "go on", or a failure
        return self._go_on(data)

    def _go_on(self, data: bytes) -> ServerStep:
        if self._proven:
            return ServerStep(Outcome.SUCCESS)
        if self._finished or self._exchange is None:
            return _FAILURE
        return self._exchange.step(data)

    def _noted(self, step: ServerStep) -> ServerStep:
        if step.outcome is Outcome.SUCCESS:
            self.authenticated = self._finished = True
        elif step.outcome is Outcome.CONTINUE and step.data.startswith(b"v="):
            self._proven = True  # SCRAM's server shows its signature for a right proof only
        return step
