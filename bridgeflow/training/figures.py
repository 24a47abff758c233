"""What a run shows for itself: samples of held-out examples while it trains, figures when it is done."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bridgeflow.assembly import Assembly
from bridgeflow.bridge import Bridge
from bridgeflow.data.pairs import Examples, read_examples
from bridgeflow.data.rows import Rows, Stream
from bridgeflow.evaluation.runner import NothingToScore, Report, evaluate, kind_of
from bridgeflow.inference.pictures import comparison
from bridgeflow.inference.pipeline import Pipeline
from bridgeflow.runtime import durable
from bridgeflow.runtime.console import Progress


@dataclass
class Sampler:
    """Draws the sample picture of a step."""

    assembly: Assembly
    examples: Examples
    folder: Path
    console: Progress

    def __call__(self, bridge: Bridge, step: int) -> Any:
        if not self.examples.sources:
            return None
        pipeline = Pipeline(self.assembly, bridge, next(bridge.parameters()).device)
        results = [own[0] for own in pipeline.generate(self.examples.sources)]
        image = comparison(
            self.assembly.source, self.assembly.target, self.examples.sources, self.examples.truths, results
        )
        path = self.folder / "samples" / f"{step:06d}.png"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path)
        except OSError as error:
            self.console.warn(
                f"step {step:,}: the samples cannot be written to {str(path)!r} ({error.strerror or error}); training "
                "goes on."
            )
            return None
        return image


def _is_empty(rows: Rows | Stream) -> bool:
    return isinstance(rows, Rows) and len(rows) == 0


def shown_examples(assembly: Assembly, held_out: Rows | Stream, rows: Rows | Stream, console: Progress) -> Examples:
    if _is_empty(held_out):
        console.warn(
            "nothing is held out of so few rows: samples and figures show training rows; to have others, "
            f"{assembly.recipe.data.to_hold_out}."
        )
    chosen = rows if _is_empty(held_out) else held_out
    recipe = assembly.recipe
    return read_examples(chosen, assembly.task, recipe.columns, recipe.training.samples)


def score(
    assembly: Assembly,
    bridge: Bridge,
    held_out: Rows | Stream,
    rows: Rows | Stream,
    count: int,
    folder: Path,
    device: torch.device,
    console: Progress,
) -> Report | None:
    """The figures of a trained bridge; None, with a warning, where there is nothing to score on."""
    pipeline = Pipeline(assembly, bridge, device)
    chosen = rows if _is_empty(held_out) else held_out
    scored = {"data": chosen.description, "split": "train" if chosen is rows else "held_out"}
    try:
        what = f"scoring {kind_of(scored)}"
        with console.doing(what):
            report = evaluate(pipeline, chosen, rows, count, on_progress=lambda done, total: console(done, total, what))
    except NothingToScore as error:
        console.warn(f"trained and saved, but not scored: {error}")
        return None
    report.scored = scored
    if chosen is rows:
        report.notes.append("nothing is held out, so these are examples that were trained on.")
    console.clear()
    try:
        durable.write_whole(folder / "evaluation.json", json.dumps(report.json(), indent=1))
        if report.picture is not None:
            report.picture.save(folder / "evaluation.png")
    except OSError as error:
        console.warn(f"the figures cannot be written to {str(folder)!r} ({error.strerror or error}).")
    return report
