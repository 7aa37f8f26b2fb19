"""
Settings that stand in a TOML file, as the objects of `txtlsmc.settings` and their attributes.

.. code-block:: toml

    servers = ["mc1.example:11211", "mc2.example:11211"]

    [tls]
    ca = "authority.pem"

    [credentials]
    username = "alice"

    [routing]
    scheme = "ketama"
    backoff = { longest = 2.5 }

    [limits]
    timeout = 0.5
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from txtlsmc.errors import InvalidSetting
from txtlsmc.sources import SETTINGS, Given, Layer

_NAMES: Final = {setting.key: setting.name for setting in SETTINGS.values()}

_BESIDE: Final = {
    "credentials.username": "credentials.password there, or TXTLSMC_PASSWORD",
    "credentials.password": "credentials.username there, or TXTLSMC_USERNAME",
}

_BARE_KEY = re.compile("[A-Za-z0-9_-]+")
#: What tomllib says is wrong, and where.
_PROBLEM = re.compile(r"(?P<words>.*) \(at (?:line (?P<line>[0-9]+), .*|end of document)\)")


def table_layer(
    text: Given, *, others: Collection[str] = (), names: Mapping[str, str] = _NAMES
) -> Layer:
    """
    Return what a TOML file sets.

    Args:
        text: what is in the file, and the file's name.
        others: tables and keys in it that somebody else reads.
        names: what there is to be set, by its key; the client's settings by default.  Of others,
            only the tables that are named are looked at.

    Raises:
        InvalidSetting: it is no TOML (with the line), or sets what there is not (with the key).
    """
    tables = {key.rpartition(".")[0] for key in names} - {""}
    found = _read(text, tables)
    if isinstance(found, str):
        raise InvalidSetting(f"{text.origin}{found}")
    layer: Layer = {}
    for key, given in found:
        top = key.partition(".")[0]
        if top in others or (names is not _NAMES and top not in tables):
            continue
        if key in tables:
            raise InvalidSetting(f"{given.origin} is a table: write [{key}], and its keys below")
        if key not in names:
            beside = [known for known in names if _table_of(known) == _table_of(key)]
            raise InvalidSetting(
                f"{text.origin}: unknown key {key}; there are {', '.join(beside or names)}"
            )
        layer[names[key]] = given
    return layer


def _table_of(key: str) -> str:
    return key.rpartition(".")[0]


# From here on nothing raises: the text and what is made of it may have a password.


def _read(text: Given, tables: Collection[str]) -> list[tuple[str, Given]] | str:
    """Return what stands there by dotted key, or where it is no TOML, and why."""
    try:
        table = tomllib.loads(text.value)
    except (ValueError, RecursionError) as error:
        said = _PROBLEM.fullmatch(str(error))
        if said is None:  # a number of thousands of digits, brackets in brackets in brackets
            return ": a value in it can not be read"
        line = said["line"] or text.value.rstrip("\n").count("\n") + 1  # the last one
        return f", line {line}: this is not TOML: {said['words']}"
    return [
        (key, Given(value, f"{text.origin}: {key}", _BESIDE.get(key, "")))
        for key, value in _leaves(table, "", tables)
    ]


def _leaves(
    table: dict[str, Any], prefix: str, tables: Collection[str]
) -> Iterator[tuple[str, Any]]:
    for word, value in table.items():
        key = prefix + (word if _BARE_KEY.fullmatch(word) else repr(word))
        if key in tables and isinstance(value, dict):
            yield from _leaves(value, f"{key}.", tables)
        else:
            yield key, value
