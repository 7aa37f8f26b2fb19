"""
The options that mean the same in every command, and how they, a file and the environment add up.

Later wins: the defaults, the file of ``--config``, a provider's variables, ``TXTLSMC_*``, the
command line.  A provider's variables are read where ``--from-environ`` or ``--provider`` is given,
or no server is named otherwise.  No secret is taken from the command line, where others can read
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from twisted.python import usage

from txtlsmc.drafts import Draft
from txtlsmc.environ import NOWHERE, PROVIDERS, Variables, own_layer, provider_layer
from txtlsmc.errors import InvalidSetting
from txtlsmc.files import read_password_file, read_table_file
from txtlsmc.settings import ClientSettings
from txtlsmc.sources import SETTINGS, Given, Layer, read_text

_TEXTS: Final = (
    *("tls_port", "ca", "client_certificate", "server_name", "minimum_version", "username"),
    *("timeout", "connect_timeout"),
)
_OF_CLIENTS: Final = ("routing", "namespace", "codec")
_FLAGS: Final = ("insecure_no_verify", "insecure_plaintext", "insecure_password")


def _option(name: str) -> str:
    return name.replace("_", "-")


class ConnectionOptions(usage.Options):
    """
    Which servers, and how to connect to them.

    For every command line that does: those of ``tlsmc`` and that of twistd's plugin.  It prints
    nothing by itself.

    Attributes:
        other_tables: tables of the ``--config`` file that are none of the client's.
    """

    other_tables: ClassVar[tuple[str, ...]] = ("tunnel",)

    optParameters = [  # noqa: RUF012 - the interface of usage.Options
        ["config", None, None, "FILE with settings (TOML)"],
        ["provider", None, None, f"NAME of whose variables to read: {', '.join(PROVIDERS)}"],
        ["password-file", None, None, "FILE with the password; or set TXTLSMC_PASSWORD"],
        *([_option(name), None, None, SETTINGS[name].summary] for name in _TEXTS),
    ]
    optFlags = [  # noqa: RUF012 - the interface of usage.Options
        ["from-environ", None, "Read a provider's variables, too."],
        *([_option(name), None, SETTINGS[name].summary] for name in _FLAGS),
    ]

    def opt_server(self, text: str) -> None:
        """HOST:PORT[:WEIGHT] or NAME=ADDRESS; again for each, in ring order"""
        self.setdefault("server", []).append(text)

    def opt_pin(self, text: str) -> None:
        """SHA256 of an acceptable public key; again for each"""
        self.setdefault("pin", []).append(text)

    def client_settings(self, environ: Mapping[str, str]) -> ClientSettings:
        """
        Return the settings, once the options are parsed.

        Args:
            environ: ``os.environ``, or its like.

        Raises:
            InvalidSetting: something is wrong or missing; it names the option, the variable, or
                the file and its key.
            InsecurePassword: the password could be stolen on the way.
        """
        variables = Variables(environ)
        del environ  # or a traceback with locals would show all of it
        return self.draft(variables).settings(f"give --server or --config, {NOWHERE}")

    def draft(self, variables: Variables) -> Draft:
        """
        Return what was said, and where; see `client_settings`.

        Raises:
            InvalidSetting: something in it can not be right.
        """
        file = self._file_layer()
        ours, said = own_layer(variables), self._layer()
        draft = Draft()
        draft.add(file)
        named = any("servers" in layer for layer in (file, ours, said))
        if self["from-environ"] or self["provider"] is not None or not named:
            draft.add(provider_layer(variables, self["provider"], choose="--provider {}"))
        draft.add(ours)
        draft.add(said)
        return draft

    def _file_layer(self) -> Layer:
        if self["config"] is None:
            return {}
        return read_table_file(self["config"], "--config", others=self.other_tables)

    def _layer(self) -> Layer:
        """Return what the command line sets."""
        layer: Layer = {}
        if "server" in self:
            layer["servers"] = Given(self["server"], "--server")
        if "pin" in self:
            layer["pins"] = Given(self["pin"], "--pin")
        for name in (*_TEXTS, *_OF_CLIENTS):
            option = _option(name)
            if self.get(option) is not None:
                beside = "TXTLSMC_PASSWORD, or --password-file" if name == "username" else ""
                layer[name] = read_text(name, Given(self[option], f"--{option}", beside))
        for name in _FLAGS:
            if self[_option(name)]:
                layer[name] = Given(True, f"--{_option(name)}")
        if self["password-file"] is not None:
            layer["password"] = read_password_file(
                self["password-file"], "--password-file", "--username, or TXTLSMC_USERNAME"
            )
        if "-----BEGIN" in (self["client-certificate"] or ""):
            raise InvalidSetting(
                "--client-certificate wants the path of a file: a private key on a command line can"
                " be read by others"
            )
        return layer


class ClientOptions(ConnectionOptions):
    """The same, and what becomes of keys and values."""

    optParameters = [  # noqa: RUF012 - the interface of usage.Options
        [_option(name), None, None, SETTINGS[name].summary] for name in _OF_CLIENTS
    ]
