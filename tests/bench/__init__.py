"""How fast it is, beside what users have today; `make bench` runs it, and no test does."""
