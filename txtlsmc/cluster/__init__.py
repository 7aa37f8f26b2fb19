"""Many servers: which of them has a key, and how each of them is."""
