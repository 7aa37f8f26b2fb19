"""
Negative controls: a tunnel that one changed line makes wrong must be found out, and for that.

The change is made in a copy of the sources, which the tunnel's process imports in place of ours.
"""

from __future__ import annotations

from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Final, NamedTuple

from tests.faults import scenarios
from tests.faults.scenarios import Scenario
from tests.faults.tunnel import ROOT
from tests.faults.verdicts import (
    CORRUPT,
    CROSSED,
    GROWN,
    LEAKED,
    LOST_WRITE,
    NOT_RECOVERED,
    UNANSWERED,
    UNVERIFIED,
)

#: What a tunnel imports: the product, its plugin, and for the example the tests.
_COPIED: Final = ("txtlsmc", "twisted", "tests/faults")


class Patch(NamedTuple):
    """
    One line that becomes another.

    Attributes:
        file: the module, from the root of the repository.
        line: the whole line, without its indentation; there must be exactly one.
        instead: what is there instead, at the same indentation.
    """

    file: str
    line: str
    instead: str


class Control(NamedTuple):
    """
    A tunnel that is wrong.

    Attributes:
        name: what is wrong with it.
        mode: ``gateway`` or ``relay``.
        verdict: the kind of the finding that it must give.
        patch: what makes it wrong.
        scenario: what finds it out.
        besides: other kinds that come with it, and need not.
    """

    name: str
    mode: str
    verdict: str
    patch: Patch
    scenario: Scenario
    besides: frozenset[str] = frozenset()


class NoSuchLine(Exception):
    """The line of a patch is not there, or not alone: the sources have moved on."""


def copy_sources(folder: Path, patch: Patch | None, root: Path = ROOT) -> None:
    """
    Copy to *folder* what a tunnel imports, and change the one line.

    Raises:
        NoSuchLine: the line is not there exactly once.
    """
    for name in _COPIED:
        if (root / name).exists():
            copytree(root / name, folder / name, ignore=ignore_patterns("__pycache__", "*.cache"))
    if patch is not None:
        path = folder / patch.file
        path.write_text(changed(path.read_text("utf-8"), patch), "utf-8")


def changed(source: str, patch: Patch) -> str:
    """
    Return *source* with the one line changed.

    Raises:
        NoSuchLine: it is not there exactly once.
    """
    lines = source.splitlines()
    places = [number for number, line in enumerate(lines) if line.strip() == patch.line]
    if len(places) != 1:
        where = ", ".join(str(place + 1) for place in places) or "nowhere"
        raise NoSuchLine(
            f"a control changes one line of {patch.file}, which must be there once and is"
            f" there {len(places)} times (lines: {where}): {patch.line}"
        )
    line = lines[places[0]]
    lines[places[0]] = line[: len(line) - len(line.lstrip())] + patch.instead
    return "\n".join(lines) + "\n"


_EXAMPLE: Final = "tests/faults/example_tunnel.py"
_REQUEST: Final = "self.upstream.transport.write(data)"
_ANSWER: Final = "self.local.transport.write(data)"


def _example(
    name: str,
    verdict: str,
    line: str,
    instead: str,
    scenario: Scenario,
    besides: frozenset[str] = frozenset(),
) -> Control:
    return Control(name, "relay", verdict, Patch(_EXAMPLE, line, instead), scenario, besides)


#: Of the example: they show that the frame finds what it is for.
EXAMPLES: Final = (
    _example(
        "crosses two answers",
        CROSSED,
        _ANSWER,
        # Acknowledgements and fences also go to who came first.
        "for to in {self.local, self.local.tunnel.locals[0] if len(data) == 24 else self.local}:"
        " to.transport.write(data)",
        scenarios.small,
    ),
    _example(
        "flips a byte",
        CORRUPT,
        _ANSWER,
        "self.local.transport.write(data[:-1] + bytes([data[-1] ^ (len(data) > 200)]))",
        scenarios.plain,
    ),
    _example(
        "drops a write",
        LOST_WRITE,
        _REQUEST,
        # Small sets are over at once: their exptime is in the past.
        "self.upstream.transport.write("
        r'data[:28] + b"\x00\x27\x8d\x01" + data[32:] if data[:2] == b"\x80\x01" else data)',
        scenarios.plain,
    ),
    _example(
        "never closes the local side",
        UNANSWERED,
        "self.local.transport.loseConnection()",
        "pass",
        scenarios.resets,
        # Who waits for an answer that never comes is not served in time either.
        frozenset({NOT_RECOVERED}),
    ),
    _example(
        "never closes the upstream side",
        LEAKED,
        "if self.upstream is not None:",
        "if False:",
        scenarios.churn,
    ),
    _example(
        "skips verification",
        UNVERIFIED,
        "self._options = ssl.optionsForClientTLS(self._host, trustRoot=trusted)",
        "self._options = ssl.CertificateOptions(verify=False)",
        scenarios.bad_certificate,
    ),
    _example(
        "buffers without bound",
        GROWN,
        "self.local.transport.registerProducer(Brake(self.transport), True)",
        "pass",
        scenarios.unread,
    ),
    _example(
        "dies",
        NOT_RECOVERED,
        "self.local.transport.unregisterProducer()",
        "import os; os._exit(1)",
        scenarios.resets,
    ),
)
