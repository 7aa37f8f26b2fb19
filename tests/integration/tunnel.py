"""
The tunnel before real servers with TLS and SASL: in this process, or in one of its own.

Test classes have a ``mode``: a subclass with another one has the same shown for that.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, DeferredList, gatherResults, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.error import ConnectError, ProcessExitedAlready
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from tests.integration.cluster import (
    HOSTS,
    NAMES,
    PATIENT,
    ClusterTestCase,
    authority,
    pause,
    until,
)
from tests.secrecy import credentials
from tests.testing.asking import Asking
from txtlsmc.errors import ConnectFailed
from txtlsmc.net.endpoints import connect
from txtlsmc.net.protocol import MemcacheProtocol
from txtlsmc.settings import TLS, ClientSettings, InsecurePlaintext, Limits, Server
from txtlsmc.tunnel.gateway import Gateway
from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.relay import Relay
from txtlsmc.tunnel.settings import TunnelLimits, TunnelSettings

_HOST: Final = "127.0.0.1"
#: For a process that was asked to end; it is killed then.
_END_SECONDS: Final = 20


class _Passage(Protocol):
    """What a mode gives for one server, as far as it is used here."""

    @property
    def factory(self) -> IProtocolFactory:
        """What builds the local side of a connection."""

    def start(self) -> None:
        """Begin to dial."""

    def drain(self, seconds: float) -> Deferred[None]:
        """Answer what is in flight, and close everything."""


#: What serves one server, by mode.
_PASSAGES: Final[dict[str, Callable[..., _Passage]]] = {"gateway": Gateway, "relay": Relay}


class Tunnel:
    """
    One listener for each server, on free ports.

    Attributes:
        hub: what they share.
        passages: what serves each server.
        addresses: where they listen.
    """

    def __init__(self, settings: TunnelSettings) -> None:
        self.hub = Hub.make(settings.limits, settings.log_format)
        self.passages = [
            _PASSAGES[settings.mode](reactor, server, settings, self.hub)
            for server in settings.client.servers
        ]
        self.addresses: list[tuple[str, int]] = []
        self._ports: list[IListeningPort] = []

    async def start(self) -> None:
        """Listen, and connect to the servers without waiting for that."""
        for passage in self.passages:
            passage.start()
            # Enough for hundreds who connect at the same moment.
            endpoint = TCP4ServerEndpoint(reactor, 0, backlog=1024, interface=_HOST)
            port = await endpoint.listen(passage.factory)
            self._ports.append(port)
            address = port.getHost()
            assert isinstance(address, IPv4Address)
            self.addresses.append((address.host, address.port))

    async def stop(self, seconds: float = 0.2) -> None:
        """Close everything; what is in flight gets *seconds*."""
        for port in self._ports:
            await maybeDeferred(port.stopListening)
        await gatherResults([passage.drain(seconds) for passage in self.passages])


class TunnelProcess(ProcessProtocol):
    """
    The same in a process of its own, whose memory and descriptors can be looked at.

    Attributes:
        addresses: where it listens.
        log: what it logged.
    """

    transport: Any

    def __init__(self, settings: TunnelSettings, descriptors: int | None = None) -> None:
        """
        Args:
            settings: the tunnel's; they go over a pipe, for they hold a password.
            descriptors: how many file descriptors the process may have.
        """
        self.addresses: list[tuple[str, int]] = []
        self.log = ""
        self.ended: Deferred[None] = Deferred()
        self._given = base64.b64encode(pickle.dumps((settings, descriptors))) + b"\n"
        self._said = b""
        self._asked: list[Deferred[Any]] = []
        self._over = False

    async def start(self) -> None:
        """Start it; it listens then."""
        command = [sys.executable, "-m", "tests.integration.tunnel_process"]
        path = str(Path(__file__).parents[2])
        environment = os.environ | {"PYTHONPATH": path}
        reactor.spawnProcess(self, command[0], command, env=environment)
        self.addresses = [(host, port) for host, port in await self._ask(self._given)]

    def counters(self) -> Deferred[dict[str, int]]:
        """Return what it counts, once all is done that it had to do before."""
        return self._ask(b"\n")

    def _ask(self, line: bytes) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self._asked.append(answer)
        self.transport.write(line)
        return answer

    def memory(self) -> int:
        """Return how many bytes of it are in memory."""
        for line in Path(f"/proc/{self.transport.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def descriptors(self) -> int:
        """Return how many file descriptors it has."""
        return len(os.listdir(f"/proc/{self.transport.pid}/fd"))

    async def stop(self) -> None:
        """Let it end; it is killed if it does not."""
        if self._over:
            return
        self.transport.closeStdin()
        late = IReactorTime(reactor).callLater(_END_SECONDS, self._kill)
        await self.ended
        if late.active():
            late.cancel()

    def _kill(self) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess("KILL")

    def outReceived(self, data: bytes) -> None:
        """Take the answers, one a line."""
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            self._asked.pop(0).callback(json.loads(line))

    def errReceived(self, data: bytes) -> None:
        """Keep what it logged."""
        self.log += data.decode("utf-8", "backslashreplace")

    def processEnded(self, reason: Failure) -> None:
        """Tell those who wait."""
        self._over = True
        asked, self._asked = self._asked, []
        for each in asked:
            each.errback(AssertionError(f"the tunnel's process has ended: {self.log}"))
        self.ended.callback(None)


class TunnelTestCase(ClusterTestCase):
    """
    Real servers with TLS and SASL, and a tunnel before them.

    Attributes:
        mode: the tunnel's.
        members: how many servers.
    """

    timeout = 120
    mode: ClassVar[str] = "gateway"
    members: ClassVar[int] = 1

    async def start_cluster(self) -> None:
        self.cluster = await gatherResults([self.start_member(h) for h in HOSTS[: self.members]])

    def servers(self) -> list[Server]:
        return [
            Server(name, address="{}:{}".format(*memcached.address))
            for name, memcached in zip(NAMES, self.cluster, strict=False)
        ]

    def settings(
        self,
        *,
        servers: Sequence[Server] | None = None,
        limits: Mapping[str, float] | None = None,
        timeout: float = 30,
        **more: Any,
    ) -> TunnelSettings:
        """
        Return those of a tunnel before the servers.

        Args:
            servers: others than ours.
            limits: those of local connections that are not to be the default.
            timeout: of an answer.
            more: what `TunnelSettings` takes.
        """
        client = ClientSettings(
            servers=tuple(self.servers() if servers is None else servers),
            tls=TLS(ca=authority().pem),
            credentials=credentials() if self.sasl else None,
            limits=Limits(timeout=timeout, connect_timeout=timeout),
        )
        bounds: dict[str, Any] = dict(limits or {})
        return TunnelSettings(client, mode=self.mode, limits=TunnelLimits(**bounds), **more)

    async def tunnel(self, **settings: Any) -> Tunnel:
        """Start one in this process, which serves at once; it ends with the test."""
        tunnel = Tunnel(self.settings(**settings))
        self.addCleanup(lambda: Deferred.fromCoroutine(tunnel.stop()))
        await tunnel.start()
        for place in range(len(tunnel.addresses)):
            await self.local(tunnel, place)
        return tunnel

    async def process(self, *, descriptors: int | None = None, **settings: Any) -> TunnelProcess:
        """Start one in a process of its own, which serves at once; it ends with the test."""
        process = TunnelProcess(self.settings(**settings), descriptors)
        self.addCleanup(lambda: Deferred.fromCoroutine(process.stop()))
        await process.start()
        for place in range(len(process.addresses)):
            await self.local(process, place)
        return process

    async def local(
        self, tunnel: Tunnel | TunnelProcess, place: int = 0, limits: Limits = PATIENT
    ) -> MemcacheProtocol:
        """Connect as a good local client, which has had an answer then."""
        protocol = await connect(
            IReactorTime(reactor),
            "{}:{}".format(*tunnel.addresses[place]),
            tls=InsecurePlaintext(),
            credentials=credentials(insecure=True) if self.sasl and self.mode == "relay" else None,
            limits=limits,
        )
        self.addCleanup(protocol.close)
        return protocol

    async def asking(self, tunnel: Tunnel | TunnelProcess, place: int = 0) -> Asking:
        """Connect as a client that sends whatever it is told to; it is aborted with the test."""
        host, port = tunnel.addresses[place]
        endpoint = TCP4ClientEndpoint(reactor, host, port)
        asking = await endpoint.connect(Factory.forProtocol(Asking))
        assert isinstance(asking, Asking)
        self.addCleanup(self._abort, asking)
        return asking

    async def crowd(self, tunnel: Tunnel | TunnelProcess, number: int) -> list[Asking]:
        """Connect so many at once, and return those that were not reset while they did."""
        dialled = [Deferred.fromCoroutine(self.asking(tunnel)) for _ in range(number)]
        came: list[tuple[bool, Any]] = await DeferredList(dialled, consumeErrors=True)
        for done, result in came:
            if not done:
                result.trap(ConnectError)
        return [result for done, result in came if done]

    def _abort(self, asking: Asking) -> None:
        if asking.lost is None:
            asking.transport.abortConnection()

    async def served(self, tunnel: Tunnel | TunnelProcess, place: int = 0) -> MemcacheProtocol:
        """Connect as soon as new local connections are served."""
        while True:
            try:
                return await self.local(tunnel, place)
            except ConnectFailed:
                await pause(0.01)

    async def refused(self, tunnel: Tunnel | TunnelProcess, place: int = 0) -> None:
        """Wait until new local connections are closed."""
        while True:
            try:
                await (await self.local(tunnel, place)).close()
            except ConnectFailed:
                return
            await pause(0.01)


async def stat(asker: MemcacheProtocol, name: str) -> int:
    """Return one number of a server's statistics."""
    return int((await asker.stats())[name.encode()])


async def blocking(call: Callable[[], Any]) -> Any:
    """Run what blocks in a thread."""
    return await deferToThread(call)


async def answered(asking: Asking, number: int) -> None:
    """Wait until so many answers are there, or the connection is not."""
    await until(lambda: len(asking.responses) >= number or asking.lost is not None)


async def lost(asking: Asking) -> None:
    """Wait until the connection has ended."""
    await until(lambda: asking.lost is not None)


async def settled(read: Callable[[], int], least: int, seconds: float = 10) -> int:
    """Return what *read* returns once it is down to *least*, or else after so many seconds."""
    for _ in range(int(seconds / 0.05)):
        if read() <= least:
            break
        await pause(0.05)
    return read()
