"""Which local connections may stay: how many there are, and what is kept for upstream ones."""

from __future__ import annotations

import resource
from collections.abc import Callable
from typing import Any

from twisted.protocols.tls import TLSMemoryBIOProtocol

from txtlsmc.tunnel.counters import Counters
from txtlsmc.tunnel.journal import Journal
from txtlsmc.tunnel.settings import TunnelLimits


def descriptor_limit() -> int | None:
    """Return how many file descriptors this process may have, or None for any number."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


class Admission:
    """
    The door of all listeners: each local connection asks once, and tells once that it is gone.

    A connection beyond the limits is to be closed at once, and a line in the log says so.  (Not to
    accept it would leave it waiting in the kernel: its client would hang instead of trying another
    server.)

    Attributes:
        limits: what is looked at; may be exchanged.
    """

    def __init__(
        self,
        limits: TunnelLimits,
        counters: Counters,
        journal: Journal,
        descriptors: Callable[[], int | None] = descriptor_limit,
    ) -> None:
        """
        Args:
            limits: see the class.
            counters: those of the tunnel, of which this keeps those of local connections.
            journal: where it is told that a limit was reached.
            descriptors: returns how many this process may have.
        """
        self.limits = limits
        self._counters, self._journal, self._descriptors = counters, journal, descriptors

    def admit(self, transport: object) -> str | None:
        """
        Decide on the local connection that *transport* is.

        Returns:
            None when it may stay: it is counted, and `release` is owed.  Otherwise the name of the
            limit, ``"max_connections"`` or ``"descriptors"``: it is counted as refused, told in the
            log, and to be closed.
        """
        counters = self._counters
        if counters.local_connections >= self.limits.max_connections:
            counters.refused_max_connections += 1
            self._journal.limit("max_connections", self.limits.max_connections)
            return "max_connections"
        number, most = _file_number(transport), self._descriptors()
        # The kernel gives out the lowest number that is free, so a new connection's own number
        # tells how many are taken at least.
        if (
            number is not None
            and most is not None
            and number >= most - self.limits.reserved_descriptors
        ):
            counters.refused_descriptors += 1
            self._journal.limit("descriptors", most)
            return "descriptors"
        counters.local_connections += 1
        counters.local_connections_total += 1
        return None

    def release(self) -> None:
        """Count one out that was admitted."""
        self._counters.local_connections -= 1


def _file_number(transport: Any) -> int | None:
    """Return the number of the socket's file descriptor; None if there is no socket."""
    while isinstance(transport, TLSMemoryBIOProtocol):
        transport = transport.transport
    handle = getattr(transport, "getHandle", None)
    return None if handle is None else handle().fileno()
