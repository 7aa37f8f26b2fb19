"""What is said about certificates that expire."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from txtlsmc.net.certificates import CertificateFacts
from txtlsmc.servers import Server
from txtlsmc.tunnel.journal import Journal

#: Days left at which something is said, once for each.
THRESHOLDS: Final = (30, 14, 7, 1)

#: Certificates that are remembered: servers behind one name may show several in turn.
_MOST: Final = 1024


def threshold(days: int) -> int | None:
    """Return the least of `THRESHOLDS` that *days* left have come down to, or None."""
    return min((one for one in THRESHOLDS if days <= one), default=None)


class Expiry:
    """Looks at certificates, at each handshake and once a day, and says when one gets old."""

    def __init__(
        self, journal: Journal, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """
        Args:
            journal: where it is said.
            now: the date and time, in UTC.
        """
        self._journal, self._now = journal, now
        self._shown: dict[str, CertificateFacts] = {}  # the last one of each server
        self._told: dict[tuple[str, str, datetime], int] = {}  # at which threshold, the last time

    def look(self, server: Server | str, facts: CertificateFacts) -> None:
        """Look at the certificate that *server* has just shown."""
        name = str(server)
        self._shown[name] = facts
        days = facts.days_left(self._now())
        reached = threshold(days)
        certificate = name, facts.pin, facts.not_after
        if reached is None or self._told.get(certificate, reached + 1) <= reached:
            return
        self._told[certificate] = reached
        if len(self._told) > _MOST:
            del self._told[next(iter(self._told))]
        self._journal.expires(name, facts, days)

    def look_again(self) -> None:
        """Look at the last certificate of every server."""
        for name, facts in list(self._shown.items()):
            self.look(name, facts)

    def forget(self, server: Server | str) -> None:
        """Look no more at what *server* has shown."""
        self._shown.pop(str(server), None)
