"""The metrics of captioning, against values by hand."""

from __future__ import annotations

import math
import shutil
import signal
import sys
from pathlib import Path

import pytest

from bridgeflow_plugins.text import meteor
from bridgeflow_plugins.text.captioning import CaptionScorer
from bridgeflow_plugins.text.meteor import Meteor

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


@pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed, which METEOR needs")
def test_one_program_answers_several_scorers_and_ends_when_it_is_asked_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = CaptionScorer(["a plate of food"], [["food on a plate", "dinner"]])
    first = scorer.once()
    assert Meteor._running is not None
    process = Meteor._running.process
    # So many that the counts of them are more than a pipe holds.
    scorer.results, scorer.references = 1000 * scorer.results, 1000 * scorer.references
    assert scorer.once() == {"meteor": pytest.approx(first["meteor"], abs=1e-9)}
    assert Meteor._running.process is process
    assert process.poll() is None
    monkeypatch.setattr(meteor, "IDLE", 0.05)
    scorer.once()
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert Meteor._running is None


def program(folder: Path, text: str) -> str:
    """An interpreter of Java that cuts words and, asked for METEOR, does what a text in Python says."""
    file = folder / "java"
    tokens = "import sys\nif '-jar' not in sys.argv:\n    sys.stdout.write(sys.stdin.read())\n    sys.exit()\n"
    file.write_text(f"#!{sys.executable}\n{tokens}{text}", encoding="utf-8")
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("sys.exit(3)", "Java failed (CalledProcessError), so what needs it is left out."),
        ("sys.stdin.readline(); print('1 2'); sys.exit(0)", "Java failed (CalledProcessError), so what needs it is"),
        ("sys.stdin.readline(); import time; time.sleep(60)", "Java failed (TimeoutExpired), so what needs it is left"),
        ("for line in sys.stdin: print('none\\n' * 6, flush=True)", "METEOR gave no number, so it is left out."),
    ],
    ids=["fails", "ends early", "hangs", "no number"],
)
def test_a_program_that_fails_is_told_of_and_none_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, note: str
) -> None:
    java = program(tmp_path, text)
    monkeypatch.setattr(shutil, "which", lambda name: java)
    monkeypatch.setattr(meteor, "SECONDS", 1.0 if "sleep" in text else 60.0)
    own = CaptionScorer(RESULTS, REFERENCES)
    assert own.standard
    assert own.once() == {}
    assert [told[: len(note)] for told in own.notes] == [note]
    assert Meteor._running is None
