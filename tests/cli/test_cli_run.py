"""Options of `run` that do not go together, and what a wait looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bridgeflow.cli.inputs import Input
from bridgeflow.cli.request import Request
from bridgeflow.cli.run import _shown, _warn_of_losses
from bridgeflow_plugins.text import Text, TextOptions
from bridgeflow_plugins.text.encoder import EncoderCodec

Call = Callable[..., Any]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--frames 5", "--frames counts the frames of --interpolate: give both."),
        ("--interpolate b --plus c", "--interpolate does not go with --plus or --minus: leave one of them out."),
        ("--interpolate b --minus c", "--interpolate does not go with --plus or --minus: leave one of them out."),
        ("--interpolate b --samples 2", "--interpolate does not go with --samples: "),
        ("--interpolate b --trajectory f.gif", "--interpolate draws a GIF of its own: leave --trajectory out."),
        ("--interpolate b --frames 1", "Invalid value for '--frames': 1 is not in the range 2<=x<=500."),
        ("--interpolate b --frames 501", "Invalid value for '--frames': 501 is not in the range 2<=x<=500."),
        ("--precision fp16", "Invalid value for '--precision': 'fp16' is not one of 'auto', 'fp32', 'bf16'."),
    ],
)
def test_options_that_do_not_go_together(bridgeflow: Call, line: str, told: str) -> None:
    outcome = bridgeflow("run", "--task", "t2i", "a", *line.split())
    assert (outcome.code, outcome.out) == (2, "")
    (sentence,) = outcome.err.splitlines()
    assert sentence.startswith(f"bridgeflow: {told}")


class Screen:
    """Stands for a console: keeps what is shown."""

    def __init__(self, live: bool) -> None:
        self.live = live
        self.shown: list[str] = []
        self.warned: list[str] = []

    def __call__(self, done: int, total: int, what: str, unit: str = "", detail: str = "") -> None:
        self.shown.append(f"{what} {done}/{total}{detail}")

    def status(self, text: str) -> None:
        self.shown.append(text)

    def warn(self, text: str) -> None:
        self.warned.append(text)


def test_slow_steps_are_shown_with_the_seconds_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    screen = Screen(live=True)
    show = _shown(screen)
    show(0, 0, "loading the network (4.2 GB)")
    show(0, 1, "encoding text")
    for done in range(3):
        show(done, 50, "step")
        clock[0] += 2.5
    show(0, 50, "step")
    assert screen.shown == [
        "loading the network (4.2 GB)",
        "encoding text 0/1",
        "step 0/50",
        "step 1/50  2.5 s each",
        "step 2/50  2.5 s each",
        "step 0/50",
    ]


def test_a_line_that_moves_is_for_terminals() -> None:
    screen = Screen(live=False)
    _shown(screen)(0, 0, "loading the network (4.2 GB)")
    assert screen.shown == []


def test_prompts_that_are_cut_are_told_once_with_the_first_of_them() -> None:
    long = "a large red cube left of a small blue sphere in front of a large green cone behind a small yellow cylinder"
    given = ["a red cube", f"{long} and a floor", f"{long} and more", ""]
    source = Text(TextOptions(codec=EncoderCodec(max_length=24)))
    screen = Screen(live=False)
    request = Request(0, plus=(f"{long} too",))
    _warn_of_losses(source, [Input(words, words) for words in given], request, source.read, screen)
    (told,) = screen.warned
    assert told.startswith("3 of 4 texts have more than 24 tokens")
    assert "'a large red cube left of a small" in told
    assert "source.codec.max_length=" in told
    _warn_of_losses(source, [Input("a red cube", "a red cube")], Request(0), source.read, screen)
    assert len(screen.warned) == 1
