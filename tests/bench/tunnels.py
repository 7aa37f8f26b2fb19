"""
The rows of the tunnel: what passes it in a second, and what it works for each request.

A tunnel is the same command that an operator runs.  The load is that of memcaslap, which is
libmemcached's; values of 900 KB are moved by a bare socket.  CPU seconds are those of the tunnel.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, sleep
from typing import Final, NamedTuple

from tests.bench.running import free_ports, running
from txtlsmc.wire.frames import HEADER, HEADER_SIZE, Request
from txtlsmc.wire.opcodes import Opcode

_SECONDS: Final = 3
_LARGE: Final = b"v" * 900_000
_LARGE_TIMES: Final = 100
_IDLE: Final = 1000
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_TOLD: Final = re.compile(r"Ops: (\d+) TPS: (\d+)")


class Row(NamedTuple):
    """
    One line of the result.

    Attributes:
        name: of the work.
        says: what it is.
        ours, peer: the tunnels.
        work: does it once through the port of a tunnel; returns how much was done in a second, and
            how many things were done in all.
        goal: the smallest ratio of ours to the peer's.
    """

    name: str
    says: str
    ours: str
    peer: str
    work: Callable[[int], tuple[float, int]]
    goal: float


def _slap(connections: int) -> Callable[[int], tuple[float, int]]:
    def work(port: int) -> tuple[float, int]:
        command = ["memcaslap", "-s", f"127.0.0.1:{port}", "-B", "-T", "1", "-X", "100"]
        told = subprocess.run(
            [*command, "-c", str(connections), "-t", f"{_SECONDS}s"],
            capture_output=True,
            text=True,
            timeout=_SECONDS + 60,
            check=True,
        )
        found = _TOLD.search(told.stdout)
        if found is None:
            raise SystemExit(f"memcaslap said: {told.stdout} {told.stderr}")
        return float(found[2]), int(found[1])

    return work


def _large(opcode: Opcode) -> Callable[[int], tuple[float, int]]:
    stored = Request(Opcode.SET, b"bench:large", bytes(8), _LARGE).encode()
    asked = stored if opcode == Opcode.SET else Request(Opcode.GET, b"bench:large").encode()

    def work(port: int) -> tuple[float, int]:
        with socket.create_connection(("127.0.0.1", port)) as local:
            stream = local.makefile("rb")
            _exchange(local, stream.read, stored)
            began = perf_counter()
            for _ in range(_LARGE_TIMES):
                _exchange(local, stream.read, asked)
            return _LARGE_TIMES / (perf_counter() - began), _LARGE_TIMES

    return work


def _exchange(local: socket.socket, read: Callable[[int], bytes], request: bytes) -> None:
    local.sendall(request)
    header = HEADER.unpack(read(HEADER_SIZE))
    body = read(header[6])
    if header[5] or len(body) != header[6]:
        raise SystemExit(f"a wrong answer: status {header[5]}")


ROWS: Final = (
    Row("P4", "16 connections", "gateway", "stunnel", _slap(16), 1.5),
    Row("P4", "16 connections", "gateway", "haproxy", _slap(16), 1.1),
    Row("P4", "64 connections", "gateway", "stunnel", _slap(64), 2.5),
    Row("P4", "64 connections", "gateway", "haproxy", _slap(64), 1.4),
    Row("P5", "one connection", "gateway", "stunnel", _slap(1), 1 / 1.4),
    Row("P5", "one connection", "relay", "stunnel", _slap(1), 1 / 1.4),
    Row("P6", "get of 900 KB", "gateway", "stunnel", _large(Opcode.GET), 1.0),
    Row("P6", "set of 900 KB", "gateway", "stunnel", _large(Opcode.SET), 1.0),
    Row("P6", "get of 900 KB", "relay", "stunnel", _large(Opcode.GET), 1.0),
    Row("P6", "set of 900 KB", "relay", "stunnel", _large(Opcode.SET), 1.0),
)


class _Tunnel(NamedTuple):
    port: int
    pid: int

    @property
    def cpu(self) -> float:
        """Seconds that it has worked."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def resident(self) -> int:
        """Bytes of memory that it has."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def tunnel(name: str, server_port: int, ca: Path, folder: Path) -> Iterator[_Tunnel]:
    """
    Run a tunnel until the block ends.

    Raises:
        KeyError: its program is not here.
    """
    (port,) = free_ports(1)
    with running(_command(name, port, server_port, ca, folder), port, tries=True) as pid:
        yield _Tunnel(port, pid)


def _command(name: str, port: int, server_port: int, ca: Path, folder: Path) -> Sequence[str]:
    if name in ("gateway", "relay"):
        return [
            *(sys.executable, "-m", "twisted", "--log-level", "error", "tlsmc-tunnel"),
            *("--mode", name, "--listen", f"127.0.0.1:{port}"),
            *("--server", f"localhost:{server_port}", "--ca", str(ca)),
        ]
    program = shutil.which("stunnel4" if name == "stunnel" else name) or shutil.which(name)
    if program is None or shutil.which("memcaslap") is None:
        raise KeyError(name if program is None else "memcaslap")
    settings = folder / f"{name}-tunnel.conf"
    if name == "stunnel":
        settings.write_text(
            "foreground = yes\npid =\nsyslog = no\ndebug = err\nsocket = l:TCP_NODELAY=1\n"
            "socket = r:TCP_NODELAY=1\n[memcached]\nclient = yes\n"
            f"accept = 127.0.0.1:{port}\nconnect = 127.0.0.1:{server_port}\n"
            f"CAfile = {ca}\nverifyChain = yes\ncheckHost = localhost\n"
        )
        return [program, str(settings)]
    settings.write_text(
        "global\n  maxconn 2000\ndefaults\n  mode tcp\n  timeout connect 5s\n"
        "  timeout client 60s\n  timeout server 60s\nlisten memcached\n"
        f"  bind 127.0.0.1:{port}\n  server one 127.0.0.1:{server_port} ssl verify required"
        f" ca-file {ca} verifyhost localhost\n"
    )
    return [program, "-q", "-db", "-f", str(settings)]


def measured(row: Row, server_port: int, ca: Path, folder: Path, rounds: int) -> str:
    """Return the line of *row*: the ratio, its spread, and the CPU time of both for each thing."""
    with ExitStack() as running_tunnels:
        try:
            pair = [
                running_tunnels.enter_context(tunnel(name, server_port, ca, folder))
                for name in (row.ours, row.peer)
            ]
        except KeyError as missing:
            return f"{row.name}  {row.says}: left out ({missing.args[0]} is not here)"
        rates: list[list[float]] = [[], []]
        costs: list[list[float]] = [[], []]
        for _ in range(rounds):
            for which, each in enumerate(pair):
                before = each.cpu
                rate, times = row.work(each.port)
                rates[which].append(rate)
                costs[which].append((each.cpu - before) / times * 1e6)
    ratios = sorted(mine / theirs for mine, theirs in zip(*rates, strict=True))
    middle = median(ratios)
    verdict = "met" if middle >= row.goal else f"{row.goal / middle:.2f} x off"
    return (
        f"{row.name}  {row.says}, {row.ours}: {median(rates[0]):.0f}/s beside {row.peer} with"
        f" {median(rates[1]):.0f}/s: ratio {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}),"
        f" goal {row.goal:.2f}: {verdict}; CPU for each {median(costs[0]):.1f} us beside"
        f" {median(costs[1]):.1f} us"
    )


def idle(server_port: int, ca: Path, folder: Path) -> str:
    """Return the line of row P9: what an idle local connection costs."""
    with ExitStack() as held:
        gateway = held.enter_context(tunnel("gateway", server_port, ca, folder))
        _slap(1)(gateway.port)  # all is loaded that ever will be
        before = gateway.resident
        for _ in range(_IDLE):
            held.enter_context(socket.create_connection(("127.0.0.1", gateway.port)))
        sleep(1)
        kib = (gateway.resident - before) / _IDLE / 1024
        verdict = "met" if kib <= 12 else f"{kib / 12:.2f} x off"
        return f"P9  {_IDLE} idle local connections: {kib:.1f} KiB each, goal 12: {verdict}"
