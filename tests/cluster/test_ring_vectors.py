"""The ring picks the servers that libmemcached picked, in each of the recorded cases."""

from __future__ import annotations

from collections import Counter

from twisted.trial.unittest import SynchronousTestCase

from tests.vectors.make_ring import PATH, Case, read
from txtlsmc.cluster.ring import Ring
from txtlsmc.settings import SCHEMES, Server

VECTORS = read(PATH.read_text("utf-8"))


def ring_of(case: Case) -> Ring:
    """Return our ring for a recorded one."""
    return Ring([Server(entry.name, weight=entry.weight) for entry in case.servers], case.scheme)


class VectorTests(SynchronousTestCase):
    def test_picks(self) -> None:
        """Every key of every recorded ring is on the server where libmemcached has it."""
        for number, case in enumerate(VECTORS.cases):
            locate = ring_of(case).locate
            picks = [locate(key) for key in VECTORS.key_bytes]
            wrong = [
                f"{key!r} is on {place}, by libmemcached on {right}"
                for key, place, right in zip(VECTORS.keys, picks, case.picks, strict=True)
                if place != right
            ]
            self.assertEqual(wrong, [], f"case {number}: {case.scheme} of {case.servers}")

    def test_explained(self) -> None:
        """What the ring says when it is asked why is where libmemcached has the key, too."""
        for case in VECTORS.cases:
            ring = ring_of(case)
            picks = [ring.explain(key).place for key in VECTORS.key_bytes]
            self.assertEqual(picks, case.picks, f"{case.scheme} of {case.servers}")

    def test_extent(self) -> None:
        """The record has every scheme, lists of 1 to 100 servers, weights, and awkward keys."""
        schemes = Counter(case.scheme for case in VECTORS.cases)
        sizes = {len(case.servers) for case in VECTORS.cases}
        weighted = {
            case.scheme for case in VECTORS.cases if max(s.weight for s in case.servers) > 1
        }
        self.assertEqual(set(schemes), set(SCHEMES))
        self.assertGreaterEqual(min(schemes.values()), 6)
        self.assertLessEqual({1, 2, 3, 100}, sizes)
        self.assertEqual(weighted, {"ketama", "ketama_md5", "ketama_weighted"})
        self.assertEqual(len(VECTORS.keys), 256)
        self.assertEqual(max(len(key) for key in VECTORS.key_bytes), 250)
        self.assertTrue(any(not key.isascii() for key in VECTORS.key_bytes))
