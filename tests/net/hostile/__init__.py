"""The battery against hostile servers: a table of cases, and the verdict on each."""
