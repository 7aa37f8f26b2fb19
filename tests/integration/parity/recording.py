"""Go through exchanges with both servers, set up alike, and record what they said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, DeferredSemaphore
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IReactorTCP, IReactorTime, IStreamClientEndpoint
from twisted.internet.ssl import Certificate, optionsForClientTLS
from twisted.python.failure import Failure

from tests.integration.parity.client import Client
from tests.integration.parity.exchange import Alone, Exchange
from tests.integration.parity.transcript import compared
from tests.memcached import MemcachedOptions, RealMemcached
from txtlsmc.testing import Authority, IssuedCertificate, MemoryServer

T = TypeVar("T")

USERS: Final = {"alice": "secret"}
#: In the order in which the real one lists them.
MECHANISMS: Final = ("SCRAM-SHA-256", "CRAM-MD5", "PLAIN")

#: The embedded server has no text protocol, so the real one is to have none.
_BINARY: Final = ("-B", "binary")

_EXCHANGES_AT_ONCE: Final = 8
_SERVERS_AT_ONCE: Final = 4


@dataclass(frozen=True)
class Setting:
    """
    How both servers are set up.

    Attributes:
        sasl: whether they want a login, with all mechanisms.
        tls: whether they speak TLS.
        arguments: memcached's own.
        options: those of `MemoryServer` that mean the same.
    """

    sasl: bool = False
    tls: bool = False
    arguments: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict)


#: The lines of the real server and of ours, or why there are none.
Outcome = tuple[list[str], list[str]] | Failure


async def record(setting: Setting, exchanges: Sequence[Exchange]) -> dict[str, Outcome]:
    """Return what came of all *exchanges*, by their names; those that wait do so side by side."""
    together = [exchange for exchange in exchanges if exchange.alone is Alone.NO]
    groups = [together] if together else []
    groups += [[exchange] for exchange in exchanges if exchange.alone is Alone.YES]
    limit = DeferredSemaphore(_SERVERS_AT_ONCE)
    recording = [
        _record_group(setting, group)
        if any(exchange.waits for exchange in group)
        else limit.run(_record_group, setting, group)
        for group in groups
    ]
    outcomes: dict[str, Outcome] = {}
    for outcome in await _all(recording):
        outcomes |= outcome
    return outcomes


def _record_group(setting: Setting, group: Sequence[Exchange]) -> Deferred[dict[str, Outcome]]:
    return Deferred.fromCoroutine(_Pair(setting).record(group))


class _Pair:
    """A real server and one of ours, for the time of some exchanges."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._reactor = IReactorTime(reactor)
        self._authority = Authority() if setting.tls else None

    async def record(self, group: Sequence[Exchange]) -> dict[str, Outcome]:
        certificate = None if self._authority is None else self._authority.issue("localhost")
        real = await RealMemcached.start(**self._real_options(certificate))
        try:
            theirs = self._client(*real.address)
            try:
                # The one thing that a server may well say otherwise.
                version = await theirs.open()
                return await self._record_with_ours(
                    group, theirs, self._memory(certificate, version)
                )
            finally:
                await theirs.close()
        finally:
            await real.stop()

    async def _record_with_ours(
        self, group: Sequence[Exchange], theirs: Client, memory: MemoryServer
    ) -> dict[str, Outcome]:
        limit = DeferredSemaphore(_EXCHANGES_AT_ONCE)
        outcomes: dict[str, Outcome] = {}
        try:
            await memory.listen()
            address = memory.server.address
            assert address.host is not None
            ours = self._client(address.host, address.port)
            try:
                await ours.open()
                going = [
                    _go_through(theirs, ours, exchange, outcomes)
                    if exchange.waits
                    else limit.run(_go_through, theirs, ours, exchange, outcomes)
                    for exchange in group
                ]
                await _all(going)
            finally:
                await ours.close()
        finally:
            await memory.stop()
        return outcomes

    def _real_options(self, certificate: IssuedCertificate | None) -> MemcachedOptions:
        options: MemcachedOptions = {
            "arguments": (*_BINARY, *self._setting.arguments),
            "certificate": certificate,
        }
        if self._setting.sasl:
            options |= {"sasl": USERS, "mechanisms": [name.lower() for name in MECHANISMS]}
        return options

    def _memory(self, certificate: IssuedCertificate | None, version: str) -> MemoryServer:
        options: dict[str, Any] = {"version": version, **self._setting.options}
        if self._setting.sasl:
            options |= {"users": USERS, "mechanisms": MECHANISMS}
        return MemoryServer(self._reactor, certificate=certificate, **options)

    def _client(self, host: str, port: int) -> Client:
        endpoint: IStreamClientEndpoint = TCP4ClientEndpoint(IReactorTCP(reactor), host, port)
        if self._authority is not None:
            trusted = Certificate.loadPEM(self._authority.pem)
            endpoint = wrapClientTLS(optionsForClientTLS("localhost", trusted), endpoint)
        return Client(self._reactor, endpoint, half_closes=self._authority is None)


def _go_through(
    theirs: Client, ours: Client, exchange: Exchange, outcomes: dict[str, Outcome]
) -> Deferred[None]:
    async def go_through() -> Outcome:
        going = [Deferred.fromCoroutine(each.go_through(exchange)) for each in (theirs, ours)]
        real, memory = await _all(going)
        return compared(exchange, real, memory)

    def ended(outcome: Outcome) -> None:
        outcomes[exchange.name] = outcome

    return Deferred.fromCoroutine(go_through()).addBoth(ended)


async def _all(deferreds: Sequence[Deferred[T]]) -> list[T]:
    """Return all results; unlike `gatherResults` wait for the others when one fails."""
    results = await DeferredList(deferreds, consumeErrors=True)
    for _, result in results:
        if isinstance(result, Failure):
            result.raiseException()
    return [result for _, result in results]
