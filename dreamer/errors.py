"""Errors that users can fix, which the command line shows as one line, and the first line of any other."""

from envs.errors import UserError, first_line

__all__ = ["NotFinite", "UserError", "first_line"]


class NotFinite(UserError):
    """A parameter or state of the run is not finite; its newest checkpoint still is, so the run can return to that."""
