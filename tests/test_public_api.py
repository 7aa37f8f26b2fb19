"""What is promised to users: the public names, and what importing them costs."""

from __future__ import annotations

import importlib
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

#: To change one of these is to change the promise: a removal goes through a deprecation first.
PROMISED = {
    "txtlsmc": [
        "Address",
        "AuthenticationError",
        "Backoff",
        "CertificateError",
        "CertificateExpired",
        "CertificateNotYetValid",
        "CertificateUntrusted",
        "CertificateWrongHost",
        "ClientCertificateRefused",
        "ClientSettings",
        "Codec",
        "CodecError",
        "ConnectFailed",
        "ConnectRefused",
        "ConnectTimedOut",
        "ConnectionClosed",
        "Credentials",
        "CredentialsRefused",
        "CredentialsRequired",
        "InsecurePassword",
        "InsecurePlaintext",
        "InvalidArgument",
        "InvalidArguments",
        "InvalidKey",
        "InvalidSetting",
        "Item",
        "KeyExists",
        "KeyNotFound",
        "KeyedItem",
        "Limits",
        "MechanismNotOffered",
        "MemcacheClient",
        "MemcacheClientFactory",
        "MemcacheError",
        "MemcacheProtocol",
        "NameNotFound",
        "NodeDown",
        "NodeHealth",
        "NodeState",
        "NonNumericValue",
        "NotPermitted",
        "NotReady",
        "NotStored",
        "NotSupported",
        "PartialResult",
        "PendingLimit",
        "Pick",
        "PinMismatch",
        "PlaintextServer",
        "RawItem",
        "ReadyEndpoint",
        "RemoteProtocolError",
        "RequestTimeout",
        "Ring",
        "Routing",
        "SASLUnavailable",
        "Server",
        "ServerBusy",
        "ServerError",
        "ServerInternalError",
        "ServerNotProven",
        "ServerOutOfMemory",
        "ServerSilent",
        "TLS",
        "TLSFailed",
        "TLSVersionRefused",
        "TemporaryFailure",
        "UnknownCommand",
        "ValueTooLarge",
        "WrongProcess",
        "__version__",
        "codec_named",
        "connect",
        "parse_servers",
    ],
    "txtlsmc.testing": [
        "Authority",
        "IssuedCertificate",
        "MemoryServer",
    ],
}

#: Importing the package must bring in none of these: the first would choose the reactor for the
#: application, the others cost as much as everything else together and are used in few places.
NOT_YET = ("twisted.internet.reactor", "treq", "prometheus_client", "txtlsmc.testing")


class PublicNamesTests(SynchronousTestCase):
    def test_names(self) -> None:
        """The public names are those that were promised, no more and no fewer."""
        for module, promised in PROMISED.items():
            names = importlib.import_module(module).__all__
            self.assertEqual(len(names), len(set(names)), f"{module} lists a name twice")
            self.assertEqual(set(names) - set(promised), set(), f"{module}: not in PROMISED")
            self.assertEqual(set(promised) - set(names), set(), f"{module}: promised")

    def test_import_all(self) -> None:
        """`from txtlsmc import *` gives the public names and nothing else."""
        for module in PROMISED:
            namespace: dict[str, object] = {}
            exec(f"from {module} import *", namespace)  # a function can not say it itself
            del namespace["__builtins__"]
            self.assertEqual(set(namespace), set(importlib.import_module(module).__all__))

    def test_documented(self) -> None:
        """Every public class and function says what it is for."""
        for name in PROMISED:
            module = importlib.import_module(name)
            for public in module.__all__:
                thing = getattr(module, public)
                if not isinstance(thing, str):  # the documentation of a string is that of str
                    self.assertTrue((thing.__doc__ or "").strip(), f"{name}.{public}")

    def test_errors(self) -> None:
        """Every error of txtlsmc.errors is public: whoever can meet one can name it."""
        errors = importlib.import_module("txtlsmc.errors")
        defined = {
            name
            for name, thing in vars(errors).items()
            if isinstance(thing, type) and issubclass(thing, Exception)
        }
        self.assertEqual(defined - set(PROMISED["txtlsmc"]), set())


class ImportTests(SynchronousTestCase):
    def test_cheap(self) -> None:
        """Importing txtlsmc chooses no reactor and loads nothing that few applications need."""
        script = f"import sys, txtlsmc; print([m for m in {NOT_YET!r} if m in sys.modules])"
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {script}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual((done.stdout.strip(), done.stderr), ("[]", ""))
