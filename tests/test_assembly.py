"""Fitted codecs in files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bridgeflow.assembly import codec_files
from bridgeflow.assembly.codec_files import restore_codec, save_codec
from bridgeflow.errors import BridgeflowError
from bridgeflow.runtime import durable
from bridgeflow_plugins.image_latent import ImageLatent

OPTIONS = {"size": 16, "codec": {"name": "pca", "components": 6}}


def modality() -> ImageLatent:
    return ImageLatent(ImageLatent.Options.model_validate(OPTIONS))


@pytest.fixture
def fitted() -> ImageLatent:
    own = modality()
    rng = np.random.default_rng(0)
    own.fit([own.example(rng) for _ in range(20)])
    return own


@pytest.mark.parametrize("narrow", [torch.float16, torch.bfloat16])
def test_a_codec_in_half_precision_takes_half_the_room_and_is_float32_again(
    narrow: torch.dtype, fitted: ImageLatent, tmp_path: Path
) -> None:
    save_codec(fitted, tmp_path / "wide", {})
    save_codec(fitted, tmp_path / "narrow", {}, narrow)
    written = load_file(tmp_path / "narrow" / "state.safetensors")
    assert {name: tensor.dtype for name, tensor in written.items()} == {
        "mean": torch.float32,
        "axes": narrow,
        "gain": torch.float32,
    }
    wide, half = modality(), modality()
    restore_codec(wide, tmp_path / "wide")
    restore_codec(half, tmp_path / "narrow")
    assert wide.fingerprint() == fitted.fingerprint() != half.fingerprint()
    assert {tensor.dtype for tensor in half.fitted_state().values()} == {torch.float32}
    batch = fitted.collate([fitted.example(np.random.default_rng(1))])
    torch.testing.assert_close(half.encode(batch).mean, fitted.encode(batch).mean, atol=0.02, rtol=0)
    assert torch.equal(wide.encode(batch).mean, fitted.encode(batch).mean)


def test_a_matrix_that_half_precision_cannot_hold_is_refused(fitted: ImageLatent, tmp_path: Path) -> None:
    state = {**fitted.fitted_state(), "axes": 1e6 * fitted.fitted_state()["axes"]}
    fitted.restore(state, {})
    with pytest.raises(BridgeflowError, match=r"'axes' is too large for torch.float16"):
        save_codec(fitted, tmp_path / "codec", {}, torch.float16)
    assert not (tmp_path / "codec" / "codec.json").exists()


@pytest.mark.parametrize("narrow", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_codec_that_is_not_finite_is_neither_written_nor_read(
    bad: float, narrow: torch.dtype, fitted: ImageLatent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {name: tensor.clone() for name, tensor in fitted.fitted_state().items()}
    state["axes"][0, -1] = bad
    monkeypatch.setattr(fitted, "fitted_state", lambda: state)
    with pytest.raises(BridgeflowError, match=r"^the codec's 'axes' holds numbers that are not finite, so nothing is"):
        save_codec(fitted, tmp_path / "codec", {}, narrow)
    assert list((tmp_path / "codec").iterdir()) == []
    # As it was written once.
    monkeypatch.setattr(codec_files, "is_finite", lambda tensor: True)
    save_codec(fitted, tmp_path / "codec", {}, narrow)
    monkeypatch.undo()
    with pytest.raises(BridgeflowError, match=r"codec' is damaged \('axes' holds numbers that are not finite\): make"):
        restore_codec(modality(), tmp_path / "codec")


@pytest.mark.parametrize("narrowed", [3, None])
def test_a_damaged_list_of_narrowed_tensors_is_said(narrowed: object, fitted: ImageLatent, tmp_path: Path) -> None:
    save_codec(fitted, tmp_path, {})
    path = tmp_path / "codec.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "narrowed": narrowed}))
    with pytest.raises(BridgeflowError, match="holds no fitted codec"):
        restore_codec(modality(), tmp_path)


def test_a_codec_of_half_precision_by_itself_stays_so(fitted: ImageLatent, tmp_path: Path) -> None:
    """What is not listed as narrowed is given back as it lies in the file."""
    save_codec(fitted, tmp_path, {})
    path = tmp_path / "state.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    facts = json.loads((tmp_path / "codec.json").read_text())
    (tmp_path / "codec.json").write_text(json.dumps({**facts, "checksum": durable.checksum(path)}))
    seen: dict[str, torch.dtype] = {}
    own = modality()
    own.restore = lambda state, facts: seen.update({n: t.dtype for n, t in state.items()})  # type: ignore[method-assign]
    restore_codec(own, tmp_path)
    assert set(seen.values()) == {torch.float16}
