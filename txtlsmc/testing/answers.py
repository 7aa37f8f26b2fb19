"""
What a memcached answers: one request or refusal in, the responses out, and whether it hangs up.

The words and the order of the checks are those of memcached 1.6.18.  Nothing here knows of sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Final, NamedTuple

from txtlsmc.testing.items import Item, item_size
from txtlsmc.testing.login import Login
from txtlsmc.testing.options import ServerOptions
from txtlsmc.testing.statistics import Statistics
from txtlsmc.testing.store import Condition, Result, Store
from txtlsmc.wire.exchange import Outcome, ServerStep
from txtlsmc.wire.frames import Refusal, Request, Response, error_response
from txtlsmc.wire.opcodes import MAX_MECHANISM, OPCODES, Opcode, Quiet, Status

_EXPTIME: Final = Struct(">I")
_FLAGS: Final = Struct(">I")
_STORE: Final = Struct(">II")  # flags, exptime
_COUNT: Final = Struct(">QQI")  # delta, initial, exptime
_NUMBER: Final = Struct(">Q")
_DO_NOT_CREATE: Final = 0xFFFFFFFF

_SASL: Final = frozenset({Opcode.SASL_LIST, Opcode.SASL_AUTH, Opcode.SASL_STEP})
#: What it answers to everybody.
_OPEN: Final = _SASL | {Opcode.VERSION}
_STATUSES: Final = {
    Outcome.CONTINUE: Status.AUTHENTICATION_CONTINUE,
    Outcome.SUCCESS: Status.OK,
    Outcome.FAILURE: Status.AUTHENTICATION_ERROR,
}
_CONDITIONS: Final = {
    Opcode.SET: Condition.ANY,
    Opcode.ADD: Condition.MISSING,
    Opcode.REPLACE: Condition.PRESENT,
}


class Answer(NamedTuple):
    """
    What follows on a request.

    Attributes:
        responses: none when it was quiet and there is nothing to say, many for STAT.
        closes: whether the connection ends behind them.
    """

    responses: list[Response]
    closes: bool = False


class Answers:
    """One connection's side of the server: the shared items, and its own login."""

    def __init__(self, options: ServerOptions, store: Store, statistics: Statistics) -> None:
        self._options, self._store, self._statistics = options, store, statistics
        self._login = None if options.users is None else Login(options)
        one, keyed = self._get, self._keyed
        self._methods: dict[int, Callable[[Request], Response]] = {
            Opcode.GET: one,
            Opcode.GAT: one,
            Opcode.TOUCH: one,
            Opcode.GETK: keyed,
            Opcode.GATK: keyed,
            **dict.fromkeys(_CONDITIONS, self._set),
            Opcode.APPEND: self._concatenate,
            Opcode.PREPEND: self._concatenate,
            Opcode.INCREMENT: self._count,
            Opcode.DECREMENT: self._count,
            Opcode.DELETE: self._delete,
            Opcode.FLUSH: self._flush,
            Opcode.NOOP: _done,
            Opcode.QUIT: _done,
            Opcode.VERSION: self._version,
            Opcode.SASL_LIST: self._sasl_list,
            Opcode.SASL_AUTH: self._sasl_auth,
            Opcode.SASL_STEP: self._sasl_step,
        }

    def to(self, asked: Request | Refusal) -> Answer:
        """Return the answer to *asked*, and do what it asks for."""
        request = asked.request if isinstance(asked, Refusal) else asked
        if isinstance(asked, Refusal) and asked.status == Status.UNKNOWN_COMMAND and asked.closes:
            return Answer(
                [error_response(request, asked.status)], True
            )  # lengths that lie come first
        known = self._login is None or self._login.authenticated
        if not known and request.opcode not in _OPEN:
            return Answer([error_response(request, Status.AUTHENTICATION_ERROR)], True)
        if isinstance(asked, Refusal):
            return self._refuse(asked)
        row = OPCODES[request.opcode]
        if row.loud == Opcode.STAT:
            return Answer(self._stat(request))
        response = self._methods[row.loud](request)
        status = response.status
        silent = (row.quiet is Quiet.ON_SUCCESS and status == Status.OK) or (
            row.quiet is Quiet.ON_MISS and status == Status.KEY_NOT_FOUND
        )
        return Answer([] if silent else [response], row.loud == Opcode.QUIT)

    def _refuse(self, refusal: Refusal) -> Answer:
        status = refusal.status
        if refusal.request.opcode in _SASL and status == Status.VALUE_TOO_LARGE:
            status = Status.UNKNOWN_COMMAND if self._login is None else Status.OUT_OF_MEMORY
        return Answer([error_response(refusal.request, status)], refusal.closes)

    # Reading

    def _get(self, request: Request) -> Response:
        item = self._found(request)
        if item is None:
            return error_response(request, Status.KEY_NOT_FOUND)
        value = b"" if request.opcode == Opcode.TOUCH else item.value
        return _item(request, item, b"", value)

    def _keyed(self, request: Request) -> Response:
        item = self._found(request)
        if item is None:  # the key is all that a miss holds
            return Response(request.opcode, Status.KEY_NOT_FOUND, request.opaque, key=request.key)
        return _item(request, item, request.key, item.value)

    def _found(self, request: Request) -> Item | None:
        if request.extras:
            return self._store.touch(request.key, _EXPTIME.unpack(request.extras)[0])
        return self._store.get(request.key)

    # Writing

    def _set(self, request: Request) -> Response:
        flags, exptime = _STORE.unpack(request.extras)
        return _written(
            request,
            self._store.store(
                _CONDITIONS[OPCODES[request.opcode].loud],
                request.key,
                request.value,
                flags=flags,
                exptime=exptime,
                cas=request.cas,
            ),
        )

    def _concatenate(self, request: Request) -> Response:
        before = OPCODES[request.opcode].loud == Opcode.PREPEND
        return _written(
            request,
            self._store.concatenate(request.key, request.value, before=before, cas=request.cas),
        )

    def _count(self, request: Request) -> Response:
        delta, initial, exptime = _COUNT.unpack(request.extras)
        result = self._store.count(
            request.key,
            delta,
            up=OPCODES[request.opcode].loud == Opcode.INCREMENT,
            initial=None if exptime == _DO_NOT_CREATE else initial,
            exptime=exptime,
            cas=request.cas,
        )
        return _written(request, result, _NUMBER.pack(result.number))

    def _delete(self, request: Request) -> Response:
        return _written(request, Result(self._store.delete(request.key, request.cas)))

    def _flush(self, request: Request) -> Response:
        if not self._options.flush_enabled:
            return error_response(request, Status.AUTHENTICATION_ERROR)
        self._store.flush(_EXPTIME.unpack(request.extras)[0] if request.extras else 0)
        return _done(request)

    # The server

    def _version(self, request: Request) -> Response:
        return _done(request, self._options.version.encode())

    def _stat(self, request: Request) -> list[Response]:
        group = self._statistics.group(request.key)
        if group is None:
            return [error_response(request, Status.KEY_NOT_FOUND)]
        opcode, opaque = request.opcode, request.opaque
        told = [
            Response(opcode, Status.OK, opaque, key=name.encode(), value=str(value).encode())
            for name, value in group.items()
        ]
        return [*told, _done(request)]  # the end is one without a key

    # SASL

    def _sasl_list(self, request: Request) -> Response:
        if self._login is None:
            return error_response(request, Status.UNKNOWN_COMMAND)
        return _done(request, self._login.mechanisms())

    def _sasl_auth(self, request: Request) -> Response:
        return self._sasl(request, lambda login: login.auth(request.key, request.value))

    def _sasl_step(self, request: Request) -> Response:
        return self._sasl(request, lambda login: login.step(request.value))

    def _sasl(self, request: Request, take: Callable[[Login], ServerStep]) -> Response:
        if self._login is None:
            return error_response(request, Status.UNKNOWN_COMMAND)
        if len(request.key) > MAX_MECHANISM:
            return error_response(request, Status.INVALID_ARGUMENTS)
        if item_size(request.key, len(request.value)) > self._options.max_item // 2:
            return error_response(request, Status.OUT_OF_MEMORY)  # it must fit into one chunk there
        step = take(self._login)
        counters = self._statistics.counters
        if step.outcome is Outcome.CONTINUE:
            return Response(
                request.opcode, _STATUSES[step.outcome], request.opaque, value=step.data
            )
        counters["auth_cmds"] += 1
        if step.outcome is Outcome.SUCCESS:
            return _done(request, b"Authenticated")
        counters["auth_errors"] += 1
        return error_response(request, Status.AUTHENTICATION_ERROR)


def _done(request: Request, value: bytes = b"") -> Response:
    return Response(request.opcode, Status.OK, request.opaque, value=value)


def _item(request: Request, item: Item, key: bytes, value: bytes) -> Response:
    flags = _FLAGS.pack(item.flags)
    return Response(request.opcode, Status.OK, request.opaque, item.cas, flags, key, value)


def _written(request: Request, result: Result, value: bytes = b"") -> Response:
    if result.status is not Status.OK:
        return error_response(request, result.status)
    return Response(request.opcode, Status.OK, request.opaque, result.cas, value=value)
