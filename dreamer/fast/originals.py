"""The plain code that the equivalents of this package were written for, recognised by fingerprints of its source.

A numerical comparison alone could miss an edit that acts on long sequences or large values only. Comments and
docstrings do not count. When you change one of these functions and its equivalent, update `FINGERPRINTS`;
`tests/test_fast.py` prints the values.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from dreamer.dynamics.core import bound_action
from dreamer.dynamics.rssm import RSSM
from dreamer.nn import distributions
from dreamer.nn.layers import ExactLinear, NormSiLU, RMSNorm
from dreamer.world_model.heads import ScalarHead

Function = Callable[..., Any]

FINGERPRINTS = {
    "dreamer.dynamics.cells.BlockGRU.forward": "67a4ecb6bcfe90d0",
    "dreamer.dynamics.core.DynamicsCore.observe": "e496342025d75712",
    "dreamer.dynamics.core.bound_action": "26bcb478559f78fd",
    "dreamer.dynamics.latents.CategoricalLatent.probs": "13842b6842adcf79",
    "dreamer.dynamics.latents.CategoricalLatent.sample": "67a749183cdfb409",
    "dreamer.dynamics.latents.GaussianLatent.mean_std": "15a6d1dd2570ed19",
    "dreamer.dynamics.latents.GaussianLatent.sample": "4832f2c1ad7f6c2f",
    "dreamer.dynamics.rssm.RSSM.initial_state": "80cf16c1d8ff4740",
    "dreamer.dynamics.rssm.RSSM.observe_step": "8f1ebdebc4613770",
    "dreamer.dynamics.rssm.RSSM.posterior": "0b20bbb0f282d885",
    "dreamer.dynamics.rssm.RSSM.recurrent": "5f191c24fa6ebf4f",
    "dreamer.nn.distributions.TwoHot.__getitem__": "83a86e1045a8a23a",
    "dreamer.nn.distributions.TwoHot.cross_entropy": "ad03a843c5fbe719",
    "dreamer.nn.distributions.TwoHot.mean": "e072aee07ac530f4",
    "dreamer.nn.distributions.two_hot": "a907422a9290b201",
    "dreamer.nn.distributions.two_hot_loss": "3e38e653e976f732",
    "dreamer.nn.distributions.two_hot_mean": "143ebf853749efce",
    "dreamer.nn.layers.BlockLinear.forward": "2f578d76a0341f55",
    "dreamer.nn.layers.ExactLinear.forward": "c62dbbc48f89dc92",
    "dreamer.nn.layers.NormSiLU.forward": "8ad58dd2aa78751d",
    "dreamer.nn.layers.RMSNorm.forward": "19b5e3a9c443a54e",
    "dreamer.world_model.heads.ScalarHead.forward": "02769dc7187e9dd3",
}
"""Fingerprint of every function that an equivalent replaces or relies on, by its qualified name."""


def of_norm(module: NormSiLU) -> list[Function]:
    """Functions behind `NormSiLU.forward`."""
    return [module.forward, RMSNorm.forward]


def of_head(head: ScalarHead) -> list[Function]:
    """Functions behind `ScalarHead.forward` and its distribution."""
    two_hot = distributions.TwoHot
    functions: list[Function] = [head.forward, two_hot.mean, two_hot.cross_entropy, two_hot.__getitem__]
    return [*functions, distributions.two_hot_mean, distributions.two_hot_loss, distributions.two_hot]


def of_filter(core: RSSM) -> list[Function]:
    """Functions behind `DynamicsCore.observe` of an RSSM with a block GRU."""
    cell, latent = core.cell, core.latent
    steps: list[Function] = [core.observe, core.observe_step, core.recurrent, core.posterior, core.initial_state]
    parameters = getattr(latent, "probs", None) or latent.mean_std  # type: ignore[attr-defined]
    output: list[Function] = [ExactLinear.forward] if latent.exact else []
    layers: list[Function] = [cell.forward, cell.gates.forward, NormSiLU.forward, RMSNorm.forward]  # type: ignore[union-attr]
    return [*steps, *layers, *output, latent.sample, parameters, bound_action]


def edited(functions: list[Function]) -> list[str]:
    """Qualified names of the functions that are not the original ones."""
    distinct = {inspect.unwrap(getattr(function, "__func__", function)): None for function in functions}
    return [name_of(function) for function in distinct if FINGERPRINTS.get(name_of(function)) != fingerprint(function)]


def name_of(function: Function) -> str:
    """Module and qualified name."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', repr(function))}"


def fingerprint(function: Function) -> str:
    """Hash of a function's source without comments, docstring and layout; empty where there is no source."""
    function = inspect.unwrap(getattr(function, "__func__", function))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return ""
    [definition] = tree.body[:1]
    if isinstance(definition, ast.FunctionDef) and ast.get_docstring(definition) is not None:
        definition.body = definition.body[1:]
    return hashlib.sha256(ast.unparse(definition).encode()).hexdigest()[:16]
