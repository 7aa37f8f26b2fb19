"""
The rows of the bench: ``python -m tests.bench [ROUNDS] [ROW…]``.

Machines differ and drift, so only ratios count that were measured in one run and in turn: each
round lets every contender of a row work once, and the ratio is taken within the round.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.bench import tunnels
from tests.bench.running import free_ports, running
from txtlsmc.testing import Authority

_ROUNDS = 7


class Row(NamedTuple):
    """
    One line of the result.

    Attributes:
        name: of the work, and of the contender's function for it.
        says: what the work is.
        times: how often a contender does it in a round.
        ours, peer: the contenders.
        goal: the largest ratio of our time to the peer's.
    """

    name: str
    says: str
    times: int
    ours: str
    peer: str
    goal: float


ROWS = (
    Row("P1", "one get after the other, TLS", 2000, "txtlsmc", "pylibmc+stunnel", 0.9),
    Row("P1", "the same beside a bare ssl loop", 2000, "txtlsmc", "raw-ssl", 1.4),
    Row("P2", "64 gets in flight, TLS", 6400, "txtlsmc", "emcache+uvloop", 1 / 8),
    Row("P3", "get_multi of 100, TLS", 200, "txtlsmc", "pylibmc+stunnel", 1.0),
    Row("P3", "the same", 200, "txtlsmc", "bmemcached", 1 / 2.5),
    Row("P1", "TLS beside plaintext, one by one", 2000, "txtlsmc", "txtlsmc-plaintext", 1.3),
    Row("P2", "TLS beside plaintext, 64 in flight", 6400, "txtlsmc", "txtlsmc-plaintext", 1.1),
)


def main() -> None:
    """Run the rows whose contenders are there, and print the ratios."""
    arguments = sys.argv[1:]
    rounds = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else _ROUNDS
    wanted = set(arguments)
    with ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="txtlsmc-bench-")))
        ports, ca = _servers(cleanup, folder)
        print(_versions())
        for row in ROWS:
            if wanted and row.name not in wanted:
                continue
            with ExitStack() as contenders:
                try:
                    pair = [
                        contenders.enter_context(contender(name, ports[name], ca))
                        for name in (row.ours, row.peer)
                    ]
                except (KeyError, RuntimeError) as error:
                    print(f"{row.name}  {row.says}: left out ({error})", flush=True)
                    continue
                print(_measured(row, pair, rounds), flush=True)
        for each in tunnels.ROWS:
            if not wanted or each.name in wanted:
                print(tunnels.measured(each, ports["txtlsmc"], ca, folder, rounds), flush=True)
        if not wanted or "P9" in wanted:
            print(tunnels.idle(ports["txtlsmc"], ca, folder), flush=True)


def _measured(row: Row, pair: list[subprocess.Popen[str]], rounds: int) -> str:
    for each in pair:
        _turn(each, row, row.times // 4)  # to warm up
    ours, peers = [], []
    for _ in range(rounds):
        ours.append(_turn(pair[0], row, row.times))
        peers.append(_turn(pair[1], row, row.times))
    ratios = sorted(mine / theirs for mine, theirs in zip(ours, peers, strict=True))
    middle = median(ratios)
    verdict = "met" if middle <= row.goal else f"{middle / row.goal:.2f} x off"
    per = 1e6 / row.times
    return (
        f"{row.name}  {row.says}: {median(ours) * per:.1f} us beside {row.peer} with"
        f" {median(peers) * per:.1f} us: ratio {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}),"
        f" goal {row.goal:.2f}: {verdict}"
    )


def _turn(process: subprocess.Popen[str], row: Row, count: int) -> float:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{row.name} {count}\n")
    process.stdin.flush()
    told = process.stdout.readline()
    if not told:
        raise SystemExit("a contender has ended; what it said is above")
    return float(told)


@contextmanager
def contender(name: str, port: int, ca: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a contender until the block ends."""
    command = [sys.executable, "-m", "tests.bench.contenders", name, str(port), str(ca)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{name} did not start")
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _servers(cleanup: ExitStack, folder: Path) -> tuple[dict[str, int], Path]:
    """Start memcached with and without TLS, and stunnel; return who dials where, and the CA."""
    memcached = _program("memcached")
    authority = Authority()
    files = authority.issue("localhost", "127.0.0.1").write_to(folder)
    folder.chmod(0o755)
    files.key.chmod(0o644)  # a key for one run; memcached gives up root before it reads it
    ca = authority.write_to(folder)
    common = [memcached, "-u", "nobody", "-l", "127.0.0.1", "-U", "0", "-t", "1"]
    tls_port, plain_port, tunnel_port = free_ports(3)
    tls = ["-Z", "-o", f"ssl_chain_cert={files.chain},ssl_key={files.key}"]
    cleanup.enter_context(running([*common, "-p", str(tls_port), *tls], tls_port))
    cleanup.enter_context(running([*common, "-p", str(plain_port)], plain_port))
    ports = dict.fromkeys(("txtlsmc", "raw-ssl", "bmemcached", "emcache+uvloop"), tls_port)
    ports["txtlsmc-plaintext"] = plain_port
    stunnel = shutil.which("stunnel4") or shutil.which("stunnel")
    if stunnel:
        settings = folder / "stunnel.conf"
        settings.write_text(
            "foreground = yes\npid =\nsyslog = no\ndebug = err\nsocket = l:TCP_NODELAY=1\n"
            "socket = r:TCP_NODELAY=1\n[memcached]\nclient = yes\n"
            f"accept = 127.0.0.1:{tunnel_port}\nconnect = 127.0.0.1:{tls_port}\n"
            f"CAfile = {ca}\nverifyChain = yes\ncheckHost = localhost\n"
        )
        cleanup.enter_context(running([stunnel, str(settings)], tunnel_port))
        ports["pylibmc+stunnel"] = tunnel_port
    return ports, ca


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"the bench needs {name}")
    return found


def _versions() -> str:
    packages = ["txtlsmc", "Twisted", "pyOpenSSL", "pylibmc", "emcache", "uvloop"]
    told = [f"Python {platform.python_version()}"]
    for package in [*packages, "python-binary-memcached"]:
        try:
            told.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            told.append(f"no {package}")
    return ", ".join(told)


if __name__ == "__main__":
    main()
