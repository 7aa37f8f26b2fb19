"""An embedded server and a certificate authority, for demos and for your own tests."""

from txtlsmc.testing.authority import Authority
from txtlsmc.testing.issued import IssuedCertificate
from txtlsmc.testing.server import MemoryServer

__all__ = ["Authority", "IssuedCertificate", "MemoryServer"]
