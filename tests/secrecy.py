"""
Look for passwords in all that an error or the log can show.

The passwords are made up in functions, and never kept in a variable of a module or of a test: the
tracebacks that are searched show those as well.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from traceback import TracebackException, walk_tb

from twisted.logger import ILogObserver, LogEvent, eventAsText, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from txtlsmc.settings import Credentials

USER = "alice"


def password() -> str:
    """Return the password of `USER`."""
    return "".join(("Tr0ub", "4dor&3"))


def wrong_password() -> str:
    """Return one that is not."""
    return "".join(("c0rrect", "-h0rse!"))


def credentials(mechanism: str = "PLAIN", *, insecure: bool = False) -> Credentials:
    """Return the right credentials."""
    return Credentials(USER, password(), mechanism, insecure_password=insecure)


def wrong_credentials(mechanism: str = "PLAIN", *, insecure: bool = False) -> Credentials:
    """Return credentials that no server accepts."""
    return Credentials(USER, wrong_password(), mechanism, insecure_password=insecure)


def _forms() -> Iterator[tuple[str, str]]:
    for secret in (password().encode(), wrong_password().encode()):
        blob = b"\0" + USER.encode() + b"\0" + secret
        for what, data in (("password", secret), ("PLAIN blob", blob)):
            yield f"{what} as it is", data.decode()
            yield f"repr of the {what}", repr(data)[2:-1]
            yield f"hex of the {what}", data.hex()
            yield f"base64 of the {what}", b64encode(data).decode().rstrip("=")


def leaks(text: str) -> list[str]:
    """Return in what forms *text* shows something that it must not."""
    return [name for name, form in _forms() if form in text]


def shown_by(error: BaseException) -> str:
    """Return all that may be printed of an error that was just caught, by anybody."""
    failure = Failure(error, captureVars=True)
    lines = [str(error), repr(error), repr(vars(error))]
    lines += TracebackException.from_exception(error, capture_locals=True).format()
    lines += [failure.getTraceback(), failure.getTraceback(detail="verbose"), repr(failure)]
    # Some reporters look into the objects.
    for frame, _ in walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            lines.append(repr(getattr(value, "__dict__", None)))
    return "\n".join(lines)


@implementer(ILogObserver)
class Witness:
    """
    Sees what a test lets be seen: all that is logged, and the errors it is shown.

    When the test is over it fails if there was a password in any of it.
    """

    def __init__(self, test: SynchronousTestCase) -> None:
        """Start to look at the log."""
        self._test = test
        self.seen: list[str] = []
        globalLogPublisher.addObserver(self)
        test.addCleanup(self._testify)

    def __call__(self, event: LogEvent) -> None:
        """Look at what is logged."""
        self.seen += [eventAsText(event), repr(event)]
        failure = event.get("log_failure")
        if failure is not None:
            self.seen.append(shown_by(failure.value))

    def examine(self, error: BaseException) -> None:
        """Look at an error, in the block that caught it."""
        self.seen.append(shown_by(error))

    def leaks(self) -> list[str]:
        """Return in what forms a password was seen."""
        return leaks("\n".join(self.seen))

    def _testify(self) -> None:
        globalLogPublisher.removeObserver(self)
        self._test.assertEqual(self.leaks(), [])
