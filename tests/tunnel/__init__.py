"""Tests of the tunnel."""
