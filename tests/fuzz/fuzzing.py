"""Hostile metadata, recipes and files, drawn by hypothesis: nothing but a short sentence may come of them."""

from __future__ import annotations

import csv
import io
import json
import struct
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from bridgeflow.config import layers, recipe
from bridgeflow.data.folder import Folder
from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import printable
from bridgeflow_plugins.depth.formats import read_depth
from bridgeflow_plugins.image_latent.pixels import open_image
from bridgeflow_plugins.text import Text

LONGEST = 600
"""Characters of a sentence, or of each line of one that lists mistakes."""


def outcome(action: Callable[[], Any]) -> str:
    """What was said, '' where all went well. Any other error than bridgeflow's own goes through."""
    try:
        action()
    except BridgeflowError as error:
        said = str(error)
        for line in said.split("\n  "):
            assert line.strip(), "an empty sentence"
            assert len(line) < LONGEST, f"{len(line)} characters: {line}"
            assert printable(line) == line, repr(line)
        said.encode("utf-8")
        return said
    return ""


# -- recipes -------------------------------------------------------------------------------------------------

KEYS = [
    "task", "extends", "options", "source", "target", "data", "columns", "codecs", "network", "optimizer", "training",
    "sampling", "path", "time", "encoding", "kl", "null_rate", "source_encoder", "name", "size", "codec", "width",
    "depth", "steps", "batch_size", "learning_rate", "solver", "guidance", "schedule", "<<", "resize", "location",
]  # fmt: skip
WORDS = [
    "depth", "caption", "t2i", "dit", "unet", "dimr", "blocks", "folder", "hf", "examples", "adamw", "sgd", "pca", "kl",
    "encoder", "autoencoder", "depth/blocks", "t2i/blocks", "true", "null", "~", ".inf", ".nan", "1e999", "0x1f",
    "!!python/object/apply:os.system ['true']", "!!timestamp x", "!!binary '*'", "!!int x", "!!set {a}",
    "&a [1]", "*a", "&b {x: *b}", "{1: 2}", "[[]]", "'\\0'", '"\\ud800"', '"\\e[31m"', "9" * 30, "9" * 5000, "-1", "0",
    "1:30", "2020-01-01", "|", ">", "? x", "- a", "../../x.yaml", "/dev/zero", "%YAML 9.9", "---", "...", "\t",
]  # fmt: skip
_scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.sampled_from(WORDS), st.dates()
)
_trees = st.recursive(
    _scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.one_of(st.sampled_from(KEYS), _scalars), inner, max_size=5)
    ),
    max_leaves=20,
)


@st.composite
def _yaml_lines(draw: st.DrawFn) -> str:
    lines = draw(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(KEYS), st.sampled_from(WORDS)), max_size=12))
    return "\n".join(f"{'  ' * indent}{key}: {word}" for indent, key, word in lines)


def _dumped(tree: Any) -> str:
    import yaml

    try:
        return yaml.safe_dump(tree, allow_unicode=True)
    except yaml.YAMLError:
        return repr(tree)


recipes = st.one_of(
    _yaml_lines(),
    st.dictionaries(st.sampled_from(KEYS), _trees, max_size=6).map(lambda tree: _dumped({"task": "depth", **tree})),
    st.text(max_size=200),
    st.text(alphabet="{}[]:,&*!?|>-#%'\"\\ \n\tab<<=~", max_size=200),
)
overrides = st.one_of(
    st.tuples(
        st.lists(st.sampled_from(KEYS), min_size=1, max_size=4), st.one_of(st.sampled_from(WORDS), st.text())
    ).map(lambda drawn: f"{'.'.join(drawn[0])}={drawn[1]}"),
    st.text(max_size=60),
)


def read_recipe(text: str | bytes) -> str:
    """What is said of a recipe file of that content."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))

        def action() -> None:
            # Whatever is taken must come back from YAML as it went in.
            taken = recipe.load(str(file))
            assert recipe.resolve(layers.parse(taken.yaml(), "it"), "it").yaml() == taken.yaml()

        return outcome(action)


def read_override(text: str) -> str:
    """What is said of an override on the command line."""
    return outcome(lambda: recipe.load("depth/blocks", [text]))


# -- metadata ------------------------------------------------------------------------------------------------

NAMES = [
    "a.png", "b.txt", "../../etc/passwd", "/etc/passwd", "..\\..\\x", "a\0b", "link/x.png", "loop", "", ".", "x" * 5000,
    "\ud800.png", "\x1b[31m.png", "d/../a.png", "~/x.png", "pipe.png", "/dev/zero", "folder.png", "nan.npy",
]  # fmt: skip
COLUMNS = [
    "file_name",
    "depth_file_name",
    "text",
    "image",
    "depth",
    "_file_name",
    "",
    "text_file_name",
    "\x1b",
    "file_name ",
]
_cells = st.one_of(st.sampled_from(NAMES), _trees, st.text(max_size=30))
_rows = st.lists(st.dictionaries(st.sampled_from(COLUMNS), _cells, max_size=5), max_size=6)


def _json(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row, default=str, skipkeys=True) for row in rows).encode("utf-8", "surrogatepass")


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS[:5])
    writer.writerows([row.get(column, "") for column in COLUMNS[: 5 + len(row) % 2]] for row in rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


@st.composite
def _spoilt(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """A few bytes overwritten, put in, or cut off."""
    data = bytearray(draw(whole))
    for place, new, how in draw(
        st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=8), st.integers(0, 2)), max_size=6)
    ):
        start = place % (len(data) + 1)
        if how == 0:
            data[start : start + len(new)] = new
        elif how == 1:
            data[start:start] = new
        elif place % 3 == 0:
            del data[start:]
    return bytes(data)


metadata = st.tuples(
    st.sampled_from(["metadata.jsonl", "metadata.csv", "metadata.parquet"]),
    st.one_of(_rows.map(_json), _rows.map(_csv), _spoilt(_rows.map(_json)), _spoilt(_rows.map(_csv)), st.binary()),
)


def read_metadata(name: str, content: bytes) -> str:
    """What is said of a folder with that metadata, its rows read as a captioning task reads them, one by one."""
    with tempfile.TemporaryDirectory() as home:
        root = Path(home) / "data"
        root.mkdir()
        (root / "a.png").write_bytes(valid("PNG"))
        (root / "b.txt").write_text("words")
        (root / "folder.png").mkdir()
        (root / "link").symlink_to(home)
        (root / "loop").symlink_to("loop")
        (root / name).write_bytes(content)
        said = ""

        def action() -> None:
            nonlocal said
            for split in ("train", "held_out"):
                rows = Folder(path=str(root)).open(split)  # type: ignore[arg-type]
                for index in range(len(rows)):  # type: ignore[arg-type]
                    said += outcome(lambda index=index, rows=rows: read_row(rows[index]))  # type: ignore[misc]

        return said + outcome(action)


def read_row(row: dict[str, Any]) -> None:
    """Reads each column as the modality that it is for, the picture first."""
    if "image" in row:
        open_image(row["image"])
    if "depth" in row:
        read_depth(row["depth"])
    if "text" in row:
        Text().read(row["text"])


# -- pictures and depth --------------------------------------------------------------------------------------

FORMATS = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "I16", "P", "npy", "npz", "pfm", "exr", "eps"]


@cache
def valid(kind: str) -> bytes:
    """A small file of that kind, as it should be."""
    draw = np.random.default_rng(0)
    depth = draw.uniform(1, 9, (8, 12)).astype(np.float32)
    stream = io.BytesIO()
    if kind == "npy":
        np.save(stream, depth)
    elif kind == "npz":
        np.savez_compressed(stream, depth)
    elif kind == "pfm":
        return b"Pf\n12 8\n-1.0\n" + depth.tobytes()
    elif kind == "exr":
        from bridgeflow_plugins.depth.exr import write_exr

        with tempfile.TemporaryDirectory() as folder:
            write_exr(depth, Path(folder) / "x.exr")
            return (Path(folder) / "x.exr").read_bytes()
    elif kind == "eps":
        return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    elif kind == "I16":
        Image.fromarray((depth * 1000).astype(np.uint16)).save(stream, "PNG")
    elif kind == "P":
        Image.fromarray(draw.integers(0, 255, (8, 12), dtype=np.uint8)).convert("P").save(stream, "PNG")
    else:
        Image.fromarray(draw.integers(0, 255, (8, 12, 3), dtype=np.uint8)).save(stream, kind)
    return stream.getvalue()


def _mended(data: bytes) -> bytes:
    """A PNG with checksums that fit its spoilt chunks, so that the decoder sees them."""
    whole, place = data[:8], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        body = data[place + 4 : place + 8 + length]
        whole += data[place : place + 4] + body + struct.pack(">I", zlib.crc32(body))
        place += 12 + length
    return whole + data[place:]


_spoilt_files = _spoilt(st.sampled_from(FORMATS).map(valid))
pictures = st.one_of(_spoilt_files, _spoilt_files.map(lambda d: _mended(d) if d[:4] == b"\x89PNG" else d), st.binary())


def read_picture(data: bytes) -> str:
    """What is said of a file as a picture and as a depth map, and of the same bytes without a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.png"
        file.write_bytes(data)
        said = outcome(lambda: _right_picture(open_image(file))) + outcome(lambda: _right_depth(read_depth(file)))
    return said + outcome(lambda: open_image(data)) + outcome(lambda: read_depth(data))


def _right_picture(image: Any) -> None:
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert image.size > 0


def _right_depth(depth: Any) -> None:
    assert depth.dtype == np.float32
    assert depth.ndim == 2
    assert not np.any(depth <= 0)
    assert not np.any(np.isinf(depth))
