"""What a study refuses before it trains, how its arms are scored, and what becomes of one that fails."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridgeflow import registry
from bridgeflow.cli.main import invoke
from bridgeflow.config.keys import SamplingSettings
from bridgeflow.errors import BridgeflowError, UsageError
from bridgeflow.study import runner
from bridgeflow.study.deciding import deciding
from bridgeflow.study.results import Failed, Point, RunResult, fingerprint
from bridgeflow.study.runner import Planned, planned
from bridgeflow.study.settings import ScoringSettings, StudySettings
from bridgeflow.training import loop

Call = Callable[..., tuple[int, str, str]]

STUDY: dict[str, Any] = {
    "title": "tiny",
    "recipe": "depth/blocks",
    "change": {
        "data": {"size": 64, "held_out": 16},
        "source": {"size": 16},
        "target": {"size": 16},
        "network": {"channels": [8, 8], "blocks": 1, "attention": []},
        "training": {"steps": 3, "batch_size": 2, "precision": "fp32", "samples": 1},
    },
    "seeds": [0],
    "scoring": {"count": 16, "steps": [2]},
    "arms": {"plain": {}},
}
DIVERGES = {"optimizer": {"learning_rate": 1e30}, "training": {"clip": None, "schedule": {"warmup": 0}}}


def study(**changes: Any) -> StudySettings:
    return StudySettings.model_validate({**STUDY, **changes})


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Runs a study in an empty folder: (code, out, err)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRIDGEFLOW_CACHE", str(tmp_path / "cache"))
    registry.forget()

    def run(declared: dict[str, Any], *options: str) -> tuple[int, str, str]:
        Path("tiny.yaml").write_text(yaml.safe_dump(declared, sort_keys=False))
        code = invoke(["study", "tiny.yaml", *options])
        told = capsys.readouterr()
        assert "Traceback" not in told.out + told.err
        return code, told.out, " ".join(told.err.split())

    yield run
    registry.forget()


@pytest.mark.parametrize(
    "own",
    [
        {"grid": "density"},
        {"source": "mean"},
        {"guidance": {"interval": [0.2, 0.8]}},
    ],
)
def test_an_arm_with_sampling_of_its_own_has_a_result_and_no_training_of_its_own(
    own: dict[str, Any], tmp_path: Path
) -> None:
    plain, other = planned(study(arms={"plain": {}, "other": {"change": {"sampling": own}}}), tmp_path)
    assert plain.trained == other.trained
    assert plain.fingerprint != other.fingerprint


def test_where_figures_go_and_what_is_measured_beside_changes_no_training(tmp_path: Path) -> None:
    beside = {"training": {"trackers": ["tensorboard", {"name": "wandb"}], "validation": 7, "sample_every": 3}}
    weights = {"training": {"ema": 0.5}}
    arms = {"plain": {}, "other": {"change": beside}, "another": {"change": weights}}
    plain, other, another = planned(study(arms=arms), tmp_path)
    assert plain.trained == other.trained != another.trained


def test_what_the_study_sets_itself_and_what_is_the_default_leaves_a_result_what_it_was(tmp_path: Path) -> None:
    same = {
        "solver": {"steps": 7, "method": "heun"},
        "guidance": {"kind": "indicator", "scale": 3},
        "batch_size": 5,
        "source": "sample",
    }
    plain, other = planned(study(arms={"plain": {}, "other": {"change": {"sampling": same}}}), tmp_path)
    assert plain.fingerprint == other.fingerprint
    # The fingerprint of results that were written before sampling counted.
    scoring = ScoringSettings(count=300, steps=(2, 5), guidance=(1.0, 2.0))
    assert fingerprint("abc", scoring, (1.0, 2.0), SamplingSettings()) == "2e2b1650f54294fd"


def test_arms_that_share_a_training_are_scored_with_their_own_sampling(call: Call) -> None:
    arms = {"plain": {}, "density": {"change": {"sampling": {"grid": "density"}}}, "last": {}}
    code, _, err = call({**STUDY, "arms": arms})
    assert code == 0, err
    (folder,) = Path("studies/tiny/runs").glob("*-seed0-*")
    assert folder.name.startswith("plain-")
    plain, density, last = (
        json.loads(Path(f"studies/tiny/results/{arm}-seed0.json").read_text())["points"][0]["figures"] for arm in arms
    )
    assert plain == last
    assert density["foreground_abs_rel"] != plain["foreground_abs_rel"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"arms": {"plain": {}, "words": {"recipe": "caption/blocks"}}, "change": {}},
            "arm 'words' of the study is of the task 'caption', but arm 'plain' of 'depth': give all arms recipes of",
        ),
        ({"metric": "foregrund_abs_rel"}, "abs_rel, rmse, silog, delta1, delta_1.05 is expected. Did you mean 'fore"),
    ],
)
def test_what_no_training_would_mend_is_told_before_the_first(changes: dict[str, Any], told: str, call: Call) -> None:
    code, _, err = call({**STUDY, **changes})
    assert (code, told in err) == (2, True), err
    assert not Path("studies").exists()


def test_a_task_that_ranks_by_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study().resolved("plain", 0).task, "better", {})
    with pytest.raises(UsageError, match=r"the task 'depth' of this study ranks results by no metric"):
        planned(study(), tmp_path)


def result(arm: str, figures: dict[str, float | None]) -> RunResult:
    return RunResult(arm, 0, "f", 1, 1, 1.0, (Point(2, 1.0, 2, figures, {}),))


def test_a_metric_that_does_not_come_out_is_told_with_those_that_do() -> None:
    declared = study(recipe="superres/blocks", change={}, metric="lpips", arms={"plain": {}, "other": {}})
    done = [result("plain", {"psnr": 20.0, "psnr_y": 21.0, "bicubic": 1.0})]
    with pytest.raises(UsageError) as caught:
        deciding(declared, done)
    assert str(caught.value) == (
        "the study's metric 'lpips' is not among the figures of its runs, since a study has only those of the task's "
        "quick metrics, which are psnr, psnr_y, bicubic here: set metric to one of psnr, psnr_y."
    )
    assert deciding(declared.model_copy(update={"metric": "psnr_y"}), done) == ("psnr_y", "higher")
    # Without a metric the first run says which, whatever a later one has besides.
    done = [result("plain", {"psnr_y": 21.0}), result("other", {"psnr": 20.0, "psnr_y": 21.0})]
    assert deciding(declared.model_copy(update={"metric": None}), done) == ("psnr_y", "higher")


def test_an_arm_that_diverges_keeps_no_other_from_its_turn(call: Call) -> None:
    declared = {**STUDY, "arms": {"wild": {"change": DIVERGES}, "plain": {}}}
    code, out, err = call(declared)
    assert code == 1
    assert "1 of 2 runs are done." in out
    assert "- wild, seed 0: the loss is no longer finite at step" in out
    assert err.count("wild, seed 0: the loss is no longer finite") == 2, "at once, and at the end"
    assert err.endswith("1 of 2 runs failed: the same command tries them again.")
    failed = json.loads(Path("studies/tiny/study.json").read_text())["failed"]
    assert [(own["arm"], own["seed"]) for own in failed] == [("wild", 0)]
    # It stays known, until the arm is another.
    code, out, _ = call(declared, "--dry-run")
    assert (code, out.splitlines()[0].endswith("  failed"), out.splitlines()[1].endswith("  done")) == (0, True, True)
    declared["arms"] = {"wild": {}, "plain": {}}
    code, out, _ = call(declared, "--report")
    assert (code, "Failed" in out) == (0, False)


def test_a_signal_in_the_last_step_of_a_training_stops_the_study(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    before = loop.Trainer._train_step

    def signalled(self: loop.Trainer, data: Any) -> Any:
        if self.step + 1 == self.settings.steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return before(self, data)

    arms = {"plain": {}, "other": {"change": {"optimizer": {"learning_rate": 1e-4}}}}
    with monkeypatch.context() as patched:
        patched.setattr(loop.Trainer, "_train_step", signalled)
        code, _, told = call({**STUDY, "arms": arms})
    assert code != 0
    assert "the study was stopped by SIGTERM: the same command goes on with it." in told
    assert len(list(Path().glob("**/checkpoints/000003"))) == 1


def test_where_all_fail_they_are_named(call: Call) -> None:
    code, out, err = call({**STUDY, "arms": {"wild": {"change": DIVERGES}}})
    assert (code, out) == (1, "")
    assert "none of the 1 runs is done." in err
    assert "failed: wild, seed 0: the loss is no longer finite" in err


def test_a_training_that_failed_is_not_tried_for_every_arm_that_shares_it(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    trained = runner._trained

    def train(run: Planned, *others: Any) -> Any:
        tried.append(run.arm)
        if run.arm in ("first", "second"):
            raise BridgeflowError("it is wild: tame it.")
        if run.arm == "odd":
            raise ZeroDivisionError("by naught")
        return trained(run, *others)

    arms = {
        "first": {"change": {"null_rate": 0.1}},
        "second": {"change": {"null_rate": 0.1}, "guidance": [2]},
        "odd": {"change": {"null_rate": 0.2}},
        "plain": {},
    }
    with monkeypatch.context() as patched:
        patched.setattr(runner, "_trained", train)
        code, out, _ = call({**STUDY, "arms": arms}, "--json")
    assert code == 1
    assert tried == ["first", "odd", "plain"]
    failed = {own["arm"]: own["why"] for own in json.loads(out)["failed"]}
    assert failed["first"] == failed["second"] == "it is wild: tame it."
    assert failed["odd"].startswith("something unforeseen went wrong (ZeroDivisionError: by naught): report")
    noted = Failed.read(Path("studies/tiny/failures/odd-seed0.json"))
    assert noted is not None
    assert "raise ZeroDivisionError" in noted.trace
    # What is done after all is noted no more.
    code, out, err = call({**STUDY, "arms": arms}, "--json")
    assert (code, json.loads(out)["failed"], list(Path("studies/tiny/failures").iterdir())) == (0, [], []), err
