"""Registry of all metrics: name, meaning, unit and healthy values.

`python -m dreamer.tracking.metrics` prints docs/metrics.md from it. A metric that is not defined here is logged with
one warning.
"""

from dataclasses import dataclass, replace
from functools import cache


@dataclass(frozen=True)
class Metric:
    """Definition of a number that a run writes to metrics.jsonl."""

    name: str
    """Full name `group/name`. `<key>` at the end stands for any word and defines a family of metrics."""
    description: str
    """Meaning, in one sentence."""
    unit: str = ""
    """Unit; empty for a pure number."""
    healthy: str = ""
    """Values of a healthy run, in words; empty where every value can be right."""


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
        "near eval/return_mean or above it; if it is far below, the policy depends on its noise",
    ),
    Metric("eval/mode_return_std", "Standard deviation of the evaluation returns, most likely actions.", "reward"),
    Metric("eval/episodes", "Number of evaluation episodes behind each mean.", "episodes"),
    Metric(
        "eval/model_error",
        "Decoder loss of observations predicted one step ahead by the prior, at every fifth step of sampled episodes.",
        healthy="falls, then stays; a rise means that the model forgets, diverges or overfits",
    ),
    Metric(
        "eval/value_bias",
        "Mean of the critic's value minus the discounted return that followed, in sampled episodes.",
        "reward",
        "near 0; if its absolute value exceeds half of eval/discounted_return, the critic is wrong",
    ),
    Metric(
        "eval/discounted_return",
        "Mean absolute discounted return behind eval/value_bias, continued beyond time limits at the same rate.",
        "reward",
    ),
    Metric(
        "loss/reconstruction",
        "Sum of the decoder losses of all observation keys, per step.",
        healthy="falls fast, then slowly",
    ),
    Metric(
        "loss/r2",
        "Distance of the cross-correlation of states and embeddings from the identity matrix (`--objective r2`).",
        healthy="falls from about the number of dimensions of the embedding",
    ),
    Metric("loss/reward", "Two-hot cross-entropy of the reward head.", "nats", "falls to the entropy of the bins"),
    Metric(
        "loss/continue",
        "Cross-entropy of the continue head.",
        "nats",
        "near its minimum, the binary entropy of 1 / discount_horizon: 0.02 for 333, 0.07 for 80",
    ),
    Metric(
        "loss/dyn",
        "Loss that trains the prior towards the posterior, before its scale. A KL after free nats (`rssm`, `ssm`).",
        "nats",
        "above the free nats; if it stays at the free nats, the latent carries too little information",
    ),
    Metric(
        "loss/rep",
        "Loss that trains the posterior towards the prior, before its scale. A KL after free nats (`rssm`, `ssm`).",
        "nats",
        "equal to loss/dyn where both are the same KL",
    ),
    Metric("loss/actor", "Policy loss over imagined states.", healthy="has no meaningful trend or size"),
    Metric("loss/critic", "Two-hot loss of the critic on imagined returns, with its slow-critic term.", "nats"),
    Metric("loss/replay_critic", "Two-hot loss of the critic on replayed rewards, with its slow-critic term.", "nats"),
    Metric("loss/total", "Sum of all losses, each times its configured scale."),
    Metric("loss/<name>", "Any other loss term by its name, before its scale."),
    Metric("reconstruction/<key>", "Decoder loss of one observation key, per step.", healthy="falls"),
    Metric(
        "model/kl_dyn",
        "KL divergence from posterior to prior, before free nats.",
        "nats",
        "settles at a few nats; if it is near 0, the latent carries no information about observations",
    ),
    Metric(
        "model/r2_correlation",
        "Mean correlation of each projected dimension with its own dimension of the embedding (`--objective r2`).",
        healthy="rises towards 1",
    ),
    Metric(
        "model/r2_redundancy",
        "Sum of squared correlations between different dimensions (`--objective r2`).",
        healthy="falls",
    ),
    Metric("model/prior_entropy", "Entropy of the prior.", "nats", "falls, but stays above 0"),
    Metric(
        "model/posterior_entropy",
        "Entropy of the posterior.",
        "nats",
        "below model/prior_entropy",
    ),
    Metric(
        "model/prediction_error",
        "Half the squared distance between predicted and observed latent (`rnn`, `gru`).",
        healthy="falls; stays above 0 where outcomes are random, which a point prediction cannot represent",
    ),
    Metric(
        "model/mixture_nll",
        "Negative log-density of the observed latent under the predicted mixture (`mdn_rnn`).",
        "nats",
        "falls, often below 0",
    ),
    Metric(
        "model/mixture_entropy",
        "Entropy of the weights of the mixture (`mdn_rnn`).",
        "nats",
        "between 0 (one component is used) and ln K",
    ),
    Metric(
        "model/vision_kl",
        "KL divergence of the latent from N(0, I), the regularizer of the VAE (`gru`, `mdn_rnn`).",
        "nats",
        "settles at a few nats per informative dimension of the observation",
    ),
    Metric("model/reward_error", "Mean absolute error of the predicted reward on replayed steps.", "reward", "falls"),
    Metric(
        "model/continue_accuracy",
        "Fraction of replayed steps whose continuation or end is predicted correctly.",
        "fraction",
        "near 1",
    ),
    Metric(
        "behavior/return_mean",
        "Mean lambda-return of imagined trajectories.",
        "reward",
        "rises; explosive growth means that the critic overestimates its own targets",
    ),
    Metric(
        "behavior/return_scale",
        "Range of imagined returns (percentiles 5 to 95, smoothed, at least 1), which divides the advantages.",
        "reward",
        "grows with the returns; if it stays at 1, rewards are very small or absent",
    ),
    Metric("behavior/value_mean", "Mean value of imagined states.", "reward"),
    Metric(
        "behavior/value_error",
        "Mean absolute difference of value and lambda-return of imagined states.",
        "reward",
        "small compared with behavior/return_scale",
    ),
    Metric("behavior/advantage_std", "Standard deviation of the scaled advantages.", healthy="about 0.01 to 1"),
    Metric(
        "behavior/entropy",
        "Entropy of the policy at imagined states, summed over action dimensions.",
        "nats",
        "falls slowly; if it reaches its minimum early, exploration ends (bounded normal: -0.88 to 1.42 per dimension)",
    ),
    Metric(
        "behavior/entropy_weight",
        "Weight of the entropy, with a schedule.",
        healthy="falls to 10 % of its initial value",
    ),
    Metric("behavior/action_std", "Mean standard deviation of the policy at imagined states.", healthy="0.1 to 1"),
    Metric(
        "behavior/saturation",
        "Tanh saturation: fraction of policy means tanh(m) with abs(m) > 2 at imagined states, where gradients vanish.",
        "fraction",
        "below 0.3; above a half try --agent.behavior.tanh-penalty 0.1",
    ),
    Metric(
        "behavior/action_abs",
        "Mean absolute value of imagined actions.",
        healthy="below 1; if it is near 1 or above, the means of the policy are saturated",
    ),
    Metric(
        "behavior/weight_mean",
        "Mean weight of imagined states: the product of the discounted continue probabilities up to each state.",
        "fraction",
        "near discount^(horizon / 2) where episodes rarely terminate",
    ),
    Metric(
        "behavior/imagined_reward",
        "Mean predicted reward of imagined trajectories.",
        "reward",
        "near the mean training reward",
    ),
    Metric(
        "imagination/rmse/<key>",
        "Root mean squared error of the mean of 16 open-loop predictions of 50 steps, after 5 observed steps of 4 "
        "held-out episodes; in standard deviations of each dimension (in brightness from 0 to 1 for images).",
        healthy="falls",
    ),
    Metric(
        "imagination/crps/<key>",
        "Continuous ranked probability score of the same predictions as a distribution, in the same units.",
        healthy="falls; below imagination/rmse",
    ),
    Metric(
        "imagination/skill/<key>",
        "Skill: 1 minus the ratio of that score to the error of repeating the last observation.",
        healthy="rises; 1 is perfect, 0 is as good as repeating the last observation",
    ),
    Metric(
        "optim/grad_norm",
        "Norm of the gradient of all parameters before clipping.",
        healthy="finite, without lasting growth",
    ),
    Metric("optim/update_norm", "Norm of the step of all parameters, with the learning rate."),
    Metric("optim/learning_rate", "Learning rate of the latest update.", healthy="constant after its warm-up"),
    Metric(
        "optim/skipped",
        "Fraction of updates skipped because the loss or a gradient was not finite; other means leave them out.",
        "fraction",
        "0",
    ),
    Metric("replay/rows", "Rows that replay holds.", "rows", "grows up to the capacity"),
    Metric("replay/bytes_per_row", "Size of a replay row on disk, with both slots for its core state.", "bytes"),
    Metric(
        "replay/ratio",
        "Measured replay ratio: rows trained on for each row collected, since the start of the run.",
        healthy="at the configured ratio after the first updates",
    ),
    Metric(
        "env/shadows",
        "Shadows and reflections in observed frames of dmc tasks: 1 drawn, 0 left out.",
        healthy="equal in all runs of a comparison, since pixels differ",
    ),
    Metric("loop/updates", "Updates since the start of the run.", "updates"),
    Metric("loop/episodes", "Training episodes finished since the start of the run.", "episodes"),
    Metric(
        "loop/env_failures",
        "Number of training environments that failed and were recreated since the start of the run.",
        "failures",
        "0",
    ),
    Metric("time/elapsed", "Wall-clock time of the run, with its time before a resume.", "s"),
    Metric("time/env_steps_per_second", "Environment steps per second since the previous record.", "1/s"),
    Metric("time/updates_per_second", "Updates per second since the previous record.", "1/s"),
    Metric("time/fraction_acting", "Fraction of wall-clock time spent choosing actions.", "fraction"),
    Metric("time/fraction_environment", "Fraction of wall-clock time spent in environments.", "fraction"),
    Metric("time/fraction_replay", "Fraction of wall-clock time spent on storing and sampling rows.", "fraction"),
    Metric("time/fraction_update", "Fraction of wall-clock time spent on updates.", "fraction", "the largest share"),
    Metric("time/fraction_tracking", "Fraction of wall-clock time spent on writing metrics.", "fraction", "below 0.01"),
    Metric("time/fraction_evaluation", "Fraction of wall-clock time spent on evaluation.", "fraction"),
    Metric(
        "time/fraction_imagination",
        "Fraction of wall-clock time spent on open-loop evaluation.",
        "fraction",
        "below 0.05; otherwise raise loop.imagine_every",
    ),
    Metric("time/fraction_saving", "Fraction of wall-clock time spent on checkpoints.", "fraction", "below 0.01"),
    Metric("time/peak_rss_mb", "Peak memory of the process.", "MB", "constant once replay is full"),
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
