"""Every check of a task, tried on one that breaks it; the reports name the fault and the fix."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from testing_fine import FineTask, Spoilt

from bridgeflow.conditioned import Conditioned
from bridgeflow.errors import UsageError
from bridgeflow.modality import Item, Modality
from bridgeflow.settings import Settings
from bridgeflow.task import ModalityUse, Task
from bridgeflow.testing import Outcome, check_task, task_checks
from bridgeflow.testing.outcome import reached

Install = Callable[..., Path]
SPOILT = Spoilt()
spoils = SPOILT.by


@spoils("contract", "version 0 of the contract")
class OldTask(FineTask):
    api_version = 0


@spoils("contract", "no subclass of bridgeflow.task.Task")
class NoTask:
    pass


@spoils("waivers", "names 'metric', which is no check")
class WaivesNothing(FineTask):
    waived = {"metric": "there are none"}


class Needy(Settings):
    factor: int


@spoils("options", "'factor' has no default")
class NeedyTask(FineTask):
    Options = Needy


@spoils("modalities", "no modality 'imagelatent'. Did you mean 'image_latent'?")
class UnknownSource(FineTask):
    source = ModalityUse("imagelatent")


@spoils("modalities", "the options of its target do not suit 'image_latent' (target.sise: unknown key")
class WrongOptions(FineTask):
    target = ModalityUse("image_latent", {"sise": 16})


@spoils("modalities", "`source` is not set")
class NoSource(Task):
    summary = "nothing to something"
    target = FineTask.target
    columns = FineTask.columns
    pair = FineTask.pair
    example = FineTask.example


@spoils("modalities", "`conditions` is no mapping from names to modalities")
class ConditionsByName(FineTask):
    conditions = {"hint": "image_latent"}  # type: ignore[dict-item]


@spoils("modalities", "its source.conditions.hint cannot be had: no modality 'imagelatent'")
class UnknownCondition(FineTask):
    conditions = {"hint": ModalityUse("imagelatent")}


@spoils("modalities", "`conditions` names 'items', which is no name for one: torch.nn.Module has an attribute")
class NamedAsAnAttribute(FineTask):
    conditions = {"items": ModalityUse("image_latent", {"size": 16})}


@spoils("pairs", "a source item with no conditions, where the class declares the conditions hint")
class ForgottenCondition(FineTask):
    conditions = {"hint": ModalityUse("image_latent", {"size": 16})}

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        image = self.to_modality.read(row["image"])
        return image, image


@spoils("pairs", "a source item with the conditions hint, where the class declares no conditions")
class UndeclaredCondition(FineTask):
    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        source, target = super().pair(row, rng)
        return Conditioned(source, {"hint": source}), target


@spoils("construction", "call super().__init__(options, source, target)")
class OwnInit(FineTask):
    def __init__(self, options: Settings, source: Modality, target: Modality) -> None:
        self.from_modality, self.to_modality = source, target


@spoils("rows", "without the column 'image'")
class LacksColumn(FineTask):
    @classmethod
    def example(cls, rng: np.random.Generator) -> dict[str, Any]:
        return {"picture": super().example(rng)["image"]}

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        return super().pair({"image": row["picture"]}, rng)


@spoils("rows", "the same row for every seed")
class OneRow(FineTask):
    @classmethod
    def example(cls, rng: np.random.Generator) -> dict[str, Any]:
        return super().example(np.random.default_rng(7))


@spoils("rows", "two rows for one seed")
class GlobalRows(FineTask):
    @classmethod
    def example(cls, rng: np.random.Generator) -> dict[str, Any]:
        return super().example(np.random.default_rng())


class Held:
    """A picture that is the same as another one, but that no pickle takes."""

    def __init__(self, image: Any) -> None:
        self.image, self.open = image, lambda: None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and bool((self.image == other.image).all())

    def __hash__(self) -> int:
        return 0


@spoils("rows", "a made-up row cannot be pickled")
class HeldRows(FineTask):
    @classmethod
    def example(cls, rng: np.random.Generator) -> dict[str, Any]:
        return {"image": Held(super().example(rng)["image"])}

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        return super().pair({"image": row["image"].image}, rng)


@spoils("rows", "`columns` names none")
class NoColumns(FineTask):
    columns: Mapping[str, str] = {}

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        image = self.from_modality.read(row.get("image", np.zeros((16, 16, 3), np.uint8)))
        return image, image


@spoils("pairs", "two pairs for one row and generator")
class GlobalPairs(FineTask):
    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        source, target = super().pair(row, rng)
        return source, np.roll(target, np.random.default_rng().integers(1000), 0)


@spoils("pairs", "reads the column 'note', which `columns` does not name")
class ReadsNote(FineTask):
    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        assert row["note"]
        return super().pair(row, rng)


@spoils("pairs", "`pair` changed the row it was given")
class ClearsRow(FineTask):
    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        source, target = super().pair(row, rng)
        source = source.copy()
        row["image"][...] = 0
        return source, target


@spoils("pairs", "gave a list: let it give (source item, target item)")
class PairOfThree(FineTask):
    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> Any:
        return [*super().pair(row, rng), None]


@spoils("pairs", "whose target item 'image_latent' cannot collate")
class WrongItems(FineTask):
    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        source, target = super().pair(row, rng)
        return source, target.tolist()


@spoils("split and join", "`split` gave no list of pieces")
class NoPieces(FineTask):
    def split(self, item: Item) -> list[Item]:
        return []


@spoils("split and join", "into something that the target cannot collate")
class JoinsToNothing(FineTask):
    metrics = Task.metrics

    def join(self, results: Sequence[Item], item: Item) -> Item:
        return None


@spoils("split and join", "`split` gave other pieces when asked again")
class DrawsPieces(FineTask):
    count = 0

    def split(self, item: Item) -> list[Item]:
        type(self).count += 1
        return [item] * (1 + self.count % 3)


@spoils("split and join", "`join` gave the same result whatever the pieces became")
class JoinsToBlack(FineTask):
    metrics = Task.metrics

    def join(self, results: Sequence[Item], item: Item) -> Item:
        return np.zeros((1, 1, 3), np.uint8)


@spoils("stdout", "`metrics` prints 'scoring 4' on stdout, where results go: log it, or print it to sys.stderr.")
class PrintsScores(FineTask):
    def metrics(self, results: Sequence[Item], *arguments: Any) -> dict[str, float]:
        print("scoring", len(results))
        return super().metrics(results, *arguments)


@spoils("stdout", "`pair` prints 'a row' on stdout")
class PrintsRows(FineTask):
    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        os.write(1, b"a row\n")
        return super().pair(row, rng)


@spoils("metrics", "the metric 'error' is nan on decoded truths")
class UndefinedMetric(FineTask):
    def metrics(self, *arguments: Any) -> dict[str, float]:
        return {"error": float("nan")}


@spoils("metrics", "the same figures for right and for wrong results")
class BlindMetric(FineTask):
    def metrics(self, *arguments: Any) -> dict[str, float]:
        return {"error": 0.5}


@spoils("metrics", "the same figures for right and for wrong results")
class ExactMetric(FineTask):
    # Right only where result and truth are the same object: so are no decoded ones.
    def metrics(self, results: Sequence[Item], truths: Sequence[Item], *arguments: Any) -> dict[str, float]:
        return {"same": float(all(np.array_equal(a, b) for a, b in zip(results, truths, strict=True)))}

    def join(self, results: Sequence[Item], item: Item) -> Item:
        return results[0] ^ 1


@spoils("metrics", "`metrics` changed the results it was given")
class ClearsResults(FineTask):
    def metrics(self, results: Sequence[Item], *arguments: Any) -> dict[str, float]:
        figures = super().metrics(results, *arguments)
        assert isinstance(results, list)
        results.clear()
        return figures


@spoils("metrics", "`metrics` changed the truths it was given")
class RoundsTruths(FineTask):
    def metrics(self, results: Sequence[Item], truths: Sequence[Item], *arguments: Any) -> dict[str, float]:
        figures = super().metrics(results, truths, *arguments)
        for truth in truths:
            truth &= 254
        return figures


@spoils("metrics", "`metrics` failed on decoded truths (TypeError")
class WrongSignature(FineTask):
    def metrics(self, results: Sequence[Item], truths: Sequence[Item]) -> dict[str, float]:  # type: ignore[override]
        return {}

    def baseline(self, *arguments: Any) -> None:
        return None


@spoils("baseline", "1 results for 4 truths: give one for each")
class OneBaseline(FineTask):
    def baseline(self, *arguments: Any) -> Any:
        return "first", list(arguments[0])[:1]


@spoils("baseline", "give both, or None")
class NamelessBaseline(FineTask):
    def baseline(self, *arguments: Any) -> Any:
        return list(arguments[0])


@spoils("pickle", "the task cannot be pickled")
class KeepsFile(FineTask):
    def __init__(self, options: Settings, source: Modality, target: Modality) -> None:
        super().__init__(options, source, target)
        self.log = io.TextIOWrapper(io.BytesIO())


def failing(outcomes: Sequence[Outcome]) -> dict[str, str]:
    """The sentence of each check that failed of itself."""
    return {o.check.name: o.message for o in outcomes if o.status == "failed" and reached(o)}


def test_a_task_without_a_fault_passes_every_check() -> None:
    outcomes = check_task(FineTask)
    assert failing(outcomes) == {}
    assert [outcome.check for outcome in outcomes] == list(task_checks())
    notes = {outcome.check.name: outcome.message for outcome in outcomes}
    assert notes["pairs"] == "grid 3x16x16 -> grid 3x16x16"
    assert (notes["metrics"], notes["baseline"]) == ("error", "not mirrored")


class HintedTask(FineTask):
    conditions = {"hint": ModalityUse("image_latent", {"size": 16})}

    def pair(self, row: Mapping[str, Any], rng: np.random.Generator) -> tuple[Item, Item]:
        source = self.from_modality.read(Conditioned(row["image"], {"hint": row["image"]}))
        return source, source.start[:, ::-1].copy()

    def metrics(self, results: Sequence[Item], *arguments: Any) -> dict[str, float]:
        truths, sources, rows = arguments
        return super().metrics(results, truths, [own.start for own in sources], rows)

    def baseline(self, *arguments: Any) -> Any:
        truths, sources, examples = arguments
        return super().baseline(truths, [own.start for own in sources], examples)


def test_a_task_with_conditions_passes_every_check() -> None:
    outcomes = check_task(HintedTask)
    assert failing(outcomes) == {}
    notes = {outcome.check.name: outcome.message for outcome in outcomes}
    assert notes["modalities"] == "image_latent, image_latent -> image_latent"


@pytest.mark.parametrize("kind", SPOILT, ids=lambda kind: kind.__name__)
def test_one_fault_is_found_by_its_check_alone_and_said_in_one_sentence(kind: type[Any]) -> None:
    check, words = SPOILT[kind]
    outcomes = check_task(kind)
    found = failing(outcomes)
    assert list(found) == [check], found
    assert words in found[check]
    assert "\n" not in found[check]
    assert found[check].endswith(".")
    for outcome in outcomes:
        if not reached(outcome):
            assert repr(check) in outcome.message


WILD = """
import torch
from testing_fine import Fine, FineTask
from bridgeflow.modality import Latent
from bridgeflow.task import ModalityUse

class Wild(Fine):
    def encode(self, batch):
        latent = super().encode(batch)
        return Latent(latent.mean * 1e30, mask=latent.mask)

class WildTask(FineTask):
    source = target = ModalityUse("wild")
    columns = {"numbers": "a few"}

    def pair(self, row, rng):
        return row["numbers"], row["numbers"]

    @classmethod
    def example(cls, rng):
        return {"numbers": Fine(Fine.Options()).example(rng)}

    def metrics(self, *arguments):
        return {}
"""
POINTS = {
    "bridgeflow.tasks": {"mirror": "acme_mirror:Mirror"},
    "bridgeflow.recipes": {"acme": "acme_recipes"},
    "bridgeflow.datasets": {"pair": "acme_mirror:Pair"},
}
MIRROR = """
from testing_fine import FineTask as Mirror
from bridgeflow.data.rows import DataSettings

class Pair(DataSettings):
    at_hand = True

    def open(self, split, progress=None):
        return Shoes()

class Shoes:
    columns, fingerprint, description = ("left", "right"), "1", "a pair of shoes"
"""
RECIPE = "# Small.\ntask: {}\nnetwork: {{name: unet, channels: [8]}}\n{}"


def test_training_finds_a_loss_that_is_not_finite(install: Install) -> None:
    points = {"bridgeflow.modalities": {"wild": "acme_wild:Wild"}, "bridgeflow.tasks": {"wild": "acme_wild:WildTask"}}
    install("acme", points, {"acme_wild.py": WILD})
    found = failing(check_task("wild"))
    assert "the loss of a training step is not finite" in found["training"]
    assert set(found) == {"training", "default recipe"}


def test_a_registered_task_needs_a_default_recipe_that_resolves(install: Install) -> None:
    files = {"acme_mirror.py": MIRROR, "acme_recipes/__init__.py": ""}
    install("acme", POINTS, {**files, "acme_recipes/mirror/small.yaml": RECIPE.format("mirror", "")})
    outcomes = {outcome.check.name: outcome for outcome in check_task("mirror")}
    assert {outcome.status for outcome in outcomes.values()} == {"passed"}
    assert outcomes["default recipe"].message == "mirror/small"


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (None, "no recipe 'mirror/small'"),
        (RECIPE.format("depth", ""), "is one for the task 'depth': name a recipe of 'mirror'"),
        (RECIPE.format("mirror", "training: {step: 3}"), "training.step: unknown key"),
        (RECIPE.format("mirror", "source: {size: 32}"), "do not fit one another"),
        (
            RECIPE.format("mirror", "columns: {image: photo}"),
            "needs a column 'photo' (a picture), but the data set 'bl",
        ),
        (RECIPE.format("mirror", "data: {name: pair}"), "'image' (a picture), but a pair of shoes has left, right"),
    ],
    ids=["missing", "of another task", "with a mistake", "whose parts do not fit", "without a column", "of other data"],
)
def test_a_default_recipe_at_fault_is_named(install: Install, recipe: str | None, words: str) -> None:
    files = {"acme_mirror.py": MIRROR, "acme_recipes/__init__.py": ""}
    install("acme", POINTS, {**files, **({"acme_recipes/mirror/small.yaml": recipe} if recipe else {})})
    found = failing(check_task("mirror"))
    assert list(found) == ["default recipe"], found
    assert words in found["default recipe"]
    assert "\n" not in found["default recipe"]


def test_every_check_but_those_of_installed_tasks_has_a_task_that_breaks_it() -> None:
    broken = {check for check, _ in SPOILT.values()}
    assert broken == {check.name for check in task_checks()} - {"listing", "import", "default recipe", "training"}


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no task 'captions'\. Did you mean 'caption'\?"):
        check_task("captions")
