"""The error that is meant for the person at the keyboard, not for a debugger."""


class UserError(ValueError):
    """A mistake of the user's, told in one line that says what to do; shown without a traceback."""
