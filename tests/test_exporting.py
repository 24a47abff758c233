"""The table of figures on a model's card."""

from __future__ import annotations

from bridgeflow.exporting import figures_table

REPORT = {
    "examples": 1000,
    "network_evaluations": 10,
    "figures": {"all_correct": 0.7394, "fd": 36.0},
    "intervals": {"all_correct": {"low": 0.7121, "high": 0.7667}},
    "baseline": {"name": "other pictures", "figures": {"all_correct": 0.0}},
    "ceiling": {"name": "real pictures", "figures": {"all_correct": 0.98}},
}


def test_figures_stand_between_their_interval_and_what_can_be_reached() -> None:
    assert figures_table(REPORT) == [
        "1,000 held-out examples, 10 network evaluations each",
        "",
        "| metric | result | 95 % | other pictures | real pictures |",
        "|---|---|---|---|---|",
        "| all_correct | 0.7394 | 0.7121 to 0.7667 | 0.0000 | 0.9800 |",
        "| fd | 36.0000 |  |  |  |",
    ]


def test_what_was_not_measured_has_no_column() -> None:
    report = {**REPORT, "intervals": {}, "baseline": None, "ceiling": None}
    assert figures_table(report)[2:4] == ["| metric | result |", "|---|---|"]
