"""What other implementations computed, kept as data."""
