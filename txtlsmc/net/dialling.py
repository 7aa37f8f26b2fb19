"""Reaching a server's address, and what it means that it was not reached."""

from __future__ import annotations

from typing import Any, Final

from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
)
from twisted.internet.error import (
    ConnectError,
    ConnectionRefusedError,
    DNSLookupError,
    NoRouteError,
    TCPTimedOutError,
    TimeoutError,
    UnknownHostError,
)
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from txtlsmc.errors import ConnectFailed, ConnectRefused, ConnectTimedOut, NameNotFound, shown
from txtlsmc.settings import Limits, Server, is_ip_address

#: Seconds until the next address of a name is tried; also how late the refusal of the last is told.
_NEXT_ADDRESS: Final = 0.05


def dial_to(reactor: Any, server: Server, limits: Limits) -> IStreamClientEndpoint:
    """Return what connects to the address of *server*, each time with its name resolved anew."""
    address, timeout = server.address, limits.connect_timeout
    if address.path:
        return UNIXClientEndpoint(reactor, address.path, timeout=timeout)
    if is_ip_address(address.host):
        # The endpoint for names tells of a refusal only after its pause for further addresses.
        kind = TCP6ClientEndpoint if ":" in address.host else TCP4ClientEndpoint
        return kind(reactor, address.host, address.port, timeout=timeout)
    return HostnameEndpoint(
        reactor,
        address.host,
        address.port,
        timeout=timeout,
        attemptDelay=_NEXT_ADDRESS,
    )


def dial_error(server: Server, reason: Failure) -> ConnectFailed:
    """Return what it means that dialling *server* failed with *reason*."""
    address, why = server.address, shown(reason.getErrorMessage())
    if reason.check(DNSLookupError, UnknownHostError, ValueError, UnicodeError):
        return NameNotFound(server.name, f"the host name {address.host!r} was not found: {why}")
    if reason.check(TimeoutError, TCPTimedOutError):
        return ConnectTimedOut(server.name, f"no connection to {address} in time: {why}")
    if reason.check(ConnectionRefusedError):
        return ConnectRefused(server.name, f"nobody listens on {address}: {why}")
    if reason.check(NoRouteError):
        return ConnectRefused(server.name, f"there is no way to {address}: {why}")
    if reason.check(ConnectError, OSError, CancelledError):
        return ConnectRefused(server.name, f"no connection to {address}: {why}")
    return ConnectFailed(server.name, f"{type(reason.value).__name__} for {address}: {why}")
