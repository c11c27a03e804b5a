"""The error that is meant for the person at the keyboard, not for a debugger."""


class UserError(ValueError):
    """A mistake of the user's, told in one line that says what to do; shown without a traceback.

    The line may quote a file or a name from outside, so what would break it or steer a terminal is replaced.
    """

    def __init__(self, message: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " if c.isspace() else "?" for c in message))


def first_line(error: BaseException | str) -> str:
    """The first line of an error's message, or the name of its type when it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
