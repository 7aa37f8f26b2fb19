"""The rows of those tables of the reference that are made from the code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields

from txtlsmc.settings import TLS, Backoff, ClientSettings, Credentials, Limits, Routing
from txtlsmc.sources import SETTINGS as CLIENT
from txtlsmc.tap import Options
from txtlsmc.tunnel.counters import Counters
from txtlsmc.tunnel.effective import OF_CLIENTS
from txtlsmc.tunnel.journal import Journal
from txtlsmc.tunnel.settings import SETTINGS as TUNNEL

_OPTIONS = set(Options().longOpt)
#: Where an option or a variable is called otherwise than the setting.
_OTHER_OPTIONS = {"servers": "server", "pins": "pin", "password": "password-file"}
_VARIABLES = {
    "servers": "TXTLSMC_URL",
    "username": "TXTLSMC_USERNAME",
    "password": "TXTLSMC_PASSWORD",
    "ca": "TXTLSMC_CA",
}
_OWNERS = {
    "": ClientSettings,
    "tls": TLS,
    "credentials": Credentials,
    "routing": Routing,
    "routing.backoff": Backoff,
    "limits": Limits,
}


def _option(name: str) -> str:
    word = _OTHER_OPTIONS.get(name, name.replace("_", "-"))
    return f"--{word}" if word in _OPTIONS or f"{word}=" in _OPTIONS else ""


def _client_default(key: str) -> str:
    part, _, attribute = key.rpartition(".")
    for field in fields(_OWNERS[part]):
        if field.name == attribute and field.default is not MISSING:
            return _written(field.default)
    return ""


def _written(value: object) -> str:
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def client_rows() -> Iterator[tuple[str, ...]]:
    """Yield what a client sets as well: option, key, variable, default and meaning."""
    for name, row in CLIENT.items():
        if name not in OF_CLIENTS:
            default = "false" if name == "insecure_plaintext" else _client_default(row.key)
            yield _option(name), row.key, _VARIABLES.get(name, ""), default, row.summary


def tunnel_rows() -> Iterator[tuple[str, ...]]:
    """Yield the tunnel's own settings."""
    for name, row in TUNNEL.items():
        yield _option(name), row.key, "", _written(row.default), row.summary


def counter_rows() -> Iterator[tuple[str, ...]]:
    """Yield the counters, from the words in their class."""
    text = inspect.getdoc(Counters) or ""
    lines = text.partition("Attributes:\n")[2]
    for entry in re.split(r"\n(?=    \w)", lines):
        names, _, words = entry.strip().partition(":")
        yield "\n".join(re.split(r",\s+", names)), " ".join(words.split())


def event_rows() -> Iterator[tuple[str, ...]]:
    """Yield the events of the log, from the methods that write them."""
    for name, method in vars(Journal).items():
        if not name.startswith("_"):
            words = (inspect.getdoc(method) or "").partition("\n")[0]
            yield name, words.removeprefix("Tell ").removeprefix("that ").removesuffix(".")


_SETTING = ("option", "key in a file", "variable", "default", "meaning")
TABLES = {
    "client": (_SETTING, client_rows, 4),
    "tunnel": (_SETTING, tunnel_rows, 4),
    "counters": (("counter", "counts"), counter_rows, 1),
    "events": (("event", "tells"), event_rows, 1),
}
