"""
A proxy in front of a real memcached that does on command what networks and servers do.

It listens on a loopback port of its own, which stays reserved (as in `tests.memcached`) while it
refuses, and shows a certificate of the authority that it is given.  Faults add up until `heal`.
"""

from __future__ import annotations

import socket
from typing import Final

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred, succeed
from twisted.internet.interfaces import (
    IAddress,
    IListeningPort,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, ServerFactory
from twisted.internet.task import deferLater
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol

from tests.faults.certificates import GOOD, Shown
from tests.faults.proxied import Cut, How, Mute, Open, Place, Proxied, Seen
from txtlsmc.testing.authority import Authority

_HOST: Final = "127.0.0.1"


class FaultProxy:
    """
    A server with TLS that is well until it is told otherwise.

    Attributes:
        address: where it listens.
        seen: every connection that it accepted, in order.
        most_live: the most that there were at once.
        shown: the certificate for new connections.
    """

    def __init__(self, authority: Authority, endpoint: IStreamClientEndpoint) -> None:
        """
        Reserve a port; `start` listens.

        Args:
            authority: issues what it shows.
            endpoint: dials the memcached behind, with TLS or without.
        """
        self.seen: list[Seen] = []
        self.most_live = 0
        self.shown = Shown.named(GOOD, authority)
        self.silent = self.trickles = False
        self._authority, self._endpoint = authority, endpoint
        self._mute = False
        self._cuts: list[Cut] = []
        self._open: set[Open] = set()
        self._all_gone: list[Deferred[None]] = []
        self._flapping: Deferred[None] | None = None
        self._listening: IListeningPort | None = None
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind((_HOST, 0))
        self.address: tuple[str, int] = self._reserved.getsockname()

    # What it saw --------------------------------------------------------------------------------

    @property
    def accepted(self) -> int:
        """How many connections there were in all."""
        return len(self.seen)

    @property
    def live(self) -> int:
        """How many there are now."""
        return sum(one.live for one in self.seen)

    @property
    def handshakes(self) -> int:
        """How many of them came to speak TLS."""
        return sum(one.handshaken for one in self.seen)

    @property
    def received(self) -> int:
        """How many bytes clients sent, without TLS."""
        return sum(one.received for one in self.seen)

    @property
    def sent(self) -> int:
        """How many bytes they were sent, without TLS."""
        return sum(one.sent for one in self.seen)

    @property
    def unverified(self) -> list[Seen]:
        """The connections whose client sent anything to a certificate that is to be refused."""
        return [one for one in self.seen if one.bad and one.received]

    # What it does -------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen; when it does already, nothing changes."""
        if self._listening is None:
            self._listening = reactor.listenTCP(self.address[1], _Door(self), interface=_HOST)

    def refuse(self) -> Deferred[None]:
        """
        Refuse new connections; live ones stay.

        Returns:
            A Deferred that fires when the port is closed.
        """
        listening, self._listening = self._listening, None
        if listening is None:
            return succeed(None)
        return maybeDeferred(listening.stopListening).addCallback(lambda _: None)

    def reset_all(self) -> None:
        """Reset every live connection."""
        for each in list(self._open):
            each.abort()

    async def restart(self, down_seconds: float = 0.0) -> None:
        """Reset every connection, and refuse new ones for a while."""
        await self.refuse()
        self.reset_all()
        await _pause(down_seconds)
        self.start()

    def flap(
        self, times: int = 5, up_seconds: float = 0.15, down_seconds: float = 0.15
    ) -> Deferred[None]:
        """
        Go down and come up so many times.

        Returns:
            A Deferred that fires when it has come up for the last time; `stop` cancels it.
        """

        async def go_on() -> None:
            for _ in range(times):
                await self.restart(down_seconds)
                await _pause(up_seconds)

        self._flapping = Deferred.fromCoroutine(go_on())
        return self._flapping

    def accept_silently(self) -> None:
        """Accept new connections and say nothing at all to them."""
        self._mute = True

    def fall_silent(self) -> None:
        """Shake hands, and hand on nothing any more; requests and answers are held back."""
        self.silent = True

    def cut(self, place: Place, how: How, *, times: int = 1, least: int = 0) -> None:
        """
        Cut the next answers.

        Args:
            place: in the header, or in the body; an answer without one is let through.
            how: what happens there.  A stall lasts until `heal`.
            times: how many answers.
            least: only those with a body of so many bytes.
        """
        self._cuts += [Cut(place, how, least)] * times

    def trickle(self) -> None:
        """Send each byte of an answer in a record of its own; meant for small values."""
        self.trickles = True

    def show(self, name: str) -> Shown:
        """Show another certificate to new connections: `GOOD`, or one of `BAD`."""
        self.shown = Shown.named(name, self._authority)
        return self.shown

    def heal(self) -> None:
        """
        Be well again: listen, show a good certificate, let go what was held back.

        Who was accepted without a word is reset: it would wait for ever.
        """
        self._mute = self.silent = self.trickles = False
        self._cuts.clear()
        if self.shown.bad:
            self.show(GOOD)
        self.start()
        for each in list(self._open):
            if isinstance(each, Proxied):
                each.heal()
            elif isinstance(each, Mute):
                each.abort()

    async def stop(self) -> None:
        """Close everything; nothing is left when it is done."""
        if self._flapping is not None:
            self._flapping.addErrback(lambda failure: failure.trap(CancelledError))
            self._flapping.cancel()
        await self.refuse()
        self.reset_all()
        if self._open:
            gone: Deferred[None] = Deferred()
            self._all_gone.append(gone)
            await gone
        self._reserved.close()

    # For the connections ------------------------------------------------------------------------

    def cut_for(self, frame: bytes) -> tuple[int, How] | None:
        """Return how much of *frame* goes out, and what happens then, or None for all of it."""
        for cut in self._cuts:
            length = cut.where(frame)
            if length is not None:
                self._cuts.remove(cut)
                return length, cut.how
        return None

    def build(self, address: IAddress | None) -> Protocol | None:
        """Return the protocol of a connection that is accepted now."""
        seen = Seen()
        self.seen.append(seen)
        self.most_live = max(self.most_live, self.live)
        if self._mute:
            mute = Mute(seen, self._lost)
            self._open.add(mute)
            return mute
        seen.certificate, seen.serial, seen.bad = self.shown.name, self.shown.serial, self.shown.bad
        proxied = Proxied(self, seen, self._endpoint, self._open.add, self._lost)
        self._open.add(proxied)
        inside = Factory.forProtocol(lambda: proxied)
        factory = TLSMemoryBIOFactory(
            self.shown.creator, isClient=False, wrappedFactory=inside, clock=IReactorTime(reactor)
        )
        # Not the one that gathers small writes: each is to be a record.
        factory.protocol = TLSMemoryBIOProtocol
        return factory.buildProtocol(address)

    def _lost(self, connection: Open) -> None:
        self._open.discard(connection)
        if not self._open:
            waiting, self._all_gone = self._all_gone, []
            for each in waiting:
                each.callback(None)


class _Door(ServerFactory):
    noisy = False

    def __init__(self, proxy: FaultProxy) -> None:
        self._proxy = proxy

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        return self._proxy.build(addr)


def _pause(seconds: float) -> Deferred[None]:
    return deferLater(IReactorTime(reactor), seconds)
