"""A dry run tells what a run would take, and does not need what it cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bridgeflow.assembly import assemble
from bridgeflow.assembly.preparing import open_rows
from bridgeflow.checkpoints.checkpoint import open_checkpoint
from bridgeflow.cli.main import invoke
from bridgeflow.config import recipe as recipes
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import UsageError
from bridgeflow.modality import Latent
from bridgeflow.nn.recompute import recompute_blocks
from bridgeflow.nn.unet import UNet
from bridgeflow.runtime.console import Progress
from bridgeflow.training import dry_run
from bridgeflow.training.accelerator import make_accelerator
from bridgeflow.training.estimate import Estimate, estimate, global_batch
from bridgeflow.training.loop import Trainer

Make = Callable[..., Recipe]


def told(recipe: Recipe, precision: str = "fp32") -> Estimate:
    found = estimate(assemble(recipe), precision)
    assert found is not None
    return found


def kept(recipe: Recipe, source: Latent, target: Latent, precision: str) -> int:
    """Bytes that autograd keeps for the gradient of a batch."""
    bridge = assemble(recipe).build_bridge()
    if recipe.training.gradient_checkpointing:
        recompute_blocks(bridge)
    own = {p.untyped_storage().data_ptr() for p in bridge.parameters()}
    seen: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with (
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        bridge(source, target)
    return sum(tensor.untyped_storage().nbytes() for tensor in seen.values())


def test_the_counts_and_memory_of_weights_are_exact(tiny_depth: Make) -> None:
    recipe = tiny_depth()
    count = sum(p.numel() for p in assemble(recipe).build_bridge().parameters())
    found = told(recipe)
    assert found.trainable == count
    assert found.memory["weights"] == found.memory["gradients"] == found.memory["weight average"] == 4 * count
    assert found.memory["optimiser"] == 8 * count
    none = told(tiny_depth("training.ema=0", "optimizer.name=sgd"))
    assert (none.memory["weight average"], none.memory["optimiser"]) == (0, 4 * count)


CAPTIONS = [
    "data={name: blocks, size: 32, held_out: 8, workers: 1}", "target={codec: {width: 16, layers: 1, steps: 2}}",
    "source_encoder={width: 16, depth: 1, heads: 2}", "network={name: dit, width: 16, depth: 1, heads: 2}",
    "training={steps: 1, batch_size: 2, precision: fp32, evaluate: 0, samples: 1, sample_every: 0}",
]  # fmt: skip
LEARNED = "source_encoder={name: noisy, width: 16, depth: 1, heads: 2}"
DIT = "network={name: dit, width: 16, depth: 2, heads: 2, patch: 8}"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "keys", [[], ["encoding.name=cross", LEARNED], [LEARNED, DIT], [DIT, "training.gradient_checkpointing=true"]]
)
def test_the_activations_are_what_autograd_keeps_on_the_cpu(tiny_depth: Make, keys: list[str], precision: str) -> None:
    recipe = tiny_depth(*keys)
    pictures = Latent(torch.zeros(4, 3, 64, 64)), Latent(torch.zeros(4, 3, 64, 64))
    found = told(recipe, precision).memory["activations"]
    assert found == pytest.approx(kept(recipe, *pictures, precision), rel=0.05 if precision == "fp32" else 0.3)


def test_the_activations_grow_with_the_batch_and_with_the_square_of_the_tokens(tiny_depth: Make) -> None:
    once, twice = (told(tiny_depth(f"training.batch_size={n}")).memory["activations"] for n in (4, 8))
    assert twice == pytest.approx(2 * once, rel=0.01)
    patches = ("source_encoder.patch=4", "source_encoder.target_patch=4"), ("source_encoder.patch=2",) * 2
    few, many = (told(tiny_depth(LEARNED, *own)).memory["activations"] for own in patches)
    assert many > 2 * few


@pytest.mark.parametrize("name", ["t2i/blocks", "caption/blocks"])
def test_words_that_are_masked_are_counted(name: str) -> None:
    recipe = recipes.load(name, ["training.batch_size=2", "training.precision=fp32"])
    assembly = assemble(recipe)
    specs = assembly.source.latent, assembly.target.latent
    source, target = (Latent(torch.zeros(2, *spec.shape)) for spec in specs)
    if specs[0].layout == "sequence":
        source.mask = torch.ones(2, specs[0].shape[0], dtype=torch.bool)
    assert told(recipe).memory["activations"] == pytest.approx(kept(recipe, source, target, "fp32"), rel=0.05)


def test_a_run_that_does_not_fit_ends_on_the_meta_device_without_data_or_encoders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dry_run, "free_memory", lambda device: 10**8)
    recipe = recipes.load(
        "t2i/blocks",
        [
            "source.codec.path=somebody/no-such-encoder",
            "source.codec.width=512",
            "data={name: folder, path: nowhere}",
            "network.channels=[1024]",
            "training.accumulation=2",
        ],
    )
    facts = dry_run.dry_run(recipe, "cpu", Progress(quiet=True))
    assert (facts["mode"], facts["fits"]) == ("meta", False)
    assert facts["source_latent"] == "sequence 24x512"
    assert "nowhere" in facts["data"]
    assert "0.10 GB are free" in facts["verdict"]
    assert facts["global_batch"] == global_batch(32, 2, 1) == "32 pairs x 2 accumulated x 1 process = 64 a step"


def test_a_run_whose_data_are_not_there_is_counted_and_said_to_be_untried(
    tiny_depth: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = dry_run.dry_run(tiny_depth("data={name: folder, path: nowhere}"), "cpu", Progress())
    assert (facts["mode"], facts["fits"]) == ("meta", True)
    assert "nowhere" in facts["data"]
    assert "the data cannot be opened" in facts["verdict"]
    assert "nowhere" in capsys.readouterr().err


def test_data_that_would_have_to_be_fetched_or_made_are_left_alone(
    tiny_depth: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "free_memory", lambda device: 10**6)
    assert dry_run.dry_run(tiny_depth(), "cpu", Progress(quiet=True))["data"] == "not opened (blocks)"


def test_a_fault_of_the_recipe_is_told_and_not_taken_for_a_network_without_numbers(
    tiny_depth: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = UNet.forward

    def broken(self: UNet, z: torch.Tensor, *rest: object) -> torch.Tensor:
        return forward(self, z[:, :1], *rest)

    monkeypatch.setattr(UNet, "forward", broken)
    with pytest.raises(RuntimeError, match=r"expected input|[Cc]hannel"):
        dry_run.dry_run(tiny_depth(), "cpu", Progress(quiet=True))

    def looks(self: UNet, z: torch.Tensor, *rest: object) -> torch.Tensor:
        assert z.mean().item() < 1e6
        return forward(self, z, *rest)

    monkeypatch.setattr(UNet, "forward", looks)
    assert estimate(assemble(tiny_depth()), "fp32") is None
    facts = dry_run.dry_run(tiny_depth(), "cpu", Progress(quiet=True), steps=2)
    assert facts["mode"] == "real"
    assert "memory" not in facts


def test_a_run_that_fits_is_tried(tiny_depth: Make) -> None:
    facts = dry_run.dry_run(tiny_depth(), "cpu", Progress(quiet=True), steps=2)
    assert (facts["mode"], facts["fits"]) == ("real", True)
    assert facts["source_batch"] == [4, 3, 64, 64]
    assert sum(facts["parameters"].values()) == facts["trainable_parameters"]


@pytest.mark.parametrize(
    ("name", "codec"),
    [("t2i/blocks", "image_latent"), ("caption/blocks-full", "text"), ("caption/coco-karpathy", "text")],
)
def test_fitting_is_left_out_and_said_to_be(name: str, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "free_memory", lambda device: 10**12)
    monkeypatch.setattr(dry_run, "open_first_rows", lambda *_: pytest.fail("data were opened"))
    recipe = recipes.load(name, ["training.precision=fp32"])
    facts = dry_run.dry_run(recipe, "cpu", Progress(quiet=True))
    assert (facts["mode"], facts["fits"]) == ("unfitted", True)
    assert f"Training fits the codec of {codec} first, which was left out here" in facts["verdict"]
    assert facts["memory"]["activations"].endswith("GB")
    assert facts["target_latent"] == str(assemble(recipe).target.latent)


def test_a_fitted_codec_lets_steps_be_tried(quiet_train: Callable) -> None:
    recipe = recipes.load("caption/blocks", CAPTIONS)
    assert dry_run.dry_run(recipe, "cpu", Progress(quiet=True))["mode"] == "unfitted"
    checkpoint = open_checkpoint(Path(quiet_train(recipe, output="run").folder))
    facts = dry_run.dry_run(recipe, "cpu", Progress(quiet=True), steps=2, initial=checkpoint)
    assert facts["mode"] == "real"
    assert facts["target_batch"] == [2, 16, 8]


def test_a_latent_that_only_fitting_tells_is_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "latents_known", lambda assembly: False)
    facts = dry_run.dry_run(recipes.load("t2i/blocks", ["training.precision=fp32"]), "cpu", Progress(quiet=True))
    assert facts["verdict"].startswith("nothing is known before fitting. Training fits the codec of image_latent first")


def test_the_command_prints_every_part(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "free_memory", lambda device: 10**6)
    line = ["train", "--task", "depth", "--dry-run", "--device", "cpu", "data.size=48", "data.held_out=8"]
    assert invoke(line) == 0
    shown = capsys.readouterr().out
    for words in ("parameters: network", "memory: activations", "memory free", "shapes agree, but a run does not fit"):
        assert words in shown
    assert invoke([*line, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mode"] == "meta"


# -- starting from another checkpoint's weights ------------------------------------------------------------


def test_a_new_run_starts_with_the_averaged_weights_of_another(tiny_depth: Make, quiet_train: Callable) -> None:
    recipe = tiny_depth("training.steps=3")
    first = quiet_train(recipe, output="first")
    checkpoint = open_checkpoint(Path(first.folder))
    console = Progress(quiet=True)
    rows = open_rows(recipe, "train", console)
    trainer = Trainer(
        assemble(recipe), rows, Path("."), make_accelerator(recipe.training, "cpu"), console, initial=checkpoint
    )
    averaged = checkpoint.weights()
    assert all(torch.equal(tensor, averaged[key]) for key, tensor in trainer.bridge.state_dict().items())
    assert trainer.step == 0
    second = quiet_train(recipe, output="second", initial=checkpoint)
    assert second.outcome.step == 3


def test_weights_that_do_not_fit_are_refused_by_name(
    tiny_depth: Make, quiet_train: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet_train(tiny_depth("training.steps=1"), output="first")
    line = ["train", "--task", "depth", "--device", "cpu", "--from", "first", "-o", "second", "data.size=48"]
    assert invoke([*line, "data.held_out=8", "network.channels=[8,24]", "network.attention=[]"]) == 2
    told = capsys.readouterr().err
    assert "do not fit this recipe" in told
    assert "'network." in told
    assert not Path("second").exists()
    assert invoke([*line, "data.held_out=8", "network.channels=[8,24]", "network.attention=[]", "--dry-run"]) == 2
    assert "do not fit this recipe" in capsys.readouterr().err
    assert invoke([*line, "--resume"]) == 2
    assert "leave --from out" in capsys.readouterr().err


def test_parts_of_the_encoding_loss_may_be_missing(tiny_depth: Make, quiet_train: Callable) -> None:
    source = ("source_encoder.name=variational", "source_encoder.width=16", "source_encoder.depth=1")
    patches = ("source_encoder.patch=16", "source_encoder.target_patch=16", "source_encoder.heads=2")
    plain = quiet_train(tiny_depth("training.steps=1", *source, *patches), output="plain")
    contrasted = tiny_depth("training.steps=1", *source, *patches, "encoding.name=cross")
    run = quiet_train(contrasted, output="contrasted", initial=open_checkpoint(Path(plain.folder)))
    assert run.outcome.step == 1
    for other in ("encoding.tower.width=24", "encoding.tower.depth=2"):
        changed = tiny_depth("training.steps=1", *source, *patches, "encoding.name=cross", other)
        assert quiet_train(changed, output=other, initial=open_checkpoint(Path(run.folder))).outcome.step == 1
    back = quiet_train(
        tiny_depth("training.steps=1", *source, *patches),
        output="back",
        initial=open_checkpoint(Path(run.folder)),
    )
    assert back.outcome.step == 1


def test_the_tower_and_its_scale_are_taken_only_where_both_agree(tiny_depth: Make, quiet_train: Callable) -> None:
    source = ("source_encoder={name: variational, width: 16, depth: 1, heads: 2, patch: 16, target_patch: 16}",)
    first = tiny_depth("training.steps=1", *source, "encoding={name: cross, logit_scale: raw, temperature: 0.5}")
    checkpoint = open_checkpoint(Path(quiet_train(first, output="first").folder))
    given = checkpoint.weights()

    def started(*overrides: str) -> dict[str, torch.Tensor]:
        recipe = tiny_depth(*source, *overrides)
        accelerator = make_accelerator(recipe.training, "cpu")
        rows = open_rows(recipe, "train", Progress(quiet=True))
        quiet = Progress(quiet=True)
        return Trainer(assemble(recipe), rows, Path("."), accelerator, quiet, initial=checkpoint).bridge.state_dict()

    same = started("encoding={name: cross, logit_scale: raw}")
    assert torch.equal(same["encoding_loss.logit_scale"], given["encoding_loss.logit_scale"])
    assert torch.equal(same["encoding_loss.tower.queries"], given["encoding_loss.tower.queries"])
    other = started("encoding={name: cross, logit_scale: exp}")
    assert other["encoding_loss.logit_scale"].item() == pytest.approx(2.659, abs=1e-3)
    deeper = started("encoding={name: cross, logit_scale: raw, tower: {depth: 3}}")
    assert not torch.equal(deeper["encoding_loss.tower.queries"], given["encoding_loss.tower.queries"])
    assert all(torch.equal(deeper[key], given[key]) for key in given if not key.startswith(("encoding_loss", "logit")))


def test_a_network_that_looks_at_its_numbers_while_it_is_built_is_built_all_the_same(
    tiny_depth: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assembly = assemble(tiny_depth())
    built = type(assembly).build_bridge

    def looks(self: object) -> object:
        torch.ones(1).item()
        return built(self)  # type: ignore[arg-type]

    assert next(assembly.sketch_bridge().parameters()).is_meta
    monkeypatch.setattr(type(assembly), "build_bridge", looks)
    assert not next(assembly.sketch_bridge().parameters()).is_meta


def test_a_tower_over_pixels_needs_a_target_that_shows_some() -> None:
    keys = ["source_encoder.name=variational", "encoding={name: cross, tower: {name: timm, model: test_vit, size: 64}}"]
    recipe = recipes.load("caption/blocks", keys)
    with pytest.raises(UsageError, match=r"shows none: set encoding\.tower\.name=tokens"):
        assemble(recipe).build_bridge()
