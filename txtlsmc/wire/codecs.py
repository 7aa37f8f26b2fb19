"""
Codecs: what a value becomes in the cache, and the flags that say what it was.

The server keeps 32 bits of flags beside each value and never looks at them.  Clients mark with them
what the bytes are, and each library of Python's in its own way: what is an int to one is a bool to
another.  So a codec goes by the name of the library whose marks it writes and reads.

=================  ========  ======  =========  ======  ========  =======
codec              bytes     str     int        bool    pickle    zlib
=================  ========  ======  =========  ======  ========  =======
``pylibmc``        0         16      4          2       1         8 (bit)
``bmemcached``     16        0       2 (and 4)          1         8 (bit)
``pymemcache``     0         16      2 (and 4)          1         8 (bit)
``raw``            0
=================  ========  ======  =========  ======  ========  =======

The value may have been written by anybody who can write to the cache.  Nothing is unpickled except
by a codec whose name says so, what is decompressed has a bound, and no error shows a value: each is
raised where Python's own, which holds the value, is gone.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from txtlsmc.errors import CodecError, InvalidSetting
from txtlsmc.wire.compression import BadCompression, compress, decompress

MAX_DECOMPRESSED: Final = 64 * 2**20

_PICKLED: Final = 1
_ZLIB: Final = 8
_INSECURE: Final = "-insecure-pickle"

#: Fixed, so that a newer Python does not write what older ones can not read.
_PICKLE_PROTOCOL: Final = 4

_TOO_LARGE: Final = 10**20
# The blanks are memcached's: a number that decr makes shorter keeps its length.
_NUMBER: Final = re.compile(rb"-?[0-9]{1,20} {0,19}")


class Codec(Protocol):
    """
    How values become bytes and flags, and come back; `codec_named` makes those that there are.

    One of your own needs no more than this, and may be given wherever a codec is asked for.
    """

    @property
    def name(self) -> str:
        """What it is called."""

    def encode(self, value: object) -> tuple[bytes, int]:
        """
        Return the bytes to store, and the flags to mark them with.

        Raises:
            CodecError: it does not take such a value.
        """

    def decode(self, data: bytes, flags: int) -> object:
        """
        Return the value that was stored as *data*, marked with *flags*.

        Raises:
            CodecError: it can not be read.
        """


def codec_named(
    name: str, *, compress_above: int | None = None, max_decompressed: int = MAX_DECOMPRESSED
) -> Codec:
    """
    Make the codec called *name*.

    ``pylibmc`` takes bytes, str, int and bool; ``bmemcached`` (python-binary-memcached) and
    ``pymemcache`` (its pickle serde, and the compressed one) take bytes, str and int; ``raw`` takes
    bytes, marks nothing and gives back bytes whatever the marks.  A bytearray or memoryview is
    stored as bytes.  A value of a class derived from bytes, str or int, an IntEnum for instance, is
    stored as what it is derived from, and comes back as that.  An int has at most 20 digits.

    With ``-insecure-pickle`` behind the name (``pylibmc-insecure-pickle``; there is none of
    ``raw``) values of other types are pickled, and pickled values are read: to read one is to run
    code of whoever wrote it to the cache.

    Args:
        name: the library whose marks it uses.
        compress_above: values of more bytes are compressed with zlib, where that makes them
            smaller; ints and bools never are, because the server could not count with them.  None:
            nothing is.  Compressed values are read in any case.
        max_decompressed: the most bytes that a compressed value may become.  One that is larger is
            not compressed in the first place.

    Raises:
        InvalidSetting: there is no such codec, a number can not be right, or ``raw`` is to
            compress, though nothing would tell the reader.
    """
    if name not in CODEC_NAMES:
        raise InvalidSetting(f"there is no codec {name!r}, but {', '.join(CODEC_NAMES)}")
    if compress_above is not None and not _is_whole(compress_above, 0):
        raise InvalidSetting(f"compress_above must be a number of bytes, not {compress_above!r}")
    if not _is_whole(max_decompressed, 1):
        raise InvalidSetting(
            f"max_decompressed must be a number of bytes, 1 or more, not {max_decompressed!r}"
        )
    if name == "raw":
        if compress_above is not None:
            raise InvalidSetting("the codec raw marks nothing, so it can not compress")
        return _RawCodec()
    library, insecure, _ = name.partition(_INSECURE)
    return _MarkingCodec(
        name, _LIBRARIES[library], bool(insecure), compress_above, max_decompressed
    )


def _is_whole(number: object, least: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= least


class _Marks(NamedTuple):
    """The flags of one library; *long* is read as an int too, and *boolean* is not always there."""

    binary: int
    text: int
    number: int
    long: int | None = None
    boolean: int | None = None


_LIBRARIES: Final = {
    "pylibmc": _Marks(binary=0, text=16, number=4, boolean=2),
    "bmemcached": _Marks(binary=16, text=0, number=2, long=4),
    "pymemcache": _Marks(binary=0, text=16, number=2, long=4),
}

#: All that `codec_named` knows.
CODEC_NAMES: Final = (*_LIBRARIES, "raw", *(library + _INSECURE for library in _LIBRARIES))


class _Unfit(Exception):
    """A value can not be encoded or read; the text says why and does not show the value."""


class _RawCodec:
    """Bytes as they are."""

    name: Final = "raw"

    def __repr__(self) -> str:
        return "<codec raw>"

    def encode(self, value: object) -> tuple[bytes, int]:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise CodecError(
                self.name,
                f"it takes bytes only, and no {type(value).__name__}: encode the value yourself, or"
                " choose a codec that marks what it stores",
            )
        return _plain_bytes(value), 0

    def decode(self, data: bytes, flags: int) -> object:
        return data


class _MarkingCodec:
    """Bytes, text and numbers under the marks of one library."""

    def __init__(
        self, name: str, marks: _Marks, pickles: bool, compress_above: int | None, most: int
    ) -> None:
        self.name: Final = name
        self._marks, self._pickles = marks, pickles
        self._compress_above, self._most = compress_above, most
        self._readers: dict[int, Callable[[bytes], object]] = {
            marks.binary: _read_bytes,
            marks.text: _read_text,
            marks.number: _read_number,
            _PICKLED: _unpickle if pickles else self._refuse_pickle,
        }
        if marks.long is not None:
            self._readers[marks.long] = _read_number
        if marks.boolean is not None:
            self._readers[marks.boolean] = _read_bool

    def __repr__(self) -> str:
        return f"<codec {self.name}>"

    def encode(self, value: object) -> tuple[bytes, int]:
        try:
            return self._write(value)
        except _Unfit as error:
            reason = str(error)
        raise CodecError(self.name, reason)

    def decode(self, data: bytes, flags: int) -> object:
        try:
            reader = self._readers.get(flags & ~_ZLIB)
            if reader is None:
                raise _Unfit("it knows no values with such flags; another client wrote this one")
            if flags & _ZLIB:
                data = decompress(data, self._most)
            return reader(data)
        except (_Unfit, BadCompression) as error:
            reason = str(error)
        raise CodecError(self.name, reason, flags=flags)

    def _write(self, value: object) -> tuple[bytes, int]:
        marks = self._marks
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._compress(_plain_bytes(value), marks.binary)
        if isinstance(value, str):
            return self._compress(_utf8(value), marks.text)
        if isinstance(value, bool):  # which is an int to Python, and to some libraries neither
            if marks.boolean is not None:
                return b"1" if value else b"0", marks.boolean
        elif isinstance(value, int):
            return _decimal(value), marks.number
        if self._pickles:
            return self._compress(_pickled(value), _PICKLED)
        taken = "bytes, str and int" if marks.boolean is None else "bytes, str, int and bool"
        raise _Unfit(
            f"it takes {taken}, and no {type(value).__name__}: make one of these of it (JSON, for"
            f" instance), or have it pickled by the codec {self.name}{_INSECURE}, which is safe"
            " only where all who can write to the cache are trusted: to unpickle a value is to run"
            " code that its writer chose"
        )

    def _compress(self, data: bytes, mark: int) -> tuple[bytes, int]:
        # What is over the bound for reading is never made to come under it.
        if self._compress_above is not None and self._compress_above < len(data) <= self._most:
            compressed = compress(data)
            if compressed is not None:
                return compressed, mark | _ZLIB
        return data, mark

    def _refuse_pickle(self, data: bytes) -> object:
        raise _Unfit(
            "the value is pickled, and to unpickle it is to run code that its writer chose; where"
            " all who can write to the cache are trusted, the codec"
            f" {self.name}{_INSECURE} reads it"
        )


# One type each ------------------------------------------------------------------------------


def _plain_bytes(value: bytes | bytearray | memoryview) -> bytes:
    # By its buffer, which a derived class can not redefine as it can __bytes__; and a copy of what
    # its owner may change while it waits to be sent.
    return value if type(value) is bytes else bytes(memoryview(value))


def _read_bytes(data: bytes) -> bytes:
    return data


def _utf8(text: str) -> bytes:
    try:
        return str.encode(text)
    except UnicodeEncodeError:
        pass  # it holds the text
    raise _Unfit("UTF-8 has no form for this text: it holds half of a surrogate pair")


def _read_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        pass  # it holds the value
    raise _Unfit("it is marked as text and is not UTF-8")


def _decimal(number: int) -> bytes:
    if not -_TOO_LARGE < number < _TOO_LARGE:
        raise _Unfit("an int has at most 20 digits, as it would not be read back with more")
    return int.__repr__(number).encode()  # an IntEnum's own may be its name


def _read_number(data: bytes) -> int:
    if _NUMBER.fullmatch(data) is None:
        raise _Unfit("it is marked as an int and is no decimal number of at most 20 digits")
    return int(data)


def _read_bool(data: bytes) -> bool:
    if data not in (b"0", b"1"):
        raise _Unfit(
            "it is marked as a bool and is neither 0 nor 1; ints have this mark in the codecs"
            " pymemcache and bmemcached"
        )
    return data == b"1"


def _pickled(value: object) -> bytes:
    try:
        return pickle.dumps(value, _PICKLE_PROTOCOL)
    except Exception as error:  # by code of the value's class, which may raise anything
        why = type(error).__name__
    raise _Unfit(f"this {type(value).__name__} can not be pickled ({why})")


def _unpickle(data: bytes) -> object:
    try:
        return pickle.loads(data)
    except Exception as error:  # by code that the value chose, which may raise anything
        why = type(error).__name__
    raise _Unfit(f"it is marked as pickled and can not be unpickled ({why})")
