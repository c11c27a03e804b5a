"""Errors that users can fix, which the command line shows as one line, and the first line of any other."""

import os

import envs

_OWN = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "envs")
_FOUND = [os.path.realpath(place) for place in getattr(envs, "__path__", [str(envs.__file__)])]
if _OWN not in _FOUND:
    raise ImportError(f"dreamer needs its package {_OWN}, which {_FOUND[0]} hides: give the latter another name")

from envs.errors import UserError, first_line, reason  # noqa: E402

__all__ = ["NotFinite", "UserError", "first_line", "reason"]


class NotFinite(UserError):
    """A parameter or state of the run is not finite; its newest checkpoint still is, so the run can return to that."""
