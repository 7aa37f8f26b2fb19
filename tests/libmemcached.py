"""
libmemcached itself, as the system has it: which server it picks for a key.

It only computes; nothing is sent, and no server need run.
"""

from __future__ import annotations

import ctypes
import functools
import platform
from collections.abc import Sequence
from typing import Final, NamedTuple

SONAME: Final = "libmemcached.so.11"
#: With one server more an assertion of its own ends the whole process.
MOST_SERVERS: Final = 100
#: One-at-a-time adds characters, and C leaves it to the machine whether these have a sign.
SIGNED_CHARACTERS: Final = platform.machine().lower() in ("x86_64", "amd64")

ONE_AT_A_TIME: Final = 0
MD5: Final = 1

# memcached_behavior_t, in libmemcached-1.0/types/behavior.h
_HASH, _KETAMA, _KETAMA_WEIGHTED = 2, 3, 16

#: What is set for each scheme before there are servers, as pylibmc does with its ``behaviors``.
_BEHAVIORS: Final = {
    "modula": (),
    "modula_md5": ((_HASH, MD5),),
    "ketama": ((_KETAMA, 1),),
    "ketama_md5": ((_HASH, MD5), (_KETAMA, 1)),
    "ketama_weighted": ((_KETAMA_WEIGHTED, 1),),
}


class Entry(NamedTuple):
    """
    One entry of a server list, as libmemcached takes it.

    Attributes:
        host: a name or an address without brackets; or the path of a Unix socket.
        port: 0 for a Unix socket.
        weight: 1 or more.
    """

    host: str
    port: int = 11211
    weight: int = 1

    @property
    def name(self) -> str:
        """The same in our spelling, without the weight."""
        if self.port == 0:
            return f"unix:{self.host}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def needs_libmemcached() -> str | None:
    """Return the reason why a test that asks libmemcached must be skipped, or None."""
    try:
        _library()
    except OSError:
        # The tools, because newer systems name the library's own package otherwise.
        return f"{SONAME} is not installed (apt-get install libmemcached-tools)"
    return None


def version() -> str:
    """Return what libmemcached says of itself."""
    told: bytes = _library().memcached_lib_version()
    return told.decode("ascii")


def hash_of(key: bytes, algorithm: int) -> int:
    """Return its hash of *key*, by `ONE_AT_A_TIME` or `MD5`."""
    hashed: int = _library().memcached_generate_hash_value(key, len(key), algorithm)
    return hashed


def picks(scheme: str, servers: Sequence[Entry], keys: Sequence[bytes]) -> list[int]:
    """
    Return the place of the server that it picks for each key.

    Args:
        scheme: in our words.
        servers: 1 to 100, in the order of the list.
        keys: of any bytes.
    """
    if not 1 <= len(servers) <= MOST_SERVERS:
        raise ValueError(f"libmemcached takes 1 to {MOST_SERVERS} servers, not {len(servers)}")
    library = _library()
    handle = library.memcached_create(None)
    try:
        for behavior, value in _BEHAVIORS[scheme]:
            _succeeds(library.memcached_behavior_set(handle, behavior, value))
        for host, port, weight in servers:
            if port == 0:
                add = library.memcached_server_add_unix_socket_with_weight
                _succeeds(add(handle, host.encode(), weight))
            else:
                add = library.memcached_server_add_with_weight
                _succeeds(add(handle, host.encode(), port, weight))
        return [library.memcached_generate_hash(handle, key, len(key)) for key in keys]
    finally:
        library.memcached_free(handle)


def _succeeds(status: int) -> None:
    if status != 0:
        raise ValueError(f"libmemcached refused it, with status {status}")


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(SONAME)
    handle, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    status, word = ctypes.c_int, ctypes.c_uint32
    for name, result, arguments in (
        ("memcached_lib_version", text, ()),
        ("memcached_create", handle, (handle,)),
        ("memcached_free", None, (handle,)),
        ("memcached_behavior_set", status, (handle, ctypes.c_int, ctypes.c_uint64)),
        ("memcached_server_add_with_weight", status, (handle, text, ctypes.c_uint16, word)),
        ("memcached_server_add_unix_socket_with_weight", status, (handle, text, word)),
        ("memcached_generate_hash", word, (handle, text, size)),
        ("memcached_generate_hash_value", word, (text, size, ctypes.c_int)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
