"""Lists, defaults and figures in README and docs are those of the code and of the installed models."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import yaml
from docs_reader import EVERY_PAGE, ROOT, prose, spans, table
from test_docs_names import fields, models

import bridgeflow
from bridgeflow import registry
from bridgeflow.assembly import assemble
from bridgeflow.caching.dataset import Cache
from bridgeflow.caching.write import SHARD_BYTES
from bridgeflow.config import recipe as recipes
from bridgeflow.data.folder import Folder
from bridgeflow.evaluation import tuning
from bridgeflow.modality import Modality
from bridgeflow.task import Task
from bridgeflow_plugins.blocks.caption import parse_caption
from bridgeflow_plugins.blocks.judge_scores import scores_of_one
from bridgeflow_plugins.crossflow.layout import PUBLISHED
from bridgeflow_plugins.crossflow.recipe import recipe_tree
from bridgeflow_plugins.image_latent.pixels import FORMATS
from tests.bench import ASKED, SECTIONS

README, DOCS = ROOT / "README.md", ROOT / "docs"
MODELS = {name: place for name, *_ in registry.recipe_files() if (place := registry.shipped(name)) is not None}
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}


def choices(key: str) -> set[str]:
    """The values that a key may have, but null."""
    (field,) = fields(key)
    found = [value for own in (field.annotation, *get_args(field.annotation)) for value in get_args(own)]
    return {value for value in found if isinstance(value, str)}


def offered(kind: str) -> list[str]:
    """The names of bridgeflow's own plugins of a kind."""
    return [p.name for p in registry.installed(kind) if registry.is_from(p, registry.OWN_DISTRIBUTION)]


def first_cells(page: Path, header: str) -> set[str]:
    return {span for row in table(page, header) for span in spans(row[0])}


def parts(row: str) -> set[str]:
    """What the table of the parts of a bridge says that one may be."""
    return {span for first, _, last in table(DOCS / "concepts.md", "part") if first == row for span in spans(last)}


def paragraph(page: Path, start: str) -> str:
    """The paragraph or item of a list that begins so, in one line."""
    text = prose(page)
    assert text.count(start) == 1, f"{page}: {start}"
    return " ".join(re.split(r"\n\n|\n- ", text[text.index(start) :])[0].split())


def test_lists_of_choices_are_those_of_the_settings() -> None:
    encoders = set(offered("source_encoder"))
    assert first_cells(README, "name") == encoders
    assert parts("source encoder") == encoders
    assert set(spans(paragraph(README, "`network.name` is"))) - {"network.name"} == set(bridgeflow.networks)
    assert parts("network") == set(bridgeflow.networks)
    assert parts("encoding loss") == set(offered("encoding_loss")) - {"none"}
    assert parts("solver") == set(offered("solver"))
    codec = bridgeflow.modalities["image_latent"].Options.model_fields["codec"]
    codecs = {model.model_fields["name"].default for model in models(codec.annotation)}
    assert first_cells(DOCS / "concepts.md", "codec") == codecs
    (precision,) = (row for row in table(DOCS / "performance.md", "option") if row[0] == "`training.precision`")
    assert set(spans(precision[1])) == choices("training.precision")


def test_latents_of_pictures_have_the_shapes_that_are_told() -> None:
    images = bridgeflow.modalities["image_latent"]
    told = {spans(name)[0]: shape for name, shape, _ in table(DOCS / "concepts.md", "codec") if shape}
    assert len(told) == 4
    for name, shape in told.items():
        options = images.Options.model_validate({"size": 64, "codec": {"name": name}})
        assert images(options).latent.shape == tuple(map(int, shape.strip("()").split(", "))), name


@pytest.mark.parametrize(("page", "contract"), [("write-a-modality.md", Modality), ("write-a-task.md", Task)])
def test_members_of_the_contracts_are_there(page: str, contract: type) -> None:
    members = first_cells(DOCS / page, "member")
    assert len(members) >= 10
    assert [name for name in members if not hasattr(contract, name) and name not in contract.__annotations__] == []


def test_formats_of_pictures_are_read() -> None:
    told = re.match(r"Pictures are ([\w, ]+)", paragraph(DOCS / "your-data.md", "Pictures are "))
    assert told is not None
    formats = re.sub(r",? as far.*", "", told[1]).replace(" or ", ", ").upper().split(", ")
    # PIL has one format for the whole family of portable maps.
    assert {own.replace(" ", "").replace("PGM", "PPM") for own in formats} <= set(FORMATS)


def test_groups_of_entry_points_and_sections_of_the_bench_are_all_named() -> None:
    groups = spans(paragraph(DOCS / "concepts.md", "An installed distribution offers plugins"))
    assert {"bridgeflow." + name.rpartition(".")[2] for name in groups} == set(registry.GROUPS.values())
    own = {span for row in table(DOCS / "performance.md", "figure") for span in spans(row[-1])}
    assert own | {"growth"} == set(SECTIONS) - set(ASKED)


def figures_of(task: str) -> set[str]:
    """The figures that a task makes of examples of its own, and those that it ranks by."""
    own = assemble(recipes.load(bridgeflow.tasks[task].default_recipe)).task
    rows = [own.example(np.random.default_rng(seed)) for seed in range(12)]
    pairs = [own.pair(row, np.random.default_rng(0)) for row in rows]
    sources, truths = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return {*own.metrics(truths, truths, sources, rows), *own.better}


@pytest.mark.parametrize("task", bridgeflow.tasks)
def test_figures_of_each_task_are_named_and_no_others(task: str) -> None:
    page = DOCS / "evaluation.md"
    (row,) = (own for own in table(page, "task") if own[0] == task)
    made = figures_of(task)
    ranges = {"delta2", "exact_match_2"}
    # Shares of what captions of the blocks world name are told in words, each by its own.
    words = {"count", "size", "colour", "shape", "relation"}
    told = set(spans(prose(page))) | ranges | {f"exact_match{end}" for end in ("_3",)}
    assert {name.removeprefix("foreground_") for name in made} - words <= told
    assert set(spans(row[1])) <= made, row
    assert all(re.search(rf"\b{word}\b", prose(page)) for word in words & made)


def test_scores_of_the_judge_and_weights_of_judges_are_all_named() -> None:
    page = DOCS / "evaluation.md"
    captions = ["a small red cube", "a small red cube left of a large blue cone"]
    made = {name for caption in captions for name in scores_of_one([], parse_caption(caption) or [])}
    assert first_cells(page, "score") == made
    rows = table(page, "`--weights`")
    places = {spans(row[0])[0].partition("=")[0]: row for row in rows}
    judges = {name: own.judges for name, own in bridgeflow.tasks.items() if own.judges}
    assert set(places) == {judge for own in judges.values() for judge in own}
    for judge, row in places.items():
        of = re.search(r"\(([\w, ]+)\)", row[1])
        assert of is not None
        assert set(of[1].split(", ")) == {task for task, own in judges.items() if judge in own}
        (figure,) = {own[judge].partition(":")[0] for own in judges.values() if judge in own}
        assert spans(row[1]) == [figure]


def test_pages_agree_on_what_is_reported() -> None:
    tables = [row for header in ("task", "`--weights`") for row in table(DOCS / "evaluation.md", header)]
    reported = {name.upper() for row in tables for name in re.findall(r"[\w-]+", " ".join(row[1:]))} - {"A", "I"}
    sentences = re.split(r"(?<=\.)\s", " ".join(prose(DOCS / "recipes.md").split()))
    names = re.compile(r"\b[A-Z][\w-]*[A-Z]\w*")
    yes = [own for sentence in sentences if "`eval` reports" in sentence for own in names.findall(sentence)]
    no = [own for sentence in sentences if "not part of the package" in sentence for own in names.findall(sentence)]
    assert {"CIDEr", "PSNR", "FID"} <= set(yes)
    # BLEU-1 to 4 are told as one.
    assert [own for own in yes if own.upper() not in reported | {"BLEU"}] == []
    assert [own for own in no if own.upper() in reported] == []
    for name in ("kitti", "nyuv2"):
        (crop, farthest) = (setting(f"depth/{name}", f"options.{key}")() for key in ("crop", "farthest"))
        assert f"`options.farthest={farthest:g} options.crop={crop}`" in " ".join(prose(DOCS / "evaluation.md").split())
        assert f"up to {farthest:g} m" in prose(DOCS / "recipes.md")


LABELS = {
    "PSNR": "psnr",
    "SSIM": "ssim",
    "FD-EffLite0": "fd_efflite0",
    "foreground AbsRel": "foreground_abs_rel",
    "foreground delta 1.05": "foreground_delta_1.05",
    "object accuracy": "object_accuracy",
    "all correct": "all_correct",
    "exact match": "exact_match",
}
FIGURE = re.compile(rf"({'|'.join(LABELS)}) (\d+\.?\d*)(?: dB)?(?: \((?:[a-z ]* )?(\d+\.?\d*))?")


def test_installed_models_are_all_told_with_the_figures_that_lie_beside_them() -> None:
    rows = {spans(row[0])[0]: row for row in table(DOCS / "models.md", "model")}
    assert rows.keys() == MODELS.keys()
    assert NUMBERS[paragraph(README, "Six models come along").partition(" ")[0].lower()] == len(MODELS)
    for name, (_, _, _, size, told) in rows.items():
        measured = json.loads((MODELS[name] / "evaluation.json").read_text(encoding="utf-8"))
        trivial = measured["baseline"]["figures"]
        megabytes = sum(file.stat().st_size for file in MODELS[name].rglob("*") if file.is_file()) / 1e6
        assert float(size.removesuffix(" MB")) == pytest.approx(megabytes, abs=0.06)
        found = FIGURE.findall(told)
        assert len(found) == sum(told.count(f"{label} ") for label in LABELS) > 0, told
        for label, own, other in found:
            for value, source in ((own, measured["figures"]), (other, trivial)):
                if value:
                    ends = len(value.partition(".")[2])
                    assert round(source[LABELS[label]], ends) == float(value), f"{name}: {label} {value}"
        assert f"of {measured['examples']:,} " in told
        steps = re.search(r"in (\d+) steps?$", told)
        assert steps is None or int(steps[1]) == measured["network_evaluations"]


def test_the_papers_recipes_are_all_told() -> None:
    rows = table(DOCS / "recipes.md", "recipe")
    ours = re.compile(r".*/(?:blocks|blocks-full|blocks-words|folder|photos)")
    assert {spans(row[0])[0] for row in rows} == {name for name in bridgeflow.recipes if not ours.fullmatch(name)}
    told = re.match(
        r"(\w+) recipes carry .*\sand\s+(\w+) the shapes", paragraph(DOCS / "recipes.md", "Eight recipes carry")
    )
    assert told is not None
    assert sum(NUMBERS[word.lower()] for word in told.groups()) == len(rows)
    for name, _, pairs, steps, _ in rows:
        training = recipes.load(spans(name)[0]).training
        assert int(pairs) == 8 * training.batch_size * training.accumulation
        assert int(steps.replace(",", "")) == training.steps


def test_keys_of_the_paper_and_of_its_code_have_the_values_that_are_told() -> None:
    """`key`: `paper's` / `code's`, of the recipe of the paper and of what the importer writes."""
    cell = re.compile(r"`([\w.]+)`: `([^`]+)`(?: is ours)? / `([^`]+)`")
    told = [found for row in table(DOCS / "crossflow.md", "") if (found := cell.match(row[-1]))]
    assert len(told) >= 5
    paper = recipes.load("t2i/crossflow-256").tree()
    imported = [recipe_tree(layout, "words", "vae", 8, tower=("vit", 256, "mlp")) for layout in PUBLISHED.values()]
    for key, own, theirs in (found.groups() for found in told):
        assert _at(paper, key) == yaml.safe_load(own), key
        assert yaml.safe_load(theirs) in [_at(tree, key) for tree in imported], key


def _at(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree[name]
    return tree


def setting(recipe: str, key: str) -> Callable[[], Any]:
    return lambda: _at(recipes.load(recipe).tree(), key)


STATED: list[tuple[str, str, Callable[[], Any]]] = [
    ("your-data.md", r"(\d+)% of the rows are held out", lambda: 100 * Folder.model_fields["held_out"].default),
    ("your-data.md", r"`data\.window` files \((\d+)\)", lambda: Cache.model_fields["window"].default),
    ("your-data.md", r"about (\d+) MB by default", lambda: SHARD_BYTES / 2**20),
    ("your-data.md", r"Depths from ([\d.]+) m", setting("depth/folder", "target.normalisation.near")),
    ("your-data.md", r"Depths from [\d.]+ m to (\d+) m", setting("depth/folder", "target.normalisation.far")),
    ("your-data.md", r"pictures of (\d+)x\d+ pixels unless", setting("superres/folder", "target.size")),
    ("concepts.md", r"after the (\d+) steps of `bridgeflow train", setting("depth/blocks", "training.steps")),
    ("concepts.md", r"those of (\d+) steps of Heun", lambda: tuning.REFERENCE_STEPS),
    ("reproduction.md", r"The default noise is ([\d.]+)", lambda: fields("target.codec.noise")[-1].default),
    ("reproduction.md", r"`caption/blocks` has t = u\^(\d+)", setting("caption/blocks", "time.power")),
    ("recipes.md", r"for t2i ([\d.]+)%", lambda: 100 * setting("t2i/crossflow-256", "data.held_out")()),
    ("recipes.md", r"training by itself would fit it to ([\d,]+) rows", lambda: Modality.most_fitted),
    ("recipes.md", r"weight average of ([\d.]+),", setting("t2i/crossflow-256", "training.ema")),
    ("recipes.md", r"KITTI.s own 16-bit PNG \(1/(\d+) m", lambda: 1 / setting("depth/kitti", "target.png_scale")()),
    ("reproduction.md", r"above bicubic in ([\d,]+) steps", setting("superres/blocks-full", "training.steps")),
    ("reproduction.md", r"With ([\d,]+) steps `t2i/blocks-full`", setting("t2i/blocks-full", "training.steps")),
    ("recipes.md", r"mean with weight ([\d.]+):", setting("depth/kitti", "kl.weight")),
]
"""(page, sentence with a number in brackets, what the code has)."""


@pytest.mark.parametrize(("page", "sentence", "actual"), STATED, ids=[f"{page}: {told}" for page, told, _ in STATED])
def test_stated_numbers_are_those_of_the_code(page: str, sentence: str, actual: Callable[[], Any]) -> None:
    found = re.search(sentence, " ".join(prose(DOCS / page).split()))
    assert found is not None
    assert float(found[1].replace(",", "")) == pytest.approx(float(actual()))


def test_configurations_of_accelerate_are_all_told_and_nothing_names_one_that_is_refused() -> None:
    told = first_cells(DOCS / "many-processes.md", "configuration")
    assert told == {file.name for file in (DOCS / "configs").glob("*")}
    kinds = {
        yaml.safe_load(file.read_text(encoding="utf-8"))["distributed_type"] for file in (DOCS / "configs").glob("*")
    }
    assert kinds == {"MULTI_GPU", "FSDP"}
    for page in EVERY_PAGE:
        for sentence in re.split(r"(?<=[.:])\s|\n- |\n\n", prose(page)):
            assert not re.search("deepspeed|FSDP 1", sentence, re.IGNORECASE) or "refused" in sentence, sentence
