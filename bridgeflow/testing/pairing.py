"""Checks of a task: its rows, pairs, results, figures and default recipe."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping

import numpy as np

from bridgeflow.assembly import assemble
from bridgeflow.config.recipe import Recipe
from bridgeflow.data.pairs import check_columns
from bridgeflow.data.rows import Rows
from bridgeflow.errors import BridgeflowError
from bridgeflow.modality import Item
from bridgeflow.testing.comparing import same
from bridgeflow.testing.outcome import Fault, calling, described
from bridgeflow.testing.subject import copied
from bridgeflow.testing.task_subject import SIDES, TaskSubject
from bridgeflow.testing.tiny import tiny_bridge, training_step

STEPS = 2
"""Training steps that are tried."""


def check_modalities(subject: TaskSubject) -> str | None:
    """Source and target are installed and take the options they are given."""
    *sources, target = (use.name for use in subject.uses.values())
    _ = subject.unfitted
    return f"{', '.join(sources)} -> {target}"


def check_construction(subject: TaskSubject) -> str | None:
    """It keeps its options and both modalities."""
    task = subject.unfitted
    for side in SIDES:
        _ = subject.modality(side)
    if getattr(task, "options", None) != subject.settings:
        raise Fault("`options` are not those it was built with: call super().__init__(options, source, target).")
    return None


def check_rows(subject: TaskSubject) -> str | None:
    """Rows with every column, another for another seed, the same for the same; workers get them by pickle."""
    columns = subject.kind.columns
    if not isinstance(columns, Mapping) or not columns:
        raise Fault("`columns` names none: name every column that `pair` reads, each with what it holds.")
    for name, meaning in columns.items():
        if not isinstance(meaning, str) or not meaning.strip():
            raise Fault(f"the column {name!r} has no meaning: say in a few words what it holds.")
    for seed, row in enumerate(subject.rows):
        if not same(row, subject.row(seed)):
            raise Fault("`example` gave two rows for one seed: take every draw from the `rng` it is given.")
        try:
            pickle.loads(pickle.dumps(row))
        except Exception as error:
            raise Fault(
                f"a made-up row cannot be pickled ({described(error)}): give values as a data set does (arrays, text)."
            ) from error
    if all(same(subject.rows[0], other) for other in subject.rows[1:]):
        raise Fault("`example` gave the same row for every seed: draw something of it from `rng`.")
    return None


def check_pairs(subject: TaskSubject) -> str | None:
    """Items that both modalities take, the same under the same generator, from the declared columns alone."""
    for row, pair in zip(subject.rows, subject.pairs, strict=True):
        if not same(subject.pair(row), pair):
            raise Fault("`pair` gave two pairs for one row and generator: take every draw from the `rng` it is given.")
        given = copied(row)
        with calling("pair", "a made-up row"):
            subject.unfitted.pair(given, np.random.default_rng(0))
        if not same(given, row):
            raise Fault("`pair` changed the row it was given: work on copies, since rows are kept and used again.")
        try:
            subject.pair({name: row[name] for name in subject.kind.columns})
        except Fault as fault:
            if not isinstance(fault.__cause__, KeyError):
                raise
            raise Fault(
                f"`pair` reads the column {fault.__cause__}, which `columns` does not name: add it there."
            ) from fault.__cause__
    for side, latent in (("source", subject.sources), ("target", subject.targets)):
        for place, own in latent.parts(side).items():
            if not own.mean.isfinite().all():
                raise Fault(
                    f"the latent of a {place} item is not finite: let `pair` give items as the modality reads them."
                )
    return f"{subject.modality('source').latent} -> {subject.modality('target').latent}"


def check_joining(subject: TaskSubject) -> str | None:
    """Pieces of a source item are source items, and their results join to a target item."""
    for source, _ in subject.pairs:
        pieces = subject.split(source)
        if not same(pieces, subject.split(source)):
            raise Fault(
                "`split` gave other pieces when asked again: let it draw nothing at random, since `join` has to know "
                "them by the item alone."
            )
        with calling("split", "a source item, into pieces that the source cannot collate"):
            subject.modality("source").collate(pieces)
    _ = subject.results
    return None


def check_metrics(subject: TaskSubject) -> str | None:
    """Finite numbers of results, of the truth itself, and of the truth of another example."""
    figures = subject.figures
    truths = [pair[1] for pair in subject.pairs]
    others = subject.score([*subject.results[1:], subject.results[0]], "results of other examples")
    own = subject.score(truths, "the truths themselves")
    if figures.keys() != others.keys() or figures.keys() != own.keys():
        raise Fault("`metrics` gave other names for other results: give the same figures each time.")
    alike = (same(items, [*items[1:], items[0]]) for items in (truths, subject.results))
    if figures and others in (own, figures) and not any(alike):
        raise Fault("`metrics` gave the same figures for right and for wrong results: let them tell the two apart.")
    if not figures:
        return "there are no metrics"
    for name, way in subject.ready.better.items():
        if way not in ("higher", "lower"):
            raise Fault(f"`better` says {way!r} of {name!r}: say 'higher' or 'lower'.")
        if name in figures and (own[name] < figures[name] if way == "higher" else own[name] > figures[name]):
            raise Fault(
                f"`better` says that {name!r} is better {way}, but the truths themselves get {own[name]:.4g} and other "
                f"results {figures[name]:.4g}: turn it round."
            )
    return ", ".join(list(figures)[:4]) + (f" and {len(figures) - 4} more" if len(figures) > 4 else "")


def check_baseline(subject: TaskSubject) -> str | None:
    """One result for each truth, or none at all."""
    _ = subject.figures
    truths, sources = [pair[1] for pair in subject.pairs], [pair[0] for pair in subject.pairs]

    def examples() -> Iterator[Item]:
        yield from truths

    with calling("baseline"):
        baseline = subject.ready.baseline(copied(truths), copied(sources), examples())
    if baseline is None:
        return "there is no baseline"
    if not isinstance(baseline, tuple) or len(baseline) != 2 or not isinstance(baseline[0], str) or not baseline[0]:
        raise Fault("`baseline` gave something else than (name, results): give both, or None.")
    if len(baseline[1]) != len(truths):
        raise Fault(f"`baseline` gave {len(baseline[1])} results for {len(truths)} truths: give one for each.")
    subject.score(baseline[1], f"the baseline {baseline[0]!r}")
    return baseline[0]


def check_recipe(subject: TaskSubject) -> str | None:
    """The default recipe exists, is one for this task, and describes a bridge that can be built."""
    resolved = subject.resolved
    if resolved is None:
        return "a class that no entry point names has no recipe"
    try:
        _check_data(resolved)
        assembly = assemble(resolved)
        if not any(modality.needs_fit for modality in (assembly.source, assembly.target)):
            assembly.sketch_bridge()
    except BridgeflowError as error:
        raise Fault(
            f"the parts of the default recipe {resolved.name!r} do not fit one another ({described(error)}): fix it."
        ) from error
    return resolved.name


def _check_data(recipe: Recipe) -> None:
    """Raises BridgeflowError where the data of a recipe are known to lack a column that its task needs."""
    columns, place = recipe.data.known_columns, f"the data set {recipe.data_name!r}"
    if not columns and recipe.data.at_hand:
        try:
            rows = recipe.data.open("train")
        except BridgeflowError:
            # A folder is there once people have put their data into it.
            return
        if isinstance(rows, Rows) and len(rows) == 0:
            return
        columns, place = rows.columns, rows.description
    if columns:
        check_columns(recipe.task, recipe.task_name, columns, recipe.columns, place)


def check_training(subject: TaskSubject) -> str | None:
    """Two steps of a tiny bridge give a finite loss with gradients."""
    source = subject.modality("source")
    conditions = {name: own.latent for name, own in source.conditions.items()}
    bridge = tiny_bridge(source.latent, subject.modality("target").latent, conditions)
    losses = [training_step(bridge, subject.sources, subject.targets, seed) for seed in range(STEPS)]
    return f"loss {losses[-1]:.3g}"


def check_pickle(subject: TaskSubject) -> str | None:
    """The workers of a data loader get the task by pickle."""
    task, row = subject.ready, subject.rows[0]
    try:
        copy = pickle.loads(pickle.dumps(task))
    except Exception as error:
        raise Fault(
            f"the task cannot be pickled ({described(error)}), which the workers of a data loader need: keep no "
            "lambda, open file or lock in it, and define classes at the top of a module."
        ) from error
    with calling("pair", "a pickled copy"):
        copy.pair(row, np.random.default_rng(0))
    return None
