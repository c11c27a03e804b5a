"""docs/python.md is one program: it runs, and its comments state the sizes and messages that it gives."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from guide import blocks
from running import tiny_config
from tiny import unchecked

import dreamer
from dreamer.queries import Imagination, Queries

DOCUMENT = "docs/python.md"


def size(value: Any) -> list[int]:
    return list(value.shape) if hasattr(value, "shape") else [len(value)]


def checked(line: str) -> str:
    """A line of the page, and behind it the check of its comment where that states a size."""
    found = re.fullmatch(r"( *)(?:(\w+) = )?(.*?)  # (\[[\d, ]+\])(.*)", line)
    if found is None:
        return line
    indent, name, expression, wanted, _ = found.groups()
    line = f"{name} = {expression}" if name else f"found_ = {expression}"
    return f"{indent}{line}; sizes_.append(({expression!r}, size_({name or 'found_'}), {wanted}))"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """Names that the program of the page defines, and what it prints, with a tiny agent for the run of the README."""
    folder = tmp_path_factory.mktemp("page")
    code = "\n".join(blocks(DOCUMENT, "python"))
    names: dict[str, Any] = {"size_": size, "sizes_": []}
    with pytest.MonkeyPatch.context() as patch, unchecked():
        patch.chdir(folder)
        settings = {"env.repeat": 4, "env.time_limit": 150, "steps": 80, "loop.replay_ratio": 4.0}
        dreamer.train(tiny_config("dmc:cartpole_balance", **settings), run_dir="runs/b")
        printed: list[str] = []
        names["print"] = lambda *words: printed.append(" ".join(map(str, words)))
        exec(compile("\n".join(map(checked, code.splitlines())), DOCUMENT, "exec"), names)
    return names, "\n".join(printed)


def test_sizes_are_those_of_the_comments(program: tuple[dict[str, Any], str]) -> None:
    sizes = program[0]["sizes_"]
    assert len(sizes) >= 14
    assert [(text, found) for text, found, wanted in sizes if found != wanted] == []


def test_the_page_imagines_plans_and_reads_runs(program: tuple[dict[str, Any], str]) -> None:
    names, printed = program
    assert names["plan"].grad.abs().sum() > 0
    assert Path(names["best"]).name == "b" and names["records"][-1]["step"] == 80
    assert names["embeds"].shape[:2] == (1, 51)
    torch.testing.assert_close(names["samples"].states.deter[:, 0], names["states"].deter[:, 10].expand(16, -1))
    [message] = re.findall(r"print\(error\)  # (.*)", "\n".join(blocks(DOCUMENT, "python")))
    assert printed == message


def test_the_page_names_the_whole_api() -> None:
    text = (Path(__file__).parents[1] / DOCUMENT).read_text()
    own = {name for name in vars(Queries) if not name.startswith("_")} - {"autocast", "device"}
    fields = set(Imagination.__annotations__) - {"decode"}
    missing = [name for name in {*dreamer.__all__, *own, *fields} if not re.search(rf"`[^`]*\b{name}\b", text)]
    assert missing == []
