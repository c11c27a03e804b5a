"""Optuna's samplers. The only file that imports Optuna, which is an optional dependency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dreamer.errors import UserError
from dreamer.experiments.ablation.vary import Point, Varied


def ask(varied: Sequence[Varied], told: Sequence[tuple[Point, float | None]], count: int, sampler: str) -> list[Point]:
    """Return the next points of a search that maximises the score; `told` are all points so far with their scores.

    A point without a score failed. The same `told` give the same points. Listed values are categories. Raises
    `UserError` where Optuna is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(f"--sampler {sampler} needs Optuna: pip install 'dreamer-torch-agent[optuna]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    seed = len(told)
    samplers: dict[str, Callable[[], Any]] = {
        "tpe": lambda: optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True),
        "gp": lambda: optuna.samplers.GPSampler(seed=seed),
    }
    spaces: dict[str, optuna.distributions.BaseDistribution] = {}
    for one in varied:
        if one.values:
            spaces[one.path] = optuna.distributions.CategoricalDistribution(range(len(one.values)))
        elif one.integer:
            spaces[one.path] = optuna.distributions.IntDistribution(int(one.low), int(one.high), log=one.log)
        else:
            spaces[one.path] = optuna.distributions.FloatDistribution(one.low, one.high, log=one.log)
    study = optuna.create_study(direction="maximize", sampler=samplers[sampler]())
    for point, score in told:
        values = dict(point)
        params = {one.path: one.values.index(values[one.path]) if one.values else values[one.path] for one in varied}
        state = optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE
        study.add_trial(optuna.trial.create_trial(params=params, distributions=spaces, value=score, state=state))
    trials = [study.ask(spaces) for _ in range(count)]
    return [
        tuple(
            (one.path, one.values[trial.params[one.path]] if one.values else one.fitted(trial.params[one.path]))
            for one in varied
        )
        for trial in trials
    ]
