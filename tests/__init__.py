"""The tests of txtlsmc, which mirror the package; `python -m tests.run` runs them all."""
