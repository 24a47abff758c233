"""Numbers of the published implementation, reproduced through an imported checkpoint.

The fixtures hold inputs and outputs that the public code gave on a CPU in float32 for shrunken configurations; the
weights follow from their keys. Bars: 2e-4 absolute on velocities and latents, 1e-4 relative on losses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bridgeflow.bridge import Bridge
from bridgeflow.checkpoints import importer
from bridgeflow.checkpoints.checkpoint import open_checkpoint
from bridgeflow.flow.losses import contrastive_loss, kl_loss, logit_multiplier, staged_flow_loss
from bridgeflow.flow.solver import EulerSettings, MidpointSettings
from bridgeflow.modality import Latent, LatentSpec
from bridgeflow.nn.dimr import DiMR
from bridgeflow.nn.encoded import Encoded
from bridgeflow.nn.encoding_loss import CrossContrastSettings
from bridgeflow.nn.narrowing import ConvTail
from bridgeflow.nn.tower import MLPHead
from bridgeflow_plugins.crossflow import CrossFlowImporter
from bridgeflow_plugins.crossflow.importer import CrossFlowOptions
from bridgeflow_plugins.crossflow.keys import KeyMap

SHRUNKEN = Path(__file__).parent / "shrunken"
NAMES = ("dimr256", "dimr512", "dit512")
ABSOLUTE = 2e-4
RELATIVE = 1e-4


@dataclass
class Published:
    """One shrunken configuration: our bridge with its weights, and what the published code gave."""

    config: dict
    bridge: Bridge
    recipe: object
    head: nn.Module
    numbers: dict[str, Tensor]


def head_of(state: dict[str, Tensor], channels: int, grid: tuple[int, int]) -> nn.Module:
    """The image head of a published state dict."""
    conv = "open_clip_output.conv1.weight" in state
    keys = KeyMap("dimr", "linear", "conv" if conv else "mlp")
    module = ConvTail(1024, channels, grid) if conv else MLPHead(1024, channels * math.prod(grid))
    own = dict(keys.to_ours(key, value) for key, value in state.items() if key.startswith("open_clip_output."))
    module.load_state_dict({key.removeprefix("encoding_loss.tower.head."): value for key, value in own.items()})
    return module.eval()


@pytest.fixture(scope="module", params=NAMES)
def published(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, shrunken: Callable[..., dict[str, Tensor]]
) -> Published:
    name = request.param
    config = json.loads((SHRUNKEN / f"{name}.json").read_text())["config"]
    folder = tmp_path_factory.mktemp(name)
    torch.save(shrunken(name), folder / "network.pth")
    for part, facts in (("text", {"text_config": {"hidden_size": 64}}), ("vae", {"latent_channels": 4})):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(json.dumps(facts))
    options = CrossFlowOptions(
        text_encoder=str(folder / "text"),
        vae=str(folder / "vae"),
        heads=4,
        encoder_heads=config["ve_heads"],
    )
    found = importer.recognise(CrossFlowImporter(options), folder / "network.pth", folder / "checkpoint")
    importer.write(found, "crossflow", folder / "network.pth", folder / "checkpoint")
    checkpoint = open_checkpoint(folder / "checkpoint")
    recipe = checkpoint.recipe()
    target = LatentSpec(tuple(config["latent"]), "grid")
    source = LatentSpec((config["tokens"], config["text_dim"]), "sequence")
    bridge = Bridge(recipe.keys, recipe.network, source, target)
    bridge.load_state_dict(checkpoint.weights())
    head = head_of(shrunken(name, head=True), target.shape[0], target.shape[1:])
    return Published(config, bridge.eval(), recipe.keys, head, load_file(SHRUNKEN / f"{name}.safetensors"))


def close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max().item() <= ABSOLUTE


def nearly(found: Tensor, expected: Tensor) -> None:
    assert ((found - expected).abs() / expected.abs()).max().item() <= RELATIVE


def encoded(published: Published) -> Encoded:
    numbers = published.numbers
    source = Latent(numbers["text_tokens"], mask=numbers["text_mask"].bool())
    return published.bridge.encode(source, sample=False)


@torch.no_grad()
def test_the_source_encoder(published: Published) -> None:
    numbers, found = published.numbers, encoded(published)
    assert found.mu is not None
    assert found.logvar is not None
    close(found.mu.flatten(1), numbers["ve_mu"])
    close(found.logvar.flatten(1), numbers["ve_logvar"])
    eps = numbers["ve_eps"].view_as(found.mu)
    close(found.mu + (0.5 * found.logvar).exp() * eps, numbers["z0"])


@torch.no_grad()
def test_the_image_head(published: Published) -> None:
    close(published.head(published.numbers["image_feature_1024"]), published.numbers["image_head"])


@torch.no_grad()
def test_the_path(published: Published) -> None:
    numbers, path = published.numbers, published.bridge.path
    close(path.interpolate(numbers["z0"], numbers["target_latent"], numbers["t"]), numbers["z_t"])
    close(
        path.velocity(numbers["z0"], numbers["target_latent"], numbers["z_t"], numbers["t"]), numbers["target_velocity"]
    )


@pytest.mark.parametrize("rows", ["cond", "null", "mixed"])
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_the_velocity_of_every_stage(published: Published, rows: str, training: bool) -> None:
    numbers = published.numbers
    count = len(numbers["t"])
    null = {
        "cond": torch.zeros(count, dtype=torch.bool),
        "null": torch.ones(count, dtype=torch.bool),
        "mixed": numbers["null_indicator"].bool(),
    }[rows]
    # Training takes other kernels on a CPU.
    with torch.set_grad_enabled(training):
        found = published.bridge.network.velocities(numbers["z_t"], numbers["t"], null)
        assert found[-1].requires_grad == training
    stages = len(published.config.get("stages", [None]))
    assert len(found) == stages
    for index, velocity in enumerate(found):
        close(velocity.detach(), numbers[f"velocity_{rows}_stage{index}"])
    close(published.bridge.network(numbers["z_t"], numbers["t"], null).detach(), found[-1].detach())


@torch.no_grad()
def test_the_flow_loss(published: Published) -> None:
    numbers, network = published.numbers, published.bridge.network
    assert list(network.stage_weights) == published.config.get("coeff", [1.0])
    found = network.velocities(numbers["z_t"], numbers["t"], numbers["null_indicator"].bool())
    nearly(staged_flow_loss(found, numbers["target_velocity"], network.stage_weights), numbers["loss_flow"])
    others = tuple(2 * weight for weight in network.stage_weights)
    doubled = staged_flow_loss(found, numbers["target_velocity"], others)
    nearly(doubled, 2 * numbers["loss_flow"])


@torch.no_grad()
def test_the_kl_term_in_the_form_that_imported_recipes_select(published: Published) -> None:
    found, kl = encoded(published), published.bridge.settings.kl
    assert found.mu is not None
    assert found.logvar is not None
    assert (kl.form, kl.reduction, kl.weight) == ("free_mean", "sum", 1e-2)
    nearly(kl_loss(found.mu, found.logvar, kl.form, kl.reduction), published.numbers["loss_kl_sum"])
    standard = kl_loss(found.mu, found.logvar, "standard", "sum")
    assert ((standard / published.numbers["loss_kl_sum"]) - 1).abs().min() > 0.01


@torch.no_grad()
def test_the_contrast_with_the_scale_read_raw(published: Published) -> None:
    numbers = published.numbers
    scale = torch.tensor(math.log(1 / CrossContrastSettings().temperature))
    found = contrastive_loss(numbers["z0"], numbers["image_head"], logit_multiplier(scale, "raw"))
    nearly(found, numbers["loss_contrastive"])
    assert logit_multiplier(scale, "exp").item() == pytest.approx(1 / 0.07)


def test_guided_euler_steps_on_the_published_grid(published: Published) -> None:
    numbers, config, bridge = published.numbers, published.config, published.bridge
    sampling = published.recipe.sampling
    assert (sampling.solver.name, sampling.solver.steps, sampling.guidance.scale) == ("euler", 50, 7.0)
    guidance = sampling.guidance.model_copy(update={"scale": config["cfg"]}).build()
    solver = sampling.solver.build()
    found = bridge.sample(Encoded(numbers["z0"]), solver, config["euler_steps"], guidance)
    close(found, numbers["euler_z1"])
    assert solver.evaluations == config["euler_steps"]


def test_steps_that_end_where_the_next_begins_give_another_result(published: Published) -> None:
    numbers, config, bridge = published.numbers, published.config, published.bridge
    if not isinstance(bridge.network, DiMR):
        return
    settings = bridge.settings
    bridge.settings = settings.model_copy(update={"time": settings.time.model_copy(update={"grid": "uniform"})})
    guidance = published.recipe.sampling.guidance.model_copy(update={"scale": config["cfg"]}).build()
    found = bridge.sample(
        Encoded(numbers["z0"]), published.recipe.sampling.solver.build(), config["euler_steps"], guidance
    )
    bridge.settings = settings
    assert (found - numbers["euler_z1"]).abs().max().item() > 10 * ABSOLUTE


def test_other_solvers_are_told_the_time_of_the_state(published: Published) -> None:
    seen: list[float] = []
    bridge = published.bridge
    hook = bridge.network.register_forward_pre_hook(lambda network, given: seen.append(float(given[1][0])))
    with hook:
        bridge.sample(Encoded(published.numbers["z0"]), MidpointSettings().build(), 2)
        assert seen == pytest.approx([0.0, 0.25, 0.5, 0.75], abs=1e-4)
        seen.clear()
        bridge.sample(Encoded(published.numbers["z0"]), EulerSettings().build(), 2)
        assert seen == pytest.approx([0.0, 1.0])
        # Guidance acts by the time of the state, whatever the network takes for it.
        guided: list[float] = []
        bridge.sample(Encoded(published.numbers["z0"]), EulerSettings().build(), 2, IndicatorSpy(guided))
        assert guided == pytest.approx([0.0, 0.5], abs=1e-4)


class IndicatorSpy:
    """No guidance and no network: notes the times that it is called at."""

    def __init__(self, times: list[float]) -> None:
        self.times = times

    def __call__(self, velocity: object, z: Tensor, t: float) -> Tensor:
        self.times.append(t)
        return torch.zeros_like(z)
