"""Checks that nothing is printed on stdout, where results go."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from bridgeflow.registry.probe import first_line
from bridgeflow.runtime.stdout import redirected
from bridgeflow.testing.modality_subject import ModalitySubject
from bridgeflow.testing.outcome import Fault
from bridgeflow.testing.subject import copied
from bridgeflow.testing.task_subject import TaskSubject
from bridgeflow.testing.tracker_subject import TrackerSubject, Trial


@contextmanager
def _silent(method: str) -> Iterator[None]:
    """Raises Fault where something is printed meanwhile. What a method raises is left to its own checks."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        with redirected(said), suppress(Exception), torch.no_grad():
            yield
        printed = first_line(said)
    if printed:
        raise Fault(f"`{method}` prints {printed!r} on stdout, where results go: log it, or print it to sys.stderr.")


def check_modality(subject: ModalitySubject) -> str | None:
    """The methods that training and `run` call print nothing."""
    modality, item = subject.ready, subject.items[0]
    with _silent("__init__"):
        subject.build()
    with _silent("example"):
        modality.example(np.random.default_rng(0))
    with _silent("collate"):
        modality.collate(copied(subject.items))
    with _silent("encode"):
        modality.encode({name: tensor.clone() for name, tensor in subject.batch.items()})
    if not subject.only_source:
        item = subject.decoded[0]
        with _silent("decode"):
            modality.decode(subject.latent.mean.clone())
    with _silent("preview"):
        modality.preview(copied(item))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"item{modality.writes}")
        with _silent("write"):
            modality.write(copied(item), path)
        if path.is_file():
            with _silent("read"):
                modality.read(path)
    return None


def check_task(subject: TaskSubject) -> str | None:
    """The methods that training, `run` and `eval` call print nothing."""
    task, rows = subject.ready, subject.rows
    truths, sources = [pair[1] for pair in subject.pairs], [pair[0] for pair in subject.pairs]
    with _silent("example"):
        subject.kind.example(np.random.default_rng(0))
    with _silent("pair"):
        task.pair(copied(rows[0]), np.random.default_rng(0))
    with _silent("split"):
        task.split(copied(sources[0]))
    with _silent("join"):
        task.join([copied(subject.results[0]) for _ in subject.split(sources[0])], copied(sources[0]))
    with _silent("metrics"):
        task.metrics(*copied((subject.results, truths, sources, rows)))
    with _silent("baseline"):
        task.baseline(copied(truths), copied(sources), iter(copied(truths)))
    return None


def check_tracker(subject: TrackerSubject) -> str | None:
    """The methods that training calls print nothing, on a run that begins and on one that goes on."""
    _ = subject.closed
    folder = subject.folder("run-04")
    with _silent("build"):
        subject.settings.build()
    for first_step in (1, 4):
        trial = Trial(subject, folder, first_step)
        for method in ("start", "log", "picture", "close"):
            with _silent(method):
                getattr(trial, method)()
    return None
