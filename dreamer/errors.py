"""The error a user can fix, shown on the command line as one clear sentence, and the gist of any other."""

from envs.errors import UserError, first_line

__all__ = ["NotFinite", "UserError", "first_line"]


class NotFinite(UserError):
    """The run cannot go on from where it is, since a number is not finite that must be; its newest checkpoint is."""
