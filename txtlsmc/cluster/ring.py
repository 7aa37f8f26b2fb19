"""
The ring: which server has a key, exactly as libmemcached picks it.

Pure: it knows names, weights and keys.  A server's *name* is its identity; where it is dialled
never moves a key.

Each scheme is one of libmemcached's and named for the behaviours that pylibmc users write:

=================== ================================ ===================== =====================
scheme              pylibmc ``behaviors``            points of a server    hash of a key
=================== ================================ ===================== =====================
``modula``          none (its default)               none: ``hash % n``    one_at_a_time
``modula_md5``      ``hash: md5``                    none: ``hash % n``    md5
``ketama``          ``ketama: True``                 100, one_at_a_time    one_at_a_time
``ketama_md5``      ``ketama: True, hash: md5``      100, md5              md5
``ketama_weighted`` ``ketama_weighted: True``        160, four to an md5   md5
=================== ================================ ===================== =====================

A key goes to the first point at or behind its hash, and behind the last to the first.  As soon as a
weight is above 1, the two plain ketama schemes place their points as ``ketama_weighted`` does; the
hash of a key stays their own.  The modula schemes know no weights.  Other clients mean other things
by the same word "ketama".
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from hashlib import md5
from itertools import chain, islice
from math import floor, gcd, lcm
from struct import Struct
from typing import Final, NamedTuple

from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import DEFAULT_PORT, SCHEMES, Address, Server

DEFAULT_SCHEME: Final = "ketama"

_HASHES: Final = 2**32
_MASK: Final = _HASHES - 1
_NUMBERS: Final = tuple(b"-%d" % number for number in range(100))
_WEIGHTED_POINTS: Final = 160
_WORD: Final = Struct("<I")
_WORDS: Final = Struct("<IIII")
_FLOAT: Final = Struct("<f")
#: How many keys a ring remembers the server of; looking one up is cheaper than hashing it.
_REMEMBERED: Final = 65_536

# Jenkins' function adds characters, which are signed on the machines that libmemcached was
# measured on, and then multiplies by 1025: both at once, for each byte.
_ADDED: Final = tuple(((byte - 256 if byte > 127 else byte) * 1025) & _MASK for byte in range(256))


def one_at_a_time(key: bytes) -> int:
    """Return Jenkins' one-at-a-time hash of *key*, over signed characters as libmemcached does."""
    return _finished(_stirred(key))


def _stirred(data: bytes, value: int = 0) -> int:
    added = _ADDED
    for byte in data:
        value = (value * 1025 + added[byte]) & _MASK
        value ^= value >> 6
    return value


def _finished(value: int) -> int:
    value = (value * 9) & _MASK
    value ^= value >> 11
    return (value * 32769) & _MASK


def md5_word(key: bytes) -> int:
    """Return the first four bytes of the MD5 of *key*, as a little-endian number."""
    word: int = _WORD.unpack_from(md5(key, usedforsecurity=False).digest())[0]
    return word


class Pick(NamedTuple):
    """
    Which server has a key, and why.

    Attributes:
        server: the server.
        place: its place in the list.
        hash: of the key, 32 bits.
        point: the point on the ring that the hash came to; None for the modula schemes, and where
            there is one server only.
    """

    server: Server
    place: int
    hash: int
    point: int | None


class Ring:
    """
    A list of servers and the scheme that shares the keys out among them.

    Attributes:
        servers: in the order of the list.
        scheme: one of `SCHEMES`.
        locate: takes a key of bytes and returns the place of its server in `servers`; it remembers
            up to 65,536 keys.
    """

    def __init__(self, servers: Sequence[Server], scheme: str = DEFAULT_SCHEME) -> None:
        """
        Args:
            servers: one or more; the same name twice is two servers.
            scheme: one of `SCHEMES`.

        Raises:
            InvalidSetting: no server, or no such scheme.
        """
        if scheme not in SCHEMES:
            raise InvalidSetting(f"a routing scheme is one of {', '.join(SCHEMES)}, not {scheme!r}")
        if not servers:
            raise InvalidSetting("there is no server to route to")
        self.servers, self.scheme = tuple(servers), scheme
        self._identities = tuple(server.identity for server in servers)
        self._hash = one_at_a_time if scheme in ("modula", "ketama") else md5_word
        alone = len(servers) == 1
        # Without points the place is the remainder of the hash: for one server always 0.
        points = [] if alone or scheme.startswith("modula") else self._placed_points()
        self._points = [point for point, _ in points]
        # One more than there are points: behind the last one comes the first again.
        self._places = [place for _, place in points + points[:1]]
        self.locate: Callable[[bytes], int] = (
            _only if alone else _Remembered(self._place_of_key).__getitem__
        )

    def __repr__(self) -> str:
        return f"<Ring {self.scheme} of {len(self.servers)}>"

    def _placed_points(self) -> list[tuple[int, int]]:
        labels = [_label(identity) for identity in self._identities]
        weights = [server.weight for server in self.servers]
        if self.scheme == "ketama_weighted" or max(weights) > 1:
            return sorted(_weighted_points(labels, weights))
        return sorted(_plain_points(labels, self._hash))

    def _place_of_key(self, key: bytes) -> int:
        return self._place_of(self._hash(key))

    def _place_of(self, hashed: int) -> int:
        if not self._points:
            return hashed % len(self.servers)
        # Of points that are equal the first one counts.
        return self._places[bisect_left(self._points, hashed)]

    def explain(self, key: bytes) -> Pick:
        """Return which server has *key*, and why."""
        hashed = self._hash(key)
        place, point = self._place_of(hashed), None
        if self._points:
            point = self._points[bisect_left(self._points, hashed) % len(self._points)]
        return Pick(self.servers[place], place, hashed, point)

    def successors(self, key: bytes) -> Iterator[int]:
        """
        Yield the place of every server, in the order in which they come behind *key*'s hash.

        The first one has it.  For the modula schemes the others follow as in the list; on a ring
        those come last whose weight is too small for a point.
        """
        count = len(self.servers)
        if not self._points:
            first = self.locate(key)
            yield from ((first + step) % count for step in range(count))
            return
        reached = bisect_left(self._points, self._hash(key))
        seen: set[int] = set()
        for place in chain(islice(self._places, reached, None), self._places, range(count)):
            if place not in seen:
                yield place
                seen.add(place)
                if len(seen) == count:
                    return

    def shares(self) -> dict[str, float]:
        """Return which share of all keys each server has, by name; together they are 1."""
        shares = dict.fromkeys((server.name for server in self.servers), 0.0)
        for server, hashes in zip(self.servers, self._owned(), strict=True):
            shares[server.name] += hashes / _HASHES
        return shares

    def difference(self, other: Ring) -> float:
        """
        Return the share of all keys that have another server, by its name, on *other*.

        Exact where both rings look at the hash in the same way.  Where they do not (another hash,
        or remainders against points) where a key is on one says nothing of where it is on the
        other, so the shares multiply.
        """
        if self._hash is not other._hash or bool(self._points) != bool(other._points):
            return self._moved_by_chance(other)
        if not self._points:
            return self._moved_by_remainder(other)
        moved = start = 0
        # Behind a point of either ring, up to and with the next one, all hashes go together.
        for end in sorted({*self._points, *other._points, _HASHES - 1}):
            if self._identity_of(end) != other._identity_of(end):
                moved += end + 1 - start
            start = end + 1
        return moved / _HASHES

    def _moved_by_chance(self, other: Ring) -> float:
        theirs: Counter[Address] = Counter()
        for identity, hashes in zip(other._identities, other._owned(), strict=True):
            theirs[identity] += hashes
        ours = zip(self._identities, self._owned(), strict=True)
        kept = sum(hashes * theirs[identity] for identity, hashes in ours)
        return (_HASHES**2 - kept) / _HASHES**2

    def _moved_by_remainder(self, other: Ring) -> float:
        theirs = defaultdict(list)
        for place, identity in enumerate(other._identities):
            theirs[identity].append(place)
        counts = len(self.servers), len(other.servers)
        # Dividing by two numbers leaves any two remainders that are equal modulo their greatest
        # common divisor, and these once in each of their least common multiple.
        apart, cycle = gcd(*counts), lcm(*counts)
        kept = sum(
            (ours - their) % apart == 0
            for ours, identity in enumerate(self._identities)
            for their in theirs[identity]
        )
        return (cycle - kept) / cycle

    def _identity_of(self, hashed: int) -> Address:
        return self._identities[self._place_of(hashed)]

    def _owned(self) -> list[int]:
        """Return how many of the hashes each place has."""
        count = len(self.servers)
        if not self._points:
            return [len(range(place, _HASHES, count)) for place in range(count)]
        owned, start = [0] * count, 0
        for end, place in zip([*self._points, _HASHES - 1], self._places, strict=True):
            owned[place] += end + 1 - start
            start = end + 1
        return owned


def _only(key: bytes) -> int:
    return 0


class _Remembered(dict[bytes, int]):
    """
    The places of keys, each worked out when it is first asked for.

    All are forgotten when there are too many: to know which was asked for last would make each
    look-up slower, and take twice the memory.
    """

    __slots__ = ("_place_of_key",)

    def __init__(self, place_of_key: Callable[[bytes], int]) -> None:
        self._place_of_key = place_of_key

    def __missing__(self, key: bytes) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        place = self[key] = self._place_of_key(key)
        return place


def _label(identity: Address) -> bytes:
    """Return what the strings of a server's points begin with."""
    if identity.path:
        label = f"{identity.path}:0"
    elif identity.port == DEFAULT_PORT:
        label = identity.host
    else:
        label = f"{identity.host}:{identity.port}"
    # The path of a socket may have come from the file system.
    return label.encode("utf-8", "surrogateescape")


def _plain_points(
    labels: Sequence[bytes], hashed: Callable[[bytes], int]
) -> Iterator[tuple[int, int]]:
    for place, label in enumerate(labels):
        if hashed is one_at_a_time:
            # A hundred strings begin alike: what is slow is done once for all of them.
            before = _stirred(label)
            yield from ((_finished(_stirred(number, before)), place) for number in _NUMBERS)
        else:
            yield from ((hashed(label + number), place) for number in _NUMBERS)


def _single(number: float) -> float:
    """Return *number* as a C float holds it."""
    rounded: float = _FLOAT.unpack(_FLOAT.pack(number))[0]
    return rounded


def _weighted_points(labels: Sequence[bytes], weights: Sequence[int]) -> Iterator[tuple[int, int]]:
    total = _single(sum(weights))
    for place, (label, weight) in enumerate(zip(labels, weights, strict=True)):
        # In single precision at each step, as libmemcached does: in double, 40 can come out as 39.
        share = _single(_single(weight) / total)
        strings = floor(_single(_single(share * _WEIGHTED_POINTS) / 4 * len(labels)))
        for number in range(strings):
            digest = md5(b"%b-%d" % (label, number), usedforsecurity=False).digest()
            yield from ((word, place) for word in _WORDS.unpack(digest))
