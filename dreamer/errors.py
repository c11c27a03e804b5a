"""The error a user can fix, shown on the command line as one clear sentence, and the gist of any other."""

from envs.errors import UserError, first_line

__all__ = ["UserError", "first_line"]
