"""How keys and values are printed: as they are, on one line, or as JSON."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from typing import Any

from txtlsmc.errors import MemcacheError, NodeDown


def key_text(key: bytes) -> str:
    """Return a key as text; what is not UTF-8 in it is escaped."""
    return key.decode("utf-8", "backslashreplace")


def value_bytes(value: object) -> bytes:
    """Return a value as it is written to a pipe: bytes and text as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return str(value).encode("utf-8", "backslashreplace")


def value_line(value: object) -> str:
    """Return a value on one line, and without what a terminal would obey."""
    # Doubled first, so that a backslash of its own differs from those of the escapes.
    text = value_bytes(value).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def value_fields(value: object) -> dict[str, Any]:
    """
    Return a value as members of a JSON object.

    ``type`` is what it was stored as.  ``value`` is the value, of bytes the text that they are in
    UTF-8; ``base64`` stands in its place for bytes that are none, and ``repr`` for what JSON does
    not know.
    """
    kind = type(value).__name__
    if isinstance(value, bytes):
        try:
            return {"type": kind, "value": value.decode()}
        except UnicodeDecodeError:
            return {"type": kind, "base64": b64encode(value).decode()}
    if isinstance(value, (str, int)):  # bool among them
        return {"type": kind, "value": value}
    return {"type": kind, "repr": repr(value)}


def print_json(told: object) -> None:
    """Print *told* as one JSON document."""
    print(json.dumps(told, indent=2))


def said_by(error: MemcacheError) -> str:
    """Return what an error says: of a server that is down, why it is."""
    cause = error.cause if isinstance(error, NodeDown) else None
    return str(cause or error)


def complain(text: str) -> None:
    """Print an error, or what was not found."""
    print(f"tlsmc: {text}", file=sys.stderr)
