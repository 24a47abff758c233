"""`bridgeflow study`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bridgeflow.cli.options import device_option, json_option
from bridgeflow.cli.output import emit

if TYPE_CHECKING:
    from bridgeflow.study.report import Findings
    from bridgeflow.study.runner import Planned
    from bridgeflow.study.settings import StudySettings


@click.command(
    epilog="Examples:\n\n\b\n  bridgeflow study ablation.yaml\n  bridgeflow study ablation.yaml --minutes 120\n"
    "  bridgeflow study ablation.yaml --report",
)
@click.argument("file", metavar="FILE.yaml")
@click.option("-o", "--output", metavar="DIR", help="Folder of its runs and tables; studies/FILE by default.")
@click.option("--minutes", type=click.FloatRange(min=0), help="Begin no further training after so long.")
@click.option("--report", "only_report", is_flag=True, help="Train nothing; report on the runs that are done.")
@click.option("--dry-run", is_flag=True, help="List the runs and which of them are done.")
@device_option
@json_option
def study(
    file: str,
    output: str | None,
    minutes: float | None,
    only_report: bool,
    dry_run: bool,
    device: str | None,
    as_json: bool,
) -> int:
    """Train and score a set of runs that differ in one thing each, and say which claims hold.

    Runs that are done are not done again, and one that was stopped goes on. One that fails keeps no other from its
    turn; the exit code is then 1. Writes study.md, study.json and study.png.
    """
    from bridgeflow.runtime.console import Progress
    from bridgeflow.study.results import Failed
    from bridgeflow.study.runner import carry_out, planned
    from bridgeflow.study.settings import read_study

    console = Progress()
    declared = read_study(Path(file))
    folder = Path(output) if output is not None else Path("studies") / Path(file).stem
    runs = planned(declared, folder)
    if dry_run:
        _print_runs(runs, as_json)
        return 0
    failed: list[Failed] = []
    if not only_report:
        for outcome in carry_out(declared, folder, console, device, minutes):
            if isinstance(outcome, Failed):
                console.warn(f"{outcome} The others go on.")
                failed.append(outcome)
            else:
                _report(declared, folder)
    findings = _report(declared, folder)
    console.clear()
    if findings is None:
        console.say(f"none of the {len(runs)} runs is done.")
    elif as_json:
        emit(json.dumps(findings.json(), indent=1))
    else:
        emit(findings.markdown())
        console.say(f"{folder / 'study.md'}, {folder / 'study.png'}")
    for own in failed:
        console.say(f"failed: {own}")
    if failed:
        console.say(f"{len(failed)} of {len(runs)} runs failed: the same command tries them again.")
    return 1 if failed else 0


def _print_runs(runs: list[Planned], as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {"arm": run.arm, "seed": run.seed, "steps": run.recipe.training.steps, "done": run.done is not None}
        | ({"failed": run.failed.why} if run.failed is not None else {})
        for run in runs
    ]
    if as_json:
        emit(json.dumps(rows, indent=1))
        return
    width = max(len(run.arm) for run in runs)
    for row in rows:
        mark = "  done" if row["done"] else "  failed" if "failed" in row else ""
        emit(f"{row['arm']:<{width}}  seed {row['seed']}  {row['steps']:>7,} steps{mark}")


def _report(declared: StudySettings, folder: Path) -> Findings | None:
    """Writes what the runs that are done say; None where there is none."""
    from bridgeflow.runtime import durable
    from bridgeflow.study.deciding import deciding
    from bridgeflow.study.picture import save_picture
    from bridgeflow.study.report import Findings
    from bridgeflow.study.runner import planned

    runs = planned(declared, folder)
    done = [run.done for run in runs if run.done is not None]
    if not done:
        return None
    failed = [run.failed for run in runs if run.failed is not None]
    findings = Findings(declared, done, *deciding(declared, done), failed)
    durable.write_whole(folder / "study.md", findings.markdown())
    durable.write_whole(folder / "study.json", json.dumps(findings.json(), indent=1))
    save_picture(findings, folder / "study.png")
    return findings
