"""The ring: who has a key, why, who is next, and what a change of the servers costs."""

from __future__ import annotations

import random
import string
import sys
from collections import Counter
from itertools import combinations
from math import sqrt

from twisted.trial.unittest import SynchronousTestCase

from txtlsmc.cluster.ring import DEFAULT_SCHEME, Pick, Ring, md5_word, one_at_a_time
from txtlsmc.errors import InvalidSetting
from txtlsmc.settings import SCHEMES, Routing, Server

#: Schemes that have points.
RINGS = ("ketama", "ketama_md5", "ketama_weighted")
NAMES = ("10.0.1.1:11211", "10.0.1.2:11219", "mc3.example:11211", "[::1]:21211")


def ring_of(*names: str, scheme: str = DEFAULT_SCHEME) -> Ring:
    """Return the ring of servers with these names, which may have weights."""
    return Ring([Server(name) for name in names], scheme)


def numbered(count: int, scheme: str = DEFAULT_SCHEME) -> Ring:
    """Return a ring of so many servers; a larger one has the same, and further ones behind."""
    return ring_of(*(f"cache-{number:02d}.example:11211" for number in range(count)), scheme=scheme)


def some_keys(count: int) -> list[bytes]:
    """Return so many keys, always the same ones, each of 12 letters."""
    rng = random.Random(count)
    return ["".join(rng.choices(string.ascii_letters, k=12)).encode() for _ in range(count)]


KEYS = some_keys(500)


def points_of(*labels: str) -> list[tuple[int, int]]:
    """Return the points of the plain ketama scheme with their places, worked out the long way."""
    return sorted(
        (one_at_a_time(f"{label}-{number}".encode()), place)
        for place, label in enumerate(labels)
        for number in range(100)
    )


class HashTests(SynchronousTestCase):
    def test_one_at_a_time(self) -> None:
        """The hash of a key is Jenkins' one-at-a-time; bytes above 127 count as negative."""
        for key, hashed in (
            (b"", 0),
            (b"a", 0xCA2E9442),
            (b"The quick brown fox jumps over the lazy dog", 0x519E91F5),
            (b"\xff", 0xAE65A494),
            (b"\x80\xffz", 0xCF36E714),
            (bytes(range(250)), 0x9B05A0B3),
        ):
            self.assertEqual(one_at_a_time(key), hashed, key)

    def test_md5_word(self) -> None:
        """The other hash of a key is the first word of its MD5, the lowest byte first."""
        for key, hashed in ((b"", 0xD98C1DD4), (b"abc", 0x98500190), (b"\xff", 0xD44F5900)):
            self.assertEqual(md5_word(key), hashed, key)


class LocateTests(SynchronousTestCase):
    def test_default_scheme(self) -> None:
        """Who names no scheme gets libmemcached's ketama, from the ring as from the settings."""
        ring = Ring([Server(name) for name in NAMES])
        self.assertEqual(ring.scheme, "ketama")
        self.assertEqual(Routing().scheme, "ketama")
        self.assertEqual(
            [ring.locate(key) for key in KEYS],
            [ring_of(*NAMES, scheme="ketama").locate(key) for key in KEYS],
        )

    def test_shown(self) -> None:
        """A ring says which scheme it has, and how many servers."""
        self.assertEqual(repr(ring_of(*NAMES)), "<Ring ketama of 4>")

    def test_servers_kept(self) -> None:
        """A ring has its servers in the order of the list, which may change without it."""
        servers = [Server(name) for name in NAMES]
        ring = Ring(servers)
        servers.reverse()
        self.assertEqual([server.name for server in ring.servers], list(NAMES))

    def test_no_server(self) -> None:
        """A ring without a server is refused."""
        error = self.assertRaises(InvalidSetting, Ring, [])
        self.assertEqual(str(error), "there is no server to route to")

    def test_unknown_scheme(self) -> None:
        """A scheme that there is not is refused, with those that there are."""
        for scheme in ("consistent", "Ketama", ""):
            error = self.assertRaises(InvalidSetting, ring_of, *NAMES, scheme=scheme)
            self.assertEqual(
                str(error),
                "a routing scheme is one of modula, modula_md5, ketama, ketama_md5,"
                f" ketama_weighted, not {scheme!r}",
            )

    def test_one_server(self) -> None:
        """One server has every key, by every scheme and with any weight."""
        for scheme in SCHEMES:
            for name in ("a:11211", "a:11211:7", "unix:/run/a.sock"):
                ring = ring_of(name, scheme=scheme)
                self.assertEqual({ring.locate(key) for key in KEYS}, {0})
                self.assertEqual(list(ring.successors(b"key")), [0])
                self.assertEqual(ring.shares(), {ring.servers[0].name: 1.0})

    def test_modula(self) -> None:
        """The modula schemes divide the hash by the number of servers and take what is left."""
        plain, hashed = ring_of(*NAMES, scheme="modula"), ring_of(*NAMES, scheme="modula_md5")
        for key in KEYS:
            self.assertEqual(plain.locate(key), one_at_a_time(key) % 4)
            self.assertEqual(hashed.locate(key), md5_word(key) % 4)

    def test_first_point(self) -> None:
        """A key goes to the first point that is not before its hash."""
        ring = ring_of("mc1", "mc2:11219", "[2001:DB8::a]:11211")
        points = points_of("mc1", "mc2:11219", "2001:DB8::a")
        for key in some_keys(2000):
            hashed = one_at_a_time(key)
            behind = [place for point, place in points if point >= hashed]
            self.assertEqual(ring.locate(key), (behind or [points[0][1]])[0])

    def test_equal_to_a_point(self) -> None:
        """A key whose hash is a point goes to that one, not to the next."""
        # Hashed like a key, the string of a point is that point.
        ring = ring_of("10.0.1.1", "10.0.1.2:11219")
        for place, label in enumerate(("10.0.1.1", "10.0.1.2:11219")):
            for number in range(100):
                key = f"{label}-{number}".encode()
                pick = ring.explain(key)
                self.assertEqual((pick.place, pick.point), (place, pick.hash))
                self.assertEqual(ring.locate(key), place)

    def test_behind_the_last_point(self) -> None:
        """A key whose hash is behind every point goes to the first one."""
        ring, points = ring_of("mc1", "mc2"), points_of("mc1", "mc2")
        behind = [key for key in some_keys(5000) if one_at_a_time(key) > points[-1][0]]
        self.assertGreater(len(behind), 0)
        for key in behind:
            self.assertEqual(
                ring.explain(key),
                (ring.servers[points[0][1]], points[0][1], one_at_a_time(key), points[0][0]),
            )
            self.assertEqual(ring.locate(key), points[0][1])
            self.assertEqual(next(ring.successors(key)), points[0][1])

    def test_same_name_twice(self) -> None:
        """Of two servers with one name the first has the keys on a ring; by modula both do."""
        for scheme in RINGS:
            ring = ring_of("mc1", "mc1:11211", "mc2", scheme=scheme)
            self.assertEqual({ring.locate(key) for key in KEYS}, {0, 2})
        self.assertEqual(
            {ring_of("mc1", "mc1", scheme="modula").locate(key) for key in KEYS}, {0, 1}
        )

    def test_letter_case(self) -> None:
        """A name is hashed in the letter case in which it is written, as libmemcached does."""
        self.assertGreater(ring_of("MC1", "mc2").difference(ring_of("mc1", "mc2")), 0.1)

    def test_default_port(self) -> None:
        """No key moves when the port is written that a name has without it."""
        for scheme in SCHEMES:
            short = ring_of("mc1", "mc2", "[::1]", scheme=scheme)
            long = ring_of("mc1:11211", "mc2:11211", "[::1]:11211", scheme=scheme)
            self.assertEqual(short.difference(long), 0)
            self.assertEqual([short.locate(k) for k in KEYS], [long.locate(k) for k in KEYS])

    def test_dialled_elsewhere(self) -> None:
        """Where a server is dialled moves no key: a tunnel, another port, a socket."""
        for scheme in SCHEMES:
            plain = ring_of("mc1:11211", "mc2:11211", "mc3:11211", scheme=scheme)
            dialled = Ring(
                [
                    Server("mc1:11211", address="127.0.0.1:11212"),
                    Server("mc2:11211", address="mc2:11219"),
                    Server("mc3:11211", address="unix:/run/mc3.sock"),
                ],
                scheme,
            )
            self.assertEqual([plain.locate(k) for k in KEYS], [dialled.locate(k) for k in KEYS])
            self.assertEqual(plain.difference(dialled), 0)
            self.assertEqual(plain.shares(), dialled.shares())

    def test_socket_from_the_file_system(self) -> None:
        """The path of a socket may have bytes that are not UTF-8."""
        ring = ring_of("unix:/run/caf\udce9.sock", "unix:/run/b.sock")
        self.assertEqual({ring.locate(key) for key in KEYS}, {0, 1})

    def test_any_bytes(self) -> None:
        """Keys of any bytes and any length have a server."""
        for scheme in SCHEMES:
            ring = ring_of(*NAMES, scheme=scheme)
            for key in (b"", b"\x00", bytes(range(250)), b"\xff" * 250):
                self.assertIn(ring.locate(key), range(4))


class MemoryTests(SynchronousTestCase):
    """A ring remembers where keys are."""

    def test_same_answers(self) -> None:
        """A key that is asked for again has the same server, which is the one it is told for."""
        for scheme in SCHEMES:
            ring = ring_of(*NAMES, scheme=scheme)
            first = [ring.locate(key) for key in KEYS]
            self.assertEqual([ring.locate(bytes(bytearray(key))) for key in KEYS], first)
            self.assertEqual([ring.explain(key).place for key in KEYS], first)

    def test_bounded(self) -> None:
        """A ring does not remember keys without end; one that it forgot has the same server."""
        ring = ring_of("mc1", "mc2", scheme="modula_md5")
        key = b"key-%d" % 1
        unknown = sys.getrefcount(key)
        place = ring.locate(key)
        self.assertGreater(sys.getrefcount(key), unknown)
        for number in range(70_000):
            ring.locate(b"%d" % number)
        self.assertEqual(sys.getrefcount(key), unknown)
        self.assertEqual(ring.locate(key), place)

    def test_each_its_own(self) -> None:
        """Two rings do not mix up what they remember."""
        one, other = ring_of("mc1", "mc2", scheme="modula"), ring_of("a", "b", "c", scheme="modula")
        for key in KEYS:
            self.assertEqual(one.locate(key), one_at_a_time(key) % 2)
            self.assertEqual(other.locate(key), one_at_a_time(key) % 3)


class ExplainTests(SynchronousTestCase):
    def test_why(self) -> None:
        """The explanation names the hash, the point it came to, and whose that is."""
        ring, points = ring_of("mc1", "mc2:11219"), points_of("mc1", "mc2:11219")
        for key in KEYS:
            pick = ring.explain(key)
            self.assertEqual(pick.hash, one_at_a_time(key))
            self.assertIn((pick.point, pick.place), points)
            self.assertEqual(pick.server, ring.servers[pick.place])

    def test_agrees(self) -> None:
        """It agrees with where the key goes, by every scheme."""
        for scheme in SCHEMES:
            hashed = one_at_a_time if scheme in ("modula", "ketama") else md5_word
            for names in (NAMES, [f"{name}:{number + 1}" for number, name in enumerate(NAMES)]):
                ring = ring_of(*names, scheme=scheme)
                for key in KEYS:
                    place = ring.locate(key)
                    pick = ring.explain(key)
                    self.assertEqual(pick[:3], (ring.servers[place], place, hashed(key)))
                    self.assertEqual(pick.point is None, scheme.startswith("modula"))

    def test_without_points(self) -> None:
        """Where no point decides, none is told: by modula, and for one server."""
        server = Server("mc1")
        hashed = one_at_a_time(b"key")
        self.assertEqual(Ring([server]).explain(b"key"), Pick(server, 0, hashed, None))
        two = [Server("mc2"), server]
        place = hashed % 2
        self.assertEqual(Ring(two, "modula").explain(b"key"), Pick(two[place], place, hashed, None))


class SuccessorTests(SynchronousTestCase):
    def test_all(self) -> None:
        """Every server is named once, the key's own first."""
        for scheme in SCHEMES:
            ring = ring_of(*NAMES, scheme=scheme)
            for key in KEYS:
                places = list(ring.successors(key))
                self.assertEqual(places[0], ring.locate(key))
                self.assertEqual(sorted(places), [0, 1, 2, 3])

    def test_order_on_the_ring(self) -> None:
        """The next one is who would have the key if its own server was not in the list."""
        for scheme in RINGS:
            ring = ring_of(*NAMES, scheme=scheme)
            for key in KEYS[:30]:
                left = list(ring.servers)
                for place in ring.successors(key):
                    self.assertEqual(Ring(left, scheme).explain(key).server, ring.servers[place])
                    left.remove(ring.servers[place])

    def test_order_of_the_list(self) -> None:
        """By modula the next one is the next in the list, and behind the last comes the first."""
        for scheme in ("modula", "modula_md5"):
            ring = ring_of("a", "b", "c", scheme=scheme)
            orders = {tuple(ring.successors(key)) for key in KEYS}
            self.assertEqual(orders, {(0, 1, 2), (1, 2, 0), (2, 0, 1)})

    def test_same_name_twice(self) -> None:
        """Both servers of one name are named, one right behind the other."""
        ring = ring_of("mc1", "mc1", "mc2")
        self.assertEqual({tuple(ring.successors(k)) for k in KEYS}, {(0, 1, 2), (2, 0, 1)})

    def test_without_points(self) -> None:
        """A server whose weight is too small for any point comes last."""
        ring = ring_of("a:11211:1", "b:11211:1000", "c:11211:1000")
        self.assertEqual({tuple(ring.successors(k)) for k in KEYS}, {(1, 2, 0), (2, 1, 0)})


class ShareTests(SynchronousTestCase):
    def test_sum(self) -> None:
        """The shares of all servers are all keys, neither more nor less."""
        for scheme in SCHEMES:
            for count in (1, 2, 3, 7, 30):
                shares = numbered(count, scheme).shares()
                self.assertEqual(len(shares), count)
                self.assertEqual(sum(shares.values()), 1)

    def test_measured(self) -> None:
        """The share of a server is the share of keys that it really has."""
        keys = some_keys(20_000)
        for scheme in SCHEMES:
            ring = ring_of("a:11211:1", "b:11219:2", "unix:/run/c.sock", scheme=scheme)
            counts = Counter(ring.servers[ring.locate(key)].name for key in keys)
            for name, share in ring.shares().items():
                assert_measured(self, share, counts[name], len(keys), f"{scheme}: {name}")

    def test_modula(self) -> None:
        """By modula all servers have the same, whatever their weights."""
        for share in ring_of("a:11211:1", "b:11211:5", scheme="modula").shares().values():
            self.assertEqual(share, 0.5)

    def test_weights(self) -> None:
        """On a ring the shares are about as the weights are."""
        for scheme in RINGS:
            shares = ring_of("a:11211:1", "b:11211:2", "c:11211:5", scheme=scheme).shares()
            for name, share in (("a:11211", 0.125), ("b:11211", 0.25), ("c:11211", 0.625)):
                self.assertApproximates(shares[name], share, 0.06, f"{scheme}: {name}")

    def test_weights_place_points_by_md5(self) -> None:
        """One weight above 1, and a plain ring has the points of the weighted one."""
        names = ("a:11211:1", "b:11211:2", "c:11211:1")
        weighted = ring_of(*names, scheme="ketama_weighted").shares()
        for scheme in ("ketama", "ketama_md5"):
            self.assertEqual(ring_of(*names, scheme=scheme).shares(), weighted)
            self.assertNotEqual(ring_of("a", "b", "c", scheme=scheme).shares(), weighted)

    def test_too_small_a_weight(self) -> None:
        """A server whose weight is too small for any point has no key, and is told so."""
        ring = ring_of("a:11211:1", "b:11211:1000")
        self.assertEqual(ring.shares(), {"a:11211": 0, "b:11211": 1})
        self.assertEqual({ring.locate(key) for key in KEYS}, {1})

    def test_same_name_twice(self) -> None:
        """Servers of one name have one share."""
        shares = ring_of("a", "a", "b", scheme="modula").shares()
        self.assertEqual(list(shares), ["a", "b"])
        self.assertAlmostEqual(shares["a"], 2 / 3)


class DifferenceTests(SynchronousTestCase):
    def test_equal(self) -> None:
        """Between equal rings no key moves."""
        for scheme in SCHEMES:
            for names in (NAMES, ("a",), ("a", "a", "b"), ("a:11211:2", "b:11211:3")):
                ring = ring_of(*names, scheme=scheme)
                self.assertEqual(ring.difference(ring_of(*names, scheme=scheme)), 0)
                self.assertEqual(ring.difference(ring), 0)

    def test_nothing_in_common(self) -> None:
        """Between rings without a common server every key moves."""
        for scheme in SCHEMES:
            for other in SCHEMES:
                one, two = ring_of("a", "b", scheme=scheme), ring_of("c", "d", "e", scheme=other)
                self.assertEqual(one.difference(two), 1)

    def test_measured(self) -> None:
        """The difference is the share of keys that really move, for any two schemes."""
        keys = some_keys(20_000)
        rings = [
            *(numbered(9, scheme) for scheme in SCHEMES),
            *(numbered(10, scheme) for scheme in SCHEMES),
            ring_of("cache-03.example:11211:2", "cache-04.example", "cache-05.example:11211:3"),
            ring_of("cache-05.example", "cache-04.example"),
            ring_of("cache-05.example", "cache-04.example", "cache-04.example", scheme="modula"),
            ring_of("cache-04.example"),
        ]
        names = [[str(server.identity) for server in ring.servers] for ring in rings]
        owners = [
            [own[ring.locate(key)] for key in keys] for ring, own in zip(rings, names, strict=True)
        ]
        for (one, mine), (two, theirs) in combinations(zip(rings, owners, strict=True), 2):
            moved = sum(a != b for a, b in zip(mine, theirs, strict=True))
            difference = one.difference(two)
            assert_measured(self, difference, moved, len(keys), f"{one} and {two}")
            self.assertEqual(difference, two.difference(one), f"{one} and {two}")

    def test_one_more(self) -> None:
        """A tenth server on a ring takes a tenth of the keys, and moves no other."""
        for scheme in ("ketama", "ketama_md5"):
            nine, ten = numbered(9, scheme), numbered(10, scheme)
            self.assertApproximates(nine.difference(ten), 0.1, 0.04)
            self.assertEqual(nine.difference(ten), ten.shares()["cache-09.example:11211"])

    def test_one_more_by_modula(self) -> None:
        """By modula a tenth server moves nine keys of ten."""
        for scheme in ("modula", "modula_md5"):
            self.assertEqual(numbered(9, scheme).difference(numbered(10, scheme)), 0.9)

    def test_one_less(self) -> None:
        """To take one of two servers away moves what it had."""
        for scheme in SCHEMES:
            two = ring_of("a", "b", scheme=scheme)
            for other in SCHEMES:
                one = ring_of("a", scheme=other)
                self.assertEqual(two.difference(one), two.shares()["b"], f"{scheme} to {other}")
                self.assertEqual(one.difference(two), two.shares()["b"], f"{other} to {scheme}")

    def test_order(self) -> None:
        """The order of the list is nothing to a ring, and everything to modula."""
        self.assertEqual(ring_of("a", "b", "c").difference(ring_of("c", "a", "b")), 0)
        turned = ring_of("c", "a", "b", scheme="modula")
        self.assertEqual(ring_of("a", "b", "c", scheme="modula").difference(turned), 1)

    def test_one_of_a_name(self) -> None:
        """By modula, keys that go from one server to another of the same name do not move."""
        twice = ring_of("a", "a", "b", "b", scheme="modula")
        self.assertEqual(twice.difference(ring_of("a", "b", scheme="modula")), 0.5)
        self.assertEqual(twice.difference(ring_of("a", "a", "b", "c", scheme="modula")), 0.25)


def assert_measured(
    case: SynchronousTestCase, share: float, count: int, total: int, what: str
) -> None:
    """*count* of *total* keys at random is what can come of *share*: within five deviations."""
    deviation = sqrt(share * (1 - share) / total)
    case.assertApproximates(count / total, share, 5 * deviation, what)
