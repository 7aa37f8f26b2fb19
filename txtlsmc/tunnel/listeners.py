"""From the text of a listener to a bound port."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from txtlsmc.errors import InvalidSetting
from txtlsmc.tunnel.addresses import ListenAddress

_OWNER_ONLY: Final = 0o600

_CAUSES: Final = {
    errno.EADDRINUSE: "somebody listens there already",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.EACCES: "that is not allowed (ports below 1024 and some folders are root's)",
    errno.ENOENT: "there is no such folder",
}


class Door(Factory):
    """
    What a port builds connections with: it asks whom the listener leads to at the moment.

    Attributes:
        inside: the factory that builds them; to be exchanged.
    """

    noisy = False

    def __init__(self, inside: IProtocolFactory) -> None:
        self.inside = inside

    def logPrefix(self) -> str:  # noqa: N802 - an interface of Twisted
        """Return whose port it is, in Twisted's own lines about it."""
        return "tlsmc-tunnel"

    def buildProtocol(self, addr: Any) -> Any:
        """Return the protocol of one connection, or None where none is wanted."""
        return self.inside.buildProtocol(addr)


class Listener:
    """
    A bound port.

    Attributes:
        address: as it was asked for.
        where: as it is reached: with the number of a port that was free.
        is_local: whether only this machine reaches it.
    """

    def __init__(self, address: ListenAddress, port: Any) -> None:
        self.address, self._port = address, port
        host = port.getHost()
        self.where, self.is_local = str(address), True
        if isinstance(host, IPv4Address | IPv6Address):
            self.where = str(ListenAddress(host.host, host.port))
            self.is_local = ip_address(host.host).is_loopback

    def close(self) -> Deferred[None]:
        """Take no more connections; fires when the port is closed."""
        closed: Deferred[None] = maybeDeferred(self._port.stopListening)
        return closed


def listen(
    reactor: Any, address: ListenAddress, factory: IProtocolFactory, *, anywhere: bool = False
) -> Listener:
    """
    Bind a port.

    Args:
        reactor: listens.
        address: where; a Unix socket is made with mode 600, and removed when it is closed.
        factory: builds the protocols of connections.
        anywhere: allow addresses that other machines can reach.

    Raises:
        InvalidSetting: it can not be bound, or must not be; it says why.
    """
    if not (anywhere or address.is_local):
        raise _exposed(address)
    try:
        port = _bound(reactor, address, factory)
    except CannotListenError as error:
        problem = _words(error.socketError)
    except OSError as error:
        problem = _words(error)
    else:
        listener = Listener(address, port)
        if listener.is_local or anywhere:
            return listener
        listener.close()  # of systemd, whose address is known only now
        raise _exposed(address)
    raise InvalidSetting(f"listen: can not listen on {address}: {problem}")


def require_free(address: ListenAddress) -> None:
    """
    Refuse an address that somebody has already, or that is not to be had, without taking it.

    `listen` finds the same; but a service can tell nobody of it in one line and end.

    Raises:
        InvalidSetting: it can not be bound now; it says why.
    """
    if not address.host:
        return
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as reactors do
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            problem = _words(error)
        else:
            return
    raise InvalidSetting(f"listen: can not listen on {address}: {problem}")


def _exposed(address: ListenAddress) -> InvalidSetting:
    return InvalidSetting(
        f"listen: {address} can be reached from other machines: listen on 127.0.0.1, or set"
        " listen_anywhere if that is what you want"
    )


def _bound(reactor: Any, address: ListenAddress, factory: IProtocolFactory) -> Any:
    if address.systemd:
        return _adopted(reactor, address.systemd, factory)
    if not address.path:
        return reactor.listenTCP(address.port, factory, interface=address.host)
    _remove_stale(address.path)
    with _umask(0o777 & ~_OWNER_ONLY):  # before the bind: Twisted changes the mode only after it
        return reactor.listenUNIX(address.path, factory, mode=_OWNER_ONLY)


def _adopted(reactor: Any, text: str, factory: IProtocolFactory) -> Any:
    domain, which = text.removeprefix("systemd:").removeprefix("domain=").split(":")
    try:
        endpoint = serverFromString(reactor, f"systemd:domain={domain}:{which}")
    except (LookupError, ValueError):
        raise CannotListenError(None, 0, "systemd has handed over no such socket") from None
    ports: list[Any] = []
    failures: list[Failure] = []
    # It listens at once, or not at all: the socket is there already.
    endpoint.listen(factory).addCallbacks(ports.append, failures.append)
    for failure in failures:
        failure.raiseException()
    return ports[0]


@contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def _remove_stale(path: str) -> None:
    """Remove the socket that a process left there which is no more; nothing else."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file of that name already")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # one whose queue is full is no reason to wait
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                os.unlink(path)
        except OSError:
            pass  # the bind tells what is wrong


def _words(error: object) -> str:
    number = getattr(error, "errno", None)
    if number in _CAUSES:
        return _CAUSES[number]
    return getattr(error, "strerror", None) or str(error)
