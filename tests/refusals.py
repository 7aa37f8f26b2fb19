"""What is refused, in which words, and that none of them is a password."""

from __future__ import annotations

from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from tests.secrecy import Witness
from txtlsmc.errors import InvalidArgument, InvalidSetting


class RefusalTestCase(SynchronousTestCase):
    """
    Tests of what refuses.

    Whatever is refused is searched for the passwords of `tests.secrecy`, the local variables of all
    functions on the way included.  So a test has them in none of its own.
    """

    def setUp(self) -> None:
        self.witness = Witness(self)

    def refused(
        self,
        call: Callable[..., object],
        *arguments: object,
        by: type[InvalidArgument] = InvalidSetting,
    ) -> str:
        """Return in which words *call* is refused with *arguments*, which are no secrets."""
        try:
            call(*arguments)
        except InvalidArgument as error:
            self.witness.examine(error)
            self.assertIs(type(error), by)
            return str(error)
        raise self.failureException("it was not refused")
