"""Checks of the health of a run, from its configuration and its metrics alone.

A check looks at the last third of the records, so that a problem that has passed is not reported.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dreamer.experiments.diagnosis.history import FEWEST, Finding, RunHistory
from dreamer.nn.optim import FINAL_FRACTION
from dreamer.training.plan import few_updates
from envs.returns import largest_return

SOLVED = 0.9
"""Fraction of the largest possible return from which a task counts as solved."""


def finite(history: RunHistory) -> Finding:
    """Healthy when all losses, gradients and values are finite."""
    groups = ("loss/", "optim/", "model/", "behavior/", "eval/")
    for record in history.records:
        bad = [name for name, value in record.items() if name.startswith(groups) and not math.isfinite(value)]
        if bad:
            rate = history.config.agent.optimizer.learning_rate
            says = f"{bad[0]} is {record[bad[0]]} at step {record['step']:,}" + (", and more" if len(bad) > 1 else "")
            return Finding(True, says, f"--agent.optimizer.learning-rate {rate / 3:.1g} (now {rate:g})")
    return Finding(False, "no metric is infinite or not a number")


def updates(history: RunHistory) -> Finding:
    """Healthy when a run makes enough updates to learn something."""
    if not history.step:
        return Finding(None, "no records")
    counted = history.values("loop/updates")
    made = int(counted[np.isfinite(counted)].max(initial=0))
    says, _, steps = few_updates(history.config, made, history.step).partition("; raise --steps to ")
    if says:
        return Finding(True, says, f"--steps {steps} (now {history.config.steps})")
    return Finding(False, f"{made:,} updates")


def entropy(history: RunHistory) -> Finding:
    """Healthy when the policy still explores, or its returns still rise."""
    behavior = history.config.agent.behavior
    continuous = len(history.values("behavior/action_std")) > 0
    name, floor = ("behavior/action_std", behavior.min_std) if continuous else ("behavior/entropy", 0.0)
    late, all_of_them = history.late(name), history.values(name)
    if not len(late):
        return Finding(None, f"fewer than {FEWEST} records of {name}")
    limit = floor + 0.05 * max(float(all_of_them.max()) - floor, 0.0)
    returns = history.values("eval/return_mean")
    if (late > limit).any():
        return Finding(False, f"{name} is {late[-1]:.3g}, at most {all_of_them.max():.3g} before")
    if len(returns) > 1 and returns[-1] > returns[:-1].max():
        return Finding(False, f"{name} is down to {late[-1]:.3g}, but evaluation returns still rise")
    largest = largest_return(history.config.task, history.config.env)
    if largest and len(returns) and returns[-1] >= SOLVED * largest:
        says = f"{name} is down to {late[-1]:.3g}, with a return of {returns[-1]:,.0f} of {largest:,.0f}"
        return Finding(False, says)
    since = history.since(name, lambda values: values <= limit)
    says = f"the policy's entropy has collapsed: {name} is {late[-1]:.3g} (floor {floor:g}) since step {since:,}"
    if len(returns):
        says += f"; evaluation returns: best {returns.max():,.1f}, last {returns[-1]:,.1f}"
    advice = f"--agent.behavior.entropy {10 * behavior.entropy or 3e-4:.1g} (now {behavior.entropy:g})"
    if not continuous and behavior.action_unimix == 0:
        advice += " or --agent.behavior.action-unimix 0.01 (now 0)"
    return Finding(True, says, f"{advice}; leave it if the task is solved")


def free_nats(history: RunHistory) -> Finding:
    """Healthy when the KL exceeds the free nats somewhere, so that the prior is still trained."""
    dynamics = history.config.agent.dynamics
    free, late = getattr(dynamics.settings, "free_nats", 0.0), history.late("loss/dyn")
    if not free:
        return Finding(False, f"the {dynamics.core} core has no free nats here")
    if not len(late):
        return Finding(None, f"fewer than {FEWEST} records of loss/dyn")
    if (late > 1.02 * free).any():
        return Finding(False, f"loss/dyn is {late[-1]:.3g} nats, above the {free:g} free ones")
    kl = history.late("model/kl_dyn").mean()
    since = history.since("loss/dyn", lambda values: values <= 1.02 * free)
    says = (
        f"the KL is stuck at the free nats: loss/dyn is {late[-1]:.3g} of {free:g} free nats since step {since:,}, "
        f"so the prior is no longer trained; the KL itself is {kl:.2g}"
    )
    flag = f"--agent.dynamics.{dynamics.core}.free-nats"
    return Finding(True, says, f"{flag} {min(max(kl / 2, 0.01), free / 4):.1g} (now {free:g})")


def held_out(history: RunHistory) -> Finding:
    """Healthy when the error of predictions in evaluation episodes does not rise again."""
    errors = history.values("eval/model_error")
    if len(errors) < 3:
        return Finding(None, "fewer than 3 evaluations with eval/model_error")
    best, last = errors[:-1].min(), errors[-1]
    if not (errors[-2:] > 1.5 * errors[:-2].min()).all():
        return Finding(False, f"eval/model_error is {last:.3g}, at best {best:.3g} before")
    seen, config = history.values("loss/reconstruction"), history.config
    says = f"the model's error on evaluation episodes rises: eval/model_error is {last:.3g} and was {errors.min():.3g}"
    if len(seen) and seen[-1] > 1.5 * seen.min():
        rate = config.agent.optimizer.learning_rate
        says += f", and loss/reconstruction rises too ({seen.min():.3g} to {seen[-1]:.3g}): learning is unstable"
        return Finding(True, says, f"--agent.optimizer.learning-rate {rate / 3:.1g} (now {rate:g})")
    ratio = config.loop.replay_ratio
    says += f", while loss/reconstruction does not ({seen[-1]:.3g}): it overfits" if len(seen) else ""
    return Finding(True, says, f"--loop.replay-ratio {ratio / 2:g} (now {ratio:g}) or a smaller --size")


def value(history: RunHistory) -> Finding:
    """Healthy when the values of the critic agree with the returns of evaluation episodes."""
    bias, returns = history.values("eval/value_bias"), history.values("eval/discounted_return")
    if len(bias) < 2 or len(bias) != len(returns):
        return Finding(None, "fewer than 2 evaluations with eval/value_bias")
    count = max(2, len(bias) // 2)
    share = bias[-count:] / np.maximum(returns[-count:], 1e-3)
    numbers = f"eval/value_bias is {bias[-1]:.3g}, discounted returns are {returns[-1]:.3g}"
    if not ((share > 0.5).all() or (share < -0.5).all()):
        return Finding(False, numbers)
    behavior, ratio = history.config.agent.behavior, history.config.loop.replay_ratio
    if share[-1] > 0:
        says = f"values are too high against Monte-Carlo returns: {numbers}; the critic overestimates"
        advice = f"--agent.behavior.slow-critic-tau {behavior.slow_critic_tau / 2:g} (now {behavior.slow_critic_tau:g})"
    else:
        says = f"values are too low against Monte-Carlo returns: {numbers}; the critic lags behind"
        advice = f"--loop.replay-ratio {2 * ratio:g} (now {ratio:g})"
    scale = behavior.scales.replay_critic
    return Finding(True, says, f"{advice} or --agent.behavior.scales.replay-critic 1 (now {scale:g})")


def return_scale(history: RunHistory) -> Finding:
    """Healthy when the range of imagined returns is above its floor of 1."""
    late = history.late("behavior/return_scale")
    if not len(late):
        return Finding(None, f"fewer than {FEWEST} records of behavior/return_scale")
    if (late > 1.0001).any():
        return Finding(False, f"behavior/return_scale is {late[-1]:.3g}, its floor is 1")
    weight = history.config.agent.behavior.entropy
    returns = np.concatenate([history.values("train/return"), history.values("eval/return_mean")])
    says = "the return scale is stuck at its floor of 1: imagined returns hardly differ"
    if not returns.any():
        more = f"--agent.behavior.entropy {10 * weight or 3e-4:.1g} (now {weight:g})"
        if not history.config.loop.epsilon:
            more = "--loop.epsilon 0.02 (now 0: no random actions)"
        advice = f"{more}, to explore more; or more --steps"
        return Finding(True, f"{says}, and no episode has had a reward", advice)
    says += f", while episodes return {returns[-1]:.3g}"
    if not weight:
        return Finding(True, says, "more --steps, or an environment with larger rewards")
    says += ", so entropy may count for more than reward"
    return Finding(True, says, f"--agent.behavior.entropy {weight / 10:.1g} (now {weight:g})")


def replay_ratio(history: RunHistory) -> Finding:
    """Healthy when the replay ratio reaches the configured one."""
    loop, repeat = history.config.loop, history.config.env.repeat
    counted = [record for record in history.records if "loop/updates" in record]
    if len(counted) < 2:
        return Finding(None, "fewer than 2 records of loop/updates")
    rows, updates = np.array([(record["step"] / repeat, record["loop/updates"]) for record in counted], float).T
    rows_per_update = loop.batch_size * loop.batch_length
    wanted, overall = loop.replay_ratio, updates[-1] * rows_per_update / max(rows[-1], 1)
    begun = int(np.argmax(updates > 0)) if updates.any() else len(updates)
    waited = rows[min(begun, len(rows) - 1)] * repeat
    if overall >= 0.8 * wanted:
        return Finding(False, f"replay/ratio is {overall:.3g} of {wanted:g}")
    says = f"the replay ratio is starved: {overall:.3g} of {wanted:g} rows are trained on for each row collected"
    learning = rows[-1] - rows[begun] if begun < len(rows) else 0.0
    recent = (updates[-1] - updates[begun]) * rows_per_update / learning if learning else wanted
    if recent < 0.8 * wanted:
        return Finding(True, f"{says}; updates lag behind", f"--loop.replay-ratio {recent:.2g} (now {wanted:g})")
    if waited < 0.2 * history.config.steps:
        return Finding(False, f"replay/ratio is {overall:.3g} of {wanted:g} and rising")
    says += f"; the first update came after step {waited:,.0f} of {history.config.steps:,}"
    starts = max(loop.batch_size, loop.learning_starts // 10)
    return Finding(True, says, f"--loop.learning-starts {starts} (now {loop.learning_starts})")


def learning_rate(history: RunHistory) -> Finding:
    """Healthy unless most of the last third of a run, such as an extension, has the lowest learning rate."""
    optimizer, name = history.config.agent.optimizer, "optim/learning_rate"
    late, lowest = history.late(name), 1.01 * FINAL_FRACTION * optimizer.learning_rate
    if not len(late):
        return Finding(None, f"fewer than {FEWEST} records of {name}")
    if not optimizer.decay or np.median(late) > lowest:
        return Finding(False, f"{name} is {late[-1]:.3g}")
    since = history.since(name, lambda values: values <= lowest)
    says = f"the learning rate has been at its lowest, {late[-1]:.2g}, since step {since:,} of {history.step:,}"
    advice = f"--agent.optimizer.decay 1 in a new run (now {optimizer.decay:g}), which may begin --from this one"
    return Finding(True, says, advice)


CHECKS: dict[str, Callable[[RunHistory], Finding]] = {
    "numbers": finite,
    "updates": updates,
    "learning rate": learning_rate,
    "entropy": entropy,
    "KL": free_nats,
    "held-out model error": held_out,
    "value": value,
    "return scale": return_scale,
    "replay ratio": replay_ratio,
}
"""All checks, in the order of the report. A check whose failure makes the others meaningless comes first."""
