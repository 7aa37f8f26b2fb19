"""The processes of the bench: each runs until its block ends, and is ready when that begins."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep
from typing import Final

from txtlsmc.wire.frames import Request
from txtlsmc.wire.opcodes import Opcode

_PATIENCE: Final = 30.0


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, all different."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@contextmanager
def running(command: Sequence[str], port: int, *, tries: bool = False) -> Iterator[int]:
    """
    Run *command* until the block ends; give its process id.

    Args:
        command: the program and its arguments.
        port: what it listens on.
        tries: whether to wait until a memcached answers there, and not only until it listens.
    """
    process = subprocess.Popen(command)
    try:
        give_up = monotonic() + _PATIENCE
        while not _reached(port, tries=tries):
            if process.poll() is not None or monotonic() > give_up:
                raise SystemExit(f"{command[0]} did not start")
            sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _reached(port: int, *, tries: bool) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as local:
            if not tries:
                return True
            local.sendall(Request(Opcode.NOOP).encode())
            return bool(local.recv(1))
    except OSError:
        return False
