"""The search for passwords finds them wherever they can be."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable

from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from tests.secrecy import USER, Witness, credentials, leaks, password, wrong_password


class WitnessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.witness = Witness(self)

    def found(self) -> list[str]:
        """Return what the witness has found, and let it forget."""
        found = self.witness.leaks()
        self.witness.seen.clear()
        return found

    def test_errors(self) -> None:
        """A careless error is found out, whether its text has the password or a variable of it."""

        def careless(form: Callable[[bytes], object]) -> None:
            value = form(password().encode())
            raise ValueError(f"{type(value)} is no good")

        def blunt(form: Callable[[bytes], object]) -> None:
            raise ValueError(form(f"\0{USER}\0{wrong_password()}".encode()))

        for call in (careless, blunt):
            for form in (bytes, bytes.decode, bytes.hex, b64encode):
                try:
                    call(form)
                except ValueError as error:
                    self.witness.examine(error)
                self.assertNotEqual(self.found(), [], (call, form))

    def test_causes(self) -> None:
        """A password in the error that another one was raised for is found out."""
        try:
            try:
                raise KeyError(password())
            except KeyError:
                raise ValueError("no good")  # noqa: B904 - that it has a context is the point
        except ValueError as error:
            self.witness.examine(error)
        self.assertNotEqual(self.found(), [])

    def test_log(self) -> None:
        """A password in the log is found out, also in a field that is not printed."""
        Logger().debug("hello {name}", name=password())
        self.assertNotEqual(self.found(), [])
        Logger().debug("hello", name=password())
        self.assertNotEqual(self.found(), [])
        try:
            raise ValueError(wrong_password())
        except ValueError:
            Logger().failure("hello")
        self.flushLoggedErrors(ValueError)
        self.assertNotEqual(self.found(), [])

    def test_harmless(self) -> None:
        """Credentials may be shown: they hide the password themselves."""
        self.assertEqual(leaks(repr(credentials())), [])
