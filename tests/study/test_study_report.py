"""What a study concludes from runs whose figures are known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from bridgeflow.errors import UsageError
from bridgeflow.study.picture import save_picture
from bridgeflow.study.report import Findings
from bridgeflow.study.results import Point, RunResult
from bridgeflow.study.settings import StudySettings, read_study

DECLARED: dict[str, Any] = {
    "title": "known",
    "recipe": "depth/blocks",
    "seeds": [0, 1, 2],
    "scoring": {"count": 400, "steps": [1, 4]},
    "arms": {"good": {}, "poor": {"change": {"null_rate": 0.1}}},
    "claims": [{"says": "good is better", "better": "good", "than": "poor", "steps": 4, "paper": "table 5"}],
}


def run(arm: str, seed: int, value: float, luck: float = 0.0, noise: float = 0.02) -> RunResult:
    """A run whose figure is `value` plus the luck of its seed; its parts differ by noise."""
    draws = np.random.default_rng([seed, *arm.encode()])
    own = value + luck * draws.normal()
    points = []
    for steps in (1, 4):
        figure = own if steps == 4 else own - 0.1
        without = [figure + noise * draws.normal() / math.sqrt(20) for _ in range(20)]
        points.append(Point(steps, 1.0, steps, {"score": figure, "other": None}, {"score": without, "other": [None]}))
    return RunResult(arm, seed, "f", 1_500_000, 100, 60.0, tuple(points))


def findings(gap: float, luck: float, seeds: int = 3, way: str = "higher") -> Findings:
    sign = 1 if way == "higher" else -1
    runs = [run("good", seed, 0.5 + sign * gap, luck) for seed in range(seeds)]
    runs += [run("poor", seed, 0.5, luck) for seed in range(seeds)]
    return Findings(StudySettings.model_validate(DECLARED), runs, "score", way)


@pytest.mark.parametrize("way", ["higher", "lower"])
def test_a_clear_difference_decides(way: str) -> None:
    (claim,) = StudySettings.model_validate(DECLARED).claims
    own = findings(0.2, 0.005, way=way).judged(claim)
    assert own.verdict == "holds"
    assert own.difference == pytest.approx(0.2, abs=0.02)
    assert findings(-0.2, 0.005, way=way).judged(claim).verdict == "does not hold"


def test_what_lies_within_the_luck_of_seeds_or_has_one_seed_is_undecided() -> None:
    (claim,) = StudySettings.model_validate(DECLARED).claims
    own = findings(0.02, 0.2).judged(claim)
    assert (own.verdict, own.why) == ("undecided", "within the spread")
    assert own.error > 0.05
    single = findings(0.3, 0.0, seeds=1).judged(claim)
    assert (single.verdict, single.why) == ("undecided", "one seed says nothing of luck")
    none = Findings(StudySettings.model_validate(DECLARED), [run("good", 0, 0.5)], "score", "higher").judged(claim)
    assert (none.verdict, none.why) == ("undecided", "not trained yet")


def test_verdicts_are_wrong_no_more_often_than_they_say() -> None:
    """Of arms that do not differ, few are told apart."""
    (claim,) = StudySettings.model_validate({**DECLARED, "seeds": list(range(6))}).claims
    told = 0
    for trial in range(150):
        draws = np.random.default_rng(trial)
        runs = [
            RunResult(arm, seed, "f", 1, 1, 1.0, run(arm, seed, float(0.5 + 0.05 * draws.normal())).points)
            for arm in ("good", "poor")
            for seed in range(6)
        ]
        told += (
            Findings(StudySettings.model_validate(DECLARED), runs, "score", "higher").judged(claim).verdict
            != "undecided"
        )
    assert told / 150 < 0.15


def test_more_seeds_say_no_more_about_the_examples() -> None:
    """Two arms that are equal, but for what one finds easier by chance in the examples at hand, with every seed."""
    declared = StudySettings.model_validate({**DECLARED, "seeds": list(range(8))})
    told = 0
    for trial in range(100):
        draws = np.random.default_rng(trial)
        easier = 0.02 * draws.normal(size=400)
        without = [float(np.delete(easier, range(part, 400, 20)).mean()) for part in range(20)]
        runs = []
        for seed in range(8):
            luck = 1e-4 * draws.normal()
            for arm, gap, parts in (("good", float(easier.mean()), without), ("poor", 0.0, [0.0] * 20)):
                figures = {"score": 0.5 + gap + luck}
                point = Point(4, 1.0, 4, figures, {"score": [0.5 + part + luck for part in parts]})
                runs.append(RunResult(arm, seed, "f", 1, 1, 1.0, (point,)))
        told += Findings(declared, runs, "score", "higher").judged(declared.claims[0]).verdict != "undecided"
    assert told <= 12


def test_a_figure_that_is_no_number_is_left_out() -> None:
    own = findings(0.2, 0.005)
    points = tuple(Point(steps, 1.0, steps, {"score": None}, {"score": [None] * 20}) for steps in (1, 4))
    own.runs["good"].append(RunResult("good", 9, "f", 1, 1, 1.0, points))
    assert own.value("good", 4).seeds == 3
    assert "| good |" in own.markdown()


def test_the_tables_and_the_figure(tmp_path: Path) -> None:
    own = findings(0.2, 0.005)
    page = own.markdown()
    assert "6 of 6 runs are done." in page
    assert "| good | 1.50 M | 1 | 3 | 0." in page
    assert "| good is better | table 5 | 0." in page
    assert "| holds |" in page
    assert own.json()["claims"][0]["verdict"] == "holds"
    save_picture(own, tmp_path / "study.png")
    with Image.open(tmp_path / "study.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)) > 50


def test_a_result_comes_back_as_it_was(tmp_path: Path) -> None:
    own = run("good", 1, 0.5)
    own.save(tmp_path / "a.json")
    assert RunResult.read(tmp_path / "a.json") == RunResult(
        "good", 1, "f", 1_500_000, 100, 60.0, tuple(Point(**vars(point)) for point in own.points)
    )
    (tmp_path / "a.json").write_text('{"arm": 3}')
    assert RunResult.read(tmp_path / "a.json") is None
    assert RunResult.read(tmp_path / "none.json") is None


def test_all_arms_have_their_first_seed_before_any_has_its_second() -> None:
    declared = StudySettings.model_validate({**DECLARED, "arms": {"a": {}, "b": {"seeds": [7]}, "c": {}}, "claims": []})
    assert list(declared.runs()) == [("a", 0), ("b", 7), ("c", 0), ("a", 1), ("c", 1), ("a", 2), ("c", 2)]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"arms": {}}, "arms: should be"),
        ({"arms": {"A b": {}}}, "an arm is named by small letters, digits, dots and dashes, not 'A b'"),
        ({"claims": [{"says": "s", "better": "good", "than": "god"}]}, "a claim is about arm 'god', but the arms are"),
        ({"claims": [{"says": "s", "better": "good", "than": "poor", "steps": 3}]}, "a claim is about 3 steps"),
        ({"sedes": [1]}, "sedes: unknown key. Did you mean 'seeds'?"),
    ],
)
def test_a_study_that_is_wrong_is_told(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    import yaml

    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump({**DECLARED, **change}))
    with pytest.raises(UsageError) as caught:
        read_study(file)
    assert told in str(caught.value)


def test_a_file_that_is_no_study_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no study '.*none\.yaml': give a YAML file\."):
        read_study(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(UsageError, match=r"is not a mapping of keys to values"):
        read_study(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "docs/studies").glob("*.yaml")), ids=lambda f: f.stem
)
def test_studies_of_the_documentation_are_taken(file: Path) -> None:
    declared = read_study(file)
    assert declared.claims
    for arm, seed in declared.runs():
        assert declared.resolved(arm, seed).training.steps > 0


def test_the_lines_of_many_arms_differ_and_are_named_in_the_order_of_what_they_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: drawn.append(figure))
    names = [f"arm-{number:02d}" for number in range(23)]
    study = StudySettings.model_validate({**DECLARED, "arms": {name: {} for name in names}, "claims": []})
    runs = [run(name, 0, (7 * number % 23) / 23) for number, name in enumerate(names)]
    save_picture(Findings(study, runs, "score", "higher"), tmp_path / "study.png")
    (axes,) = drawn[0].axes
    looks = {(line.get_color(), line.get_linestyle()) for line in axes.get_lines()}
    assert len(looks) == len(names)
    legend = axes.get_legend()
    assert legend is not None
    told = [text.get_text() for text in legend.get_texts()]
    assert told == sorted(names, key=lambda name: -(7 * int(name[-2:]) % 23))
