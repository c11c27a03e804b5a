"""The error a user can fix, shown on the command line as one clear sentence."""

from envs.errors import UserError

__all__ = ["UserError"]
