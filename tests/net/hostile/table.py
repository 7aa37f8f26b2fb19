"""All cases."""

from __future__ import annotations

from collections.abc import Iterator

from tests.net.hostile.case import Case
from tests.net.hostile.greetings import cram_cases, listing_cases, noop_cases, plain_cases
from tests.net.hostile.handshakes import tls_cases
from tests.net.hostile.headers import header_cases, pair_cases, undecidable_cases
from tests.net.hostile.order import limit_cases, order_cases, quiet_cases
from tests.net.hostile.scram import scram_cases
from tests.net.hostile.statuses import garbage_cases, legal_cases, status_cases
from tests.net.hostile.streams import announcement_cases, statistics_cases, truncation_cases


def all_cases() -> Iterator[Case]:
    """Yield every case of the battery; no two have the same name."""
    for cases in (
        header_cases,
        undecidable_cases,
        pair_cases,
        status_cases,
        legal_cases,
        garbage_cases,
        order_cases,
        limit_cases,
        quiet_cases,
        statistics_cases,
        truncation_cases,
        announcement_cases,
        noop_cases,
        listing_cases,
        plain_cases,
        cram_cases,
        scram_cases,
        tls_cases,
    ):
        yield from cases()
