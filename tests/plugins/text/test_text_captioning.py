"""The metrics of captioning, against values by hand."""

from __future__ import annotations

import math
import shutil

import pytest

from bridgeflow_plugins.text.captioning import CaptionScorer

RESULTS = ["a small red cube", "a large blue sphere behind a cone", "a dog"]
REFERENCES = [
    ["A small red cube.", "the red cube is small"],
    ["a large blue ball in front of a cone"],
    ["two cats"],
]


@pytest.fixture(params=["java", "plain"] if shutil.which("java") else ["plain"], scope="module")
def scorer(request: pytest.FixtureRequest) -> CaptionScorer:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "plain":
            patch.setattr(shutil, "which", lambda name: None)
        return CaptionScorer(RESULTS, REFERENCES)


def test_figures_by_hand(scorer: CaptionScorer) -> None:
    end = "" if scorer.standard else "_plain"
    assert scorer.results == RESULTS
    assert scorer.references[0] == ["a small red cube", "the red cube is small"]
    found = scorer.figures([0, 1, 2])
    assert set(found) == {f"{name}{end}" for name in ("bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider")}
    # 13 words, of which 4 + 5 + 0 are in a reference: a, large, blue, a, cone; references of 4, 9 and 2 words are the
    # nearest in length, so the brevity penalty is exp(1 - 15 / 13).
    assert found[f"bleu1{end}"] == pytest.approx(9 / 13 * math.exp(1 - 15 / 13), rel=1e-6)
    alone = scorer.figures([0])
    assert alone[f"bleu4{end}"] == pytest.approx(1.0, abs=1e-6)
    assert alone[f"rouge_l{end}"] == pytest.approx(1.0, abs=1e-6)
    # The longest common part of the second: a large blue a cone, 5 of 7 and 5 of 9 words, at beta 1.2.
    precision, recall, beta = 5 / 7, 5 / 9, 1.2
    expected = (1 + beta**2) * precision * recall / (recall + beta**2 * precision)
    assert scorer.figures([1])[f"rouge_l{end}"] == pytest.approx(expected, rel=1e-6)


def test_better_captions_have_more_cider(scorer: CaptionScorer) -> None:
    right = CaptionScorer([own[0] for own in REFERENCES], REFERENCES)
    best, own = (
        next(value for name, value in one.figures([0, 1, 2]).items() if name.startswith("cider"))
        for one in (right, scorer)
    )
    assert best > 2 * own > 0


def test_meteor_and_notes(scorer: CaptionScorer) -> None:
    if scorer.standard:
        assert 0.2 < scorer.once()["meteor"] < 0.7
        assert scorer.notes == []
    else:
        assert scorer.once() == {}
        (note,) = scorer.notes
        assert "Java is not installed" in note
        assert "METEOR is left out" in note


def test_java_that_fails_leaves_plain_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/false")
    own = CaptionScorer(RESULTS, REFERENCES)
    assert not own.standard
    assert own.notes == ["Java failed (CalledProcessError), so what needs it is left out."]
    assert "bleu1_plain" in own.figures([0])
