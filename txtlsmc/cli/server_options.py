"""The options of each command of ``tlsmc`` that speaks with servers, or knows of them."""

from __future__ import annotations

from txtlsmc.cli.command import Command
from txtlsmc.options import ClientOptions


class ServerOptions(ClientOptions, Command):
    """A command that works on servers; see `ClientOptions` for what all of these take."""
