"""Tests of `txtlsmc.testing`."""
