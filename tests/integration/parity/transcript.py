"""
What a server said in an exchange, as lines of text that two servers can be compared by.

A line has every field of a frame.  What can not be the same for two servers is replaced:

- A version of an item (cas) by its rank among those of the exchange; 0 stays.
- What a server makes up in a dialogue of SASL, by what it is.
- Numbers of STAT by their kind, unless the exchange is about them.  memcached tells more names than
  we do: those that only it tells are left out, unless the exchange asks for them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from tests.integration.parity.client import Section
from tests.integration.parity.exchange import FENCES, Exchange
from txtlsmc.wire.frames import Response
from txtlsmc.wire.opcodes import Opcode, Status, opcode_name

_LONG: Final = 300
_MADE_UP: Final = (
    (re.compile(rb"(r=clientnonce)[^,]+,s=[^,]+,"), rb"\1(and more),s=(salt),"),
    (re.compile(rb"v=[A-Za-z0-9+/]{43}="), b"v=(signature)"),
    (re.compile(rb"<[^<>@]+@[^<>@]+>"), b"<(challenge)>"),
)
_INTEGER: Final = re.compile(rb"-?[0-9]+")
_DECIMAL: Final = re.compile(rb"[0-9]+\.[0-9]+")


def compared(
    exchange: Exchange, real: Sequence[Section], memory: Sequence[Section]
) -> tuple[list[str], list[str]]:
    """Return the lines of both servers: the same if and only if they answered alike."""
    if exchange.unsure is not None:
        real, memory = _sure(exchange.unsure, real), _sure(exchange.unsure, memory)
    known = {
        response.key for section in memory for response in section.responses if _is_number(response)
    }
    wanted = known | exchange.told
    return _lines(exchange, real, wanted), _lines(exchange, memory, wanted)


def _sure(unsure: int, sections: Sequence[Section]) -> list[Section]:
    return [*sections[:unsure], Section([], "unsure"), *sections[unsure + 1 :]]


def _lines(exchange: Exchange, sections: Sequence[Section], wanted: set[bytes]) -> list[str]:
    versions = {response.cas for section in sections for response in section.responses}
    ranks = {cas: rank for rank, cas in enumerate(sorted(versions | {0}))}
    lines = []
    for section in sections:
        for response in section.responses:
            if response.opaque in FENCES:
                # Not the version, which is looked at elsewhere.
                lines.append(f"fence {FENCES.index(response.opaque)}")
            elif not _is_number(response) or response.key in wanted:
                lines.append(_line(response, ranks[response.cas], exchange))
        lines.append(section.ending)
    return lines


def _line(response: Response, rank: int, exchange: Exchange) -> str:
    value = response.value
    if _is_number(response) and response.key not in exchange.told:
        value = _kind(value)
    elif response.status == Status.AUTHENTICATION_CONTINUE:
        for pattern, replacement in _MADE_UP:
            value = pattern.sub(replacement, value)
    return (
        f"{opcode_name(response.opcode)} status=0x{response.status:02x}"
        f" opaque=0x{response.opaque:x} cas={rank} extras={response.extras.hex() or '-'}"
        f" key={_told(response.key)} value={_told(value)}"
    )


def _is_number(response: Response) -> bool:
    return response.opcode == Opcode.STAT and response.status == Status.OK and response.key != b""


def _kind(value: bytes) -> bytes:
    if _INTEGER.fullmatch(value):
        return b"(a number)"
    return b"(a time)" if _DECIMAL.fullmatch(value) else value


def _told(data: bytes) -> str:
    if len(data) <= _LONG:
        return repr(data)[1:]
    return f"({len(data)} bytes, {hashlib.sha256(data).hexdigest()[:16]})"
