# Sphinx settings; `make docs` builds, and a warning is an error there.
from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # our own extension
sys.path.insert(0, str(Path(__file__).parent.parent))

from twisted.internet.protocol import Protocol

import txtlsmc
from txtlsmc.errors import MemcacheError

project = "txtlsmc"
author = "The txtlsmc developers"
copyright = "2026, The txtlsmc developers"
release = version = txtlsmc.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "tables"]
exclude_patterns = ["_build", "changes"]
html_theme = "furo"
html_title = f"txtlsmc {release}"

default_role = "py:obj"
add_module_names = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# Twisted's own docstrings are in another markup.
autodoc_inherit_docstrings = False
autodoc_default_options = {
    "members": True,
    "inherited-members": "Protocol, BaseException, tuple",
    "show-inheritance": True,
}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# What the Deferred fails with, as against what the call itself raises.
napoleon_custom_sections = [("Fails", "params_style")]

# Modules whose public names have a page of their own; the others are on reference/api.
OWN_PAGE = ("txtlsmc.errors", "txtlsmc.settings", "txtlsmc.servers", "txtlsmc.routing")


def leave_out(app, what, name, thing, skip, options):
    """Show what is promised, and each thing once."""
    if what != "module":  # a class: what Twisted calls is not for users to call
        return skip or hasattr(Protocol, name)
    documented = app.env.current_document.docname
    if name not in txtlsmc.__all__ and documented != "reference/api":
        return True
    home = getattr(thing, "__module__", None)
    if documented == "reference/api" and home in OWN_PAGE:
        return True
    if documented == "reference/settings" and home != app.env.current_document.autodoc_module:
        return True  # only lent by that module, and told with its own
    return skip


def add_exit_code(app, what, name, thing, options, lines):
    """Say with each error what a command ends with when this is what went wrong."""
    if what == "exception" and issubclass(thing, MemcacheError):
        lines += ["", f"Exit status of a command: {thing.exit_code}."]


def name_interfaces(app, what, name, thing, options, signature, returns):
    """Write an interface as its name, and not as zope.interface's repr."""

    def named(text):
        return text and re.sub(r"<InterfaceClass [\w.]*?(\w+)>", r"\1", text)

    return named(signature), named(returns)


def find_public_name(app, env, node, contnode):
    """Find what is written without its module, or under the one that users import it from."""
    python = env.domains.python_domain
    target = node.get("reftarget", "").removeprefix("txtlsmc.")
    for place in ("txtlsmc", *OWN_PAGE, "txtlsmc.testing"):
        found = python.resolve_xref(
            env, node["refdoc"], app.builder, "obj", f"{place}.{target}", node, contnode
        )
        if found is not None:
            return found
    return None


def setup(app):
    app.connect("missing-reference", find_public_name)
    app.connect("autodoc-process-signature", name_interfaces)
    app.connect("autodoc-skip-member", leave_out)
    app.connect("autodoc-process-docstring", add_exit_code)
