"""The version: a plain value, so that neither building nor importing has to work it out."""

__version__ = "0.1.0"
