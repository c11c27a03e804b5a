"""The error for mistakes of the user, and the wording of error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LABMAZE = "; locomotion tasks of dm_control need labmaze, which has no wheel for Python 3.13 and later"
"""Addition to the message of an import that fails because labmaze is missing."""

LONGEST = 2000
"""Largest number of characters of a message."""


class UserError(ValueError):
    """A mistake of the user, reported in one line that says what to do, without a traceback.

    The line may quote a file or a name from outside. So it is cut to `LONGEST` characters, and line breaks and control
    characters are replaced.
    """

    def __init__(self, message: str) -> None:
        message = message if len(message) <= LONGEST else f"{message[:LONGEST]}..."
        super().__init__("".join(c if c.isprintable() else " " if c.isspace() else "?" for c in message))


def first_line(error: BaseException | str) -> str:
    """The first line of an error's message, or the name of its type when it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Context that turns any error of foreign code into a UserError of `what`, the error's type and its message."""
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        kind = "" if isinstance(error, ImportError | OSError) else f"{type(error).__name__}: "
        why = LABMAZE if getattr(error, "name", None) == "labmaze" else ""
        raise UserError(f"{what}: {kind}{first_line(error)}{why}") from error


def reason(error: BaseException) -> str:
    """The reason of an error without the file that it is about, such as "No space left on device"."""
    return getattr(error, "strerror", None) or first_line(error)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Hint "did you mean a, b? " with up to three known names that are close, or "" where none is."""
    by_lower_case = {other.lower(): other for other in known}
    close = [by_lower_case[match] for match in difflib.get_close_matches(name.lower(), by_lower_case, n=3)]
    return f"did you mean {', '.join(close)}? " if close else ""
