"""Kills, full disks, damaged files, two runs in one folder and clocks set back: nothing that was saved is lost."""

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_faults import flip, killed_at, largest_file

from bridgeflow.assembly.codec_files import restore_codec, save_codec
from bridgeflow.checkpoints.checkpoint import list_checkpoints, open_checkpoint
from bridgeflow.checkpoints.runs import find_resumable, latest_run, new_folder
from bridgeflow.checkpoints.writing import NotSaved
from bridgeflow.config.recipe import Recipe
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.runtime.lock import FolderLock
from bridgeflow.training import codecs as fitting
from bridgeflow.training import loop
from bridgeflow.training.journal import Journal
from bridgeflow.training.start import Run

Make = Callable[..., Recipe]
Train = Callable[..., Run]
STATES = ("model.safetensors", "ema.safetensors", "trainer/optimizer.safetensors")


def words(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_a_run_killed_at_many_moments_of_writing_ends_as_if_it_had_not_been(
    tiny_depth: Make, quiet_train: Train
) -> None:
    recipe = tiny_depth("training.steps=6", "training.checkpoint_every=1", "training.keep=1")
    whole = quiet_train(recipe, output="whole").outcome.checkpoint
    folder = Path("part")

    def go_on() -> None:
        if list_checkpoints(folder / "checkpoints"):
            checkpoint = find_resumable("depth", "part")
            quiet_train(checkpoint.recipe(), resume=checkpoint)
        else:
            quiet_train(recipe, output="part")

    saved, halves, kills = 0, 0, 0
    # From the lock and recipe.yaml of the first start on to each step of writing and removing a checkpoint.
    for event in (3, 6, 11, 25, *range(31, 56, 6)):
        code = killed_at(event, folder, go_on)
        assert code in (0, -signal.SIGKILL), f"refused after {kills} kills"
        kills += code != 0
        halves += any(folder.rglob(".*.part-*"))
        newest = [int(path.name) for path in list_checkpoints(folder / "checkpoints")]
        assert max(newest, default=0) >= saved
        saved = max(newest, default=0)
        if code == 0:
            break
    assert (kills >= 6, halves >= 2) == (True, True), (kills, halves)
    go_on()
    for name in STATES:
        own, other = load_file(whole / name), load_file(folder / "checkpoints" / whole.name / name)
        assert own.keys() == other.keys()
        assert all(torch.equal(own[key], other[key]) for key in own), name
    losses = [
        [json.loads(line)["train/loss"] for line in Path(run, "metrics.jsonl").read_text().splitlines()]
        for run in ("whole", "part")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["000006"]
    assert not (folder / ".lock").exists()


def test_a_flipped_bit_is_found_and_the_checkpoint_before_taken(tiny_depth: Make, quiet_train: Train) -> None:
    quiet_train(tiny_depth("training.steps=2", "training.checkpoint_every=1"), output="run")
    for name in (*STATES, "recipe.yaml"):
        run = Path(name).stem
        shutil.copytree("run", run)
        newest = Path(run, "checkpoints/000002")
        flip(newest / name)
        with pytest.raises(BridgeflowError, match=rf"is damaged \({name} has changed since it was written\)"):
            open_checkpoint(newest, thorough=True)
        checkpoint = find_resumable("depth", run)
        assert checkpoint.step == 1
        assert checkpoint.notes()[0] == (
            f"checkpoint '{newest}' is damaged ({name} has changed since it was written): step 1 is used in its stead."
        )
        # What results are not made with is not read for them.
        unread = name in ("model.safetensors", "trainer/optimizer.safetensors")
        assert open_checkpoint(Path(run)).step == (2 if unread else 1)
    damaged = (newest / name).read_bytes()
    outcome = quiet_train(checkpoint.recipe(), resume=checkpoint).outcome
    assert open_checkpoint(Path(run), thorough=True).step == outcome.step == 2
    assert Path(run, f"checkpoints/000002-aside-01/{name}").read_bytes() == damaged


def test_a_changed_position_and_a_missing_meta_are_damage(tiny_depth: Make, quiet_train: Train) -> None:
    quiet_train(tiny_depth("training.steps=6", "training.checkpoint_every=2", "training.keep=3"), output="run")
    meta = Path("run/checkpoints/000006/meta.json")
    text = meta.read_text()
    meta.write_text(text.replace('"pairs_seen": 24', '"pairs_seen": 25'))
    assert meta.read_text() != text
    Path("run/checkpoints/000004/meta.json").unlink()
    checkpoint = open_checkpoint(Path("run"))
    assert checkpoint.step == 2
    assert "000006' is damaged (meta.json has changed" in checkpoint.passed_over[0]
    assert "000004' cannot be read (" in checkpoint.passed_over[1]
    quiet_train(checkpoint.recipe(), resume=checkpoint)
    kept = sorted(path.name for path in Path("run/checkpoints").iterdir())
    assert kept == ["000002", "000004", "000004-aside-01", "000006", "000006-aside-01"]


def test_what_a_run_left_before_its_first_checkpoint_is_no_run(
    tiny_depth: Make, quiet_train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tiny_depth("training.steps=2")
    Path("run/checkpoints/.000001.part-1/trainer").mkdir(parents=True)
    Path("run/recipe.yaml").write_text("task: depth\n")
    Path("run/metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    with pytest.raises(UsageError, match="stopped before its first checkpoint: start it again with the same command"):
        find_resumable("depth", "run")
    quiet_train(recipe, output="run")
    assert [json.loads(line)["step"] for line in Path("run/metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["000002"]


def test_two_runs_in_one_folder_are_refused_until_the_first_is_dead(
    tiny_depth: Make, quiet_train: Train, tmp_path: Path
) -> None:
    recipe = tiny_depth("training.steps=1")
    ready = tmp_path / "ready"

    def hold() -> None:
        with FolderLock(Path("run"), "the run in", print):
            # What reads rows ahead outlives a killed run for some seconds: the lock must not.
            if os.fork():
                ready.touch()
            time.sleep(20)

    first = multiprocessing.get_context("fork").Process(target=hold)
    first.start()
    while not ready.exists():
        time.sleep(0.01)
    with pytest.raises(
        BridgeflowError, match=rf"^the run in 'run' is being written by process {first.pid} on .*: wait"
    ):
        quiet_train(recipe, output="run")
    first.kill()
    first.join()
    assert quiet_train(recipe, output="run").outcome.step == 1


def test_a_file_system_without_locks_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, tiny_depth: Make, quiet_train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    assert quiet_train(tiny_depth("training.steps=1"), output="run").outcome.step == 1
    assert "'run' cannot be locked (No locks available): see to it that nothing else writes there." in words(capsys)


def test_a_full_disk_costs_checkpoints_but_not_the_run(
    tiny_depth: Make, quiet_train: Train, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_depth("training.steps=8", "training.checkpoint_every=2", "training.sample_every=2")
    before, room = loop.Trainer._train_step, []

    def shrinking(self: loop.Trainer, data: object) -> object:
        if self.step == 2:
            room.append(largest_file(4000))
            room[0].__enter__()
        if self.step == stop_at:
            room.pop().__exit__(None, None, None)
        return before(self, data)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "_train_step", shrinking)
        stop_at = 6
        quiet_train(recipe, output="healed")
        told = words(capsys)
        stop_at = 99
        with pytest.raises(
            BridgeflowError, match=r"000008' cannot be written \(File too large\).*; step 2 is whole, and"
        ):
            quiet_train(recipe, output="full")
        room.pop().__exit__(None, None, None)
    assert (
        "'healed/checkpoints/000004' cannot be written (File too large), so training goes on and tries again at the "
        "next one; step 2 is whole."
    ) in told
    assert "the samples cannot be written to 'healed/samples/000004.png' (File too large); training goes on." in told
    assert open_checkpoint(Path("healed"), thorough=True).step == 8
    assert not list(Path("healed").rglob(".*.part-*"))
    checkpoint = find_resumable("depth", "full")
    assert checkpoint.step == 2
    rest = quiet_train(checkpoint.recipe(), resume=checkpoint).outcome.checkpoint
    for name in STATES:
        own, other = load_file(rest / name), load_file(Path("healed/checkpoints/000008") / name)
        assert all(torch.equal(own[key], other[key]) for key in own), name


def test_the_oldest_makes_room_where_the_newest_does_not_fit(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full while three folders are in it."""
    real = os.fsync

    def full(descriptor: int) -> None:
        if len(list(Path("run/checkpoints").glob("*00*"))) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    quiet_train(tiny_depth("training.steps=6", "training.checkpoint_every=1", "training.keep=2"), output="run")
    assert [path.name for path in list_checkpoints(Path("run/checkpoints"))] == ["000005", "000006"]


def test_no_checkpoint_makes_room_where_room_is_not_what_lacks(
    tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def refused(descriptor: int) -> None:
        if len(list(Path("run/checkpoints").glob("*00*"))) > 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refused)
    with pytest.raises(NotSaved, match=r"000006' cannot be written \(Input/output error\)"):
        quiet_train(tiny_depth("training.steps=6", "training.checkpoint_every=1", "training.keep=2"), output="run")
    assert [path.name for path in list_checkpoints(Path("run/checkpoints"))] == ["000001", "000002"]


def test_figures_wait_for_space(tmp_path: Path) -> None:
    told: list[str] = []
    (tmp_path / "metrics.jsonl").write_bytes(
        b'{"step": 1, "loss": 1.0}\n\xff\xfe\n{"step": 2, "loss": 0.5}\n{"step": 3'
    )
    journal = Journal(tmp_path, 1, told.append)
    with largest_file(60):
        for step in range(2, 9):
            journal.write(step, {"train/loss": 1 / step})
    assert len(told) == 1
    assert "cannot be written to" in told[0]
    assert "(File too large); training goes on." in told[0]
    journal.write(9, {"train/loss": 0.1})
    journal.close()
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 10))


def test_a_killed_reader_is_one_sentence(tiny_depth: Make, quiet_train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    before = loop.Trainer._train_step

    def killing(self: loop.Trainer, data: object) -> object:
        if self.step == 3:
            for reader in multiprocessing.active_children():
                reader.kill()
                reader.join()
        return before(self, data)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Trainer, "_train_step", killing)
    recipe = tiny_depth("training.steps=40", "training.checkpoint_every=2", "training.workers=1")
    with pytest.raises(
        BridgeflowError, match=r"reads rows ahead was killed at step \d+.*go on from step 2 with --resu"
    ):
        quiet_train(recipe, output="run")
    assert not Path("run/.lock").exists()


def test_the_latest_run_is_the_last_saved_whatever_the_clock_says(tiny_depth: Make, quiet_train: Train) -> None:
    recipe = tiny_depth("training.steps=1")
    first, second = quiet_train(recipe), quiet_train(recipe)
    os.utime(first.outcome.checkpoint / "meta.json", (4e9, 4e9))
    os.utime(second.outcome.checkpoint / "meta.json", (1e6, 1e6))
    assert latest_run("depth") == second.folder
    longer = open_checkpoint(first.folder).recipe().changed(training={"steps": 2})
    quiet_train(longer, resume=open_checkpoint(first.folder))
    os.utime(first.folder / "checkpoints/000002/meta.json", (1e6, 1e6))
    assert latest_run("depth") == first.folder


def test_a_place_that_cannot_be_written_is_told_before_anything_slow(tiny_depth: Make, quiet_train: Train) -> None:
    Path("file").touch()
    recipe = tiny_depth("training.steps=1", "data.size=100000")
    with pytest.raises(BridgeflowError, match=r"nothing can be written to the folder 'file/run' \(Not a directory\)"):
        quiet_train(recipe, output="file/run")
    Path("runs").touch()
    with pytest.raises(BridgeflowError, match=r"nothing can be written to the folder 'runs' \(Not a directory\)"):
        quiet_train(recipe)


def test_runs_that_begin_at_once_have_folders_of_their_own(tiny_depth: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tiny_depth()
    real, rivals = Path.exists, [Path("runs/depth-blocks-01")]

    def beaten(self: Path, **how: Any) -> bool:
        answer = real(self, **how)
        if rivals and self == rivals[0]:
            rivals.pop().mkdir(parents=True)
        return answer

    monkeypatch.setattr(Path, "exists", beaten)
    assert new_folder(recipe, None) == Path("runs/depth-blocks-02")


def test_a_codec_is_whole_or_absent_when_its_writer_is_killed(tmp_path: Path) -> None:
    modality = fitting._build("text", ("codec.name=autoencoder", "codec.steps=1", "codec.width=32", "codec.heads=4"))
    modality.fit(iter(["a red cube", "a blue sphere"] * 8))
    folder = tmp_path / "codec"
    found = []
    for event in range(1, 40):
        code = killed_at(event, folder, lambda: save_codec(modality, folder, {}))
        fresh = fitting._build("text", ("codec.name=autoencoder", "codec.steps=1", "codec.width=32", "codec.heads=4"))
        if (folder / "codec.json").exists():
            restore_codec(fresh, folder)
            assert fresh.fingerprint() == modality.fingerprint()
        found.append((folder / "codec.json").exists())
        if code == 0:
            break
    assert code == 0
    assert found.count(False) >= 5
    flip(folder / "state.safetensors")
    with pytest.raises(BridgeflowError, match=r"is damaged .*make it anew with bridgeflow fit"):
        restore_codec(fresh, folder)
