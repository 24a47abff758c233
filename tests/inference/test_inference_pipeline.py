"""From a checkpoint to results, through the command line too."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from bridgeflow.assembly import assemble
from bridgeflow.cli.main import invoke
from bridgeflow.config import recipe as recipes
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.inference.pictures import CELL, GAP, LABEL, strip
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.runtime import durable
from bridgeflow.runtime.console import Progress
from bridgeflow.training.start import train
from bridgeflow_plugins.image_latent.pixels import to_images, to_tensor
from bridgeflow_plugins.lowres.resampling import enlarge
from bridgeflow_tasks.t2i import TextToImage


def photo(path: Path, size: tuple[int, int] = (50, 37), mode: str = "RGB") -> Path:
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(path)
    return path


def test_depth_has_the_size_of_its_picture(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = photo(tmp_path / "odd.png")
    assert invoke(["run", "--task", "depth", str(image), "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.split()
    assert [Path(p).name for p in printed] == ["odd-depth.png", "odd-depth.npy", "odd-depth-colour.png"]
    assert np.load(printed[1]).shape == (37, 50)
    stored = Image.open(printed[0])
    assert stored.size == (50, 37)
    assert stored.mode.startswith("I")
    assert Image.open(printed[2]).mode == "RGB"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("weights", ["ema.safetensors", "model.safetensors"])
def test_weights_that_are_not_finite_are_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], weights: str, bad: float
) -> None:
    """Checkpoints were written with such weights once; checksums say that they are as they were written."""
    run = shutil.copytree(home / "runs/depth-blocks-01", tmp_path / "run")
    (folder,) = (run / "checkpoints").iterdir()
    tensors = load_file(folder / weights)
    tensors["network.head.bias"][-1] = bad
    save_file(tensors, folder / weights)
    meta = json.loads((folder / "meta.json").read_text())
    meta["checksums"][weights] = durable.checksum(folder / weights)
    del meta["seal"]
    (folder / "meta.json").write_text(json.dumps(meta))
    image = photo(tmp_path / "odd.png")
    for line in (["run", str(image), "-o", str(tmp_path / "out")], ["eval", "--count", "2"]):
        code = invoke([*line, "--task", "depth", "--checkpoint", str(run)])
        err = capsys.readouterr().err
        # The weights of training are no matter where their average makes the results.
        assert code == (1 if weights == "ema.safetensors" else 0)
        told = (
            f"checkpoint {str(folder)!r} is damaged (its tensor 'network.head.bias' holds numbers that are not finite)"
        )
        assert (told in err) == (code == 1)


def test_superres_is_four_times_as_large(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for size in [(16, 16), (21, 40), (1, 1), (5, 3)]:
        image = photo(tmp_path / f"in-{size[0]}x{size[1]}.png", size)
        out = tmp_path / f"out-{size[0]}x{size[1]}.png"
        assert invoke(["run", "--task", "superres", str(image), "-o", str(out)]) == 0
        assert Image.open(out).size == (4 * size[0], 4 * size[1])
    capsys.readouterr()


def test_tiles_of_superres_depend_on_nothing_but_their_pixels(home: Path) -> None:
    pipeline = Pipeline.open(home / "runs/superres-blocks-01", "cpu")
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
    alone = pipeline.generate([small])[0][0]
    beside = pipeline.generate([rng.integers(0, 255, (20, 30, 3), dtype=np.uint8), small])[1][0]
    assert np.abs(alone.astype(int) - beside.astype(int)).max() <= 1


def test_large_tiles_give_what_the_whole_picture_gives(home: Path, tmp_path: Path) -> None:
    """Without statistics of a whole grid, a pixel depends on its surroundings alone: 12 pixels with this network."""
    tiny = ["network.channels=[8]", "network.blocks=1", "network.patch=4", "network.norm=none", "options.overlap=4"]
    brief = ["data.size=32", "data.held_out=8", "training.batch_size=4", "training.precision=fp32", "training.steps=12"]
    # Samples are drawn and rows are scored in tiles, too.
    seen = ["training.sample_every=6", "training.evaluate=2", "training.samples=2", "source.size=32", "target.size=32"]
    whole = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    found = []
    for tile in (24, 40):
        recipe = recipes.load("superres/blocks", [*tiny, *brief, *seen, f"source.tile={tile}"])
        run = train(recipe, str(tmp_path / f"run{tile}"), device="cpu", console=Progress(quiet=True))
        pipeline = Pipeline.open(run.folder, "cpu")
        assert len(pipeline.assembly.task.split(whole)) == {24: 2, 40: 1}[tile]
        found.append(pipeline.generate([whole])[0][0].astype(int))
    small, large = found
    assert small.shape == large.shape == (96, 160, 3)
    inside = np.s_[:32, :32]
    assert np.abs(small[inside] - large[inside]).max() <= 1
    # What fits into the model's own size is not padded to a tile, and does not mix with tiles in a batch.
    tiny_one = whole[:6, :8]
    assert [piece.shape for piece in pipeline.assembly.task.split(tiny_one)] == [(8, 8, 3)]
    alone = pipeline.generate([tiny_one])[0][0]
    mixed = [own[0] for own in pipeline.generate([tiny_one, whole, tiny_one])]
    assert all(np.abs(own.astype(int) - alone).max() <= 1 for own in (mixed[0], mixed[2]))
    assert np.abs(mixed[1].astype(int) - large).max() <= 1
    bicubic = to_images(enlarge(to_tensor([whole]), 4))[0]
    assert np.abs(large - bicubic).max() > 2, "the network has to do something for this to say anything"


@pytest.mark.parametrize(
    "wrong", [["network={name: dit, width: 32, depth: 1, patch: 8}", "source.tile=20"], ["source.tile=17"]]
)
def test_tiles_need_a_network_that_takes_them(wrong: list[str]) -> None:
    """Told before anything is trained."""
    recipe = recipes.load("superres/blocks", wrong)
    with pytest.raises(UsageError, match=r"runs on pieces of grid 3x(80x80|68x68), larger than the grid 3x64x64"):
        assemble(recipe).build_bridge()


def test_caption_prints_one_line_for_one_file_and_names_many(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = photo(tmp_path / "a.png")
    assert invoke(["run", "--task", "caption", str(first)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    second = photo(tmp_path / "b.jpg", (64, 64))
    assert invoke(["run", "--task", "caption", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[0] for line in lines] == [str(first), str(second)]


def test_a_bad_file_among_good_ones_is_named_and_passed_over(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = photo(tmp_path / "good.png")
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG broken")
    assert invoke(["run", "--task", "caption", str(bad), str(good), str(tmp_path / "none.png")]) == 1
    captured = capsys.readouterr()
    assert [line.split("\t")[0] for line in captured.out.splitlines()] == [str(good)]
    assert "bad.png" in captured.err
    assert "none.png" in captured.err
    assert "2 of 3 inputs gave no result" in captured.err
    assert "Traceback" not in captured.err


def test_t2i_takes_words_seeds_and_samples(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def pictures(*options: str) -> list[bytes]:
        assert invoke(["run", "--task", "t2i", "a small red cube", *options, "--json"]) == 0
        records = json.loads(capsys.readouterr().out)["results"]
        return [Path(file).read_bytes() for record in records for file in record["files"]]

    one = pictures("-o", str(tmp_path / "one"), "--samples", "2", "--seed", "3")
    two = pictures("-o", str(tmp_path / "two"), "--samples", "2", "--seed", "3")
    other = pictures("-o", str(tmp_path / "other"), "--samples", "2", "--seed", "4")
    assert one == two
    assert one[0] != one[1]
    assert one[0] != other[0]
    guided = pictures("-o", str(tmp_path / "guided"), "--samples", "2", "--seed", "3", "--guidance", "4")
    assert guided[0] != one[0]


def test_results_never_overwrite(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(home / "runs/t2i-blocks-01")
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        assert invoke(["run", "--task", "t2i", "a red cube", "--checkpoint", checkpoint]) == 0
    names = sorted(Path(line).name for line in capsys.readouterr().out.split())
    assert names == ["a-red-cube-t2i-2.png", "a-red-cube-t2i-3.png", "a-red-cube-t2i.png"]


def test_trajectory_shows_every_step(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flow = tmp_path / "flow.gif"
    image = photo(tmp_path / "in.png", (64, 64))
    command = [
        "run",
        "--task",
        "depth",
        str(image),
        "--steps",
        "5",
        "-o",
        str(tmp_path / "o"),
        "--trajectory",
        str(flow),
    ]
    assert invoke(command) == 0
    with Image.open(flow) as gif:
        assert gif.n_frames == 1 + 6  # type: ignore[attr-defined]
    strip = tmp_path / "strips" / "flow.png"
    assert invoke([*command[:-1], str(strip)]) == 0
    with Image.open(strip) as sheet:
        cell = CELL + GAP
        assert sheet.size == (7 * cell + 2 * GAP, LABEL + cell + GAP)
        cells = [sheet.crop((GAP + i * cell, LABEL, i * cell + cell, LABEL + CELL)).tobytes() for i in range(7)]
    assert len(set(cells)) == 7
    capsys.readouterr()


def test_a_strip_shows_both_ends_of_a_long_flow() -> None:
    frames = [(f"{i}", Image.new("RGB", (4, 4), (i, 0, 0))) for i in range(26)]
    sheet = strip(frames, most=6)
    shown = [sheet.getpixel((2 * GAP + i * (CELL + GAP), LABEL + 4)) for i in range(6)]
    assert shown == [(i, 0, 0) for i in (0, 5, 10, 15, 20, 25)]
    assert strip(frames[:1]).width == CELL + 3 * GAP


@pytest.mark.parametrize("solver", ["euler", "midpoint", "heun", "ab2", "dopri5"])
def test_every_solver_runs(solver: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = photo(tmp_path / "in.png", (64, 64))
    assert invoke(["run", "--task", "caption", str(image), "--solver", solver, "--steps", "3"]) == 0
    assert capsys.readouterr().out.strip("\n") is not None


def test_guidance_is_refused_where_it_was_not_trained(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = photo(tmp_path / "in.png")
    assert invoke(["run", "--task", "depth", str(image), "--guidance", "3"]) == 2
    assert "trained with null_rate above 0" in capsys.readouterr().err


def test_a_weaker_checkpoint_of_the_run_guides(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """v = 2 v_late - v_early at the source, where one step from t = 0 shows it."""
    overrides = ["data.size=64", "data.held_out=8", "training.batch_size=4", "training.precision=fp32"]
    length = ["training.steps=8", "training.checkpoint_every=4", "training.evaluate=0", "training.sample_every=0"]
    tiny = ["network.channels=[8,8]", "network.blocks=1", "network.attention=[]"]
    recipe = recipes.load("depth/blocks", [*overrides, *length, *tiny])
    run = train(recipe, str(tmp_path / "run"), device="cpu", console=Progress(quiet=True))
    early, late = (run.folder / "checkpoints" / name for name in ("000004", "000008"))
    image = np.asarray(Image.open(photo(tmp_path / "in.png", (64, 64))))

    def end(folder: Path, weak: Path | None = None) -> np.ndarray:
        pipeline = Pipeline.open(folder, "cpu")
        if weak is not None:
            pipeline.guide_by(weak)
        pipeline.sampling = pipeline.adjusted(steps=1, guidance=2.0 if weak is not None else None)
        found = pipeline.assembly.target.collate([pipeline.trajectory(image)[-1][1]])["depth"]
        return np.log(np.asarray(found, dtype=np.float64))

    guided, own, other = end(late, early), end(late), end(early)
    # Log depth is the target of the flow.
    assert np.abs(guided - (2 * own - other)).max() < 1e-3
    assert np.abs(own - other).max() > 1e-2
    line = ["run", "--task", "depth", str(tmp_path / "in.png"), "--checkpoint", str(late), "--weak", str(early)]
    assert invoke(line) == 2
    assert "--weak needs --guidance SCALE" in capsys.readouterr().err
    assert invoke([*line, "--guidance", "2", "-o", str(tmp_path / "o")]) == 0
    assert invoke([*line[:-1], str(home / "runs/caption-blocks-01"), "--guidance", "2"]) == 2
    assert "belongs to another task" in capsys.readouterr().err
    assert invoke([*line[:-1], str(home / "runs/depth-blocks-01"), "--guidance", "2"]) == 2
    assert "is no weaker model of this one" in capsys.readouterr().err


def test_a_result_does_not_depend_on_its_neighbours(home: Path) -> None:
    pipeline = Pipeline.open(home / "runs/t2i-blocks-01", "cpu")
    read = pipeline.assembly.source.read
    words = [read("a small red cube"), read("a large blue sphere left of a small green cone"), read("a cone")]
    together = pipeline.generate(words, samples=2, seed=5)
    alone = pipeline.generate(words[1:2], samples=2, seed=5)
    for one, other in zip(together[1], alone[0], strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1


def test_every_checkpoint_opens_alone(home: Path, tmp_path: Path) -> None:
    import shutil

    for task in ("depth", "caption", "t2i", "superres"):
        moved = tmp_path / task
        shutil.copytree(next((home / f"runs/{task}-blocks-01/checkpoints").iterdir()), moved)
        pipeline = Pipeline.open(moved, "cpu")
        assert not pipeline.assembly.source.needs_fit
        assert not pipeline.assembly.target.needs_fit


def test_foreign_weights_are_refused(home: Path, tmp_path: Path) -> None:
    import shutil

    moved = tmp_path / "mixed"
    shutil.copytree(next((home / "runs/depth-blocks-01/checkpoints").iterdir()), moved)
    other = next((home / "runs/caption-blocks-01/checkpoints").iterdir())
    shutil.copy(other / "ema.safetensors", moved / "ema.safetensors")
    meta = json.loads((moved / "meta.json").read_text())
    for key in ("files", "checksums", "seal"):
        del meta[key]
    (moved / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(BridgeflowError, match="do not fit the recipe beside them"):
        Pipeline.open(moved, "cpu")


def test_inspect_and_eval_tell_of_a_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["inspect", "runs/caption-blocks-01", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["step"] == 12
    assert {"kind": "modality", "name": "text", "distribution": "bridgeflow-torch", "version": "0.1.0"} in facts[
        "plugins"
    ]
    assert facts["parameters"]["network"] > 1000
    assert invoke(["eval", "--task", "depth", "--count", "4", "--steps", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["examples"] == 4
    assert report["network_evaluations"] == 3
    assert report["figures"]["abs_rel"] > 0


def test_nothing_to_run_on_is_said(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert invoke(["run", "--task", "depth", str(tmp_path / "empty")]) == 1
    assert "holds no file that ends in" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TextToImage, "default_model", "")
    assert invoke(["run", "--task", "t2i", "words"]) == 1
    assert "train one with bridgeflow train --task t2i" in capsys.readouterr().err


def test_captions_go_to_a_folder_or_a_file(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    photo(photos / "a.png")
    photo(photos / "b.png")
    folder = tmp_path / "out"
    folder.mkdir()
    assert invoke(["run", "--task", "caption", str(photos), "-o", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["a-caption.txt", "b-caption.txt"]
    lines = tmp_path / "lines.txt"
    assert invoke(["run", "--task", "caption", str(photos), "-o", str(lines)]) == 0
    assert [line.split("\t")[0] for line in lines.read_text().splitlines()] == [
        str(photos / "a.png"),
        str(photos / "b.png"),
    ]
    capsys.readouterr()
