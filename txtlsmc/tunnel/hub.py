"""What all listeners of one tunnel share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from txtlsmc.tunnel.admission import Admission
from txtlsmc.tunnel.counters import Counters
from txtlsmc.tunnel.expiry import Expiry
from txtlsmc.tunnel.journal import Journal
from txtlsmc.tunnel.memory import LocalMemory
from txtlsmc.tunnel.settings import TunnelLimits


@dataclass(frozen=True, slots=True)
class Hub:
    """
    One of each, for the whole tunnel.

    Attributes:
        counters: what happened how often.
        admission: who may connect.
        memory: what is kept for local clients.
        journal: the log.
        expiry: is shown the certificate of a server at every handshake.
        monotonic: seconds on a clock that never jumps.
    """

    counters: Counters
    admission: Admission
    memory: LocalMemory
    journal: Journal
    expiry: Expiry
    monotonic: Callable[[], float]

    @classmethod
    def make(
        cls,
        limits: TunnelLimits | None = None,
        log_format: str = "text",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> Hub:
        """Return a new one, with nothing counted yet."""
        counters, journal = Counters(), Journal(log_format, monotonic)
        limits = limits or TunnelLimits()
        admission = Admission(limits, counters, journal)
        return cls(counters, admission, LocalMemory(limits), journal, Expiry(journal), monotonic)
