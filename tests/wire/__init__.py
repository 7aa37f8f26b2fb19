"""Tests of `txtlsmc.wire`."""
