"""Points of a sweep: all at once for a grid or a random search, in batches for Optuna's samplers.

FOLDER/points.json holds the points that a sampler of Optuna has proposed so far. A resumed sweep tells a new sampler
their results, so that nothing else has to be kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dreamer.errors import UserError
from dreamer.experiments.ablation.manifest import SweepArguments
from dreamer.experiments.ablation.vary import Point, Varied, grid_points, random_points
from dreamer.system.files import read_json, write_atomically

POINTS = "points.json"
SCORES = Callable[[Point], float | None]


class Search:
    """Points of one sweep; `more` adds the next ones where they depend on results."""

    def __init__(self, args: SweepArguments, varied: Sequence[Varied], folder: Path) -> None:
        self._varied, self._sampler, self._samples = varied, args.sampler, args.samples
        self._path = folder / POINTS
        runs = len(args.tasks) * len(args.cores) * len(args.objectives) * args.seeds
        self._batch = -(-args.jobs // runs)  # as many points as keep all processes busy
        self.adaptive = args.samples > 0 and args.sampler != "random"
        """True where points depend on results."""
        if self.adaptive:
            self.points = self._known() or self._asked(lambda _: None)
        else:
            self.points = random_points(varied, args.samples) if args.samples else grid_points(varied)

    @property
    def total(self) -> int:
        """Number of points of the whole sweep."""
        return self._samples if self.adaptive else len(self.points)

    def save(self, folder: Path) -> None:
        """Write the points into the folder of the sweep, where they cannot be worked out again."""
        self._path = folder / POINTS
        if self.adaptive:
            write_atomically(self._path, (json.dumps([dict(point) for point in self.points], indent=1) + "\n").encode())

    def more(self, score: SCORES) -> list[Point]:
        """Return the next points, none at the end; `score` is the result of a point, None where its runs failed."""
        if not self.adaptive or len(self.points) >= self._samples:
            return []
        asked = self._asked(score, self.points)
        self.points += asked
        self.save(self._path.parent)
        return asked

    def _asked(self, score: SCORES, known: Sequence[Point] = ()) -> list[Point]:
        from dreamer.experiments.ablation.samplers import ask

        count = min(self._batch, self._samples - len(known))
        return ask(self._varied, [(point, score(point)) for point in known], count, self._sampler)

    def _known(self) -> list[Point]:
        if not self._path.exists():
            return []
        read, names = read_json(self._path, list[dict[str, Any]]), [one.path for one in self._varied]
        for point in read:
            if list(point) != names:
                raise UserError(f"{self._path}: a point has the settings {', '.join(point)}, not {', '.join(names)}")
            for one in self._varied:
                value = tuple(point[one.path]) if isinstance(point[one.path], list) else point[one.path]
                inside = isinstance(value, int | float) and one.low <= value <= one.high
                if not (value in one.values if one.values else inside):
                    raise UserError(f"{self._path}: {one.path} cannot be {value!r:.60}")
                point[one.path] = value
        return [tuple(point.items()) for point in read]
