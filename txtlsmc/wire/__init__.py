"""Bytes ⇄ meaning: pure, on the standard library, without clock, randomness, log or I/O."""
