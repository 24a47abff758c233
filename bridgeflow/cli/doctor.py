"""`bridgeflow doctor`."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version

import click

from bridgeflow.cli.options import json_option
from bridgeflow.cli.output import emit

LIBRARIES = (
    "torch",
    "torchvision",
    "accelerate",
    "transformers",
    "diffusers",
    "timm",
    "datasets",
    "pydantic",
)


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check this installation and machine: libraries, devices, dtypes, cache, every plugin."""
    import torch

    from bridgeflow import __version__, registry
    from bridgeflow.registry import installation, probe
    from bridgeflow.runtime.precision import choose_precision

    facts: dict[str, object] = {"bridgeflow": __version__, "python": platform.python_version()}
    problems: list[str] = []
    for library in LIBRARIES:
        try:
            facts[library] = version(library)
        except PackageNotFoundError:
            problems.append(f"{library} is not installed: pip install {library}.")
    facts["cpu cores"] = os.cpu_count() or 1
    facts["torch threads"] = torch.get_num_threads()
    facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    facts["precision chosen by auto"] = choose_precision("auto", device)
    beside = installation.other_project()
    problems += [] if beside is None else [beside]
    plugins = registry.installed()
    verdicts = probe.verdicts(plugins, load=True).values()
    causes = [verdict.cause for verdict in verdicts]
    notes = list(dict.fromkeys(note for verdict in verdicts for note in verdict.notes))
    problems += dict.fromkeys(cause for cause in (*causes, *registry.damaged()) if cause)
    facts["plugins"] = len(plugins)
    if as_json:
        emit(json.dumps({**facts, "problems": problems, "notes": notes}, indent=1))
    else:
        for name, value in facts.items():
            shown = ", ".join(value) or "none" if isinstance(value, list) else value
            emit(f"{name:<26} {shown}")
        for note in notes:
            emit(f"note: {note}")
        emit("\n".join(problems) if problems else "everything is in order")
    return 1 if problems else 0
