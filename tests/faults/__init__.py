"""Faults between a tunnel and its servers, a load that judges what comes through, and controls."""
