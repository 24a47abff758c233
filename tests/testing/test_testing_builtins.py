"""The modalities, tasks and trackers of bridgeflow itself pass the checks that they set others, without a waiver."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from testing_fine import Fine

from bridgeflow import registry
from bridgeflow.testing import ModalityConformance, TaskConformance, TrackerConformance, modality_checks


class TestText(ModalityConformance):
    modality = "text"


class TestTextAutoencoder(ModalityConformance):
    modality = "text"
    options = {"codec": {"name": "autoencoder", "steps": 120, "width": 64, "learning_rate": 4e-3, "layers": 1}}


class TestImageLatent(ModalityConformance):
    modality = "image_latent"


class TestImageLatentOfPrincipalComponents(ModalityConformance):
    modality = "image_latent"
    options = {"size": 32, "codec": {"name": "pca"}}


class TestImageLatentOfAnAutoencoder(ModalityConformance):
    modality = "image_latent"
    options = {"size": 16, "codec": {"name": "tiny", "steps": 30, "width": 16}}


class TestDepth(ModalityConformance):
    modality = "depth"


class TestRelativeDepth(ModalityConformance):
    modality = "depth"
    options = {"size": [32, 48], "channels": 1, "normalisation": {"name": "affine"}}


class TestLowRes(ModalityConformance):
    modality = "lowres"


class TestCaptionTask(TaskConformance):
    task = "caption"


class TestDepthTask(TaskConformance):
    task = "depth"


class TestRecolourTask(TaskConformance):
    task = "recolour"


class TestSuperResolutionTask(TaskConformance):
    task = "superres"


class TestTextToImageTask(TaskConformance):
    task = "t2i"


class TestTensorBoard(TrackerConformance):
    tracker = "tensorboard"


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
class TestWandb(TrackerConformance):
    tracker = "wandb"
    options = {"mode": "offline"}


@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
class TestTrackio(TrackerConformance):
    tracker = "trackio"


CONFORMANCE = {"modality": ModalityConformance, "task": TaskConformance, "tracker": TrackerConformance}


def test_every_built_in_is_checked_and_waives_nothing() -> None:
    checked = {
        (kind, getattr(value, kind))
        for value in globals().values()
        for kind, base in CONFORMANCE.items()
        if isinstance(value, type) and issubclass(value, base) and value is not base
    }
    own = [p for kind in CONFORMANCE for p in registry.installed(kind) if p.distribution == "bridgeflow-torch"]
    assert checked == {(plugin.kind, plugin.name) for plugin in own}
    assert all(not registry.load_plugin(plugin).waived for plugin in own)


INHERITING = """
from testing_fine import Fine
from testing_spoilt_in import DrawsDecoding
from bridgeflow.testing import ModalityConformance

class Forgiven(DrawsDecoding):
    waived = {"deterministic": "it dithers"}

class TestFine(ModalityConformance):
    modality = Fine
    options = {"size": 6}

class TestBroken(ModalityConformance):
    modality = DrawsDecoding

class TestForgiven(ModalityConformance):
    modality = Forgiven
"""


def test_inheriting_gives_one_test_a_check_with_its_sentence(tmp_path: Path) -> None:
    (tmp_path / "test_inheriting.py").write_text(INHERITING)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rfs", "-q", "test_inheriting.py"]
    path = f"{Path(__file__).parent}"
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path, env={"PYTHONPATH": path, "PATH": ""}
    )
    count = len(modality_checks())
    assert done.returncode == 1
    assert f"1 failed, {3 * count - 2} passed, 1 skipped" in done.stdout
    assert "FAILED test_inheriting.py::TestBroken::test_conformance[deterministic]" in done.stdout
    assert "`decode` gave two results for the same latent: let it draw nothing at random" in done.stdout
    assert "deterministic is waived: it dithers" in done.stdout
    assert "Traceback" not in done.stdout
    assert "Warning" not in done.stdout


def test_checks_need_no_pytest() -> None:
    code = "import sys, bridgeflow.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_such_name_in_the_package() -> None:
    import bridgeflow.testing

    with pytest.raises(AttributeError, match="has no attribute 'NoSuch'"):
        _ = bridgeflow.testing.NoSuch
    assert bridgeflow.testing.check_modality(Fine)[0].check.name == "contract"
