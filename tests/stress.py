"""Kills what trains, caches and fits, at random moments, and starts it again: `make stress`.

Every run is stopped with SIGKILL until the number of kills is reached, and started again as a person would: with
--resume once there is a checkpoint, else with the same command. A run to its end follows; what it wrote is compared,
bit for bit, with what a run wrote that nobody disturbed.

lost: a checkpoint that was whole before a kill, and that the next start did not go on from or pass. refused: a start
that ended with an error. The exit code is 1 where there is any of these, a difference, or a process left behind.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bridgeflow.checkpoints.checkpoint import list_checkpoints

COMMON = ["training.precision=fp32", "training.evaluate=0", "training.log_every=1", "training.schedule.warmup=2"]
SIZES = {
    "depth": [
        "data.size=48", "data.held_out=8", "data.workers=1", "network.channels=[8,16]", "network.blocks=1",
        "network.attention=[]", "training.batch_size=4", "training.samples=2", "training.sample_every=20",
    ],
    "caption": [
        "data.size=64", "data.held_out=8", "data.workers=1", "training.batch_size=8", "training.sample_every=0",
        "training.samples=2", "source_encoder.width=32", "source_encoder.depth=1", "network.width=32",
        "network.depth=1", "target.codec.steps=20", "target.codec.width=32", "target.codec.heads=4",
    ],
}  # fmt: skip
"""Overrides that make the recipes small; caption has a learned source with running statistics and a fitted codec."""


@dataclass
class Subject:
    """Something that is killed. `marks(folder)` counts what is safe so far."""

    name: str
    command: list[str]
    again: Callable[[Path], list[str]]
    marks: Callable[[Path], int]
    result: Callable[[Path], dict[str, str]]
    done: Callable[[Path], bool] = lambda folder: False
    """Whether there is nothing left to start again."""


@dataclass
class Tally:
    """What was seen of one subject."""

    kills: int = 0
    early: int = 0
    """Kills before anything was saved."""
    writing: int = 0
    """Kills that left a half-written file or folder behind."""
    lost: int = 0
    refused: int = 0
    orphans: int = 0
    equal: bool = False
    told: list[str] = field(default_factory=list)


def digests(folder: Path, pattern: str) -> dict[str, str]:
    """SHA-256 by path of the files in a folder."""
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint, 0 where there is none."""
    saved = list_checkpoints(folder / "checkpoints")
    return int(saved[-1].name) if saved else 0


def training(task: str, steps: int, every: int, workers: int = 0) -> Subject:
    """A run that saves every few steps."""
    sizes = [*SIZES[task], *COMMON, f"training.steps={steps}", f"training.checkpoint_every={every}"]
    start = ["train", "--task", task, "--device", "cpu", *sizes, f"training.workers={workers}"]

    def again(folder: Path) -> list[str]:
        return ["train", "--task", task, "--device", "cpu", "--resume"] if newest_step(folder) else start

    def result(folder: Path) -> dict[str, str]:
        whole = digests(folder / "checkpoints" / f"{steps:06d}", "**/*.safetensors")
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return {**whole, "losses": str([(line["step"], line["train/loss"]) for line in lines])}

    return Subject(f"train {task}", start, again, newest_step, result)


def caching() -> Subject:
    """A cache of many small files, each with a note until all are there."""

    def kept(folder: Path) -> int:
        notes = len(list(folder.glob("*/[0-9]*.json")))
        index = folder / "index.json"
        whole = index.is_file() and json.loads(index.read_text())["complete"]
        return len(list(folder.glob("*/[0-9]*.safetensors"))) if whole else notes

    start = ["cache", "--task", "depth", "--device", "cpu", "--shard-rows", "4", "--batch-size", "4", *SIZES["depth"]]
    return Subject(
        "cache",
        start,
        lambda folder: start,
        kept,
        lambda folder: digests(folder, "*/*.safetensors"),
    )


def fitting() -> Subject:
    """A codec that takes some steps to fit."""
    options = ["codec.steps=60", "codec.width=32", "codec.heads=4", "codec.name=autoencoder"]
    start = ["fit", "text", "--data", "blocks", "--count", "256", *options]
    return Subject(
        "fit",
        start,
        lambda folder: start,
        lambda folder: int((folder / "codec.json").is_file()),
        lambda folder: digests(folder, "*"),
        lambda folder: (folder / "codec.json").is_file(),
    )


class Ground:
    """The folder in which a subject is killed, and the processes in it."""

    def __init__(self, place: Path, log: Callable[[str], None]) -> None:
        self.place = place
        self.log = log
        shared = {"BRIDGEFLOW_CACHE": str(place / "cache"), "OMP_NUM_THREADS": "1"}
        self.environment = {**os.environ, **shared, "PYTHONUNBUFFERED": "1"}

    def start(self, arguments: list[str], folder: Path, output: Path) -> subprocess.Popen[bytes]:
        """A process in a group of its own, its words in a file."""
        with output.open("wb") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", "bridgeflow", *arguments, "--output", str(folder)],
                stdout=stream, stderr=subprocess.STDOUT, env=self.environment, cwd=self.place,
                start_new_session=True,
            )  # fmt: skip

    def left_behind(self, group: int, patience: float = 12.0) -> int:
        """Processes of a killed one's group that are still there after some seconds."""
        for _ in range(int(patience / 0.2)):
            try:
                os.killpg(group, 0)
            except ProcessLookupError:
                return 0
            time.sleep(0.2)
        os.killpg(group, signal.SIGKILL)
        return 1


@dataclass(frozen=True)
class Pace:
    """How an undisturbed run went: seconds to the first mark, seconds between two, and their number."""

    begun: float
    between: float
    marks: int


def ended_or_killed(
    process: subprocess.Popen[bytes], count: Callable[[], int], pace: Pace, chance: random.Random
) -> int | None:
    """Waits for a random moment, and kills; what was safe right before, or None where the process ended by itself.

    One in eight is killed while it starts, the others at any moment of the step or the writing that follows one of
    the next marks, counted in marks so that a busy machine does not shift it.
    """
    starting = chance.random() < 0.125
    marks = count() + chance.randint(0, max(1, min(6, pace.marks - 1)))
    wait = chance.uniform(0.1, pace.begun) if starting else chance.uniform(0.0, 1.5 * pace.between)
    while not starting and process.poll() is None and count() < marks:
        time.sleep(0.002)
    try:
        process.wait(wait)
    except subprocess.TimeoutExpired:
        safe = count()
        process.kill()
        process.wait()
        return safe
    return None


def torment(subject: Subject, kills: int, ground: Ground, chance: random.Random) -> Tally:
    """Kills and restarts a subject as often as told, run after run; compares the end of each run."""
    tally = Tally(equal=True)
    words = ground.place / "words.txt"
    first = time.monotonic()
    whole_folder = ground.place / f"{subject.name.replace(' ', '-')}-whole"
    undisturbed = ground.start(subject.command, whole_folder, words)
    begun = 0.0
    steps: set[int] = set()
    while undisturbed.poll() is None:
        steps.add(subject.marks(whole_folder))
        begun = begun or (time.monotonic() - first if len(steps) > 1 else 0.0)
        time.sleep(0.01)
    whole = time.monotonic() - first
    pace = Pace(begun or whole, (whole - begun) / max(1, len(steps) - 1), len(steps) - 1)
    if undisturbed.returncode:
        raise SystemExit(f"{subject.name} fails undisturbed: {words.read_text()}")
    expected = subject.result(whole_folder)
    ground.log(f"{subject.name}: {whole:.1f} s undisturbed, first saved after {begun:.1f} s")
    number = 0
    while tally.kills < kills or number == 0:
        number += 1
        folder = ground.place / f"{subject.name.replace(' ', '-')}-{number:03d}"
        refused = tally.refused
        _one_run(subject, folder, kills, pace, ground, chance, tally)
        if tally.refused == refused and subject.result(folder) != expected:
            tally.equal = False
            tally.told.append(f"{folder.name} ended otherwise than the undisturbed run")
    return tally


def _one_run(
    subject: Subject,
    folder: Path,
    kills: int,
    pace: Pace,
    ground: Ground,
    chance: random.Random,
    tally: Tally,
) -> None:
    """One run from its start to its end, killed on the way."""
    words = ground.place / "words.txt"
    while True:
        before = subject.marks(folder)
        process = ground.start(subject.again(folder), folder, words)
        safe = ended_or_killed(process, lambda: subject.marks(folder), pace, chance) if tally.kills < kills else None
        code = None if safe is not None else process.wait(300)
        after = subject.marks(folder)
        if safe is not None:
            tally.kills += 1
            tally.early += safe == 0
            tally.orphans += ground.left_behind(process.pid)
            tally.writing += any(folder.rglob(".*.part-*"))
            ground.log(f"  {folder.name}: kill {tally.kills}, {safe} safe")
        elif code:
            tally.refused += 1
            tally.told.append(f"{folder.name} was refused with {code}: {words.read_text().strip()[-300:]}")
        if after < max(before, safe or 0):
            tally.lost += 1
            tally.told.append(f"{folder.name}: {max(before, safe or 0)} safe before a kill, {after} after it")
        going = re.search(r"going on(?: from step|:) ([\d,]+)", words.read_text(errors="replace"))
        if going is not None and int(going[1].replace(",", "")) < before:
            tally.lost += 1
            tally.told.append(f"{folder.name} went on from {going[1]}, though {before} was saved")
        if code is not None or subject.done(folder):
            return


def table(tallies: dict[str, Tally]) -> str:
    """What was seen, in lines."""
    names = ("kills", "early", "writing", "lost", "refused", "orphans")
    lines = [f"{'':<16}" + "".join(f"{name:>9}" for name in names) + "  bit-equal"]
    for subject, tally in tallies.items():
        figures = "".join(f"{getattr(tally, name):>9}" for name in names)
        lines.append(f"{subject:<16}{figures}  {'yes' if tally.equal else 'NO'}")
    total = "".join(f"{sum(getattr(tally, name) for tally in tallies.values()):>9}" for name in names)
    return "\n".join([*lines, f"{'together':<16}{total}"])


def main(arguments: list[str] | None = None) -> int:
    """Runs the stress; 1 where anything was lost, refused, left behind or different."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60, help="kills in all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--only", choices=["train", "cache", "fit"], help="kill these alone")
    given = parser.parse_args(arguments)
    subjects = [training("depth", 40, 2), training("caption", 24, 3, workers=2), caching(), fitting()]
    subjects = [own for own in subjects if given.only is None or own.name.startswith(given.only)]
    shares = {"train depth": 5, "train caption": 3, "cache": 2, "fit": 2}
    whole = sum(shares[own.name] for own in subjects)
    tallies: dict[str, Tally] = {}
    with tempfile.TemporaryDirectory(prefix="bridgeflow-stress-") as place:
        ground = Ground(Path(place), lambda line: print(line, file=sys.stderr, flush=True))
        for own in subjects:
            kills = -(-given.kills * shares[own.name] // whole)
            tallies[own.name] = torment(own, kills, ground, random.Random(f"{given.seed} {own.name}"))
    print(table(tallies))
    for tally in tallies.values():
        for sentence in tally.told:
            print(sentence)
    faults = sum(tally.lost + tally.refused + tally.orphans + (not tally.equal) for tally in tallies.values())
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
