"""
SASL between a local client and the gateway.

The gateway has authenticated to the server, so a client need not; an app that still sends what it
used to send to the server is answered as that would, by comparing with the configured credentials.
PLAIN is all that is offered: the password does not leave the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest
from typing import Final

from txtlsmc.settings import Credentials
from txtlsmc.wire.frames import Request, Response, error_response
from txtlsmc.wire.opcodes import Opcode, Status

#: Longer than anything that could be right.
_LONGEST: Final = 4096


class Login:
    """
    The gateway's side of SASL, for one local client.

    Attributes:
        refused: whether the last attempt was.
    """

    def __init__(self, credentials: Callable[[], Credentials | None]) -> None:
        """
        Args:
            credentials: returns what is right now; None: the server is used without.
        """
        self.refused = False
        self._credentials = credentials

    def answer(self, request: Request) -> Response:
        """
        Answer SASL_LIST, SASL_AUTH or SASL_STEP.

        Returns:
            What memcached would say: status 0 for what is right, 0x20 for what is not, and 0x81
            where there are no credentials to compare with, as from a server without SASL.
        """
        self.refused = False
        credentials = self._credentials()
        if credentials is None:
            return error_response(request, Status.UNKNOWN_COMMAND)
        if request.opcode == Opcode.SASL_LIST:
            return Response(request.opcode, Status.OK, request.opaque, value=b"PLAIN")
        if request.opcode == Opcode.SASL_AUTH and _is_right(request, credentials):
            return Response(request.opcode, Status.OK, request.opaque, value=b"Authenticated")
        self.refused = True
        return error_response(request, Status.AUTHENTICATION_ERROR)


def _is_right(request: Request, credentials: Credentials) -> bool:
    # Nothing that can raise here, or a traceback could show the password.
    if request.key.upper() != b"PLAIN" or len(request.value) > _LONGEST:
        return False
    given = request.value.split(b"\0")
    if len(given) != 3:
        return False
    username = compare_digest(given[1], credentials.username.encode())
    password = compare_digest(given[2], credentials.password.encode())
    # Nobody may act for somebody else.
    as_itself = given[0] in (b"", given[1])
    return username & password & as_itself
