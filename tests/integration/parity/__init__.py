"""Exchanges that the real memcached and the embedded server must answer alike, and how they are."""
