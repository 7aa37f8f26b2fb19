"""``tlsmc serve``: the embedded server in the foreground."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.python import usage

from txtlsmc.cli.command import Command, whole_number
from txtlsmc.cli.running import run
from txtlsmc.errors import InvalidSetting
from txtlsmc.net.pem import load_client_certificate
from txtlsmc.settings import TLS, is_ip_address
from txtlsmc.testing import Authority, IssuedCertificate, MemoryServer

_CANNOT_LISTEN = 81


class ServeOptions(Command):
    """Where to listen, as whom, and for whom."""

    synopsis = "tlsmc serve [options]"
    longdesc = (
        "A memcached for tests and demos: binary protocol, memory only, TLS unless you say"
        " otherwise. With --username, the password is read from TXTLSMC_PASSWORD."
        " Ctrl-C ends it."
    )
    optParameters = [  # noqa: RUF012 - the interface of usage.Options
        ["listen", None, "127.0.0.1:11211", "ADDRESS:PORT; port 0 is a free one"],
        ["certificate", None, None, "FILE with the certificate and its chain (PEM)"],
        ["key", None, None, "FILE with its private key (PEM)"],
        ["username", None, None, "NAME that clients must authenticate as"],
        ["memory", None, "64", "MEBIBYTES for all items together"],
    ]
    optFlags = [  # noqa: RUF012 - the interface of usage.Options
        ["insecure-plaintext", None, "No TLS: who is on the way reads along."],
    ]

    def run(self, environ: Mapping[str, str] = os.environ) -> int:
        """Serve until a signal comes; return the exit code."""
        users = self._users(environ)
        endpoint_of = self._endpoint(secured=bool(users) and not self["insecure-plaintext"])
        if bool(self["certificate"]) != bool(self["key"]):
            raise usage.UsageError("--certificate and --key go together")
        if self["insecure-plaintext"] and self["certificate"]:
            raise usage.UsageError("--insecure-plaintext and --certificate exclude each other")
        max_bytes = whole_number("memory", self["memory"], 1, 1 << 20) << 20
        with ExitStack() as cleanup:
            certificate, said = self._certificate(cleanup)
            return run(
                lambda reactor: _serve(
                    reactor,
                    MemoryServer(
                        reactor,
                        users=users,
                        certificate=certificate,
                        max_bytes=max_bytes,
                    ),
                    endpoint_of(reactor),
                    said,
                )
            )

    def _users(self, environ: Mapping[str, str]) -> dict[str, str] | None:
        if self["username"] is None:
            return None
        if not environ.get("TXTLSMC_PASSWORD"):
            raise usage.UsageError("--username needs the password in TXTLSMC_PASSWORD")
        return {self["username"]: environ["TXTLSMC_PASSWORD"]}

    def _endpoint(self, *, secured: bool) -> Callable[[Any], IStreamServerEndpoint]:
        host, _, port = self["listen"].rpartition(":")
        host = host.removeprefix("[").removesuffix("]").replace("localhost", "127.0.0.1")
        if not is_ip_address(host):
            raise usage.UsageError(f"--listen wants ADDRESS:PORT, not {self['listen']!r}")
        number = whole_number("listen", port, 0, 65535)
        if not (secured or ip_address(host).is_loopback):
            raise usage.UsageError(
                f"{host} can be reached from other machines: that needs TLS and --username"
            )
        kind = TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint
        return lambda reactor: kind(reactor, number, interface=host)

    def _certificate(self, cleanup: ExitStack) -> tuple[IssuedCertificate | None, list[str]]:
        """Return what to serve with, and what to tell the user of it."""
        if self["insecure-plaintext"]:
            return None, ["no TLS: who is on the way reads along"]
        if self["certificate"]:
            return self._read_certificate(), [f"certificate: {self['certificate']}"]
        authority = Authority()
        folder = Path(cleanup.enter_context(TemporaryDirectory(prefix="tlsmc-")))
        ca_file = authority.write_to(folder)
        said = [
            f"CA file for clients: {ca_file} (until the server ends)",
            "certificate: for localhost and 127.0.0.1, made just now",
        ]
        return authority.issue("localhost", "127.0.0.1", "::1"), said

    def _read_certificate(self) -> IssuedCertificate:
        # As one file of both would be read, since that is what can tell what is wrong with them;
        # in no variable, since a traceback may show those.
        try:
            (certificate, *chain), key = load_client_certificate(
                TLS(client_certificate=_read(self["certificate"]) + b"\n" + _read(self["key"]))
            )
        except OSError as error:
            raise InvalidSetting(f"can not read {error.filename!r}: {error.strerror}") from None
        except InvalidSetting as error:
            problem = str(error).partition(": ")[2]
            raise InvalidSetting(f"--certificate and --key: {problem}") from None
        return IssuedCertificate(certificate, tuple(chain), key)


def _read(path: str) -> bytes:
    return Path(path).read_bytes()


async def _serve(
    reactor: Any, server: MemoryServer, endpoint: IStreamServerEndpoint, said: list[str]
) -> int:
    try:
        await server.listen(endpoint)
    except CannotListenError as error:
        print(f"tlsmc serve: cannot listen: {error.socketError}", file=sys.stderr)
        return _CANNOT_LISTEN
    reactor.addSystemEventTrigger("before", "shutdown", server.stop)
    print(f"listening on {server.server}", *said, sep="\n", flush=True)
    await Deferred()  # until a signal stops the reactor
    return 0
