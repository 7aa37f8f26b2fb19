"""What the gateway keeps for its local clients: answers that they have not read, half requests."""

from __future__ import annotations

from typing import Protocol

from txtlsmc.tunnel.settings import TunnelLimits


class Holder(Protocol):
    """Somebody for whom something is kept."""

    def over_limit(self, name: str, limit: int) -> None:
        """Give up what is kept: the limit *name* was passed, and nobody has more."""


class LocalMemory:
    """
    The bytes that are kept for all local clients together.

    Attributes:
        total: how many there are.
        limits: what they are held against; may be exchanged.
    """

    def __init__(self, limits: TunnelLimits) -> None:
        """
        Args:
            limits: see the class.
        """
        self.total = 0
        self.limits = limits
        self._held: dict[Holder, int] = {}

    def hold(self, holder: Holder, size: int) -> None:
        """Note that *size* bytes are kept for *holder* from now on; whoever has too much goes."""
        held = self._held
        self.total += size - held.get(holder, 0)
        if not size:
            held.pop(holder, None)
            return
        held[holder] = size
        limits = self.limits
        if size > limits.max_unread:
            holder.over_limit("max_unread", limits.max_unread)
        elif self.total > limits.max_unread_in_all:
            most = max(held, key=held.__getitem__)
            most.over_limit("max_unread_in_all", limits.max_unread_in_all)
