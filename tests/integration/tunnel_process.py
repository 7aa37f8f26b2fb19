"""
A tunnel as a process of its own: it reads its settings from standard input, and ends with that.

The first line is answered with the addresses it listens on, each further one with its counters.
"""

from __future__ import annotations

import base64
import json
import pickle
import resource
import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.stdio import StandardIO
from twisted.logger import globalLogBeginner, textFileLogObserver
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from tests.integration.tunnel import Tunnel


class _Runner(LineOnlyReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 1 << 20  # the first line has certificates in it

    tunnel: Tunnel | None = None

    def lineReceived(self, line: bytes) -> None:  # noqa: N802 - the base class has the name
        """Start, or tell the counters."""
        if self.tunnel is not None:
            self._say(self.tunnel.hub.counters.as_dict())
            return
        settings, descriptors = pickle.loads(base64.b64decode(line))
        if descriptors is not None:
            _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard))
        self.tunnel = Tunnel(settings)
        starting = Deferred.fromCoroutine(self.tunnel.start())
        starting.addCallbacks(self._started, self._failed)

    def _started(self, _: None) -> None:
        assert self.tunnel is not None
        self._say(self.tunnel.addresses)

    def _failed(self, reason: Failure) -> None:
        sys.stderr.write(reason.getTraceback())
        reactor.stop()

    def _say(self, what: Any) -> None:
        assert self.transport is not None
        self.transport.write(json.dumps(what).encode() + b"\n")

    def connectionLost(self, reason: Failure | None = None) -> None:
        """End."""
        if self.tunnel is not None:
            Deferred.fromCoroutine(self.tunnel.stop()).addBoth(lambda _: reactor.stop())


def main() -> None:
    """Run until standard input ends."""
    globalLogBeginner.beginLoggingTo([textFileLogObserver(sys.stderr)], redirectStandardIO=False)
    StandardIO(_Runner())
    reactor.run()


if __name__ == "__main__":
    main()
