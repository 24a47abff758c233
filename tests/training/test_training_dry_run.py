"""A dry run tells what a run would take, and does not need what it cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bridgeflow import recipe as recipes
from bridgeflow.assembly import assemble
from bridgeflow.cli.main import invoke
from bridgeflow.console import Progress
from bridgeflow.encoding import encode
from bridgeflow.errors import UsageError
from bridgeflow.recipe import ResolvedRecipe
from bridgeflow.training import dry_run, start
from bridgeflow.training.accelerator import make_accelerator
from bridgeflow.training.estimate import estimate, global_batch
from bridgeflow.training.loop import Trainer

Make = Callable[..., ResolvedRecipe]


def test_the_counts_and_memory_of_weights_are_exact(tiny_depth: Make) -> None:
    recipe = tiny_depth()
    bridge = assemble(recipe).build_bridge()
    count = sum(p.numel() for p in bridge.parameters())
    found = estimate(assemble(recipe), "fp32")
    assert found.trainable == count
    assert found.memory["weights"] == found.memory["gradients"] == found.memory["weight average"] == 4 * count
    assert found.memory["optimiser"] == 8 * count
    none = estimate(assemble(tiny_depth("training.ema=0", "optimizer.name=sgd")), "fp32")
    assert (none.memory["weight average"], none.memory["optimiser"]) == (0, 4 * count)


def test_the_activations_are_what_autograd_keeps_and_grow_with_the_batch(tiny_depth: Make) -> None:
    recipe = tiny_depth("network.attention=[]")
    assembly = assemble(recipe)
    expected = estimate(assembly, "fp32").memory["activations"]
    bridge = assembly.build_bridge()
    own = {p.untyped_storage().data_ptr() for p in bridge.parameters()}
    seen: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    items = [torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()] * 4
    depths = [torch.ones(64, 64).numpy()] * 4
    device = torch.device("cpu")
    source = encode(assembly.source, assembly.source.collate(items), device)
    target = encode(assembly.target, assembly.target.collate(depths), device)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        bridge(source, target)
    assert expected == pytest.approx(sum(seen.values()), rel=0.05)
    doubled = estimate(assemble(tiny_depth("training.batch_size=8")), "fp32").memory["activations"]
    assert doubled == pytest.approx(2 * expected, rel=0.01)
    assert estimate(assembly, "bf16").memory["activations"] == expected // 2


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
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(dry_run, "estimate", broken)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        dry_run.dry_run(tiny_depth(), "cpu", Progress(quiet=True))

    def looks(*_: object, **__: object) -> None:
        raise NotImplementedError("nonzero")

    monkeypatch.setattr(dry_run, "estimate", looks)
    assert dry_run.dry_run(tiny_depth(), "cpu", Progress(quiet=True), steps=2)["mode"] == "real"


def test_a_run_that_fits_is_tried(tiny_depth: Make) -> None:
    facts = dry_run.dry_run(tiny_depth(), "cpu", Progress(quiet=True), steps=2)
    assert (facts["mode"], facts["fits"]) == ("real", True)
    assert facts["source_batch"] == [4, 3, 64, 64]
    assert sum(facts["parameters"].values()) == facts["trainable_parameters"]


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
    checkpoint = start.open_checkpoint(Path(first.folder))
    console = Progress(quiet=True)
    rows = start.open_rows(recipe, "train", console)
    trainer = Trainer(
        assemble(recipe), rows, Path("."), make_accelerator(recipe.recipe.training, "cpu"), console, initial=checkpoint
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
    contrasted = tiny_depth("training.steps=1", *source, *patches, "encoding.kind=cross")
    run = quiet_train(contrasted, output="contrasted", initial=start.open_checkpoint(Path(plain.folder)))
    assert run.outcome.step == 1
    for other in ("encoding.tower.width=24", "encoding.tower.depth=2"):
        changed = tiny_depth("training.steps=1", *source, *patches, "encoding.kind=cross", other)
        assert quiet_train(changed, output=other, initial=start.open_checkpoint(Path(run.folder))).outcome.step == 1
    back = quiet_train(
        tiny_depth("training.steps=1", *source, *patches),
        output="back",
        initial=start.open_checkpoint(Path(run.folder)),
    )
    assert back.outcome.step == 1


def test_the_tower_and_its_scale_are_taken_only_where_both_agree(tiny_depth: Make, quiet_train: Callable) -> None:
    source = ("source_encoder={name: variational, width: 16, depth: 1, heads: 2, patch: 16, target_patch: 16}",)
    first = tiny_depth("training.steps=1", *source, "encoding={kind: cross, logit_scale: raw, temperature: 0.5}")
    checkpoint = start.open_checkpoint(Path(quiet_train(first, output="first").folder))
    given = checkpoint.weights()

    def started(*overrides: str) -> dict[str, torch.Tensor]:
        recipe = tiny_depth(*source, *overrides)
        accelerator = make_accelerator(recipe.recipe.training, "cpu")
        rows = start.open_rows(recipe, "train", Progress(quiet=True))
        quiet = Progress(quiet=True)
        return Trainer(assemble(recipe), rows, Path("."), accelerator, quiet, initial=checkpoint).bridge.state_dict()

    same = started("encoding={kind: cross, logit_scale: raw}")
    assert torch.equal(same["logit_scale"], given["logit_scale"])
    assert torch.equal(same["tower.queries"], given["tower.queries"])
    other = started("encoding={kind: cross, logit_scale: exp}")
    assert other["logit_scale"].item() == pytest.approx(2.659, abs=1e-3)
    deeper = started("encoding={kind: cross, logit_scale: raw, tower: {depth: 3}}")
    assert not torch.equal(deeper["tower.queries"], given["tower.queries"])
    assert all(torch.equal(deeper[key], given[key]) for key in given if not key.startswith(("tower", "logit")))


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
    keys = ["source_encoder.name=variational", "encoding={kind: cross, tower: {name: timm, model: test_vit, size: 64}}"]
    recipe = recipes.load("caption/blocks", keys)
    with pytest.raises(UsageError, match=r"shows none: set encoding\.tower\.name=tokens"):
        assemble(recipe).build_bridge()
