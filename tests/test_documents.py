"""The documents keep their word: links, scripts, commands, flags and files that they name exist."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from dreamer.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / ".github").rglob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "dreamer").rglob("*.md"),
    ]
)
FENCE = re.compile(r"^```.*?\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:[A-Z_]+=\S+ )*(?:(?:\S*/)?(?:python -m )?dreamer +|scripts/(?=train\b))([a-z][a-z-]*)\b(.*)")
EXTENSIONS = {".py", ".md", ".toml", ".txt", ".sh", ".json", ".jsonl", ".png", ".mp4"}
INDENTED = """
README.md             start here
dreamer/              the agent
  cli.py  errors.py   one command per verb
  nn/                 layers.py optim.py
envs/
"""
DRAWN = """
├── envs/             # no torch (see toy.py)
│   └── toy.py
└── scripts/train     shell
"""


def documents() -> list[object]:
    """One test case per document."""
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in DOCUMENTS]


def code_lines(text: str) -> list[str]:
    """Lines of fenced code and spans of inline code, with continued lines joined and prompts removed."""
    fenced = "\n".join(FENCE.findall(text)).replace("\\\n", " ")
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    return [line.strip().removeprefix("$ ") for line in [*fenced.splitlines(), *spans]]


def slug(heading: str) -> str:
    """The anchor of a Markdown heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@functools.cache
def command_help(verb: str) -> str:
    """What `dreamer [VERB] --help-all` prints; fails the test when there is no such verb."""
    printed, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
        try:
            code = main([*([verb] if verb else []), "--help-all"])
        except SystemExit as stop:
            code = stop.code or 0
    assert code == 0, f"dreamer {verb} --help-all: {told.getvalue()}"
    return f"{printed.getvalue()} --help-all"  # which tyro does not know


def tree_paths(block: str) -> list[str]:
    """The files that a tree drawn by indentation names; words that are not file names are its comments."""
    paths: list[str] = []
    folders: list[tuple[int, str]] = []
    for line in block.splitlines():
        indent = len(line) - len(line.lstrip("│├└─ "))
        while folders and folders[-1][0] >= indent:
            folders.pop()
        parent = folders[-1][1] if folders else ""
        for i, word in enumerate(line.lstrip("│├└─ ").split()):
            word = word.rstrip(",")
            if not re.fullmatch(r"[\w.\-/]+", word) or not (word.endswith("/") or is_file_name(word)):
                break
            paths.append(parent + word)
            if i == 0 and word.endswith("/"):
                parent += word
                folders.append((indent, parent))
    return paths


def is_file_name(word: str) -> bool:
    """Whether a word of a tree is a file rather than prose."""
    return Path(word).suffix in EXTENSIONS or word in {"LICENSE", "Dockerfile"} or word.startswith("scripts/")


@pytest.mark.parametrize("path", documents())
def test_links_lead_somewhere(path: Path) -> None:
    prose = FENCE.sub("", path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{path.name} links to {target}"
        if anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ +(.+)$", FENCE.sub("", file.read_text()), re.MULTILINE)
            assert anchor in map(slug, headings), f"{path.name} links to {target}"


def test_pages_of_results_link_to_nothing_that_is_not_there() -> None:
    """`dreamer report --no-links` writes such a page."""
    pages = sorted((ROOT / "docs").rglob("*.html"))
    assert pages
    for page in pages:
        for target in re.findall(r'(?:href|src)="([^"#][^"]*)"', page.read_text()):
            here = target.startswith("data:") or (page.parent / unquote(target)).exists()
            assert here, f"{page.relative_to(ROOT)} links to {target}"


@pytest.mark.parametrize("path", documents())
def test_scripts_named_exist_and_can_be_run(path: Path) -> None:
    for name in re.findall(r"(?<![\w/.])((?:scripts|\.ci)/[\w.-]*\w)(?![\w*/])", path.read_text()):
        assert (ROOT / name).exists(), f"{path.name} names {name}"
        assert (ROOT / name).stat().st_mode & 0o111 or name.endswith(".yaml"), f"{name} is not executable"


@pytest.mark.parametrize("path", documents())
def test_commands_and_their_flags_exist(path: Path) -> None:
    """`scripts/train` passes its arguments to `dreamer train`, so its flags are those."""
    for line in code_lines(path.read_text()):
        command = COMMAND.match(line)
        if command is None:
            continue
        text = command_help(command[1])
        for flag in re.findall(r"(?<=\s)--[a-z][\w.-]*", re.split(r"[#|&;]", command[2])[0]):
            assert re.search(rf"{re.escape(flag)}(?![\w.-])", text), f"{path.name}: {line}: no {flag}"


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(AssertionError, match="unknown command"):
        command_help("no-such-verb")


def test_the_tree_in_the_readme_names_what_exists() -> None:
    blocks = FENCE.findall((ROOT / "README.md").read_text())
    paths = [path for block in blocks if re.search(r"^\W*dreamer/", block, re.MULTILINE) for path in tree_paths(block)]
    assert "dreamer/training/loop.py" in paths, f"the tree was not understood: {paths}"
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_a_tree_is_read_by_its_indentation() -> None:
    nested = ["dreamer/", "dreamer/cli.py", "dreamer/errors.py", "dreamer/nn/", "dreamer/nn/layers.py"]
    assert tree_paths(INDENTED) == ["README.md", *nested, "dreamer/nn/optim.py", "envs/"]
    assert tree_paths(DRAWN) == ["envs/", "envs/toy.py", "scripts/train"]


def cited_pitfalls() -> dict[int, set[str]]:
    """Number of each pitfall that a test's docstring or message cites -> names of the files."""
    cited: dict[int, set[str]] = {}
    for path in (ROOT / "tests").glob("test_*.py"):
        for numbers in re.findall(r"\b[Pp]itfalls? (\d+(?:(?:, | and )\d+)*)", path.read_text()):
            for number in re.findall(r"\d+", numbers):
                cited.setdefault(int(number), set()).add(path.stem)
    return cited


def test_every_pitfall_is_caught_where_the_document_says_or_left_out_for_a_reason() -> None:
    tested, left_out = (ROOT / "docs" / "pitfalls.md").read_text().split("Left out")
    rows = {int(row[0]): row for row in re.findall(r"^\| (\d+) \| (.+?) \| (.+?) \|$", tested, re.MULTILINE)}
    reasons = {int(number) for number in re.findall(r"^\| (\d+) \| .+? \| .+? \|$", left_out, re.MULTILINE)}
    assert sorted([*rows, *reasons]) == list(range(1, 61))
    cited = cited_pitfalls()
    assert reasons.isdisjoint(cited), "a pitfall that is tested is not left out"
    for number, (_, mistake, files) in rows.items():
        missing = set(files.split(", ")) - cited.get(number, set())
        assert not missing, f"pitfall {number} ({mistake}) is not cited in {missing}"
