"""Tables of the reference that are made from the code, so that no fact stands twice."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, fields

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from txtlsmc.settings import TLS, Backoff, ClientSettings, Credentials, Limits, Routing
from txtlsmc.sources import SETTINGS as CLIENT
from txtlsmc.tap import Options
from txtlsmc.tunnel.counters import Counters
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
#: What the tunnel has no use for: keys and values pass as they are.
_NOT_OF_TUNNEL = ("namespace", "codec")
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
        if name not in _NOT_OF_TUNNEL:
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
_TABLES = {
    "client": (_SETTING, client_rows, 4),
    "tunnel": (_SETTING, tunnel_rows, 4),
    "counters": (("counter", "counts"), counter_rows, 1),
    "events": (("event", "tells"), event_rows, 1),
}


class TableFromCode(SphinxDirective):
    """``.. table-from-code:: client``, or tunnel, counters, events."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the table."""
        heads, rows, words_at = _TABLES[self.arguments[0]]
        group = nodes.tgroup(cols=len(heads))
        group += [nodes.colspec(colwidth=1) for _ in heads]
        head = nodes.thead()
        head += self._row(heads, -1)
        body = nodes.tbody()
        body += [self._row(row, words_at) for row in rows()]
        group += [head, body]
        table = nodes.table()
        table += group
        return [table]

    def _row(self, cells: tuple[str, ...], words_at: int) -> nodes.row:
        row = nodes.row()
        for place, cell in enumerate(cells):
            entry = nodes.entry()
            for line in filter(None, cell.split("\n")):
                plain = words_at < 0 or place == words_at
                paragraph = nodes.paragraph()
                if plain:
                    paragraph += nodes.Text(line.replace("`", ""))
                else:
                    paragraph += nodes.literal(line, line)
                entry += paragraph
            row += entry
        return row


def setup(app):
    """Add the directive."""
    app.add_directive("table-from-code", TableFromCode)
    return {"parallel_read_safe": True}
