"""
The files that hold settings; one that holds a secret is for nobody else to read.

As everywhere, what may be a password is in no variable of a function that raises.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from txtlsmc.errors import InvalidSetting
from txtlsmc.sources import Given, Layer
from txtlsmc.tables import table_layer

_LARGEST_PASSWORD: Final = 4096
_LARGEST_TABLE: Final = 2**20


class _File(NamedTuple):
    """What is in a file, by whom it may be touched, or why it can not be read."""

    text: Given
    private: bool = True
    problem: str = ""


def read_password_file(path: str, origin: str, beside: str = "") -> Given:
    """
    Return the password that is all of a file; a line's end behind it is not a part of it.

    Args:
        path: of the file.
        origin: who named it: ``--password-file``.
        beside: see `Given`.

    Raises:
        InvalidSetting: it can not be read, others may read or change it, or there is none in it.
    """
    file = _read(path, _LARGEST_PASSWORD, f"{origin} {path}")
    if file.problem:  # without the path, in whose place somebody may have written the password
        raise InvalidSetting(f"{origin}: {file.problem}")
    if not file.private:
        raise InvalidSetting(f"{origin}: {_exposed(path)}")
    if not file.text.value.rstrip("\r\n"):
        raise InvalidSetting(f"{origin}: there is no password in {path!r}")
    return Given(file.text.value.removesuffix("\n").removesuffix("\r"), file.text.origin, beside)


def read_table_file(
    path: str,
    origin: str,
    *,
    others: Collection[str] = (),
    names: Mapping[str, str] | None = None,
) -> Layer:
    """
    Return what a TOML file sets.

    Args:
        path: of the file; errors name it so.
        origin: who named it: ``--config``.
        others: tables and keys in it that somebody else reads.
        names: what there is to be set; see `txtlsmc.tables.table_layer`.

    Raises:
        InvalidSetting: it can not be read, sets what there is not, or holds a secret and others
            may read or change it.
    """
    file = _read(path, _LARGEST_TABLE, path)
    if file.problem:
        raise InvalidSetting(f"{origin} {path}: {file.problem}")
    if names is None:
        layer = table_layer(file.text, others=others)
    else:
        layer = table_layer(file.text, others=others, names=names)
    for name, given in layer.items():
        if not file.private and _is_secret(name, given):
            raise InvalidSetting(f"{given.origin} is secret, and {_exposed(path)}")
    return layer


def _is_secret(name: str, given: Given) -> bool:
    return name == "password" or (
        name == "client_certificate" and "PRIVATE KEY-----" in str(given.value)
    )


def _exposed(path: str) -> str:
    return f"others may read or change {path!r}: chmod 600"


def _read(path: str, largest: int, origin: str) -> _File:
    nothing = Given("", origin)
    try:
        # Looked at and read by one descriptor, so that it is the same file.
        with open(path, "rb") as file:
            private = not os.fstat(file.fileno()).st_mode & 0o077
            data = file.read(largest + 1)
        if len(data) > largest:
            return _File(nothing, problem=f"it has more than {largest} bytes")
        return _File(Given(data.decode(), origin), private)
    except OSError as error:
        return _File(nothing, problem=f"can not read it: {error.strerror}")
    except ValueError:  # the text is no UTF-8, or there is a NUL in the path
        return _File(nothing, problem="it is no text in UTF-8")
