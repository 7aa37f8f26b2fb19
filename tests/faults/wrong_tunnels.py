"""
The negative controls: the example and the tunnel itself, each wrong in one line.

A line of the product that is not there any more is to be replaced by one that does the same.
"""

from __future__ import annotations

from typing import Final

from tests.faults import scenarios
from tests.faults.controls import Control, Patch
from tests.faults.scenarios import Scenario
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

# The product ------------------------------------------------------------------------------------

_SHARED: Final = "txtlsmc/wire/shared.py"
_PAIR: Final = "txtlsmc/tunnel/pair.py"
_TO_LOCAL: Final = "self._to_local.write(data)"
_OVER: Final = r'b"\x00\x27\x8d\x01"'  # an exptime that is in the past
#: Who was to have an answer that another one got waits for it.
_ROBBED: Final = frozenset({UNANSWERED, NOT_RECOVERED})

_VERIFICATION: Final = Patch("txtlsmc/net/tls.py", "return self.failure is None", "return True")

_GATEWAY: Final = (
    Control(
        "crosses two answers",
        "gateway",
        CROSSED,
        Patch(
            _SHARED,
            "conversation, own, asked, _, _, key = places[0]",
            "conversation, own, asked, _, _, key = places[0] if body or places[-1][0] is None"
            " else (places[-1][0], *places[0][1:])",
        ),
        scenarios.small,
        _ROBBED,
    ),
    Control(
        "flips a byte",
        "gateway",
        CORRUPT,
        Patch(
            _SHARED, "piece = data[: self._to_pass]", "piece = data[: self._to_pass][:-1] + b'!'"
        ),
        scenarios.plain,
    ),
    Control(
        "drops a write",
        "gateway",
        LOST_WRITE,
        Patch(
            "txtlsmc/wire/conversation.py",
            "OPAQUE.pack_into(buffer, start + OPAQUE_AT, number)",
            "OPAQUE.pack_into(buffer, start + OPAQUE_AT, number); buffer[start + 28 : start + 32]"
            f" = {_OVER} if opcode == 1 else buffer[start + 28 : start + 32]",
        ),
        scenarios.plain,
    ),
    Control(
        "never closes who lost an answer",
        "gateway",
        UNANSWERED,
        Patch("txtlsmc/tunnel/upstream.py", "conversation.owner.upstream_lost()", "pass"),
        scenarios.resets,
        frozenset({NOT_RECOVERED}),
    ),
    Control(
        "never closes who has gone",
        "gateway",
        LEAKED,
        Patch("txtlsmc/tunnel/unread.py", "self._transport.loseConnection()", "pass"),
        scenarios.churn,
    ),
    Control(
        "skips verification",
        "gateway",
        UNVERIFIED,
        _VERIFICATION,
        scenarios.bad_certificate,
    ),
    Control(
        "buffers without bound",
        "gateway",
        GROWN,
        Patch(
            "txtlsmc/tunnel/local.py",
            "self.conversation.choked = True",
            "self.conversation.choked = False",
        ),
        scenarios.unread,
    ),
)

_RELAY: Final = (
    Control(
        "crosses two answers",
        "relay",
        CROSSED,
        Patch(
            _PAIR,
            _TO_LOCAL,
            "(globals().setdefault('first', self) if len(data) == 24 else self)"
            "._to_local.write(data)",
        ),
        scenarios.small,
        _ROBBED,
    ),
    Control(
        "flips a byte",
        "relay",
        CORRUPT,
        Patch(
            _PAIR,
            _TO_LOCAL,
            "self._to_local.write(data[:-1] + bytes([data[-1] ^ (len(data) > 200)]))",
        ),
        scenarios.plain,
    ),
    Control(
        "drops a write",
        "relay",
        LOST_WRITE,
        Patch(
            _PAIR,
            "self._to_server.write(data)",
            f"self._to_server.write(data[:28] + {_OVER} + data[32:]"
            r' if data[:2] == b"\x80\x01" else data)',
        ),
        scenarios.plain,
    ),
    Control(
        "never closes the local side",
        "relay",
        UNANSWERED,
        Patch(_PAIR, "self._empty(clean=clean)", "pass"),
        scenarios.resets,
        frozenset({NOT_RECOVERED}),
    ),
    Control(
        "never closes the upstream side",
        "relay",
        LEAKED,
        Patch(_PAIR, "self._leave(clean=reason.check(ConnectionDone) is not None)", "pass"),
        scenarios.churn,
    ),
    Control(
        "skips verification",
        "relay",
        UNVERIFIED,
        _VERIFICATION,
        scenarios.bad_certificate,
    ),
    Control(
        "buffers without bound",
        "relay",
        GROWN,
        Patch(_PAIR, "self._server.pauseProducing()", "pass"),
        scenarios.unread,
    ),
)

#: Of the tunnel itself.
PRODUCT: Final = (*_GATEWAY, *_RELAY)
