"""Image networks: golden numbers, what each layer computes, sizes, and learning from images alone and with vectors."""

import pytest
import torch
import torch.nn.functional as F
from tiny import CORES, PIXELS, WALKER_ACTION, make_agent, make_batch, mode_latents, unchecked

from dreamer.agent import Agent
from dreamer.config import compose
from dreamer.errors import UserError
from dreamer.nn.convolution import Conv, TransposedConv, UpsampledConv
from dreamer.world_model.decoder import Decoder, DecoderConfig
from dreamer.world_model.encoder import Encoder, EncoderConfig
from dreamer.world_model.images import ImageConfig, ImageDecoder, ImageEncoder, to_unit

TINY_IMAGE = {"pooled": ImageConfig(depth=2), "strided": ImageConfig(depth=2, resampling="strided")}
BOTH = {"image": (16, 16, 3), "speed": (2,)}


def first(module, kind):
    return next(part for part in module.modules() if isinstance(part, kind))


# Golden numbers


@pytest.mark.parametrize(
    ("size", "total", "parts"),
    [
        ("1m", 686_846, {"encoder": 14_304, "decoder": 80_595}),
        ("12m", 10_494_158, {"encoder": 220_416, "dynamics": 5_979_648, "decoder": 1_272_003, "reward": 721_407}),
        ("12m", 10_494_158, {"continue": 656_129, "actor": 791_052, "critic": 853_503}),
        ("25m", 23_489_326, {}),
        ("50m", 41_650_062, {}),
        ("100m", 93_468_238, {}),
        ("200m", 165_948_686, {}),
        ("400m", 372_896_398, {}),
    ],
)
def test_parameter_counts(size, total, parts):
    """Published sizes for one 64x64x3 image and 6 actions, slow critic excluded."""
    with torch.device("meta"):
        counts = Agent(compose("dmc_vision", size).agent, {"image": (64, 64, 3)}, WALKER_ACTION).parameter_counts()
    assert sum(counts.values()) == total
    assert parts.items() <= counts.items()


def test_black_and_white_enter_the_encoder_as_minus_and_plus_one_half():
    """Pitfall 44: the encoder's images are centered."""
    encoder = ImageEncoder(ImageConfig(depth=1), 16, 16, 3)
    seen = []
    first(encoder, Conv).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    encoder(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 16, 16, 3))
    assert seen[0][0].unique().tolist() == [-0.5] and seen[0][1].unique().tolist() == [0.5]


@pytest.mark.parametrize("resampling", TINY_IMAGE)
def test_decoded_pixels_are_between_0_and_1(resampling):
    """Pitfall 44: a sigmoid ends the decoder, whose target is not centered."""
    torch.manual_seed(0)
    decoder = ImageDecoder(TINY_IMAGE[resampling], 8, 16, 4, 32, 16, 3)
    images = decoder(5 * torch.randn(2, 3, 20))
    assert images.shape == (2, 3, 32, 16, 3)
    assert 0 < images.min() < 0.4 and 0.6 < images.max() < 1


def test_a_constant_error_of_a_tenth_costs_122_88():
    """Pitfall 45: squared errors are summed over pixels and channels, and not halved."""
    decoder = Decoder(DecoderConfig(), ImageConfig(), 4, 0, {"image": (64, 64, 3)})
    torch.nn.init.zeros_(decoder.image.output.weight)
    torch.nn.init.constant_(decoder.image.output.bias, torch.logit(torch.tensor(0.3)).item())
    target = torch.full((2, 64, 64, 3), 51, dtype=torch.uint8)
    loss = decoder.loss(torch.randn(2, 4), {"image": target})["image"]
    assert loss.tolist() == pytest.approx([122.88, 122.88], rel=1e-5)


# Layers


def test_upsampled_convolution_is_upsampling_and_then_convolution():
    """The four small convolutions are the large one, borders and gradients included."""
    torch.manual_seed(0)
    layer, x = UpsampledConv(3, 4), torch.randn(2, 5, 6, 3, requires_grad=True)
    torch.nn.init.normal_(layer.bias)

    def plainly(x):
        large = F.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="nearest")
        return F.conv2d(large, layer.weight, layer.bias, padding=2).permute(0, 2, 3, 1)

    ours, plain = layer(x), plainly(x)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
    weights = torch.randn_like(plain)
    inputs = (x, layer.weight, layer.bias)
    for mine, expected in zip(
        torch.autograd.grad((ours * weights).sum(), inputs),
        torch.autograd.grad((plain * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)


def test_transposed_convolution_is_the_adjoint_of_a_strided_one():
    torch.manual_seed(0)
    down, up = Conv(3, 4, stride=2), TransposedConv(4, 3)
    with torch.no_grad():
        up.weight.copy_(down.weight.transpose(0, 1))
    x, y = torch.randn(2, 8, 12, 3), torch.randn(2, 4, 6, 4)
    assert up(y).shape == x.shape and down(x).shape == y.shape
    torch.testing.assert_close((down(x) * y).sum(), (x * up(y)).sum(), rtol=1e-4, atol=1e-3)


def test_pooling_keeps_the_largest_of_every_four():
    layer = Conv(1, 1, pool=True)
    torch.nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0, 2, 2] = 1.0
    x = torch.arange(16.0).view(1, 4, 4, 1)
    assert layer(x).flatten().tolist() == [5, 7, 13, 15]


def test_blocks_of_h_own_their_channels():
    """Block space: slice k of h reaches slice k of the channels, at every place; z reaches all."""
    decoder = ImageDecoder(ImageConfig(depth=4, blocks=8), 8, deter=16, stoch=4, height=32, width=16, channels=3)
    grid = []
    decoder.norm.register_forward_pre_hook(lambda module, args: grid.append(args[0]))
    features = torch.randn(1, 20).requires_grad_()
    decoder(features)
    for channel in range(16):
        (gradient,) = torch.autograd.grad(grid[0][..., channel].sum(), features, retain_graph=True)
        reached = gradient[0].nonzero().flatten().tolist()
        block = channel // 2
        assert reached == [2 * block, 2 * block + 1, 16, 17, 18, 19]


@pytest.mark.parametrize(("resampling", "convolutions"), [("pooled", 4), ("strided", 5)])
def test_stages(resampling, convolutions):
    config = ImageConfig(depth=3, resampling=resampling)
    encoder = ImageEncoder(config, 64, 48, 3)
    assert encoder.embed_dim == 4 * 3 * 4 * 3
    assert encoder(torch.zeros(2, 64, 48, 3, dtype=torch.uint8)).shape == (2, encoder.embed_dim)
    layers = [part for part in encoder.modules() if isinstance(part, Conv)]
    channels = [2, 3, 4, 4] if resampling == "pooled" else [1, 2, 3, 4, 4]
    assert [layer.weight.shape[0] for layer in layers] == [3 * number for number in channels]
    assert [layer.stride for layer in layers] == [1] * (convolutions - 4) + [1 if resampling == "pooled" else 2] * 4


@pytest.mark.parametrize(("height", "width", "better"), [(50, 64, "48 64"), (64, 8, "64 16"), (84, 84, "80 80")])
def test_a_size_the_networks_cannot_take_is_refused(height, width, better):
    for make in (
        lambda: ImageEncoder(ImageConfig(), height, width, 3),
        lambda: ImageDecoder(ImageConfig(), 8, 0, 4, height, width, 3),
    ):
        with pytest.raises(UserError, match=f"--env.image-size {height} {width}: .* multiples of 16, such as {better}"):
            make()


def test_blocks_that_do_not_divide_h_are_refused():
    with pytest.raises(UserError, match=r"image.blocks 8 must divide the size 12 of the core's h"):
        make_agent({"dynamics.rssm.deter": 12}, obs=PIXELS)


# Images and vectors


def test_images_and_vectors_are_embedded_side_by_side():
    encoder = Encoder(EncoderConfig(units=8), TINY_IMAGE["pooled"], BOTH)
    obs = {"image": torch.randint(256, (3, 16, 16, 3), dtype=torch.uint8), "speed": torch.randn(3, 2)}
    embed = encoder(obs)
    assert embed.shape == (3, encoder.embed_dim) and encoder.embed_dim == 8 + 8
    torch.testing.assert_close(embed, torch.cat([encoder.vector(obs), encoder.image(obs["image"])], -1))


def test_several_images_are_stacked_and_decoded_by_name():
    shapes = {"b": (16, 16, 1), "a": (16, 16, 3)}
    encoder = Encoder(EncoderConfig(), TINY_IMAGE["pooled"], shapes)
    decoder = Decoder(DecoderConfig(units=8), TINY_IMAGE["pooled"], 6, 0, shapes)
    obs = {key: torch.randint(256, (2, *shape), dtype=torch.uint8) for key, shape in shapes.items()}
    assert encoder(obs).shape == (2, 8) and first(encoder, Conv).weight.shape[1] == 4
    decoded, losses = decoder(torch.randn(2, 6)), decoder.loss(torch.randn(2, 6), obs)
    assert {key: value.shape for key, value in decoded.items()} == {"a": (2, 16, 16, 3), "b": (2, 16, 16, 1)}
    assert losses.keys() == shapes.keys() and all(loss.shape == (2,) for loss in losses.values())
    with pytest.raises(ValueError, match="one size"):
        Encoder(EncoderConfig(), TINY_IMAGE["pooled"], {"a": (16, 16, 3), "b": (32, 16, 3)})


@pytest.mark.parametrize("shapes", [PIXELS, BOTH], ids=["pixels", "both"])
@pytest.mark.parametrize("core", CORES)
def test_every_core_learns_from_images(core, shapes):
    """Every parameter of the world model moves."""
    agent = make_agent({"dynamics.core": core, "optimizer.warmup": 0, "optimizer.learning_rate": 1e-3}, obs=shapes)
    batch, before = make_batch(agent), {name: p.detach().clone() for name, p in agent.named_parameters()}
    for _ in range(3):
        metrics, _ = agent.update(batch)
    assert all(torch.isfinite(value) for value in metrics.values())
    assert metrics["reconstruction/image"] > 0
    still = {name for name, p in agent.named_parameters() if torch.equal(p, before[name])}
    assert not {name for name in still if name.startswith("world_model.")}


@pytest.mark.parametrize("core", ["gru", "mdn_rnn"])
def test_vision_is_the_image_encoder_and_decoder(core):
    """Staged training on pixels: the VAE's networks alone are trained first, and are frozen then."""
    agent = make_agent({"dynamics.core": core, f"dynamics.{core}.vision_updates": 2, "optimizer.warmup": 0}, obs=PIXELS)
    batch = make_batch(agent)
    vision = ("world_model.encoder.image", "world_model.objective.decoder.image", "world_model.core.encode")
    for update in range(4):
        before = {name: p.detach().clone() for name, p in agent.named_parameters()}
        agent.update(batch)
        moved = {name for name, p in agent.named_parameters() if not torch.equal(p, before[name])}
        assert moved and {name.startswith(vision) for name in moved} == {update < 2}


def test_the_decoder_of_a_vision_core_sees_the_code_alone():
    agent = make_agent({"dynamics.core": "gru"}, obs=PIXELS)
    decoder = agent.world_model.objective.decoder.image
    assert decoder.from_deter is None
    states = agent.world_model.core.initial_state(2)
    assert agent.world_model.decode(states)["image"].shape == (2, 16, 16, 3)


@pytest.mark.parametrize("resampling", TINY_IMAGE)
def test_overfits_one_batch_of_images(resampling):
    """Sanity ladder (i): the error of the decoded images falls to a few percent of their spread."""
    changes = {"world_model.image.depth": 4, "world_model.image.resampling": resampling, "dynamics.rssm.cell": "gru"}
    changes |= {f"world_model.{part}.units": 32 for part in ("decoder", "reward", "cont")}
    changes |= {"dynamics.rssm.deter": 32, "dynamics.rssm.hidden": 32}
    agent = make_agent(changes, obs=PIXELS)
    world_model, batch = agent.world_model, make_batch(agent, batch=2, time=2)
    for row in range(4):  # stripes, each row of the batch with its own
        stripes = (torch.arange(16) + row) % 4 < 2
        batch.obs["image"].flatten(0, 1)[row] = 200 * stripes.view(-1, 1, 1).to(torch.uint8)
    optimizer = torch.optim.Adam(world_model.parameters(), 3e-3)

    def error():
        embeds = world_model.encoder(batch.obs)
        states = world_model.observe(batch, embeds)
        terms, _ = world_model.losses(states, world_model.core.features(states), embeds, batch)
        return {name: term.mean() for name, term in terms.items()}

    with unchecked():
        for _ in range(150):
            terms = error()
            optimizer.zero_grad()
            sum(world_model.scales[name] * term for name, term in terms.items()).backward()
            optimizer.step()
    spread = to_unit(batch.obs["image"]).flatten(0, 1).var(0).sum().item()
    with torch.no_grad(), mode_latents():
        assert error()["reconstruction"].item() < 0.03 * spread
