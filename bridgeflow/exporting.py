"""A checkpoint made fit to be given away: averaged weights in half precision, figures, a card, nothing of training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bridgeflow.assembly import Assembly, assemble
from bridgeflow.assembly.codec_files import save_codec
from bridgeflow.assembly.preparing import open_rows
from bridgeflow.bridge import Bridge
from bridgeflow.caching.reading import batched
from bridgeflow.checkpoints.checkpoint import Checkpoint
from bridgeflow.checkpoints.loading import PRODUCTS, load_bridge
from bridgeflow.checkpoints.tensor_file import is_finite, write_state
from bridgeflow.checkpoints.writing import save_apart
from bridgeflow.config.recipe import Recipe
from bridgeflow.data.encoding import encode
from bridgeflow.data.pairs import read_pairs
from bridgeflow.data.rows import Rows, Stream
from bridgeflow.errors import BridgeflowError
from bridgeflow.evaluation.runner import kind_of
from bridgeflow.inference import familiarity
from bridgeflow.inference.familiarity import Familiarity
from bridgeflow.runtime.console import Progress

Precision = Literal["fp16", "bf16", "fp32"]
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
KEPT = ("sampling", "tuned", "data", "pairs_seen", "steps", "seconds")
"""Facts of meta.json that go along."""
LOOKED_AT = {"train": 2048, "held_out": 512}
"""Inputs that the look of the training inputs is learned from, and those that its limit is set by."""
BATCH = 32


def export(checkpoint: Checkpoint, folder: Path, precision: Precision, card: str | None, console: Progress) -> Path:
    """Writes a checkpoint into a folder of its own, which must be absent or empty.

    precision: dtype of the weights of linear layers and convolutions, and of the matrices of fitted codecs; all
    else is float32. card: a model card to take instead of the one that is written from recipe and figures.

    Raises BridgeflowError where the folder holds something or cannot be written, where a plugin is missing, or where a
    weight is not finite.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BridgeflowError(f"{str(folder)!r} holds something already: choose another --output.")
    recipe = checkpoint.recipe()
    facts = {key: checkpoint.meta[key] for key in KEPT if key in checkpoint.meta}
    origin = recipe.data.made_from()
    if origin is not None:
        # Latents on this machine say nothing to whoever is given the model.
        recipe = recipe.changed(data=origin.section)
        facts["data"] = {"description": origin.description, "fingerprint": origin.fingerprint}
    assembly = assemble(recipe, checkpoint.codecs(recipe))
    bridge = load_bridge(assembly, checkpoint)
    known = _learn_inputs(assembly, recipe, console)
    report = _figures_of(checkpoint)
    knowledge = recipe.data.knowledge
    facts["exported"] = {"precision": precision, "knowledge": knowledge}

    def fill(part: Path) -> None:
        write_state(_narrowed(bridge, TYPES[precision]), part / "model.safetensors")
        for place, modality in assembly.parts.items():
            if modality.fitted_state() or modality.fitted_facts():
                about = {"modality": recipe.uses[place].name}
                save_codec(modality, part / place, about, TYPES[precision])
        if known is not None:
            known.save(part)
        if report is not None:
            (part / "evaluation.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        text = card if card is not None else model_card(checkpoint, recipe, bridge, report, knowledge)
        (part / "README.md").write_text(text, encoding="utf-8")

    return save_apart(folder, checkpoint.step, recipe, fill, facts)


def _narrowed(bridge: Bridge, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights, those of products in a narrower type. Raises BridgeflowError where they overflow it."""
    wide = bridge.state_dict()
    narrow = {
        f"{owner}.weight" if owner else "weight" for owner, module in bridge.named_modules() if _is_product(module)
    }
    weights = {name: tensor.to(dtype) if name in narrow else tensor for name, tensor in wide.items()}
    for name in narrow & weights.keys():
        if not is_finite(weights[name]) and is_finite(wide[name]):
            raise BridgeflowError(f"the weights {name!r} are too large for {dtype}: choose --precision bf16 or fp32.")
    return weights


def _is_product(module: nn.Module) -> bool:
    return isinstance(module, PRODUCTS)


def _learn_inputs(assembly: Assembly, recipe: Recipe, console: Progress) -> Familiarity | None:
    """What the source latents of the data look like; None where that is not judged."""
    if not familiarity.can_judge(assembly.source.latent):
        return None
    found = {}
    try:
        for split, count in LOOKED_AT.items():
            rows = open_rows(recipe, split, console)  # type: ignore[arg-type]
            found[split] = list(_numbers(assembly, recipe, rows, count, console))
    except BridgeflowError as error:
        console.warn(
            f"the model will not know which inputs are out of distribution, because its data cannot be read: {error}"
        )
        return None
    if not all(found.values()):
        return None
    return Familiarity.fitted(assembly.source.latent.layout, found["train"], found["held_out"])


def _numbers(
    assembly: Assembly, recipe: Recipe, rows: Rows | Stream, count: int, console: Progress
) -> Iterator[Tensor]:
    if isinstance(rows, Rows):
        count = min(count, len(rows))
    source = assembly.source
    pairs = read_pairs(rows, assembly.task, recipe.columns, count)
    done = 0
    for held in batched((pair[0] for pair in pairs if not isinstance(pair, BridgeflowError)), BATCH):
        latent = encode(source, source.collate(held), torch.device("cpu"))
        yield familiarity.numbers(latent, source.latent.layout)
        done += len(held)
        console(done, count, "looking at inputs")


def _figures_of(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """The figures of an exported model, or those that were measured at the end of the run, where this is its last
    checkpoint."""
    places = [checkpoint.folder]
    if checkpoint.step == int(checkpoint.meta.get("steps", -1)):
        places.append(checkpoint.folder.parent.parent)
    for folder in places:
        try:
            found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and isinstance(found.get("figures"), dict):
            return found
    return None


def model_card(
    checkpoint: Checkpoint,
    recipe: Recipe,
    bridge: Bridge,
    report: Mapping[str, Any] | None,
    knowledge: str,
) -> str:
    """A page of Markdown: what the model does, how it was made, its figures, its limits."""
    settings = recipe.keys
    size = sum(parameter.numel() for parameter in bridge.parameters())
    lines = [
        f"# {recipe.name}",
        "",
        f"{recipe.task.summary[:1].upper()}{recipe.task.summary[1:]}: task `{settings.task}` of bridgeflow.",
        "",
        f"- {size / 1e6:.1f} million weights, network `{recipe.tree()['network']['name']}`, source "
        f"`{settings.source_encoder.name}`",
        f"- data: `{settings.data['name']}`; {checkpoint.step:,} steps of {settings.training.batch_size} pairs, seed "
        f"{settings.training.seed}",
        f"- made anew by `bridgeflow train --task {settings.task} --recipe {recipe.name}`",
    ]
    if knowledge:
        lines += ["", "## Limits", "", knowledge]
    if report is not None:
        lines += ["", "## Figures", "", *figures_table(report)]
    return "\n".join([*lines, ""])


def figures_table(report: Mapping[str, Any]) -> list[str]:
    """Lines of Markdown: the figures of a report as `Report.json` gives it, with their 95 % confidence intervals, the
    baseline and the ceiling where it has them."""
    intervals = report.get("intervals") or {}
    beside = [own for own in (report.get("baseline"), report.get("ceiling")) if own]
    heading = ["metric", "result", *(["95 %"] if intervals else []), *(own["name"] for own in beside)]
    kind = kind_of(report.get("scored") or {})
    lines = [
        f"{report['examples']:,} {kind}, {report['network_evaluations']} network evaluations each",
        "",
        f"| {' | '.join(heading)} |",
        "|---" * len(heading) + "|",
    ]
    for name, value in report["figures"].items():
        reach = intervals.get(name)
        between = [f"{_number(reach['low'])} to {_number(reach['high'])}" if reach else ""] if intervals else []
        cells = [name, _number(value), *between, *(_number(own["figures"].get(name)) for own in beside)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
