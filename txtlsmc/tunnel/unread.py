"""
What a local client is told: written at once while it reads, and kept for it while it does not.

What is kept goes out piece by piece, each once the one before was taken, so that a client that
reads slowly can be told from one that does not read at all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from txtlsmc.net.direct import DirectWriter

#: What is kept is written in pieces of so many bytes.
PIECE: Final = 65_536


@implementer(IPushProducer)
class Unread:
    """
    The way out to one client.

    Attributes:
        size: how many bytes are kept.
        pieces: how many of these have gone out.
    """

    def __init__(self, transport: Any, on_taken: Callable[[], object]) -> None:
        """
        Args:
            transport: of the connection, with nothing written to it yet.
            on_taken: called when the client has taken all that it did not take before.
        """
        self.size = self.pieces = 0
        self._transport, self._on_taken = transport, on_taken
        self._kept: deque[memoryview] = deque()
        self._choked = False  # by a transport that tells it so, as TLS does
        self._writer = DirectWriter(transport)
        self._writer.on_drained = self._go_on
        if not self._writer.direct:
            transport.registerProducer(self, True)

    @property
    def stuck(self) -> bool:
        """Whether the client has still to take something before it gets more."""
        return bool(self._kept) or self._writer.queued or self._choked

    def write(self, data: bytes) -> bool:
        """Tell *data*, now or later; return whether the client is stuck then."""
        writer = self._writer
        if self._kept or writer.queued or self._choked or len(data) > PIECE:
            self._kept.append(memoryview(data))  # cut without being copied
            self.size += len(data)
            self._write_kept()
            return self.stuck
        writer.write(data)
        return writer.queued or self._choked

    def _write_kept(self) -> None:
        kept, writer = self._kept, self._writer
        while kept and not (writer.queued or self._choked):
            piece = kept.popleft()
            if len(piece) > PIECE:
                kept.appendleft(piece[PIECE:])
                piece = piece[:PIECE]
            self.size -= len(piece)
            self.pieces += 1
            writer.write(bytes(piece))

    def _go_on(self) -> None:
        self._write_kept()
        if not self.stuck:
            self._on_taken()

    def finish(self) -> None:
        """End the connection once the transport has sent what it has; nothing must be kept."""
        if not self._writer.direct:
            self._transport.unregisterProducer()  # over TLS it would never close with one
        self._transport.loseConnection()

    def forget(self) -> None:
        """Keep nothing any more: the client has gone."""
        self._kept.clear()
        self.size = 0

    # IPushProducer

    def pauseProducing(self) -> None:
        """Write no more for now."""
        self._choked = True

    def resumeProducing(self) -> None:
        """Go on."""
        self._choked = False
        self._go_on()

    def stopProducing(self) -> None:
        """Do nothing: the connection's protocol is told as well."""
