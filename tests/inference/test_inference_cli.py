"""`run` with terms and interpolation, to the files it leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bridgeflow.cli.main import invoke

Run = Callable[..., Any]


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a task in an empty folder: (code, lines on stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(task: str, *arguments: object) -> tuple[int, list[str], str]:
        checkpoint = str(home / f"runs/{task}-blocks-01")
        code = invoke(["run", "--task", task, "--checkpoint", checkpoint, *map(str, arguments)])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out.splitlines(), captured.err

    return call


def picture(name: str, size: tuple[int, int], seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(name)
    return name


def frames_of(gif: str) -> int:
    with Image.open(gif) as image:
        return int(image.n_frames)  # type: ignore[attr-defined]


def test_words_are_added_and_taken_away(run: Run) -> None:
    def bytes_of(*options: str) -> bytes:
        code, lines, _ = run("t2i", "a red cube", *options, "-o", "x.png")
        assert (code, lines) == (0, ["x.png"])
        return Path("x.png").read_bytes()

    alone = bytes_of()
    added = bytes_of("--plus", "a blue cone")
    assert len({alone, added, bytes_of("--minus", "a blue cone")}) == 3
    there_and_back = bytes_of("--plus", "a blue cone", "--minus", "a blue cone")
    assert there_and_back == bytes_of("--plus", "two", "--plus", "one", "--minus", "one", "--minus", "two")


def test_the_facts_of_a_sum_are_told(run: Run) -> None:
    _, lines, _ = run("t2i", "a red cube", "--plus", "blue", "--plus", "large", "--minus", "red", "--json")
    facts = json.loads("\n".join(lines))
    assert (facts["plus"], facts["minus"]) == (["blue", "large"], ["red"])
    assert "interpolate" not in facts


def test_pictures_are_added(run: Run) -> None:
    one, other, wide = picture("a.png", (16, 16), 1), picture("b.png", (16, 16), 2), picture("c.png", (40, 16), 3)
    for name, terms in {"alone": [], "sum": ["--plus", other, "--minus", one]}.items():
        assert run("superres", one, *terms, "-o", f"{name}.png")[:2] == (0, [f"{name}.png"])
    assert Path("alone.png").read_bytes() != Path("sum.png").read_bytes()
    code, lines, told = run("superres", one, "--plus", "gone.png")
    assert (code, lines) == (1, [])
    assert "gone.png" in told.splitlines()[-1]
    code, lines, told = run("superres", wide, one, "--plus", other, "-o", "out")
    assert (code, len(lines)) == (1, 1)
    sentence = (
        "c.png: these inputs do not go together, because they are computed in 1 to 3 pieces: give inputs of one size."
    )
    assert f"bridgeflow: {sentence}" in told.splitlines()
    assert "1 of 2 inputs gave no result." in told


def test_a_term_is_one_input(run: Run) -> None:
    Path("words.txt").write_text("a cone\na cube\n")
    code, _, told = run("t2i", "a red cube", "--plus", "words.txt")
    assert code == 2
    assert "--plus 'words.txt' holds 2 inputs, but takes one at a time." in told


def test_one_input_that_cancels_out_does_not_stop_the_others(run: Run) -> None:
    code, lines, told = run("t2i", "a red cube", "a blue cone", "--minus", "a red cube", "-o", "out", "--json")
    assert code == 1
    results = json.loads("\n".join(lines))["results"]
    assert [result["input"] for result in results] == ["a blue cone"]
    assert "these terms cancel out" in told
    assert "1 of 2 inputs gave no result." in told


def test_words_that_cancel_out_leave_nothing(run: Run) -> None:
    code, lines, told = run("t2i", "a red cube", "--minus", "a red cube")
    assert (code, lines) == (1, [])
    assert told.splitlines()[-1].startswith(
        "bridgeflow: a red cube: these terms cancel out and leave nothing to start from: "
    )


def test_the_flow_of_a_sum_is_drawn(run: Run) -> None:
    options = ["--steps", "3", "-o", "x.png", "--trajectory", "flow.gif"]
    assert run("t2i", "a red cube", *options)[0] == 0
    plain = Path("flow.gif").read_bytes()
    assert run("t2i", "a red cube", "--plus", "a blue cone", *options)[0] == 0
    assert frames_of("flow.gif") == 5
    assert Path("flow.gif").read_bytes() != plain


def test_an_interpolation_leaves_frames_and_a_gif(run: Run) -> None:
    code, lines, _ = run("t2i", "a red cube", "--interpolate", "a blue cone", "--frames", "5", "--seed", "2")
    assert code == 0
    assert lines == [*(f"a-red-cube-t2i-0{n}.png" for n in range(1, 6)), "a-red-cube-t2i.gif"]
    assert frames_of(lines[-1]) == 5
    for words, frame in (("a red cube", lines[0]), ("a blue cone", lines[4])):
        assert run("t2i", words, "--seed", "2", "-o", "plain.png")[0] == 0
        assert Path("plain.png").read_bytes() == Path(frame).read_bytes()
    assert len({Path(name).read_bytes() for name in lines[:5]}) == 5
    again = run("t2i", "a red cube", "--interpolate", "a blue cone", "--frames", "2")[1]
    assert again == ["a-red-cube-t2i-2-01.png", "a-red-cube-t2i-2-02.png", "a-red-cube-t2i-2.gif"]


@pytest.mark.parametrize(
    ("output", "gif", "frame"),
    [
        ("way.gif", "way.gif", "way-frames/way-01.png"),
        ("out/way.gif", "out/way.gif", "out/way-frames/way-01.png"),
        ("way.jpg", "way.gif", "way-01.jpg"),
        ("folder", "folder/a-red-cube-t2i.gif", "folder/a-red-cube-t2i-01.png"),
    ],
)
def test_frames_go_where_the_output_says(run: Run, output: str, gif: str, frame: str) -> None:
    code, lines, _ = run("t2i", "a red cube", "--interpolate", "a cone", "--frames", "3", "-o", output)
    assert code == 0
    assert (lines[0], lines[-1], len(lines)) == (frame, gif, 4)
    assert all(Path(name).is_file() for name in lines)
    assert frames_of(gif) == 3


def test_several_inputs_go_to_the_same_end(run: Run) -> None:
    options = ["--interpolate", "a cone", "--frames", "3", "-o", "way.gif", "--json"]
    code, lines, _ = run("t2i", "a red cube", "a sphere", *options)
    assert code == 0
    facts = json.loads("\n".join(lines))
    assert facts["interpolate"] == "a cone"
    assert [a["file"] for a in facts["animations"]] == ["way-01.gif", "way-02.gif"]
    assert [(r["input"], r["frame"], r["at"]) for r in facts["results"]] == [
        (name, n + 1, n / 2) for name in ("a red cube", "a sphere") for n in range(3)
    ]
    ends = [Path(r["files"][0]).read_bytes() for r in facts["results"] if r["frame"] == 3]
    assert ends[0] == ends[1]


def test_more_than_99_frames_are_in_order(run: Run) -> None:
    _, lines, _ = run("t2i", "a", "--interpolate", "b", "--frames", "101", "--steps", "1", "-o", "way.gif")
    assert lines[:-1] == sorted(lines[:-1])
    assert lines[100] == "way-frames/way-101.png"
    assert frames_of("way.gif") == 101


def test_words_on_the_way_are_printed_line_by_line(run: Run) -> None:
    one, other = picture("a.png", (64, 64), 1), picture("b.png", (64, 64), 2)
    _, lines, _ = run("caption", one, "--interpolate", other, "--frames", "4")
    assert len(lines) == 4
    assert (lines[0], lines[3]) == (run("caption", one)[1][0], run("caption", other)[1][0])
    _, named, _ = run("caption", one, other, "--interpolate", other, "--frames", "2")
    assert [line.split("\t")[0] for line in named] == ["a.png", "a.png", "b.png", "b.png"]
    assert run("caption", one, "--interpolate", other, "--frames", "4", "-o", "way.txt")[1] == ["way.txt"]
    assert Path("way.txt").read_text().splitlines() == lines
    code, nothing, told = run("caption", one, "--interpolate", other, "-o", "way.gif")
    assert (code, nothing) == (2, [])
    assert "the results of task 'caption' are text: give a .txt file or a folder." in told


def test_low_memory_and_precision_reach_the_results(run: Run) -> None:
    def bytes_of(*options: str) -> list[bytes]:
        code, lines, _ = run("t2i", "a red cube", "a cone", "--samples", "2", "-o", "out", *options)
        assert code == 0
        return [Path(name).read_bytes() for name in lines]

    usual = bytes_of()
    assert len(set(usual)) == 4
    assert bytes_of("--low-memory") == usual
    assert bytes_of("--precision", "fp32") == usual
    assert bytes_of("--precision", "bf16") != usual
