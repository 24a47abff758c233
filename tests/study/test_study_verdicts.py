"""How the luck of training is estimated, and what a difference has to exceed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bridgeflow.study.picture import save_picture
from bridgeflow.study.report import Findings
from bridgeflow.study.results import Failed, Point, RunResult
from bridgeflow.study.settings import ClaimSettings, StudySettings


def run(arm: str, seed: int, value: float | None, parts: Sequence[float] = (0.0,) * 20, trained: str = "") -> RunResult:
    """A run with a figure, and what each part of the examples takes from it when it is left out; none without one."""
    if value is None:
        point = Point(4, 1.0, 4, {"other": 1.0}, {"other": [1.0] * 20})
    else:
        point = Point(4, 1.0, 4, {"score": value}, {"score": [value + part for part in parts]})
    return RunResult(arm, seed, "f", 1_500_000, 100, 60.0, (point,), trained)


def findings(arms: Mapping[str, Sequence[RunResult]], way: str = "higher", failed: Sequence[Failed] = ()) -> Findings:
    declared: dict[str, Any] = {
        "title": "known",
        "recipe": "depth/blocks",
        "scoring": {"count": 400, "steps": [4]},
        "arms": {name: {} for name in arms},
        "claims": [{"says": "good is better", "better": "good", "than": "poor", "steps": 4}],
    }
    study = StudySettings.model_validate(declared)
    return Findings(study, [own for runs in arms.values() for own in runs], "score", way, failed)


def claim(own: Findings) -> ClaimSettings:
    return own.study.claims[0]


def values(mean: float, spread: float, count: int) -> list[float]:
    """Numbers of exactly that mean and standard deviation."""
    draws = np.random.default_rng(count).normal(size=count)
    return [float(value) for value in mean + spread * (draws - draws.mean()) / draws.std(ddof=1)]


@pytest.mark.parametrize(("errors", "verdict"), [(2.05, "undecided"), (2.11, "holds")])
def test_the_factor_is_students_for_many_degrees_of_freedom_too(errors: float, verdict: str) -> None:
    """Two arms of eleven seeds have 20 degrees of freedom, and t(20) = 2.086."""
    gap = errors * 0.05 * math.sqrt(2 / 11)
    own = findings(
        {
            "good": [run("good", seed, value) for seed, value in enumerate(values(0.5 + gap, 0.05, 11))],
            "poor": [run("poor", seed, value) for seed, value in enumerate(values(0.5, 0.05, 11))],
        }
    )
    assert own.luck(4) == (pytest.approx(0.05), 20)
    assert own.judged(claim(own)).verdict == verdict


def test_a_training_counts_once_however_many_arms_are_scored_with_it() -> None:
    guided, plain, other = values(0.6, 0.04, 3), values(0.4, 0.02, 3), values(0.5, 0.01, 2)
    arms = {
        "good": [run("good", seed, value, trained=f"t{seed}") for seed, value in enumerate(guided)],
        "poor": [run("poor", seed, value, trained=f"t{seed}") for seed, value in enumerate(plain)],
        "other": [run("other", seed, value, trained=f"o{seed}") for seed, value in enumerate(other)],
    }
    luck, freedom = findings(arms).luck(4)
    assert freedom == 3, "two of the shared trainings and one of the others"
    assert luck == pytest.approx(math.sqrt((2 * (0.04**2 + 0.02**2) / 2 + 0.01**2) / 3))
    # An arm of the same recipe with a third and a fourth seed adds those trainings.
    arms["poor"] = [run("poor", seed, value, trained=f"t{seed}") for seed, value in enumerate(values(0.4, 0.02, 4))]
    assert findings(arms).luck(4)[1] == 4


def test_arms_of_one_training_are_judged_by_their_differences() -> None:
    base = values(0.5, 0.2, 4)

    def shared(gaps: Sequence[float], trained: str) -> Findings:
        return findings(
            {
                "good": [run("good", seed, value + gaps[seed], trained=f"t{seed}") for seed, value in enumerate(base)],
                "poor": [run("poor", seed, value, trained=f"{trained}{seed}") for seed, value in enumerate(base)],
            }
        )

    steady = values(0.05, 0.004, 4)
    judged = shared(steady, "t").judged(claim(shared(steady, "t")))
    assert (judged.verdict, judged.difference) == ("holds", pytest.approx(0.05))
    assert judged.error == pytest.approx(0.004 / 2)
    apart = shared(steady, "other")
    assert apart.judged(claim(apart)).verdict == "undecided", "with trainings of their own the luck of both counts"
    # The differences themselves may spread by more than their mean; t(3) = 3.18.
    wide = shared(values(0.05, 0.04, 4), "t")
    judged = wide.judged(claim(wide))
    assert (judged.verdict, judged.error) == ("undecided", pytest.approx(0.02))


def test_only_the_seeds_that_both_arms_have_are_paired() -> None:
    arms = {
        "good": [run("good", seed, 0.6 + seed / 10 + 0.001 * seed, trained=f"t{seed}") for seed in range(3)],
        "poor": [run("poor", seed, 0.5 + seed / 10, trained=f"t{seed}") for seed in range(2)],
    }
    own = findings(arms)
    judged = own.judged(claim(own))
    assert judged.difference == pytest.approx(0.1005)
    assert judged.verdict == "holds"
    own = findings({**arms, "poor": arms["poor"][:1]})
    judged = own.judged(claim(own))
    assert (judged.verdict, judged.why) == ("undecided", "one seed says nothing of luck")


@pytest.mark.parametrize(("noise", "spread", "verdict"), [(0.02, 1e-4, "holds"), (1e-4, 0.02, "undecided")])
def test_each_part_of_the_error_has_the_factor_of_its_own_degrees(noise: float, spread: float, verdict: str) -> None:
    """A difference of five standard errors between two arms that share two trainings: it holds where the examples make
    the error (t(19) = 2.09), and not where two seeds do (t(1) = 12.7)."""
    # The jackknife's error of parts with standard deviation s is s * 19 / sqrt(20).
    parts = values(0.0, noise * math.sqrt(20) / 19, 20)
    apart = [0.1 - spread, 0.1 + spread]
    own = findings(
        {
            "good": [run("good", seed, 0.5 + gap, parts, trained=f"t{seed}") for seed, gap in enumerate(apart)],
            "poor": [run("poor", seed, 0.5, trained=f"t{seed}") for seed in range(2)],
        }
    )
    judged = own.judged(claim(own))
    assert judged.difference / judged.error == pytest.approx(5, rel=0.01)
    assert judged.verdict == verdict


def test_arms_that_are_stuck_at_nothing_do_not_lower_the_luck() -> None:
    working = [run("good", seed, value) for seed, value in enumerate(values(0.5, 0.03, 2))]
    low = [run("poor", seed, value) for seed, value in enumerate((0.0, 0.001))]
    stuck = {name: [run(name, seed, 0.0) for seed in range(2)] for name in ("good", "poor", "dead")}
    assert findings({**stuck, "good": working}).luck(4) == (pytest.approx(0.03), 1)
    assert findings({"good": working, "poor": low}).luck(4)[1] == 2, "0 with one seed alone is luck like any other"
    own = findings(stuck)
    judged = own.judged(claim(own))
    assert (judged.verdict, judged.why) == ("undecided", "no spread of seeds to judge by")


def test_a_run_without_the_figure_leaves_a_gap(tmp_path: Path) -> None:
    own = findings(
        {"good": [run("good", 0, 0.5), run("good", 1, 0.6)], "poor": [run("poor", 0, None), run("poor", 1, None)]}
    )
    assert own.judged(claim(own)).why == "no score in its runs"
    assert "| poor | 1.50 M | 1 | 2 |  |" in own.markdown()
    save_picture(own, tmp_path / "study.png")
    own = findings({"good": [run("good", 0, 0.5), run("good", 1, 0.6)], "poor": [run("poor", 0, 0.4, (0.0,) * 18)]})
    assert own.judged(claim(own)).why == "scored on other examples"


def test_the_page_says_what_stands_behind_each_plus_minus_and_which_runs_failed() -> None:
    means = {"good": 0.6, "poor": 0.2}
    arms = {name: [run(name, seed, mean + 0.01 * seed) for seed in range(2)] for name, mean in means.items()}
    page = findings(arms).markdown()
    assert "solver steps: mean ± standard deviation over seeds, at the best scale" in page
    assert "Figures: mean ± standard deviation over seeds. Differences: ± one standard error." in page
    assert "| 0.605 ± 0.007 against 0.205 ± 0.007 at 4 steps: difference +0.400 ± 0.007 |" in page
    assert "Failed" not in page
    assert "picked on the examples that decide" not in page, "there is one scale"
    two = [Point(4, scale, 4, {"score": scale}, {"score": [scale] * 20}) for scale in (1.0, 2.0)]
    arms["good"] = [RunResult("good", seed, "f", 1, 1, 1.0, tuple(two)) for seed in range(2)]
    page = findings(arms, failed=[Failed("good", 2, "f", "it diverged.")]).markdown()
    assert "The best scale is picked on the examples that decide" in page
    assert page.endswith("Failed:\n\n- good, seed 2: it diverged.\n")
