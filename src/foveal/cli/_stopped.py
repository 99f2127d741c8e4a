"""How work that was stopped says so."""

__all__ = ["Stopped"]


class Stopped(Exception):
    """Work was interrupted and saved; the message says how to go on."""
