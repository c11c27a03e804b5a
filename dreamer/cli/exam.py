"""`dreamer exam`: measures what each dynamics core can represent."""

from __future__ import annotations

from collections.abc import Sequence

from dreamer.cli.parsing import parse
from dreamer.experiments.exam.exam import ExamArguments, exam
from dreamer.system.redaction import show


def run(argv: Sequence[str]) -> int:
    """Take the exam and print the table and the verdict."""
    show(*exam(parse(ExamArguments, "exam", argv)).split("\n"))
    return 0
