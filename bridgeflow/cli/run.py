"""`bridgeflow run`."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridgeflow.cli.options import check_task, device_option, find_task, json_option, task_option

if TYPE_CHECKING:
    from bridgeflow.inference import Pipeline


@dataclass
class Input:
    """Something to carry: what a person calls it, and what the source modality reads."""

    name: str
    value: Any


@click.command(
    epilog="Examples:\n\n\b\n"
    "  bridgeflow run --task caption image.jpg\n"
    "  bridgeflow run --task depth photos/ -o depths/\n"
    '  bridgeflow run --task t2i "a small red cube" --samples 4 --seed 7\n'
    "  cat prompts.txt | bridgeflow run --task t2i -o pictures/\n"
    "  bridgeflow run --task superres small.png --trajectory flow.gif"
)
@task_option()
@click.argument("inputs", nargs=-1, metavar="[FILE|FOLDER|TEXT]...")
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    help="File for one result, folder for many; the current folder by default.",
)
@click.option("--checkpoint", metavar="DIR", help="Run or checkpoint; the task's latest run under runs/ by default.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of whatever is drawn.")
@click.option("--samples", type=click.IntRange(min=1), default=1, show_default=True, help="Results for each input.")
@click.option("--steps", type=click.IntRange(min=1), help="Solver steps; the checkpoint's by default.")
@click.option("--solver", type=click.Choice(["euler", "midpoint", "heun", "ab2", "dopri5"]), help="Solver.")
@click.option("--guidance", type=float, metavar="SCALE", help="Scale of the guidance; 1 is none.")
@click.option("--trajectory", metavar="FILE.gif", help="Draw the flow from source to target.")
@device_option
@json_option
def run(
    task: str,
    inputs: tuple[str, ...],
    output: str | None,
    checkpoint: str | None,
    seed: int,
    samples: int,
    steps: int | None,
    solver: str | None,
    guidance: float | None,
    trajectory: str | None,
    device: str | None,
    as_json: bool,
) -> int:
    """Carry files, folders, text, or lines on stdin.

    Results go to stdout, or to files whose names are printed there. An input that cannot be read is named on
    stderr, and the others go on.
    """
    find_task(task)
    if trajectory is not None and not trajectory.lower().endswith(".gif"):
        raise click.UsageError(f"--trajectory {trajectory!r} must end in .gif.")
    given = list(inputs) or _lines_on_stdin()
    from bridgeflow.console import Progress
    from bridgeflow.errors import BridgeflowError
    from bridgeflow.inference import Pipeline

    console = Progress()
    folder = _find_checkpoint(task, checkpoint)
    pipeline = Pipeline.open(folder, device)
    check_task(pipeline.assembly.recipe.recipe.task, task, folder)
    console.say(f"using {folder}")
    _set_sampling(pipeline, steps, solver, guidance)
    source = pipeline.assembly.source
    failed = 0
    items: list[tuple[Input, Any]] = []
    for entry in _expand(given, source):
        try:
            item = source.read(entry.value)
            pipeline.assembly.task.split(item)
            items.append((entry, item))
        except BridgeflowError as error:
            failed += 1
            print(f"bridgeflow: {error}", file=sys.stderr)
    if not items:
        return 1
    many = len(items) * samples > 1 or failed > 0 or len(given) > 1
    writer = _Writer(pipeline, task, output, many, as_json, seed, str(folder))
    size = max(1, pipeline.sampling.batch_size // samples)
    for start in range(0, len(items), size):
        chunk = items[start : start + size]
        results = pipeline.carry(
            [item for _, item in chunk], samples, seed, on_progress=_shown(console, start, len(items))
        )
        console.clear()
        for (entry, _), own in zip(chunk, results, strict=True):
            writer.add(entry, own)
    if trajectory is not None:
        _draw_trajectories(pipeline, items, Path(trajectory), seed, console)
    writer.finish()
    if failed:
        print(f"bridgeflow: {failed} of {failed + len(items)} inputs could not be read.", file=sys.stderr)
    return 1 if failed else 0


def _shown(console: Any, start: int, count: int) -> Any:
    def show(done: int, total: int) -> None:
        detail = f" of input {start + 1:,}/{count:,}" if count > 1 else ""
        console(done, total, "pieces carried", "pieces", detail)

    return show


def _lines_on_stdin() -> list[str]:
    if sys.stdin is None or sys.stdin.isatty():
        raise click.UsageError("nothing to run on: give files, folders or text, or lines on stdin.")
    try:
        lines = [line.strip() for line in sys.stdin]
    except UnicodeDecodeError as error:
        raise click.UsageError("the lines on stdin are not UTF-8 text.") from error
    given = [line for line in lines if line]
    if not given:
        raise click.UsageError("nothing to run on: stdin held no line.")
    return given


def _find_checkpoint(task: str, given: str | None) -> Path:
    from bridgeflow.errors import BridgeflowError
    from bridgeflow.training.checkpoint import open_checkpoint
    from bridgeflow.training.start import latest_run

    folder = Path(given) if given is not None else latest_run(task)
    if folder is None:
        raise BridgeflowError(
            f"there is no checkpoint of task {task!r} under 'runs': train one with bridgeflow train --task {task}, "
            "or name one with --checkpoint."
        )
    if not folder.is_dir():
        raise BridgeflowError(f"there is no folder {str(folder)!r}: --checkpoint takes a run or a checkpoint of one.")
    return open_checkpoint(folder).folder


def _set_sampling(pipeline: Pipeline, steps: int | None, solver: str | None, guidance: float | None) -> None:
    sampling = pipeline.sampling
    method = {**({"method": solver} if solver else {}), **({"steps": steps} if steps else {})}
    guide = {} if guidance is None else {"kind": "none" if guidance == 1 else "indicator", "scale": guidance}
    if guide.get("kind") == "indicator" and pipeline.assembly.recipe.recipe.null_rate == 0:
        raise click.UsageError("--guidance needs a model trained with null_rate above 0; this one was trained without.")
    pipeline.sampling = sampling.model_copy(
        update={
            "solver": sampling.solver.model_copy(update=method),
            "guidance": sampling.guidance.model_copy(update=guide),
        }
    )


def _expand(given: list[str], source: Any) -> list[Input]:
    """Inputs from what was given: files of folders, lines of text files, words as they are."""
    from bridgeflow.errors import BridgeflowError

    found: list[Input] = []
    for value in given:
        path = Path(value)
        is_path = len(value) < 4096 and "\n" not in value
        if is_path and path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in source.reads and p.is_file())
            if not files:
                raise BridgeflowError(f"the folder {value!r} holds no file that ends in {', '.join(source.reads)}.")
        elif source.textual and not (is_path and path.suffix.lower() in source.reads and path.is_file()):
            found.append(Input(value, value))
            continue
        else:
            files = [path]
        for file in files:
            found += _lines_of(file) if source.textual else [Input(str(file), file)]
    return found


def _lines_of(path: Path) -> list[Input]:
    from bridgeflow.errors import BridgeflowError

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BridgeflowError(f"{path} cannot be read as UTF-8 text ({error}).") from error
    return [Input(line.strip(), line.strip()) for line in lines if line.strip()]


def _draw_trajectories(pipeline: Pipeline, items: list[tuple[Input, Any]], path: Path, seed: int, console: Any) -> None:
    from bridgeflow.pictures import save_gif

    for number, (_, item) in enumerate(items, 1):
        own = path if len(items) == 1 else path.with_stem(f"{path.stem}-{number:02d}")
        states = pipeline.trajectory(item, seed)
        preview = pipeline.assembly.target.preview
        frames = [("source", pipeline.assembly.source.preview(item))]
        frames += [(f"t = {t:.2f}", preview(state)) for t, state in states]
        save_gif(frames, own)
        console.say(f"the flow is drawn in {own}")


class _Writer:
    """Puts results where the user wants them, and says where."""

    def __init__(
        self,
        pipeline: Pipeline,
        task: str,
        output: str | None,
        many: bool,
        as_json: bool,
        seed: int,
        checkpoint: str,
    ) -> None:
        self.target = pipeline.assembly.target
        self.task = task
        self.output = Path(output) if output is not None else None
        self.many = many
        self.as_json = as_json
        self.facts = {"task": task, "checkpoint": checkpoint, "seed": seed}
        self.records: list[dict[str, Any]] = []

    def add(self, entry: Input, results: list[Any]) -> None:
        """Writes or prints the results of one input."""
        for number, result in enumerate(results):
            record: dict[str, Any] = {"input": entry.name, "sample": number}
            if self.target.textual:
                record["result"] = result
                if not self.as_json and self.output is None:
                    print(f"{entry.name}\t{result}" if self.many else result)
            else:
                paths = self.target.write(result, self._path(entry, number, len(results)))
                record["files"] = [str(path) for path in paths]
                if not self.as_json:
                    print("\n".join(record["files"]))
            self.records.append(record)
            sys.stdout.flush()

    def finish(self) -> None:
        """Writes what goes out in one piece: JSON, or the lines of a text target."""
        if self.target.textual and self.output is not None:
            lines = [f"{r['input']}\t{r['result']}" if self.many else str(r["result"]) for r in self.records]
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
            if not self.as_json:
                print(self.output)
        if self.as_json:
            print(json.dumps({**self.facts, "results": self.records}, indent=1, ensure_ascii=False))

    def _path(self, entry: Input, number: int, samples: int) -> Path:
        output = self.output
        if output is not None and output.suffix and not output.is_dir() and not self.many:
            return output
        folder = output or Path(".")
        if output is not None and output.suffix and not output.is_dir():
            folder, stem = output.parent, f"{output.stem}-{len(self.records) + 1:02d}"
            return folder / f"{stem}{output.suffix}"
        words = Path(entry.name).stem if isinstance(entry.value, Path) else entry.name
        stem = "-".join("".join(c if c.isalnum() else " " for c in words).split())[:60] or "result"
        name = f"{stem}-{self.task}" + (f"-{number + 1:02d}" if samples > 1 else "")
        return _unused(folder, name, self.target.writes)


def _unused(folder: Path, name: str, ending: str) -> Path:
    """A path in a folder that overwrites nothing."""
    candidate, number = name, 2
    while folder.is_dir() and any(
        p.name == candidate + p.suffix or p.stem == candidate for p in folder.glob(f"{candidate}*")
    ):
        candidate, number = f"{name}-{number}", number + 1
    return folder / f"{candidate}{ending}"
