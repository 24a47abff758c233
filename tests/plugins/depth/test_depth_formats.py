"""Reading and writing depth files: what is kept, what is invalid, and what is refused in one sentence."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.depth.exr import depth_channel
from bridgeflow_plugins.depth.formats import colour, read_depth, write_depth

NAN = float("nan")
DEPTH = np.array([[1.0, 2.5, NAN, 0.75], [12.0, 3.003, 7.25, 20.0], [0.5, NAN, 65.0, 1.25]], dtype=np.float32)


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=allow_pickle)
    return stream.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()


def png(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def exr(path: Path, **channels: np.ndarray) -> Path:
    import OpenEXR

    named = {name.replace("_", "."): np.ascontiguousarray(values) for name, values in channels.items()}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    with OpenEXR.File(header, named) as file:
        file.write(str(path))
    return path


@pytest.mark.parametrize("ending", [".npy", ".pfm", ".exr"])
def test_float_formats_keep_every_bit(tmp_path: Path, ending: str) -> None:
    path = tmp_path / "new folder" / f"depth{ending}"
    write_depth(DEPTH, path)
    for back in (read_depth(path), read_depth(str(path)), read_depth(path.read_bytes())):
        assert back.dtype == np.float32
        np.testing.assert_array_equal(back, DEPTH)


def test_png_rounds_to_its_step_and_keeps_holes(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    write_depth(DEPTH, path, png_scale=1 / 256)
    with Image.open(path) as image:
        stored = np.asarray(image)
    assert stored.dtype == np.uint16
    assert stored[0].tolist() == [256, 640, 0, 192]
    assert stored[1, 1] == 769  # 3.003 * 256 = 768.77
    np.testing.assert_array_equal(read_depth(path, 1 / 256), np.where(np.isnan(DEPTH), NAN, stored / 256))


def test_png_scale_multiplies_integers_from_every_source(tmp_path: Path) -> None:
    stored = np.array([[0, 1000, 65535], [1, 2, 3]], dtype=np.uint16)
    path = tmp_path / "millimetres.png"
    Image.fromarray(stored).save(path)
    with Image.open(path) as opened:
        opened.load()
        values = [
            path,
            png(stored),
            stored,
            stored[:, :, None],
            Image.fromarray(stored.astype(np.int32)),
            opened,
        ]
    values += [{"path": str(path), "bytes": None}, {"path": "gone.png", "bytes": png(stored)}]
    for value in values:
        depth = read_depth(value, 0.001)
        np.testing.assert_allclose(depth, [[NAN, 1.0, 65.535], [0.001, 0.002, 0.003]], rtol=1e-6)


def test_small_depth_stays_valid_in_png(tmp_path: Path) -> None:
    write_depth(np.array([[1e-5, 1.0]]), tmp_path / "near.png")
    np.testing.assert_allclose(read_depth(tmp_path / "near.png"), [[0.001, 1.0]], rtol=1e-6)


def test_floats_are_metres_whatever_the_png_scale() -> None:
    values = np.array([[1.5, 2.5]])
    for value in (
        values,
        values.astype(np.float16),
        values.tolist(),
        Image.fromarray(values.astype(np.float32)),
    ):
        np.testing.assert_array_equal(read_depth(value, 1 / 256), [[1.5, 2.5]])


def test_what_is_no_measurement_becomes_nan() -> None:
    values = np.array([[np.inf, -np.inf, NAN], [0.0, -2.0, 1e300]])
    assert np.isnan(read_depth(values)).all()


def test_reading_does_not_touch_the_array_given() -> None:
    values = np.array([[0.0, 1.0]], dtype=np.float32)
    read_depth(values)
    assert values.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(("order", "scale"), [("<f4", "-1.0"), (">f4", "1"), (">f4", "0.00392"), ("<f4", "-1e0")])
@pytest.mark.parametrize("gap", ["\n", "\r\n"])
def test_pfm_of_both_byte_orders_from_the_bottom_row_up(order: str, scale: str, gap: str) -> None:
    header = f"Pf{gap}2 3{gap}{scale}{gap}".encode()
    rows = np.array([[5, 6], [3, 4], [1, 2]], dtype=order)
    np.testing.assert_array_equal(read_depth(header + rows.tobytes()), [[1, 2], [3, 4], [5, 6]])


def test_pfm_is_written_little_endian_from_the_bottom_row_up(tmp_path: Path) -> None:
    write_depth(np.array([[1.0], [2.0]]), tmp_path / "d.pfm")
    assert (tmp_path / "d.pfm").read_bytes() == b"Pf\n1 2\n-1.0\n" + struct.pack("<ff", 2.0, 1.0)


def test_npz_with_one_array() -> None:
    np.testing.assert_array_equal(read_depth(npz(anything=DEPTH)), DEPTH)


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["R", "G", "B", "Z"], "Z"),
        (["depth.Z", "R", "G", "B"], "depth.Z"),
        (["View.Combined.R", "View.Normal.Z", "View.Depth.Z"], "View.Depth.Z"),
        (["V", "Y"], "Y"),
        (["V"], "V"),
        (["distance"], "distance"),
        (["a", "b"], None),
        (["Normal.X", "Normal.Y", "Normal.Z"], None),
        ([], None),
    ],
)
def test_exr_channel(names: list[str], chosen: str | None) -> None:
    assert depth_channel(names) == chosen


def test_exr_half_precision_and_grey_as_three_channels(tmp_path: Path) -> None:
    half = np.array([[1.5, 2.25], [np.inf, 0.0]], dtype=np.float16)
    expected = [[1.5, 2.25], [NAN, NAN]]
    np.testing.assert_array_equal(read_depth(exr(tmp_path / "h.exr", depth_Z=half)), expected)
    np.testing.assert_array_equal(read_depth(exr(tmp_path / "g.exr", R=half, G=half, B=half)), expected)


def test_exr_that_is_a_colour_picture_is_refused(tmp_path: Path) -> None:
    grey = np.ones((2, 2), dtype=np.float32)
    with pytest.raises(BridgeflowError, match=r"rgb\.exr has shape \(2, 2, 3\)"):
        read_depth(exr(tmp_path / "rgb.exr", R=grey, G=grey * 2, B=grey))
    with pytest.raises(BridgeflowError, match=r"ab\.exr has no depth channel \(channels: A, B\): name the channel Z"):
        read_depth(exr(tmp_path / "ab.exr", A=grey, B=grey))


def big_png() -> bytes:
    """A few bytes that claim 20000x20000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 16, 0, 0, 0, 0)
    end = b"IEND"
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, b"IDATx", end)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def bomb() -> bytes:
    """A few kilobytes that unpack to 1.7 gigabytes: its directory lists one array of 16 megabytes a hundred times."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("depth.npy", npy(np.zeros((4000, 4000), np.uint8)))
        archive.filelist *= 107
    return stream.getvalue()


NOISE = np.random.default_rng(0).uniform(1, 9, (40, 50)).astype(np.float32)
HOSTILE = {
    "empty.npy": (b"", "is empty"),
    "words.npy": (b"not depth", "not a depth file of a known format"),
    "jpeg.png": (b"\xff\xd8\xff\xe0" + bytes(50), "not a depth file of a known format"),
    "grey.png": (png(np.full((4, 4), 9, np.uint8)), "an 8-bit grey picture, not a depth map"),
    "colour.png": (png(np.full((4, 4, 3), 9, np.uint8)), "a colour picture, not a depth map"),
    "cut.png": (png((NOISE * 1000).astype(np.uint16))[:900], "damaged or incomplete"),
    "head.png": (b"\x89PNG\r\n\x1a\n", "damaged or incomplete"),
    "big.png": (big_png(), "more than 200,000,000 pixels"),
    "cut.npy": (npy(NOISE)[:500], "damaged or incomplete"),
    "head.npy": (b"\x93NUMPY\x01\x00", "damaged or incomplete"),
    "pickled.npy": (npy(np.array([{"a": 1}], dtype=object), True), "pickled objects, which are never loaded"),
    "pickled.npz": (npz(a=np.array([{"a": 1}], dtype=object)), "pickled objects, which are never loaded"),
    "words-inside.npy": (npy(np.array([["a", "b"]])), "values of type <U1"),
    "complex.npy": (npy(np.ones((2, 2), complex)), "values of type complex128"),
    "bool.npy": (npy(np.ones((2, 2), bool)), "values of type bool"),
    "bytes.npy": (npy(np.ones((2, 2), np.uint8)), "values of type uint8"),
    "two.npz": (npz(depth=NOISE, normal=NOISE), r"should hold one array but holds 2 \(depth, normal\)"),
    "cut.npz": (npz(depth=NOISE)[:800], "damaged or incomplete"),
    "bomb.npz": (bomb(), "unpacks to more than"),
    "colour.pfm": (b"PF\n1 1\n-1.0\n" + bytes(12), r"has shape \(1, 1, 3\)"),
    "cut.pfm": (b"Pf\n10 10\n-1.0\n" + bytes(399), "damaged or incomplete"),
    "claims.pfm": (b"Pf\n999999999 999999999\n-1.0\n" + bytes(99), "damaged or incomplete"),
    "head.pfm": (b"Pf\nwide high\n-1.0\n", "damaged or incomplete"),
    "head.exr": (b"\x76\x2f\x31\x01" + bytes(20), "damaged or incomplete"),
    "line.npy": (npy(np.ones(7)), r"has shape \(7,\)"),
    "three.npy": (npy(np.ones((4, 4, 3))), r"has shape \(4, 4, 3\)"),
    "none.npy": (npy(np.ones((0, 4))), r"has shape \(0, 4\)"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_file_is_one_sentence_with_its_name(tmp_path: Path, name: str) -> None:
    data, reason = HOSTILE[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BridgeflowError, match=reason) as caught:
        read_depth(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(BridgeflowError, match=reason):
        read_depth({"path": name, "bytes": data})


def test_truncated_exr_says_so_and_leaves_standard_output_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cut.exr"
    write_depth(NOISE, path)
    whole = path.read_bytes()
    for length in (30, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:length])
        with pytest.raises(BridgeflowError, match=r"cut\.exr is a damaged or incomplete EXR file"):
            read_depth(path)
    assert capsys.readouterr().out == ""


def test_pickled_file_is_not_executed(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (tmp_path / "harm",))

    with pytest.raises(BridgeflowError, match="pickled"):
        read_depth(npy(np.array([Harm()], dtype=object), True))
    assert not (tmp_path / "harm").exists()


def test_missing_file_folder_and_foreign_values(tmp_path: Path) -> None:
    with pytest.raises(BridgeflowError, match=r"there is no depth file .*gone\.png"):
        read_depth(tmp_path / "gone.png")
    with pytest.raises(BridgeflowError, match="is a folder, not a depth file"):
        read_depth(tmp_path)
    with pytest.raises(BridgeflowError, match="neither 'path' nor 'bytes'"):
        read_depth({"path": None, "bytes": None})
    with pytest.raises(BridgeflowError, match="from a NoneType"):
        read_depth(None)
    with pytest.raises(BridgeflowError, match="no table of numbers"):
        read_depth([[1.0, 2.0], [3.0]])
    with pytest.raises(BridgeflowError, match="colour picture"):
        read_depth(Image.new("RGB", (2, 2)))


def test_write_refuses_what_png_cannot_hold_and_unknown_endings(tmp_path: Path) -> None:
    with pytest.raises(BridgeflowError, match=r"reaches 80 m.*png_scale 0\.001 ends at 65\.53 m"):
        write_depth(np.array([[80.0, NAN]]), tmp_path / "far.png")
    with pytest.raises(BridgeflowError, match=r"not written as '\.jpg': choose one of \.png"):
        write_depth(DEPTH, tmp_path / "depth.jpg")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BridgeflowError, match="cannot write"):
        write_depth(DEPTH, tmp_path / "file" / "depth.npy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_colour_shows_near_brighter_and_warmer_than_far_and_holes_grey() -> None:
    for inverse in (True, False):
        picture = colour(np.array([[0.5, 1.0, 4.0, 10.0, NAN]]), inverse).astype(int)
        assert picture.shape == (1, 5, 3)
        brightness = picture[0, :4].sum(axis=-1)
        assert (np.diff(brightness) < 0).all()
        assert picture[0, 0, 0] > picture[0, 0, 2]
        assert picture[0, 4].tolist() == [128, 128, 128]


def test_colour_of_nothing_and_of_one_depth() -> None:
    assert (colour(np.full((2, 3), NAN)) == 128).all()
    flat = colour(np.full((2, 3), 4.0))
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1
    assert flat[0, 0].tolist() != [128, 128, 128]
