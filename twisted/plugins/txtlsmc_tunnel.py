"""Makes ``twistd tlsmc-tunnel`` known; the package is imported only when that is what is run."""

from __future__ import annotations

from twisted.application.service import ServiceMaker

tunnel = ServiceMaker(
    "txtlsmc tunnel",
    "txtlsmc.tap",
    "Let unchanged memcached clients reach servers over verified TLS and SASL.",
    "tlsmc-tunnel",
)
