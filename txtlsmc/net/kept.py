"""What whoever keeps a connection alive has to know of it."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol

from txtlsmc.errors import MemcacheError


class KeptProtocol(Protocol):
    """
    One connection, for whoever makes it anew when it is gone.

    Attributes:
        answered: whether an answer has come on it.
        on_ready: called when it can be used.
        on_end: called once, with the reason, when it can not be used any more.
    """

    answered = False
    on_ready: Callable[[], object] | None = None
    on_end: Callable[[MemcacheError], object] | None = None

    def close(self) -> Deferred[None]:
        """Let what is pending finish, then end the connection; fires when it is gone."""
        raise NotImplementedError

    def abort(self) -> None:
        """End the connection now."""
        raise NotImplementedError
