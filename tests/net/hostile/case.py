"""
One case of the battery against hostile servers: what is asked, what is said, and the verdict.

The client is the product, over a real socket.  A verdict is a list of complaints: empty when every
Deferred ended in time and exactly as the case says, nothing is left pending, the connection is
ended if and only if it has to be, and no text shows what it must not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, DeferredList, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, LogLevel, eventAsText, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

import txtlsmc
from tests.hostile import CAS, FLAGS, HostileServer, Peer, Script, Way, good, value_of
from tests.net.hostile.texts import LONGEST, error_of, leaks, password, told, unfit
from txtlsmc.errors import ConnectionClosed, RemoteProtocolError, RequestTimeout
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.settings import TLS, Credentials, InsecurePlaintext, Limits, Server
from txtlsmc.wire.operations import RawItem

#: For all but the cases that are about time: far above what anything takes.
ROOMY: Final = Limits(timeout=30, connect_timeout=30)
#: For those: what is waited for never comes, so no machine is too slow for them.
SHORT: Final = Limits(timeout=0.1, connect_timeout=30)
SHORT_CONNECT: Final = Limits(timeout=30, connect_timeout=0.1)
#: When a case that has not ended is said to hang.
DEADLINE: Final = 15.0

Ask = Callable[[MemcacheProtocol], Deferred[Any]]


class Connect(Interface):
    """What connects: `txtlsmc.connect`, or something broken in its place."""

    def __call__(
        self,
        reactor: IReactorTime,
        server: Server | str,
        *,
        tls: TLS | InsecurePlaintext,
        credentials: Credentials | None,
        limits: Limits,
    ) -> Deferred[MemcacheProtocol]: ...


class Fails:
    """The outcome that is an error: of exactly this class, with these attributes and *words*."""

    def __init__(self, kind: type[BaseException], *, words: str = "", **attributes: object) -> None:
        self.kind, self.words, self.attributes = kind, words, attributes

    def __repr__(self) -> str:
        said = [f"{name}={value!r}" for name, value in self.attributes.items()]
        return f"{self.kind.__name__}({', '.join([*said, *filter(None, [self.words])])})"


def broken(field: str, words: str = "") -> Fails:
    """Return the error for a peer whose *field* was wrong."""
    return Fails(RemoteProtocolError, field=field, words=words)


CLOSED: Final = Fails(ConnectionClosed, sent=True)
LATE: Final = Fails(RequestTimeout, sent=True)


def item(key: str, value: bytes | None = None, *, flags: int = FLAGS, cas: int = CAS) -> RawItem:
    """Return what is stored under *key*, or something else."""
    return RawItem(value_of(key.encode()) if value is None else value, flags, cas)


class Afterwards(Enum):
    """What becomes of the connection."""

    LIVES = "it is as good as ever"
    GONE = "the client has ended it, and refuses whatever is asked"
    UNKNOWN = "the server sees to it that it is of no use"


@dataclass(frozen=True)
class Case:
    """
    One thing that a hostile server may do.

    Attributes:
        name: it, in words.
        script: what the server does, once the connection is ready.
        asks: what the client asks, all at once.
        expects: what becomes of each.
        connects: what connecting fails with, if it does.
        greets: whether the server answers the client's first words by itself, and well.
        mechanism: of the client's credentials; it has none without.
        patient: whether the script waits until the client knows that the connection is ready, and
            the client asks only when it has ended.
        afterwards: what becomes of the connection; follows from what is expected if None.
        tls: whether it is a case over TLS only.
        below_tls: whether the server speaks without TLS to a client that wants TLS.
        limits: the client's.
    """

    name: str
    script: Script
    asks: tuple[Ask, ...] = ()
    expects: tuple[object, ...] = ()
    connects: Fails | None = None
    greets: bool = True
    mechanism: str | None = None
    patient: bool = False
    afterwards: Afterwards | None = None
    tls: bool = False
    below_tls: bool = False
    limits: Limits = field(default=ROOMY)

    @property
    def fate(self) -> Afterwards:
        """What becomes of the connection."""
        if self.afterwards is not None:
            return self.afterwards
        deadly = (RemoteProtocolError, ConnectionClosed, RequestTimeout)
        ended = any(isinstance(e, Fails) and issubclass(e.kind, deadly) for e in self.expects)
        return Afterwards.GONE if ended else Afterwards.LIVES

    @property
    def timed(self) -> bool:
        """Whether it is about time."""
        return self.limits in (SHORT, SHORT_CONNECT)

    async def converse(self, peer: Peer) -> None:
        """Be the server."""
        if self.greets:
            peer.say(good(await peer.request()))
        if self.patient:
            await peer.told()
        await self.script(peer)
        if not self.below_tls:
            await peer.serve()


# The verdict --------------------------------------------------------------------------------


def difference(expected: object, outcome: object) -> str | None:
    """Return in what *outcome*, a result or a `Failure`, is not what was *expected*."""
    got = outcome.value if isinstance(outcome, Failure) else outcome
    wrong = f"{got!r} instead of {expected!r}"
    if not isinstance(expected, Fails):
        same = type(got) is type(expected) and got == expected
        return None if same and not isinstance(outcome, Failure) else wrong
    if not isinstance(outcome, Failure) or type(got) is not expected.kind:
        return wrong
    for name, value in expected.attributes.items():
        if getattr(got, name, None) != value:
            return f"{wrong}: {name} is {getattr(got, name, None)!r}"
    return None if expected.words in str(got) else wrong


async def within(reactor: IReactorTime, seconds: float, *awaited: Deferred[Any]) -> bool:
    """Wait for all of *awaited*, whose results nobody needs, and return whether they came."""
    all_came: Deferred[object] = Deferred()
    DeferredList(awaited).addCallback(all_came.callback)
    try:
        await all_came.addTimeout(seconds, reactor)
    except TimeoutError:
        return False
    return True


@implementer(ILogObserver)
class _Log:
    """What was logged."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)


class _Run:
    """
    One run of one case.

    Attributes:
        complaints: what is wrong with the client.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        case: Case,
        way: Way,
        connect: Connect,
        deadline: float,
    ) -> None:
        self.complaints: list[str] = []
        self._reactor, self._case, self._way = reactor, case, way
        self._connect, self._deadline = connect, deadline
        self._failures: list[Failure] = []
        self._server = HostileServer(
            reactor,
            case.converse,
            None if case.below_tls else way.options,
            parses=not case.below_tls,
        )

    async def run(self) -> list[str]:
        """Run it, and return the complaints."""
        log = _Log()
        globalLogPublisher.addObserver(log)
        try:
            await self._talk()
        finally:
            await self._server.stop()
            await deferLater(self._reactor, 0)  # for the client's socket, after the server's
            globalLogPublisher.removeObserver(log)
        self._search(log.events)
        for peer in self._server.peers:
            self.complaints += peer.complaints
        return self.complaints

    async def _talk(self) -> None:
        case = self._case
        outcomes: list[object] = []
        connecting = self._connect(
            self._reactor,
            f"127.0.0.1:{self._server.port}",
            tls=self._way.settings,
            credentials=self._credentials(),
            limits=case.limits,
        )
        connecting.addBoth(outcomes.append)
        if not await self._came("connect", connecting):
            connecting.cancel()
            return
        protocol = outcomes[0]
        if case.connects is not None or not isinstance(protocol, MemcacheProtocol):
            self._compare("connect", case.connects, protocol)
            await self._ended()
            return
        if case.patient:
            self._server.peers[0].tell()
            await self._ended()
        await self._ask(protocol)
        await self._leave(protocol)

    def _credentials(self) -> Credentials | None:
        mechanism = self._case.mechanism
        if mechanism is None:
            return None
        return Credentials("alice", password(), mechanism, insecure_password=True)

    async def _ask(self, protocol: MemcacheProtocol) -> None:
        outcomes: list[list[object]] = [[] for _ in self._case.asks]
        asked = [
            ask(protocol).addBoth(outcome.append)
            for ask, outcome in zip(self._case.asks, outcomes, strict=True)
        ]
        await within(self._reactor, self._deadline, *asked)
        expectations = zip(self._case.expects, outcomes, strict=True)
        for number, (expected, outcome) in enumerate(expectations):
            if len(outcome) == 1:
                self._compare(f"request {number}", expected, outcome[0])
            else:
                self.complaints.append(f"request {number} hangs, instead of {expected!r}")

    async def _leave(self, protocol: MemcacheProtocol) -> None:
        fate = self._case.fate
        if fate is Afterwards.GONE:
            await self._ended()
        if fate is not Afterwards.UNKNOWN:
            outcomes: list[object] = []
            gone = Fails(ConnectionClosed, sent=False)
            expected = gone if fate is Afterwards.GONE else item("afterwards")
            asked = protocol.get("afterwards").addBoth(outcomes.append)
            if await self._came("a request afterwards", asked):
                self._compare("a request afterwards", expected, outcomes[0])
        closing = protocol.close()
        if not await self._came("the end", closing):
            protocol.abort()
        if protocol.pending:
            self.complaints.append(f"{protocol.pending} requests are left pending")

    async def _came(self, what: str, awaited: Deferred[Any]) -> bool:
        came = await within(self._reactor, self._deadline, awaited)
        if not came:
            self.complaints.append(f"{what} hangs")
        return came

    async def _ended(self) -> None:
        gone = [peer.gone() for peer in self._server.peers]
        if not await within(self._reactor, self._deadline, *gone):
            self.complaints.append("the client keeps the connection")
        await deferLater(self._reactor, 0)

    def _compare(self, what: str, expected: object, outcome: object) -> None:
        if isinstance(outcome, Failure):
            self._failures.append(outcome)
        wrong = difference(expected, outcome)
        if wrong is not None:
            self.complaints.append(f"{what}: {wrong}")

    def _search(self, events: list[LogEvent]) -> None:
        words = [word for peer in self._server.peers for word in peer.words]
        for failure in self._failures:
            error = error_of(failure)
            self.complaints += unfit(error)
            if self._case.mechanism is not None and leaks(told(failure), words):
                self.complaints.append(f"{type(error).__name__} shows a secret")
        for event in events:
            text = eventAsText(event)
            if leaks(text, words):
                self.complaints.append("the log shows a secret")
            if event.get("log_level") in (LogLevel.error, LogLevel.critical):
                self.complaints.append(f"logged: {text[:LONGEST]}")


def verdict(
    reactor: IReactorTime,
    case: Case,
    way: Way,
    *,
    connect: Connect = txtlsmc.connect,
    deadline: float = DEADLINE,
) -> Deferred[list[str]]:
    """
    Run *case* and return the complaints.

    Args:
        reactor: what has the sockets.
        case: what the server does, and what is expected of the client.
        way: how they speak.
        connect: makes the client.
        deadline: seconds until whatever is waited for is said to hang.
    """
    return Deferred.fromCoroutine(_Run(reactor, case, way, connect, deadline).run())
