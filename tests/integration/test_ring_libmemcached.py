"""
The ring and the installed libmemcached agree about servers, weights and keys made at random.

Each run makes others.  A failure names the seed that made them; with it in ``TXTLSMC_RING_SEED``
they are made again.
"""

from __future__ import annotations

import importlib
import os
import random
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.libmemcached import (
    MD5,
    MOST_SERVERS,
    ONE_AT_A_TIME,
    SIGNED_CHARACTERS,
    Entry,
    hash_of,
    needs_libmemcached,
    picks,
)
from tests.vectors.make_ring import PATH, answered, read
from txtlsmc.cluster.ring import Ring, md5_word, one_at_a_time
from txtlsmc.settings import SCHEMES, Server

SEED = os.environ.get("TXTLSMC_RING_SEED") or str(random.SystemRandom().randrange(10**12))
LARGEST_WEIGHT = 2**31 - 1
#: Of more than 16 bits pylibmc silently takes the lower ones.
LARGEST_OF_PYLIBMC = 2**16 - 1
#: The libmemcached 1.0.16 in pylibmc's wheels makes room for 1,100 points at the first server.  If
#: a weight comes later there are 160 of each server, and from the seventh on it writes beyond that.
MOST_OF_PYLIBMC = 6

#: pylibmc's words for our schemes, as the documentation has them.
BEHAVIORS: dict[str, dict[str, object]] = {
    "modula": {},
    "modula_md5": {"hash": "md5"},
    "ketama": {"ketama": True},
    "ketama_md5": {"ketama": True, "hash": "md5"},
    "ketama_weighted": {"ketama_weighted": True},
}


def unsigned_reason() -> str | None:
    """Return why high bytes can not be compared on this machine, or None where they can."""
    if SIGNED_CHARACTERS:
        return None
    return "characters have no sign here, and libmemcached's hash of high bytes is another"


def some_key(rng: random.Random) -> bytes:
    """Return a key of what can be in one and is ASCII."""
    size = rng.choice([1, 2, rng.randint(3, 40), rng.randint(3, 40), rng.randint(41, 249), 250])
    return bytes(rng.randint(0x21, 0x7E) for _ in range(size))


def some_high_key(rng: random.Random) -> bytes:
    """Return a key with bytes that are not ASCII, and need not be UTF-8."""
    size = rng.choice([1, 2, rng.randint(3, 40), 250])
    return bytes(rng.choice((rng.randint(0x80, 0xFF), 0x61)) for _ in range(size))


def some_host(rng: random.Random) -> str:
    """Return a name, in any letter case, or an address of either kind."""
    label = "".join(rng.choices("abcxyzABCXYZ0189-", k=rng.randint(1, 20))).strip("-") or "a"
    return rng.choice(
        [
            f"{label}.example",
            f"{label}-{rng.randint(0, 99):02d}.cache.dev.example.net",
            f"10.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}",
            f"2001:db8::{rng.randrange(2**16):x}",
            f"2001:DB8::{rng.randrange(2**16):X}",
            "::1",
        ]
    )


def some_port(rng: random.Random) -> int:
    """Return a port; often the usual one, which is not in the strings that are hashed."""
    return rng.choice([11211, 11211, 11212, rng.randint(1, 65535)])


def some_socket(rng: random.Random) -> Entry:
    """Return a Unix socket."""
    folder = rng.choice(["/run/memcached", "/tmp", "/srv/Caf\u00e9"])
    return Entry(f"{folder}/{rng.randrange(10**6)}.sock", 0)


def some_servers(rng: random.Random, most: int) -> list[Entry]:
    """Return 1 to *most* servers of weight 1; now and then two of them are the same."""
    servers = [Entry(some_host(rng), some_port(rng)) for _ in range(rng.randint(1, most))]
    if rng.random() < 0.2:
        servers[rng.randrange(len(servers))] = rng.choice(servers)
    return servers


def some_weighted(
    rng: random.Random, servers: Sequence[Entry], most: int = LARGEST_WEIGHT
) -> list[Entry]:
    """Return *servers* with weights up to *most*, of a size that varies from call to call."""
    largest = min(most, rng.choice([2, 3, 10, 100, 10**6, 2**25, LARGEST_WEIGHT]))
    return [server._replace(weight=rng.randint(1, largest)) for server in servers]


class LibmemcachedTests(SynchronousTestCase):
    """Rings at random, and what the library itself says about them."""

    rounds: ClassVar[int] = 40

    def setUp(self) -> None:
        if reason := needs_libmemcached():
            raise SkipTest(reason)

    def assert_agrees(self, scheme: str, servers: Sequence[Entry], keys: Sequence[bytes]) -> None:
        ring = Ring([Server(entry.name, weight=entry.weight) for entry in servers], scheme)
        theirs = picks(scheme, servers, keys)
        wrong = [
            f"{key!r} is on {place}, by libmemcached on {right}"
            for key, place, right in zip(keys, map(ring.locate, keys), theirs, strict=True)
            if place != right
        ]
        self.assertEqual(wrong, [], f"seed {SEED}: {scheme} of {servers}")

    def assert_agrees_at_random(
        self, make: Callable[[random.Random], list[Entry]], *schemes: str
    ) -> None:
        for number in range(self.rounds):
            rng = random.Random(f"{SEED} {self.id()} {number}")
            keys = [some_key(rng) for _ in range(50)]
            self.assert_agrees(schemes[number % len(schemes)], make(rng), keys)

    def test_servers(self) -> None:
        """Any few servers have the keys that libmemcached gives them, by each scheme."""
        self.assert_agrees_at_random(lambda rng: some_servers(rng, 12), *SCHEMES)

    def test_weights(self) -> None:
        """So do servers of any weights, also by the schemes that know nothing of weights."""
        self.assert_agrees_at_random(
            lambda rng: some_weighted(rng, some_servers(rng, 40)), *SCHEMES
        )

    def test_equal_weights(self) -> None:
        """Of many equal servers each gets as many points as libmemcached's rounding gives it."""
        # In double precision the servers of the first three lists would be four points short.
        for count in (29, 49, 98, MOST_SERVERS):
            servers = [Entry(f"10.7.0.{number}") for number in range(count)]
            rng = random.Random(f"{SEED} {count}")
            self.assert_agrees("ketama_weighted", servers, [some_key(rng) for _ in range(400)])

    def test_sockets(self) -> None:
        """Unix sockets are servers like others, whatever letters their paths have."""
        self.assert_agrees_at_random(
            lambda rng: some_weighted(rng, [some_socket(rng) for _ in range(rng.randint(2, 6))]),
            *SCHEMES,
        )
        self.assert_agrees_at_random(
            lambda rng: [some_socket(rng), some_socket(rng), *some_servers(rng, 4)], *SCHEMES
        )

    def test_letter_case(self) -> None:
        """Names that differ in letter case only are different servers, to libmemcached too."""
        rng = random.Random(SEED)
        keys = [some_key(rng) for _ in range(300)]
        upper, lower = [Entry("CACHE.Example"), Entry("b")], [Entry("cache.example"), Entry("b")]
        self.assertNotEqual(picks("ketama", upper, keys), picks("ketama", lower, keys))
        self.assert_agrees("ketama", upper, keys)
        self.assert_agrees("ketama", lower, keys)
        self.assert_agrees("ketama_weighted", [*upper, *lower], keys)

    def test_high_bytes(self) -> None:
        """Keys of any bytes go where libmemcached has them."""
        for scheme in SCHEMES:
            rng = random.Random(f"{SEED} {scheme}")
            keys = [some_high_key(rng) for _ in range(200)]
            self.assert_agrees(scheme, some_servers(rng, 12), keys)

    test_high_bytes.skip = unsigned_reason()  # type: ignore[attr-defined] # trial's way

    def test_vectors(self) -> None:
        """The recorded picks are those of the installed libmemcached."""
        recorded = read(PATH.read_text("utf-8"))
        asked = answered(recorded)
        for before, now in zip(recorded.cases, asked.cases, strict=True):
            self.assertEqual(before.picks, now.picks, f"{before.scheme} of {before.servers}")

    test_vectors.skip = unsigned_reason()  # type: ignore[attr-defined] # trial's way


class HashTests(SynchronousTestCase):
    def setUp(self) -> None:
        if reason := needs_libmemcached():
            raise SkipTest(reason)

    def test_hashes(self) -> None:
        """Both hashes of a key are libmemcached's, for keys of any length."""
        rng = random.Random(SEED)
        for key in (some_key(rng) for _ in range(500)):
            self.assertEqual(
                one_at_a_time(key), hash_of(key, ONE_AT_A_TIME), f"seed {SEED}: {key!r}"
            )
            self.assertEqual(md5_word(key), hash_of(key, MD5), f"seed {SEED}: {key!r}")

    def test_high_bytes(self) -> None:
        """So they are for every byte that there is, alone and among others."""
        rng = random.Random(SEED)
        single = [bytes([byte]) for byte in range(256)]
        for key in (*single, *(some_high_key(rng) for _ in range(500))):
            self.assertEqual(
                one_at_a_time(key), hash_of(key, ONE_AT_A_TIME), f"seed {SEED}: {key!r}"
            )
            self.assertEqual(md5_word(key), hash_of(key, MD5), f"seed {SEED}: {key!r}")

    test_high_bytes.skip = unsigned_reason()  # type: ignore[attr-defined] # trial's way


class PylibmcTests(SynchronousTestCase):
    """pylibmc brings a libmemcached of its own, and speaks to it in its own words."""

    def setUp(self) -> None:
        try:
            self.pylibmc: Any = importlib.import_module("pylibmc")
        except ImportError:
            raise SkipTest("pylibmc is not installed (pip install pylibmc)") from None

    def test_behaviors(self) -> None:
        """Each scheme is what pylibmc does with the behaviors that it is documented as."""
        self.assertEqual(set(BEHAVIORS), set(SCHEMES))
        for scheme, behaviors in BEHAVIORS.items():
            for number in range(6):
                rng = random.Random(f"{SEED} {scheme} {number}")
                servers = some_servers(rng, MOST_OF_PYLIBMC)
                if number % 2:
                    servers = some_weighted(rng, servers, LARGEST_OF_PYLIBMC)
                self.assert_agrees(scheme, behaviors, servers, rng)

    def test_sockets(self) -> None:
        """Unix sockets have the keys that pylibmc gives them."""
        for scheme, behaviors in BEHAVIORS.items():
            rng = random.Random(f"{SEED} {scheme}")
            self.assert_agrees(scheme, behaviors, [some_socket(rng) for _ in range(5)], rng)

    def assert_agrees(
        self,
        scheme: str,
        behaviors: dict[str, object],
        servers: Sequence[Entry],
        rng: random.Random,
    ) -> None:
        # A socket is a bare path there, and has no weight.
        names = [
            entry.host if entry.port == 0 else f"{entry.name}:{entry.weight}" for entry in servers
        ]
        client = self.pylibmc.Client(names, behaviors=behaviors)
        ring = Ring([Server(entry.name, weight=entry.weight) for entry in servers], scheme)
        keys = [some_key(rng) for _ in range(100)]
        theirs = [client.hash(key.decode("ascii")) for key in keys]
        self.assertEqual(
            [ring.locate(key) for key in keys], theirs, f"seed {SEED}: {scheme} of {servers}"
        )
