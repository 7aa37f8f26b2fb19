"""
Taking up an earlier TLS session again, which spares both sides most of the handshake.

The server shows no certificate then, and nobody verifies one: that it knows the session's secret is
what proves that it is the same.  So a session is worth what the verification was that it began
with, and is kept together with that; and it is not offered where that would fail today.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime

from OpenSSL import SSL

from txtlsmc.net.certificates import CertificateFacts


class Resumption:
    """
    The latest session with one server, under one set of TLS settings.

    It must not be shared between servers or settings: each endpoint has its own.
    """

    def __init__(self, wall_clock: Callable[[], float] = time.time) -> None:
        """
        Args:
            wall_clock: the Unix time, for the validity of certificates.
        """
        self._wall_clock = wall_clock
        self._kept: tuple[SSL.Session, CertificateFacts] | None = None

    def __repr__(self) -> str:
        return f"<Resumption, {'a session is' if self._kept else 'nothing'} kept>"  # no secrets

    def offer(self, connection: SSL.Connection, pins: Collection[str]) -> CertificateFacts | None:
        """
        Let *connection* offer the session to the server, if it may.

        Args:
            connection: one whose handshake has not begun.
            pins: the public keys that are accepted; none: all.

        Returns:
            Whom it was verified to be with; None when there is none to offer.
        """
        if self._kept is None:
            return None
        session, facts = self._kept
        now = datetime.fromtimestamp(self._wall_clock(), UTC)
        valid = facts.not_before <= now <= facts.not_after
        if not valid or (pins and facts.pin not in pins):
            self._kept = None
            return None
        connection.set_session(session)
        return facts

    def keep(self, connection: SSL.Connection, facts: CertificateFacts) -> None:
        """
        Keep the session of *connection*, if it has one, in the place of any earlier one.

        Args:
            connection: one whose handshake is complete.
            facts: what its server's certificate says, which was verified then or with the session
                that it took up.
        """
        session = connection.get_session()
        if session is not None:
            self._kept = session, facts
