"""
zlib, within bounds: what a value was compressed from may be a thousand times its size.

The bound holds while the value is read and not only at the end: a value made to fill the memory of
its readers is given up as soon as it is over.
"""

from __future__ import annotations

import zlib
from typing import Final

#: How much is decompressed at once: so many bytes of the value, to so many bytes of the result.
#: zlib's object keeps a copy of what it has not looked at yet, so the value goes in slices.
_SLICE: Final = 2**16
_PIECE: Final = 2**20


class BadCompression(Exception):
    """A compressed value can not be read; the text says why, and does not show the value."""


def compress(data: bytes) -> bytes | None:
    """Return *data* compressed, or None where that makes it no smaller."""
    compressed = zlib.compress(data)
    return compressed if len(compressed) < len(data) else None


def decompress(data: bytes, most: int) -> bytes:
    """
    Return what *data* was compressed from.

    Args:
        data: one whole zlib stream.
        most: so many bytes may come of it.

    Raises:
        BadCompression: it is none, or more comes of it.
    """
    stream, pieces, size, place = zlib.decompressobj(), [], 0, 0
    try:
        while place < len(data) and not stream.eof:
            rest = data[place : place + _SLICE]
            place += len(rest)
            while rest:
                # One more than may come is enough to see that it is too much.
                piece = stream.decompress(rest, min(_PIECE, most - size + 1))
                pieces.append(piece)
                size += len(piece)
                if size > most:
                    raise BadCompression(f"decompressed it has more than {most} bytes")
                rest = stream.unconsumed_tail
        whole, more = stream.eof, place < len(data) or bool(stream.unused_data)
    except zlib.error:
        whole, more = False, False
    if not whole:
        raise BadCompression("it is marked as compressed and is damaged, or not whole")
    if more:
        raise BadCompression("something stands behind the compressed value, as after an append")
    return b"".join(pieces)
