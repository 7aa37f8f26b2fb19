"""
Negative controls: a tunnel that one changed line makes wrong must be found out, and for that.

The change is made in a copy of the sources, which the tunnel's process imports in place of ours.
"""

from __future__ import annotations

from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Final, NamedTuple

from tests.faults.scenarios import Scenario
from tests.faults.tunnel import ROOT

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
