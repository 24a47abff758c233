"""Training from a cache: which rows, in what order, with which codecs, and when it is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from bridgeflow.assembly import assemble
from bridgeflow.assembly.preparing import open_rows, prepare_codecs
from bridgeflow.caching.dataset import Cache
from bridgeflow.caching.rows import CachedRows
from bridgeflow.caching.write import Written
from bridgeflow.checkpoints.runs import find_resumable
from bridgeflow.config import recipe as recipes
from bridgeflow.config.recipe import Recipe
from bridgeflow.data.batches import batches
from bridgeflow.data.encoding import latent
from bridgeflow.data.pairs import Batch
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.modality import Latent
from bridgeflow.runtime.console import Progress
from bridgeflow.training.start import Run, train
from bridgeflow_plugins.image_latent import ImageLatent
from bridgeflow_plugins.image_latent.pixels import READING

Make = Callable[..., Written]


def of_cache(recipe: Recipe, folder: Path, **training: object) -> Recipe:
    return recipe.changed(data={"name": "cache", "path": str(folder)}, training={"steps": 6, **training})


def quiet(recipe: Recipe, **options: object) -> Run:
    return train(recipe, device="cpu", console=Progress(quiet=True), **options)  # type: ignore[arg-type]


def opened(folder: Path, **settings: object) -> CachedRows:
    rows = Cache(path=str(folder), **settings).open("train")  # type: ignore[arg-type]
    assert isinstance(rows, CachedRows)
    return rows


def values(batch: Batch) -> list[float]:
    assert isinstance(batch.target, Latent)
    return batch.target.mean.flatten(1).sum(1).tolist()


def taken(rows: CachedRows, recipe: Recipe, count: int, **how: int) -> list[list[float]]:
    stream = batches(rows, assemble(recipe).task, {}, **{"batch_size": 4, "seed": 0, **how})  # type: ignore[arg-type]
    return [values(next(stream)) for _ in range(count)]


def test_an_epoch_takes_every_row_once_and_each_epoch_its_variant(
    enlarging: Recipe, make: Make, tmp_path: Path
) -> None:
    make(enlarging, tmp_path / "cache", variants=2)
    rows = opened(tmp_path / "cache", window=2)
    flat = [value for batch in taken(rows, enlarging, 28) for value in batch]
    for epoch in (0, 1, 2):
        _, target = rows.gather(range(37), [epoch] * 37)
        assert sorted(flat[37 * epoch : 37 * (epoch + 1)]) == sorted(target.mean.flatten(1).sum(1).tolist())
    assert sorted(flat[:37]) == sorted(flat[74:111])
    assert sorted(flat[:37]) != sorted(flat[37:74])
    assert flat[:37] != flat[74:111]


def test_it_goes_on_at_a_position_and_is_shared_by_processes_exactly(
    enlarging: Recipe, make: Make, tmp_path: Path
) -> None:
    make(enlarging, tmp_path / "cache")
    rows = opened(tmp_path / "cache", window=2)
    whole = taken(rows, enlarging, 24)
    assert taken(rows, enlarging, 4, position=80) == whole[20:24]
    assert taken(rows, enlarging, 6, workers=1) == whole[:6]
    shared = [taken(rows, enlarging, 12, rank=rank, world=2) for rank in (0, 1)]
    assert [batch for both in zip(*shared, strict=True) for batch in both] == whole


def test_few_shards_are_mapped_at_a_time(enlarging: Recipe, make: Make, tmp_path: Path) -> None:
    make(enlarging, tmp_path / "cache", shard_rows=2)
    rows = opened(tmp_path / "cache", window=3)
    assert len(rows.shards) == 19
    stream = batches(rows, assemble(enlarging).task, {}, 4, 0)
    most = 0
    for _ in range(20):
        next(stream)
        most = max(most, len(rows._mapped))
    assert most == 4


def test_latents_of_a_cache_are_those_that_the_codecs_give(enlarging: Recipe, make: Make, tmp_path: Path) -> None:
    make(enlarging, tmp_path / "cache", dtype="float16")
    given, _ = opened(tmp_path / "cache").gather([0, 1], [0, 0])
    passed = latent(assemble(enlarging).source, given, torch.device("cpu"))
    assert passed.mean.dtype == torch.float32
    assert torch.equal(passed.mean, given.mean.float())


def test_a_run_trains_samples_scores_and_goes_on_bit_for_bit(enlarging: Recipe, make: Make, tmp_path: Path) -> None:
    make(enlarging, tmp_path / "cache")
    recipe = of_cache(enlarging, tmp_path / "cache", sample_every=0, checkpoint_every=3, evaluate=2)
    run = quiet(recipe, output="straight")
    assert run.report is not None
    assert run.report.count == 2
    assert (run.folder / "samples/000006.png").is_file()
    shutil.copytree("straight", "halves")
    shutil.rmtree("halves/checkpoints/000006")
    checkpoint = find_resumable("superres", "halves")
    assert checkpoint.step == 3
    quiet(checkpoint.recipe(), resume=checkpoint)
    straight, halves = (load_file(f"{name}/checkpoints/000006/model.safetensors") for name in ("straight", "halves"))
    assert all(torch.equal(straight[name], halves[name]) for name in straight)


def test_fitted_codecs_come_from_the_cache_and_others_are_refused(
    enlarging: Recipe, make: Make, tmp_path: Path
) -> None:
    codec = {"codec": {"name": "pca", "patch": 4, "components": 8}}
    recipe = enlarging.changed(source=codec, target=codec, network={"patch": 1})
    make(recipe, tmp_path / "cache")
    resolved = of_cache(recipe, tmp_path / "cache")
    rows = open_rows(resolved, "train", Progress(quiet=True))
    assembly = assemble(resolved)
    assert assembly.target.needs_fit
    prepare_codecs(assembly, rows, Progress(quiet=True))
    assert isinstance(rows, CachedRows)
    assert assembly.target.fingerprint() == rows.index.key.target.fingerprint
    batch = assembly.target.collate([assembly.target.read(tmp_path / "photos/p01.png")])
    assert assembly.target.encode(batch).mean.shape == (1, 8, 4, 4)
    with pytest.raises(UsageError, match=r"target\.codec\.components is 4 here and was 8; .*another with bridgeflow"):
        quiet(resolved.changed(target={"codec": {"components": 4}}, source={"codec": {"components": 4}}))
    refit = enlarging.changed(source=codec, target=codec, network={"patch": 1}, training={"seed": 5})
    for number in range(12):
        Image.new("RGB", (24, 24), (number * 20, 0, 0)).save(tmp_path / f"photos/p{number + 10}.png")
    make(refit, tmp_path / "other")
    own = resolved.changed(codecs={"target": str(tmp_path / "other/codecs/target")})
    with pytest.raises(UsageError, match=r"the target's codec has fingerprint [0-9a-f]{16} here and had [0-9a-f]{16}"):
        quiet(own)


def test_other_options_and_what_was_not_kept_are_refused(enlarging: Recipe, make: Make, tmp_path: Path) -> None:
    make(enlarging, tmp_path / "cache")
    recipe = of_cache(enlarging, tmp_path / "cache")
    with pytest.raises(UsageError, match=r"options\.overlap is 2 here and was 1"):
        quiet(recipe.changed(options={"overlap": 2}))
    with pytest.raises(UsageError, match=r"source\.size is 8 here and was 16; target\.size is 8 here and was 16"):
        quiet(recipe.changed(source={"size": 8}, target={"size": 8}))
    with pytest.raises(UsageError, match="was made for the task 'superres', not for 'depth'"):
        quiet(recipes.load("depth/blocks", [], f"cache:{tmp_path / 'cache'}"))
    assert not Path("runs").exists()


def test_changed_data_make_it_stale_and_absent_ones_do_not(
    enlarging: Recipe, make: Make, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(enlarging, tmp_path / "cache")
    recipe = of_cache(enlarging, tmp_path / "cache", evaluate=2)
    Image.new("RGB", (24, 24)).save(photos / "p41.png")
    with pytest.raises(BridgeflowError, match=r"is stale: its train data are 39 rows .* and were 38 rows .* another"):
        quiet(recipe)
    run = quiet(recipe.changed(data={"original": "none"}))
    assert run.report is None
    assert not (run.folder / "samples").exists()
    (photos / "p41.png").unlink()
    photos.rename(tmp_path / "moved")
    assert quiet(recipe).outcome.step == 6
    told = " ".join(capsys.readouterr().err.split())
    assert "no samples are drawn and no figures made: the data that" in told
    assert "are not at hand (there is no folder" in told


def test_files_that_are_read_in_another_way_make_it_stale(
    enlarging: Recipe, make: Make, photos: Path, tmp_path: Path
) -> None:
    make(enlarging, tmp_path / "cache")
    recipe = of_cache(enlarging, tmp_path / "cache", evaluate=2)
    quiet(recipe, output="before")
    index = tmp_path / "cache/index.json"
    facts = json.loads(index.read_text())
    for side in ("source", "target"):
        # As it was before colour profiles counted.
        assert facts["key"][side].pop("reading") == READING > 0
    index.write_text(json.dumps(facts))
    with pytest.raises(
        UsageError, match=r"is stale: 'lowres' reads files in another way than .* another with bridgeflow"
    ):
        quiet(recipe)
    checkpoint = find_resumable("superres", "before")
    with pytest.raises(UsageError, match="is stale: 'lowres' reads files in another way"):
        quiet(checkpoint.recipe(), resume=checkpoint)
    with pytest.raises(
        UsageError, match="the source's files are read in another way here than they were; the target's"
    ):
        make(enlarging, tmp_path / "cache")
    assert quiet(recipe.changed(data={"original": "none"})).outcome.step == 6
    # What was trained on it can be scored all the same: that reads the data themselves.
    assert len(open_rows(recipe, "held_out", Progress(quiet=True))) == 2  # type: ignore[arg-type]


def test_how_files_are_read_is_no_matter_to_data_without_files(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = ["data.size=16", "data.held_out=8", "data.workers=1", "network.channels=[8,8]", "network.attention=[]"]
    quick = ["training.batch_size=4", "training.evaluate=0", "training.samples=2", "training.precision=fp32"]
    recipe = recipes.load("depth/blocks", [*scenes, *quick])
    with monkeypatch.context() as patched:
        patched.setattr(ImageLatent, "reading", 0)
        shards = make(recipe, tmp_path / "cache").made
    written = make(recipe, tmp_path / "cache")
    assert (written.found, written.made) == (shards, 0)
    assert quiet(of_cache(recipe, tmp_path / "cache")).outcome.step == 6


def test_held_out_latents_give_the_loss_that_their_items_do(enlarging: Recipe, make: Make, tmp_path: Path) -> None:
    make(enlarging, tmp_path / "cache")
    figures = []
    for folder, original in (("items", None), ("latents", "none")):
        recipe = of_cache(enlarging, tmp_path / "cache", sample_every=2, validation=5, evaluate=0)
        quiet(recipe.changed(data={"original": original}), output=folder)
        lines = [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]
        figures.append([line["val/loss"] for line in lines if "val/loss" in line])
    assert len(figures[0]) == 3
    assert figures[0] == figures[1]


def test_no_recipe_means_that_of_the_cache(enlarging: Recipe, make: Make, tmp_path: Path) -> None:
    import bridgeflow

    make(enlarging, tmp_path / "cache")
    run = bridgeflow.train(
        "superres", data=f"cache:{tmp_path / 'cache'}", device="cpu", training={"steps": 1, "sample_every": 0}
    )
    assert run.folder.name == "superres-folder-01"
    trained = recipes.load(str(run.folder / "recipe.yaml"))
    assert trained.source_options == enlarging.source_options
    assert trained.network == enlarging.network


def test_a_damaged_shard_stops_training_with_one_sentence(enlarging: Recipe, make: Make, tmp_path: Path) -> None:
    make(enlarging, tmp_path / "cache")
    shard = tmp_path / "cache/train/000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:500])
    with pytest.raises(BridgeflowError, match=r"000001\.safetensors' is damaged .* bridgeflow cache verify"):
        quiet(of_cache(enlarging, tmp_path / "cache"))
