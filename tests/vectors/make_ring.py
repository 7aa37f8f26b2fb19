"""
Answer ``ring.json`` anew: ask the installed libmemcached for every pick in it.

    python -m tests.vectors.make_ring

The questions (keys, schemes, servers) stay as they are in the file, and the answers are written
behind them.  Nothing changes as long as libmemcached stays with its answers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.libmemcached import Entry, needs_libmemcached, picks, version

PATH = Path(__file__).with_name("ring.json")


class Case(NamedTuple):
    """One ring of the file, and what libmemcached picks there for each of its keys."""

    scheme: str
    servers: list[Entry]
    picks: list[int]


class Vectors(NamedTuple):
    """The file: its keys are asked of every ring in it."""

    made_with: str
    keys: list[str]
    cases: list[Case]

    @property
    def key_bytes(self) -> list[bytes]:
        """The keys, as they are hashed."""
        return [key.encode() for key in self.keys]


def read(text: str) -> Vectors:
    """Return what is in the file; a ring that was written by hand may be without picks."""
    found = json.loads(text)
    return Vectors(found["made_with"], found["keys"], [_case(case) for case in found["cases"]])


def _case(case: Mapping[str, Any]) -> Case:
    servers: Sequence[Sequence[Any]] = case["servers"]
    return Case(case["scheme"], [Entry(*server) for server in servers], case.get("picks", []))


def answered(vectors: Vectors) -> Vectors:
    """Return the same questions with the answers of the installed libmemcached."""
    keys = vectors.key_bytes
    return Vectors(
        f"libmemcached {version()}, by tests/vectors/make_ring.py",
        vectors.keys,
        [case._replace(picks=picks(case.scheme, case.servers, keys)) for case in vectors.cases],
    )


def written(vectors: Vectors) -> str:
    """Return the text of the file, with one ring a line."""
    cases = ",\n".join(_compact(case._asdict()) for case in vectors.cases)
    return (
        f'{{"made_with":{_compact(vectors.made_with)},\n"keys":{_compact(vectors.keys)},\n'
        f'"cases":[\n{cases}\n]}}\n'
    )


def _compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def main() -> int:
    """Write the file, or say why not."""
    if reason := needs_libmemcached():
        print(reason, file=sys.stderr)
        return 1
    PATH.write_text(written(answered(read(PATH.read_text("utf-8")))), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
