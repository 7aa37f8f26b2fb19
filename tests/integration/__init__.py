"""Tests against a real memcached, which they start themselves."""
