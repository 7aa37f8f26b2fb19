"""What a load, a proxy or the kernel has to say against a tunnel."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from tests.faults.proxied import Seen

#: An answer with somebody else's key or opaque.
CROSSED: Final = "crossed"
#: A wrong checksum, or an answer that is no frame.
CORRUPT: Final = "corrupt"
#: An acknowledged write is not there, though nobody deleted or evicted it.
LOST_WRITE: Final = "lost_write"
#: Something that must be sent at most once was done twice.
DOUBLED: Final = "doubled"
#: File descriptors that were not there before.
LEAKED: Final = "leaked_descriptors"
#: Resident memory that was not there before.
GROWN: Final = "grown"
#: No answer within a time after the fault was healed.
NOT_RECOVERED: Final = "not_recovered"
#: Neither an answer nor the end of the connection within a time.
UNANSWERED: Final = "unanswered"
#: Less than was stored, taken for whole.
SHORT_VALUE: Final = "short_value"
#: Something was sent to a server whose certificate must be refused.
UNVERIFIED: Final = "unverified"

KINDS: Final = (
    *(CROSSED, CORRUPT, LOST_WRITE, DOUBLED, LEAKED),
    *(GROWN, NOT_RECOVERED, UNANSWERED, SHORT_VALUE, UNVERIFIED),
)

#: Of each kind; a tunnel that is wrong all the time is to be told so once.
_MOST: Final = 50


class Verdicts:
    """Findings by their kind, each in words; all lists are empty when all is well."""

    def __init__(self) -> None:
        self.findings: dict[str, list[str]] = {kind: [] for kind in KINDS}

    def __repr__(self) -> str:
        lines = [f"{kind}: {each}" for kind, found in self.findings.items() for each in found[:5]]
        return "\n".join(lines) or "no findings"

    @property
    def kinds(self) -> set[str]:
        """The kinds that were found."""
        return {kind for kind, found in self.findings.items() if found}

    def add(self, kind: str, words: str) -> None:
        """Note a finding; of each kind no more than fifty are kept."""
        if len(self.findings[kind]) < _MOST:
            self.findings[kind].append(words)

    def unverified(self, seen: list[Seen]) -> None:
        """Judge the connections that a proxy saw."""
        for one in seen:
            if one.bad and one.received:
                self.add(
                    UNVERIFIED,
                    f"{one.received} bytes, {one.sasl} frames of SASL, to a server whose"
                    f" certificate is bad: {one.certificate}",
                )

    async def judge_resources(
        self, pid: int, before: Resources, *, most_mib: float = 16, seconds: float = 5
    ) -> None:
        """
        Hold what a process has against what it had; it is given time to close what it closes.

        Args:
            pid: the process.
            before: what it had when all was quiet.
            most_mib: how much more memory it may have.
            seconds: how long it may take until no descriptor is more than before.
        """
        if not await until(lambda: descriptors(pid) <= before.descriptors, seconds):
            now = descriptors(pid)
            self.add(LEAKED, f"{now} descriptors {seconds:g} s later, {before.descriptors} before")
        more = resident_mib(pid) - before.resident_mib
        if more > most_mib:
            self.add(GROWN, f"{more:.0f} MiB more in memory than before")


class Resources(NamedTuple):
    """
    What a process has.

    Attributes:
        descriptors: open ones.
        resident_mib: memory, in MiB.
    """

    descriptors: int
    resident_mib: float

    @classmethod
    def of(cls, pid: int) -> Resources:
        """Look now."""
        return cls(descriptors(pid), resident_mib(pid))


def descriptors(pid: int) -> int:
    """Return how many file descriptors the process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_mib(pid: int) -> float:
    """Return how much memory the process has, in MiB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


def pause(seconds: float) -> Deferred[None]:
    """Return a Deferred that fires after so many seconds."""
    return deferLater(IReactorTime(reactor), seconds)


async def until(check: Callable[[], bool], seconds: float) -> bool:
    """Look again and again until it is so, at most for a time; return whether it is."""
    clock = IReactorTime(reactor)
    end = clock.seconds() + seconds
    while not check():
        if clock.seconds() > end:
            return False
        await pause(0.01)
    return True
