"""The command `dreamer`, and `python -m dreamer`: a line at once, then the imports, which take seconds."""

import contextlib
import os
import sys

SLOW = ("train", "evaluate", "imagine", "report", "bench", "exam", "sweep", "ablate")
"""Commands that work for longer than a moment. All but train, sweep and ablate, which print lines, show progress."""


def main() -> int:
    """Run a command and return its exit status. In a terminal a line on standard error says that a slow one starts."""
    words, stream = sys.argv[1:], sys.stderr
    starts = bool(words) and words[0] in SLOW and not {"-h", "--help", "--help-all"} & set(words)
    restarts = sys.getfilesystemencoding().lower() != "utf-8"  # in UTF-8 mode, and then says so
    if starts and not restarts and stream is not None and stream.isatty():
        with contextlib.suppress(OSError, ValueError):
            stream.write(f"dreamer {words[0]}: starting\n")
    from dreamer.cli.main import main

    return main()


if __name__ == "__main__" and not sys.flags.safe_path and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    # `python -m` puts the current folder before all packages. It may be a run folder from somebody else.
    del sys.path[0]

if __name__ == "__main__":
    sys.exit(main())
