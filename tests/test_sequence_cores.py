"""The cores with sequence layers: the closed form of S5's recurrence, the window of the transformer."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from running import tiny_flags
from tiny import unchecked

from dreamer.cli.main import main
from dreamer.dynamics.s5 import S5, S5Config, StateSpace
from dreamer.dynamics.transformer import Transformer, TransformerConfig, TransformerLayer

WIDTH, MODES, TIME = 6, 5, 12


@torch.no_grad()
def test_a_state_space_layer_is_a_sum_of_decaying_complex_exponentials():
    """S5, equation 2: x_t = sum_k A^(t-k) B u_k, here with complex numbers and the exact integral of the hold."""
    torch.manual_seed(0)
    layer = StateSpace(WIDTH, MODES)
    inputs = torch.randn(TIME, 1, WIDTH)
    memory, outputs = torch.zeros(1, 2 * MODES), []
    with unchecked():
        for u in inputs:
            out, memory = layer(u, memory)
            outputs.append(out)
    rate = torch.complex(-layer.log_decay.exp(), layer.frequency).to(torch.complex128)
    step = layer.log_step.exp().double()
    powers = torch.exp(rate * step * torch.arange(TIME - 1, -1, -1).unsqueeze(-1))
    hold = torch.stack([torch.exp(rate * step * (i + 0.5) / 4000) for i in range(4000)]).mean(0) * step
    normed = layer.norm(inputs[:, 0])
    drive = torch.complex(*layer.drive(normed).double().chunk(2, -1))
    expected = (powers * hold * drive).sum(0)
    torch.testing.assert_close(memory[0], torch.cat([expected.real, expected.imag]).float(), rtol=1e-4, atol=1e-6)
    y = F.gelu(layer.read(torch.cat([expected.real, expected.imag]).float()) + layer.through * normed[-1])
    torch.testing.assert_close(outputs[-1][0], inputs[-1, 0] + y * torch.sigmoid(layer.gate(y)), rtol=1e-4, atol=1e-5)


def test_no_mode_of_a_state_space_layer_grows_whatever_is_learned():
    layer = StateSpace(WIDTH, 200)
    for parameter in (layer.log_decay, layer.frequency, layer.log_step):
        parameter.data.normal_(0, 3)
    (real, imag), _ = layer.transition()
    assert (real.square() + imag.square()).max() <= 1


def test_a_slow_mode_moves_under_autocast():
    """In bfloat16 a memory that decays by 0.05 % a step would stand still."""
    layer = StateSpace(WIDTH, MODES)
    memory = torch.ones(1, 2 * MODES)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        layer.log_step.fill_(-7.0)
        moved = layer(torch.zeros(1, WIDTH), memory)[1]
    assert moved.dtype == torch.float32 and not torch.equal(moved, memory)


@torch.no_grad()
def test_a_transformer_layer_is_causal_attention_over_its_window():
    """Step by step, with a window of keys and values, it equals masked attention over the whole sequence."""
    torch.manual_seed(0)
    heads, window = 2, 4
    layer = TransformerLayer(WIDTH, heads, window)
    inputs = torch.randn(1, TIME, WIDTH)
    memory, outputs = torch.zeros(1, window * 2 * layer.inner), []
    with unchecked():
        for t in range(TIME):
            out, memory = layer(inputs[:, t], memory, torch.full((1, 1), float(min(t + 1, window))))
            outputs.append(out)
    query, key, value = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in layer.project(layer.norm(inputs)).chunk(3, -1)
    )
    back = torch.arange(TIME).unsqueeze(1) - torch.arange(TIME)
    seen = (back >= 0) & (back < window)
    distance = layer.distance.unflatten(-1, (heads, -1))[(window - 1 - back).clamp(0, window - 1)]
    bias = torch.einsum("bhqd,qkhd->bhqk", query, distance) / (WIDTH // heads) ** 0.5
    mixed = F.scaled_dot_product_attention(query, key, value, bias.masked_fill(~seen, -torch.inf))
    expected = inputs + layer.merge(mixed.transpose(1, 2).flatten(2))
    expected = expected + layer.mlp(layer.mlp_norm(expected))
    torch.testing.assert_close(torch.stack(outputs, 1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_transformer_sees_layers_times_window_less_one_steps_back(layers):
    torch.manual_seed(0)
    window, time = 3, 10
    core = Transformer(TransformerConfig(8, layers, 2, window, 2), "gaussian", 3, 1)
    state, reached = core.initial_state(1), []
    first = dataclasses.replace(state, stoch=torch.ones_like(state.stoch).requires_grad_())
    state = core.imagine_step(first, torch.zeros(1, 1))
    for _ in range(time):
        (gradient,) = torch.autograd.grad(state.deter.sum(), first.stoch, retain_graph=True)
        reached.append(bool(gradient.any()))
        following = dataclasses.replace(state, stoch=torch.zeros_like(state.stoch))  # z is another way back
        state = core.imagine_step(following, torch.zeros(1, 1))
    reach = layers * (window - 1)
    assert reached == [True] * (reach + 1) + [False] * (time - reach - 1)


def test_the_memory_of_an_s5_core_reaches_back_beyond_every_window():
    torch.manual_seed(0)
    core = S5(S5Config(8, 16, 2, 8, 2), "gaussian", 3, 1)
    state = core.initial_state(1)
    first = dataclasses.replace(state, stoch=torch.ones_like(state.stoch).requires_grad_())
    state = core.imagine_step(first, torch.zeros(1, 1))
    for _ in range(200):
        state = core.imagine_step(dataclasses.replace(state, stoch=torch.zeros_like(state.stoch)), torch.zeros(1, 1))
    (gradient,) = torch.autograd.grad(state.deter.square().sum(), first.stoch)
    assert gradient.abs().max() > 1e-6


def test_a_window_longer_than_a_training_sequence_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = tiny_flags(task="toy:copy", **{"agent.dynamics.transformer.window": 5})
    assert main(["train", *words, "--core", "transformer"]) == 2
    message = "dreamer: --agent.dynamics.transformer.window 5 is longer than a training sequence, --loop.batch-length 4"
    assert capsys.readouterr().err == f"{message}; make it at most as long\n" and list(tmp_path.iterdir()) == []
