"""Tests of `txtlsmc.net`."""
