"""The one place that defines every metric: its name, meaning, unit and healthy range.

`python -m dreamer.tracking.metrics` prints docs/metrics.md from these definitions.
"""

from dataclasses import dataclass, replace
from functools import cache


@dataclass(frozen=True)
class Metric:
    """A number that a run writes to metrics.jsonl."""

    name: str
    """Full name `group/name`; `<key>` at the end stands for any word and makes it a family of metrics."""
    description: str
    """What is measured, in one sentence."""
    unit: str = ""
    """Unit of the value; empty for a pure number."""
    healthy: str = ""
    """What a healthy run shows, in words; empty where every value can be right."""


METRICS = (
    Metric("train/return", "Mean sum of rewards of training episodes.", "reward", "rises"),
    Metric("train/length", "Mean number of actions in training episodes.", "actions"),
    Metric("eval/return_mean", "Mean return of evaluation episodes with sampled actions.", "reward", "rises"),
    Metric("eval/return_std", "Standard deviation of the evaluation returns, sampled actions.", "reward"),
    Metric("eval/return_min", "Lowest evaluation return, sampled actions.", "reward"),
    Metric("eval/return_max", "Highest evaluation return, sampled actions.", "reward"),
    Metric("eval/length_mean", "Mean number of actions in the evaluation episodes.", "actions"),
    Metric(
        "eval/mode_return_mean",
        "Mean return of evaluation episodes that take the most likely action.",
        "reward",
        "near eval/return_mean or above it; far below means that the policy needs its noise",
    ),
    Metric("eval/mode_return_std", "Standard deviation of the evaluation returns, most likely actions.", "reward"),
    Metric("eval/episodes", "Number of evaluation episodes behind each mean.", "episodes"),
    Metric(
        "eval/model_error",
        "Decoder loss of observations predicted one step ahead by the prior, at every fifth step of sampled episodes.",
        healthy="falls, then stays; rising means that the model forgets, diverges or overfits",
    ),
    Metric(
        "eval/value_bias",
        "Mean difference of the critic's value and the discounted return that followed, in sampled episodes.",
        "reward",
        "near 0; beyond half of eval/discounted_return means that the critic believes itself, or nothing",
    ),
    Metric(
        "eval/discounted_return",
        "Mean size of the discounted returns behind eval/value_bias, continued beyond time limits at the same rate.",
        "reward",
    ),
    Metric(
        "loss/reconstruction",
        "Decoder losses of all observation keys together, per row.",
        healthy="falls fast, then slowly",
    ),
    Metric(
        "loss/r2",
        "Distance of the cross-correlation of states and embeddings from the identity matrix (`--objective r2`).",
        healthy="falls from about the number of embedded numbers",
    ),
    Metric("loss/reward", "Two-hot cross-entropy of the reward head.", "nats", "falls to the entropy of the bins"),
    Metric(
        "loss/continue",
        "Cross-entropy of the continue head.",
        "nats",
        "near its floor, the entropy of 1 / discount_horizon: 0.02 at 333, 0.07 at 80",
    ),
    Metric(
        "loss/dyn",
        "Loss that pulls the prior towards the posterior, before its scale; a KL after free nats for `rssm` and `ssm`.",
        "nats",
        "above the free nats; exactly at them for long means that the latent carries too little",
    ),
    Metric(
        "loss/rep",
        "Loss that pulls the posterior towards the prior, before its scale; a KL after free nats for `rssm` and `ssm`.",
        "nats",
        "equal to loss/dyn where both are the same KL",
    ),
    Metric("loss/actor", "Policy loss over imagined states.", healthy="no trend to read; its size says little"),
    Metric("loss/critic", "Two-hot loss of the critic on imagined returns, slow-critic term included.", "nats"),
    Metric("loss/replay_critic", "Two-hot loss of the critic on replayed rewards, slow-critic term included.", "nats"),
    Metric("loss/total", "Sum of all losses, each times its configured scale."),
    Metric("loss/<name>", "Any further loss, named by the part of the model that returns it, before its scale."),
    Metric("reconstruction/<key>", "Decoder loss of one observation key, per row.", healthy="falls"),
    Metric(
        "model/kl_dyn",
        "KL divergence from posterior to prior, before free nats.",
        "nats",
        "settles at a few nats; near 0 means that observations tell the latent nothing",
    ),
    Metric(
        "model/r2_correlation",
        "Mean correlation of each projected number with its own embedded number (`--objective r2`).",
        healthy="rises towards 1",
    ),
    Metric(
        "model/r2_redundancy",
        "Sum of squared correlations between different numbers (`--objective r2`).",
        healthy="falls",
    ),
    Metric("model/prior_entropy", "Entropy of the predicted latent.", "nats", "falls, but stays above 0"),
    Metric(
        "model/posterior_entropy",
        "Entropy of the latent after seeing the observation.",
        "nats",
        "below model/prior_entropy",
    ),
    Metric(
        "model/prediction_error",
        "Half squared distance of the predicted to the observed code (`rnn`, `gru`).",
        healthy="falls; a rest stays where outcomes are random, since a point cannot predict them",
    ),
    Metric(
        "model/mixture_nll",
        "Negative log-density of the observed code under the predicted mixture (`mdn_rnn`).",
        "nats",
        "falls, often below 0",
    ),
    Metric(
        "model/mixture_entropy",
        "Entropy of the mixture's weights (`mdn_rnn`).",
        "nats",
        "between 0 (one component is used) and ln K",
    ),
    Metric(
        "model/vision_kl",
        "KL divergence of the code from N(0, I), the VAE's regularizer (`gru`, `mdn_rnn`).",
        "nats",
        "settles at a few nats per informative number of the observation",
    ),
    Metric("model/reward_error", "Mean absolute error of the predicted reward on replayed rows.", "reward", "falls"),
    Metric(
        "model/continue_accuracy",
        "Share of replayed rows whose end, or lack of one, is predicted correctly.",
        "fraction",
        "near 1",
    ),
    Metric(
        "behavior/return_mean",
        "Mean lambda-return of imagined trajectories.",
        "reward",
        "rises; explosive growth means that the critic believes itself",
    ),
    Metric(
        "behavior/return_scale",
        "Range of imagined returns (percentile 5 to 95, smoothed, at least 1) that divides the advantages.",
        "reward",
        "grows with the returns; 1 for long means that rewards are tiny or absent",
    ),
    Metric("behavior/value_mean", "Mean value that the critic gives to imagined states.", "reward"),
    Metric(
        "behavior/value_error",
        "Mean absolute difference of value and lambda-return on imagined states.",
        "reward",
        "small beside behavior/return_scale",
    ),
    Metric("behavior/advantage_std", "Standard deviation of the scaled advantages.", healthy="about 0.01 to 1"),
    Metric(
        "behavior/entropy",
        "Entropy of the policy at imagined states, summed over action dimensions.",
        "nats",
        "falls slowly; at its floor early means that exploration is over (bounded normal: -0.88 to 1.42 a dimension)",
    ),
    Metric(
        "behavior/entropy_weight",
        "Weight of the entropy, where it decays.",
        healthy="falls to 10 % of what it begins with",
    ),
    Metric("behavior/action_std", "Mean standard deviation of the policy at imagined states.", healthy="0.1 to 1"),
    Metric(
        "behavior/saturation",
        "Share of policy means, tanh(m), with abs(m) > 2 at imagined states: there they hardly move any more.",
        "fraction",
        "below 0.3; above a half try --agent.behavior.saturation 0.1",
    ),
    Metric("behavior/action_abs", "Mean size of imagined actions.", healthy="below 1; far above means saturation"),
    Metric(
        "behavior/weight_mean",
        "Mean weight of imagined states, the product of continue probabilities so far.",
        "fraction",
        "near 1 where episodes rarely terminate",
    ),
    Metric(
        "behavior/imagined_reward",
        "Mean reward that the model predicts along imagined trajectories.",
        "reward",
        "near the mean training reward",
    ),
    Metric(
        "imagination/rmse/<key>",
        "Root mean squared error of the mean of 16 prior-only predictions, over 50 rows that follow 5 observed ones of "
        "4 held-out episodes; in standard deviations of each number (of brightness from 0 to 1 for images).",
        healthy="falls",
    ),
    Metric(
        "imagination/crps/<key>",
        "Continuous ranked probability score of the same predictions as a distribution, in the same units.",
        healthy="falls; below imagination/rmse",
    ),
    Metric(
        "imagination/skill/<key>",
        "Skill, 1 minus the ratio of that score to the error of repeating the last observed row.",
        healthy="rises; 1 is perfect, 0 no better than repeating, below 0 worse",
    ),
    Metric(
        "optim/grad_norm",
        "Norm of the whole gradient before clipping.",
        healthy="finite, without lasting growth",
    ),
    Metric("optim/update_norm", "Norm of the whole parameter step, learning rate included."),
    Metric("optim/learning_rate", "Learning rate of the latest update.", healthy="constant after its warm-up"),
    Metric(
        "optim/skipped",
        "Share of updates skipped because the loss or a gradient was not finite; other means leave them out.",
        "fraction",
        "0",
    ),
    Metric("replay/rows", "Rows that replay holds.", "rows", "grows up to the capacity"),
    Metric("replay/bytes_per_row", "Size of a replay row on disk, both slots for its core state included.", "bytes"),
    Metric(
        "replay/ratio",
        "Measured replay ratio: rows trained on for each row collected, since the beginning of the run.",
        healthy="at the configured ratio after the first updates",
    ),
    Metric(
        "env/shadows",
        "Whether observed frames of dmc tasks are drawn with shadows and reflections: 1 yes, 0 no.",
        healthy="equal in runs that are compared, since pixels differ",
    ),
    Metric("loop/updates", "Updates since the beginning of the run.", "updates"),
    Metric("loop/episodes", "Training episodes finished since the beginning of the run.", "episodes"),
    Metric(
        "loop/env_failures",
        "Times that a training environment failed and was made anew since the beginning of the run.",
        "failures",
        "0",
    ),
    Metric("time/elapsed", "Wall-clock time of the run, its time before a resume included.", "s"),
    Metric("time/env_steps_per_second", "Environment steps per second since the previous record.", "1/s"),
    Metric("time/updates_per_second", "Updates per second since the previous record.", "1/s"),
    Metric("time/fraction_acting", "Share of wall-clock time spent choosing actions.", "fraction"),
    Metric("time/fraction_environment", "Share of wall-clock time spent in environments.", "fraction"),
    Metric("time/fraction_replay", "Share of wall-clock time spent on storing and sampling rows.", "fraction"),
    Metric("time/fraction_update", "Share of wall-clock time spent on updates.", "fraction", "the largest share"),
    Metric("time/fraction_tracking", "Share of wall-clock time spent on writing metrics.", "fraction", "below 0.01"),
    Metric("time/fraction_evaluation", "Share of wall-clock time spent on evaluation.", "fraction"),
    Metric(
        "time/fraction_imagination",
        "Share of wall-clock time spent on looks at the imagination.",
        "fraction",
        "below 0.05; else raise loop.imagine_every",
    ),
    Metric("time/fraction_saving", "Share of wall-clock time spent on checkpoints.", "fraction", "below 0.01"),
    Metric("time/peak_rss_mb", "Largest memory that the process has held.", "MB", "flat once replay is warm"),
)

_BY_NAME = {metric.name: metric for metric in METRICS if "<" not in metric.name}
_FAMILIES = tuple((metric.name.partition("<")[0], metric) for metric in METRICS if "<" in metric.name)


@cache
def describe(name: str) -> Metric:
    """Return the definition of a metric; one that is not registered has no description.

    A member of a family gets the definition of the family under its own name.
    """
    if name in _BY_NAME:
        return _BY_NAME[name]
    for prefix, family in _FAMILIES:
        if name.startswith(prefix) and name != prefix and name.isprintable():
            return replace(family, name=name)
    return Metric(name, "")


def is_registered(name: str) -> bool:
    """Return True when a metric is defined here, itself or as a member of a family."""
    return bool(describe(name).description)
