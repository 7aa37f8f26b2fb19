"""
The options of ``twistd tlsmc-tunnel``, and the service that they make.

Later wins: the defaults, the tables ``[tunnel]`` and ``[tunnel.limits]`` of the ``--config`` file,
the command line; for what a client has as well, see `txtlsmc.options`.
"""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any, Final, NoReturn

from twisted.application.service import IService
from twisted.python import usage
from twisted.python.reflect import namedAny

from txtlsmc._version import __version__
from txtlsmc.environ import NOWHERE, Variables
from txtlsmc.errors import InvalidArgument, InvalidSetting
from txtlsmc.files import read_table_file
from txtlsmc.options import ConnectionOptions
from txtlsmc.settings import TLS
from txtlsmc.sources import SETTINGS as CLIENT
from txtlsmc.sources import Given, Layer
from txtlsmc.tunnel.addresses import ListenAddress
from txtlsmc.tunnel.certificates import require_private
from txtlsmc.tunnel.effective import effective_lines
from txtlsmc.tunnel.listeners import require_free
from txtlsmc.tunnel.passage import MakePassage
from txtlsmc.tunnel.service import TunnelService
from txtlsmc.tunnel.settings import SETTINGS, TunnelLimits, TunnelSettings, check

_USAGE: Final = 64
_NAMES: Final = {setting.key: setting.name for setting in SETTINGS.values()}
_LIMITS: Final = {name for name in SETTINGS if SETTINGS[name].key.startswith("tunnel.limits.")}
_TEXTS: Final = [name for name in SETTINGS if name not in ("listen", "listen_anywhere")]
#: Named only, so that of the two no more is imported than what is in use.
_MODES: Final = {
    "gateway": "txtlsmc.tunnel.gateway.Gateway",
    "relay": "txtlsmc.tunnel.relay.Relay",
}


def _option(name: str) -> str:
    return name.replace("_", "-")


def _help(name: str) -> str:
    default = SETTINGS[name].default
    if default is None:
        return SETTINGS[name].summary
    said = f"{default:g}" if isinstance(default, float) else default
    return f"{SETTINGS[name].summary} [default: {said}]"


class Options(ConnectionOptions):
    """The tunnel's: which servers, as whom, and where local clients find them."""

    synopsis = "[options]"
    longdesc = (
        "Lets memcached clients of any language, unchanged, reach servers over verified TLS and"
        " SASL: one local port for each server, in their order. With no server named, the"
        f" variables of a provider are read ({NOWHERE.removeprefix('set TXTLSMC_URL, or ')})."
        " Secrets come from the environment or a file. SIGHUP reads certificates, credentials and"
        " servers anew; SIGTERM answers what is in flight and ends."
    )
    optParameters = [  # noqa: RUF012 - the interface of usage.Options
        [_option(name), None, None, _help(name)] for name in _TEXTS
    ]
    optFlags = [  # noqa: RUF012 - the interface of usage.Options
        ["listen-anywhere", None, SETTINGS["listen_anywhere"].summary],
        ["print-config", None, "Print all settings, and where each was given, and exit."],
    ]
    #: Of a command line that belongs to no twistd.
    parent: Any = None

    def opt_listen(self, text: str) -> None:
        """ADDRESS:PORT, from which the listeners count on [default: 127.0.0.1:11211]; or, for each
        server in turn, ADDRESS:PORT, unix:/PATH or systemd:domain=INET:index=N"""
        self.setdefault("listen", []).append(text)

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        print(f"txtlsmc {__version__}")
        sys.exit(0)

    def parseOptions(  # noqa: N802 - the interface of usage.Options
        self, options: Sequence[str] | None = None
    ) -> None:
        """
        Read a command line, and all that it refers to.

        Raises:
            usage.UsageError: it can not be right.  Below twistd, which would print its own help
                before it, the error is printed and the process ends.
        """
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            self.end_with(error)
            raise

    def end_with(self, error: Exception) -> None:
        """End the process with a line about *error*, if it is twistd's; otherwise do nothing."""
        if self.parent is not None:
            print(f"tlsmc-tunnel: {error}", file=sys.stderr)
            sys.exit(_USAGE)

    def postOptions(self) -> None:
        """
        Look whether the settings are complete and right.

        Raises:
            usage.UsageError: they are not.
        """
        try:
            settings = self.tunnel_settings(os.environ)
        except InvalidArgument as error:
            problem = str(error)
        else:
            if self["print-config"]:
                print("\n".join(self.effective(settings)))
                sys.exit(0)
            self._log_as_json(settings)
            return
        raise usage.UsageError(problem)

    def _log_as_json(self, settings: TunnelSettings) -> None:
        parent = self.parent
        if settings.log_format == "json" and parent is not None and not parent.get("logger"):
            to_stdout = parent.get("nodaemon") and parent.get("logfile") in (None, "", "-")
            if to_stdout and not parent.get("syslog"):
                parent["logger"] = "txtlsmc.tunnel.json_lines.observer"

    def tunnel_settings(self, environ: Mapping[str, str]) -> TunnelSettings:
        """
        Return the settings, once the options are parsed; each time all is read anew.

        Args:
            environ: ``os.environ``, or its like.

        Raises:
            InvalidSetting: something is wrong or missing; it names the option, the variable, or
                the file and its key.
            InsecurePassword: the password could be stolen on the way.
        """
        variables = Variables(environ)
        del environ  # or a traceback with locals would show all of it
        layer = self._tunnel_layer()
        draft = self.draft(variables)
        self._origins = {
            **{CLIENT[name].key: origin for name, origin in draft.origins().items()},
            **{SETTINGS[name].key: given.origin for name, given in layer.items()},
        }
        client = draft.settings(f"give --server or --config, {NOWHERE}")
        given = {name: one.value for name, one in layer.items()}
        try:
            limits = TunnelLimits(**{name: given.pop(name) for name in _LIMITS & given.keys()})
            settings = TunnelSettings(client, limits=limits, **given)
        except InvalidSetting as error:
            problem = str(error)
        else:
            _require_private_key(settings)
            return settings
        raise InvalidSetting(self._located(problem))

    def _located(self, problem: str) -> str:
        """Return *problem*, which begins with the name of a setting, with where that was given."""
        for name in sorted(SETTINGS, key=len, reverse=True):
            origin = self._origins.get(SETTINGS[name].key)
            if origin is not None and problem.startswith(name):
                return f"{origin}: {problem.removeprefix(f'{name}: ')}"
        return problem

    def _tunnel_layer(self) -> Layer:
        layer: Layer = {}
        if self["config"] is not None:
            layer |= read_table_file(self["config"], "--config", names=_NAMES)
        if "listen" in self:
            layer["listen"] = Given(tuple(self["listen"]), "--listen")
        if self["listen-anywhere"]:
            layer["listen_anywhere"] = Given(True, "--listen-anywhere")
        for name in _TEXTS:
            text = self[_option(name)]
            if text is not None:
                layer[name] = _read(name, Given(text, f"--{_option(name)}"))
        for name, given in layer.items():
            _check(name, given)
        return layer

    def effective(self, settings: TunnelSettings) -> list[str]:
        """Return *settings*, the last that were read, as lines of TOML without secrets."""
        return effective_lines(settings, self._origins)


def _read(name: str, text: Given) -> Given:
    try:
        return Given(SETTINGS[name].read(text.value), text.origin)
    except InvalidSetting as error:
        problem = str(error)
    raise InvalidSetting(f"{text.origin}: {problem}")


def _check(name: str, given: Given) -> None:
    try:
        check(name, given.value)
    except InvalidSetting as error:
        problem = str(error)
    else:
        return
    raise InvalidSetting(f"{given.origin}: {problem}")


def _require_private_key(settings: TunnelSettings) -> None:
    tls = settings.client.tls
    given = tls.client_certificate if isinstance(tls, TLS) else None
    if isinstance(given, str) and "-----BEGIN" not in given:
        require_private("client_certificate", given)


def makeService(options: Options, modes: Mapping[str, MakePassage] | None = None) -> IService:
    """
    Return the tunnel, with all files read.

    Args:
        options: parsed.
        modes: what makes the passages of each mode, if it is not to be our own.

    Raises:
        InvalidSetting: a file is missing, or can not be used.  Below twistd, which would print the
            whole traceback, it is printed and the process ends.
    """
    from twisted.internet import reactor

    # Names are encoded with it; as another user, or below another root, it may not be found.
    codecs.lookup("idna")
    here = Path.cwd()

    def reread() -> TunnelSettings:
        try:
            with chdir(here):  # where relative paths belong; twistd may have gone elsewhere
                return options.tunnel_settings(os.environ)
        except OSError as error:  # from here on nobody may, or there is no such folder
            problem = f"can not go to the folder {str(here)!r}: {error.strerror}"
        raise InvalidSetting(problem)

    try:
        settings = options.tunnel_settings(os.environ)
        for text in settings.listen:
            require_free(ListenAddress.parse(text))
        modes = modes or {settings.mode: namedAny(_MODES[settings.mode])}
        service: IService = TunnelService(reactor, settings, reread, modes)
    except InvalidArgument as error:
        options.end_with(error)
        raise
    return service
