"""The tunnel as a service: its listeners, what they lead to, how it reloads, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.task import LoopingCall

from txtlsmc.errors import InvalidSetting, MemcacheError
from txtlsmc.servers import Server
from txtlsmc.tunnel.addresses import ListenAddress
from txtlsmc.tunnel.certificates import CurrentCertificate, LocalTLSFactory, read_certificate
from txtlsmc.tunnel.hub import Hub
from txtlsmc.tunnel.listeners import Door, Listener, listen
from txtlsmc.tunnel.passage import MakePassage, Passage
from txtlsmc.tunnel.settings import TunnelSettings
from txtlsmc.tunnel.signals import ReloadSignal

_DAY: Final = 86_400.0
_MOMENT: Final = 1.0
_LISTENERS: Final = "the listeners"
_LISTEN_FILES: Final = ("listen_certificate", "listen_key", "listen_client_ca")
#: What a reload can change; of the client's settings: servers, TLS and credentials.
_RELOADED: Final = ("client", "listen", "listen_anywhere", *_LISTEN_FILES, "drain_seconds")


@dataclass(slots=True, eq=False)
class _Port:
    """A listener that may not be bound yet, and the door behind it."""

    text: str
    door: Door
    listener: Listener | None = None


class TunnelService(Service):
    """
    One listener for each server, and behind it the passage to that server.

    What is read from files is read when this is made, and ports are bound before privileges are
    given up.  A Unix socket is made only after that: it is for its owner alone, and that shall be
    who the tunnel runs as.

    Attributes:
        hub: what all listeners share.
    """

    def __init__(
        self,
        reactor: Any,
        settings: TunnelSettings,
        reread: Callable[[], TunnelSettings],
        modes: Mapping[str, MakePassage],
        hub: Hub | None = None,
    ) -> None:
        """
        Args:
            reactor: listens, dials and has the clock.
            settings: what to do.
            reread: returns the settings as they are now; called at SIGHUP.
            modes: what makes the passage of each mode.
            hub: another than a new one.

        Raises:
            InvalidSetting: a file is missing, or can not be used.
        """
        self._reactor, self._settings, self._reread = reactor, settings, reread
        self._make = modes[settings.mode]
        self.hub = hub or Hub.make(settings.limits, settings.log_format)
        found = read_certificate(settings)
        self._certificate = CurrentCertificate(found[0]) if found else None
        if found:
            self.hub.expiry.look(_LISTENERS, found[1])
        self._passages = [self._passage(server) for server in settings.client.servers]
        self._ports = [
            _Port(text, Door(passage.factory))
            for text, passage in zip(settings.listen, self._passages, strict=True)
        ]
        self._daily = LoopingCall(self.hub.expiry.look_again)
        self._daily.clock = reactor
        self._signal = ReloadSignal(reactor, self.reload)
        self._leaving: list[Deferred[None]] = []  # passages to servers that a reload took away

    @property
    def listeners(self) -> list[Listener]:
        """Those that are bound, in the order of the servers."""
        return [port.listener for port in self._ports if port.listener is not None]

    def _passage(self, server: Server, settings: TunnelSettings | None = None) -> Passage:
        return self._make(self._reactor, server, settings or self._settings, self.hub)

    # Start

    def privilegedStartService(self) -> None:
        """
        Bind the ports, while that may need root.

        Raises:
            InvalidSetting: one of them can not be bound; then none is.
        """
        super().privilegedStartService()
        self._bind([port for port in self._ports if not ListenAddress.parse(port.text).path])

    def startService(self) -> None:
        """
        Bind what is not bound yet, and begin.

        Raises:
            InvalidSetting: a listener can not be bound; then none is.
        """
        self._bind(self._ports)
        super().startService()
        for passage in self._passages:
            passage.start()
        for server, port in zip(self._settings.client.servers, self._ports, strict=True):
            self._tell(server, port)
        self._daily.start(_DAY, now=False)
        self._signal.install()

    def _bind(self, ports: list[_Port]) -> None:
        try:
            self._bind_all(ports, self._settings)
        except InvalidSetting as error:
            for port in self._ports:
                self._close(port)
            self.hub.journal.not_started(error)
            raise

    def _bind_all(self, ports: list[_Port], settings: TunnelSettings) -> None:
        for port in ports:
            if port.listener is not None:
                continue
            inside: IProtocolFactory = port.door
            if self._certificate is not None:
                inside = LocalTLSFactory(
                    self._certificate, port.door, self._reactor, settings.limits.request_seconds
                )
            port.listener = listen(
                self._reactor,
                ListenAddress.parse(port.text),
                inside,
                anywhere=settings.listen_anywhere,
            )

    def _close(self, port: _Port) -> Deferred[None] | None:
        listener, port.listener = port.listener, None
        return None if listener is None else listener.close()

    def _tell(self, server: Server, port: _Port) -> None:
        if port.listener is None:
            return
        self.hub.journal.listening(server, port.listener.where)
        asks = self._settings.listen_client_ca or self._settings.local_auth == "required"
        if not (port.listener.is_local or asks):
            self.hub.journal.exposed(port.listener.where)

    # Reload

    def reload(self) -> None:
        """
        Read all settings anew, and do what they say.

        Certificates and credentials are used for what is dialled and accepted from now on.  A
        server that stays keeps its connections, and a listener whose address stays its port.  If
        anything is wrong all stays as it is, and the log says why.
        """
        if not self.running:
            return
        try:
            changes = self._reload()
        except MemcacheError as error:
            self.hub.journal.not_reloaded(error)
        else:
            self.hub.counters.reloads += 1
            self.hub.journal.reloaded(changes)

    def _reload(self) -> dict[str, int]:
        old = self._settings
        settings = self._reloadable(self._reread())
        found = read_certificate(settings)
        # First all that may fail, on the side; what is there goes on meanwhile.
        passages = self._paired(settings)
        fresh = [one for one in passages if one not in self._passages]
        ports = self._following(settings, passages)
        added = [port for port in ports if port not in self._ports]
        kept = [
            (passage, server)
            for passage, server in zip(passages, settings.client.servers, strict=True)
            if passage not in fresh
        ]
        try:
            self._bind_all(added, settings)
            for passage, server in kept:
                passage.reload(server, settings.client.tls, settings.client.credentials)
        except MemcacheError:
            for port in added:
                self._close(port)
            for passage, server in kept:  # where it was the second that refused
                passage.reload(server, old.client.tls, old.client.credentials)
            raise
        # From here on nothing fails.
        if found is not None and self._certificate is not None:
            self._certificate.options = found[0]
            self.hub.expiry.look(_LISTENERS, found[1])
        closed = [port for port in self._ports if port not in ports]
        gone = [passage for passage in self._passages if passage not in passages]
        self._settings, self._passages, self._ports = settings, passages, ports
        for passage in fresh:
            passage.start()
        for port, passage in zip(ports, passages, strict=True):
            port.door.inside = passage.factory
        for port in closed:
            self._close(port)
        for passage in gone:
            self._leave(passage, settings.drain_seconds)
        for server in set(old.client.servers) - set(settings.client.servers):
            self.hub.expiry.forget(server)
        for server, port in zip(settings.client.servers, ports, strict=True):
            if port in added:
                self._tell(server, port)
        return {
            "servers added": len(fresh),
            "servers gone": len(gone),
            "listeners added": len(added),
            "listeners gone": len(closed),
        }

    def _reloadable(self, new: TunnelSettings) -> TunnelSettings:
        """Return *new*, with what can not change while the tunnel runs as it was."""
        old = self._settings
        stays = {one.name: getattr(old, one.name) for one in fields(old)}
        for name in _RELOADED:
            del stays[name]
        if (old.listen_certificate is None) != (new.listen_certificate is None):
            stays |= {name: getattr(old, name) for name in _LISTEN_FILES}
        other = replace(
            old.client,
            servers=new.client.servers,
            tls=new.client.tls,
            credentials=new.client.credentials,
        )
        changed = [name for name, value in stays.items() if getattr(new, name) != value]
        if other != new.client:
            changed.append("limits and routing of the client")
        settings = replace(new, client=other, **stays)
        if changed:
            self.hub.journal.needs_restart(", ".join(changed))
        return settings

    def _paired(self, settings: TunnelSettings) -> list[Passage]:
        """Return the passages to the servers, of which those that stay are the same."""
        there = list(zip(self._settings.client.servers, self._passages, strict=True))
        passages = []
        for server in settings.client.servers:
            for pair in there:
                if (pair[0].name, pair[0].address) == (server.name, server.address):
                    there.remove(pair)
                    passages.append(pair[1])
                    break
            else:
                passages.append(self._passage(server, settings))
        return passages

    def _following(self, settings: TunnelSettings, passages: list[Passage]) -> list[_Port]:
        """Return the ports, of which those that stay are the same."""
        there, ports = list(self._ports), []
        for text, passage in zip(settings.listen, passages, strict=True):
            port = next((one for one in there if one.text == text), None)
            if port is None:
                port = _Port(text, Door(passage.factory))
            else:
                there.remove(port)
            ports.append(port)
        return ports

    def _leave(self, passage: Passage, seconds: float) -> None:
        left = passage.drain(seconds)
        self._leaving.append(left)
        left.addBoth(lambda _: self._leaving.remove(left))

    # Stop

    def stopService(self) -> Deferred[None]:
        """Take nothing new, answer what is in flight, close; fires when all is closed."""
        super().stopService()
        if self._daily.running:
            self._daily.stop()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        seconds = self._settings.drain_seconds
        closing = [self._close(port) for port in self._ports]
        await DeferredList([one for one in closing if one is not None], consumeErrors=True)
        open_now = sum(passage.local_connections() for passage in self._passages)
        self.hub.journal.draining(open_now, seconds)
        draining = [passage.drain(seconds) for passage in self._passages]
        done = DeferredList([*draining, *self._leaving], consumeErrors=True)
        # Whatever hangs there, the process ends: those are cancelled, and so fail.
        done.addTimeout(seconds + _MOMENT, self._reactor)
        ended = await done
        self._signal.restore()  # not before: whom it belonged to would end the process
        self.hub.journal.stopped(in_time=all(succeeded for succeeded, _ in ended))
