"""Files from strangers: nothing of theirs runs, leads out of the folder, hangs, or fills the memory."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont

from bridgeflow.cli.inputs import LONGEST_LINE, Input, lines_on_stdin
from bridgeflow.cli.main import invoke
from bridgeflow.data import metadata
from bridgeflow.data.folder import Folder
from bridgeflow.errors import BridgeflowError
from bridgeflow.sentences import LONGEST
from bridgeflow_plugins.depth import exr
from bridgeflow_plugins.depth.formats import read_depth
from bridgeflow_plugins.image_latent.pixels import open_image
from bridgeflow_plugins.text import Text

OWN_PICKLES = {"pickle.dumps(row)", "pickle.dumps(task)", "pickle.dumps(value)", "(folder / ITEMS).read_bytes()"}
"""What `bridgeflow plugins check` pickles itself, a moment before."""
PACKAGES = ("bridgeflow", "plugins", "tasks", "recipes")


class Bomb:
    """Pickled, it makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(path)
    return path


def each(root: Path, **settings: Any) -> list[dict[str, Any] | str]:
    """Every row of a folder, or what is said of it."""
    found: list[dict[str, Any] | str] = []
    for split in ("train", "held_out"):
        rows = Folder(path=str(root), **settings).open(split)  # type: ignore[arg-type]
        for index in range(len(rows)):  # type: ignore[arg-type]
            try:
                found.append(rows[index])  # type: ignore[index]
            except BridgeflowError as error:
                found.append(str(error))
    return found


def said(action: Callable[[], Any]) -> str:
    with pytest.raises(BridgeflowError) as caught:
        action()
    sentence = str(caught.value)
    assert len(sentence) <= LONGEST
    assert sentence.isprintable()
    return sentence


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`bridgeflow data check` of a folder: everything that it says."""
    monkeypatch.chdir(tmp_path)

    def call(task: str, root: Path, *more: str) -> str:
        code = invoke(["data", "check", "--task", task, "--data", f"folder:{root}", *more])
        shown = capsys.readouterr()
        text = shown.out + shown.err
        assert code == 1
        assert "Traceback" not in text
        assert "unforeseen" not in text
        assert "\x1b" not in text
        return text

    return call


# -- nothing runs --------------------------------------------------------------------------------------------


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def unsafe(source: str) -> list[str]:
    """Calls that can run what a file holds."""
    found = []
    for name, call in calls(ast.parse(source)):
        given = {word.arg: ast.unparse(word.value) for word in call.keywords}
        bad = (
            (name == "torch.load" and given.get("weights_only") != "True")
            or (name in ("np.load", "numpy.load") and given.get("allow_pickle", "False") != "False")
            or name in ("eval", "exec", "os.system", "pickle.load", "pickle.Unpickler", "yaml.unsafe_load")
            or name in ("yaml.full_load", "joblib.load", "dill.load", "cloudpickle.load", "marshal.loads")
            or (name == "yaml.load" and [ast.unparse(a) for a in call.args[1:]] != ["_Loader"])
            or (name == "pickle.loads" and ast.unparse(call.args[0]) not in OWN_PICKLES)
            or given.get("trust_remote_code", "False") != "False"
            or given.get("shell", "False") != "False"
        )
        if bad:
            found.append(ast.unparse(call))
    return found


def test_no_call_can_run_what_a_file_holds() -> None:
    home = Path(__file__).parents[2]
    files = [file for package in PACKAGES for file in (home / package).rglob("*.py")]
    assert len(files) > 100
    assert {str(file): own for file in files if (own := unsafe(file.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize(
    "call",
    ["torch.load(x)", "torch.load(x, weights_only=False)", "np.load(x, allow_pickle=True)", "yaml.load(x, Loader=L)",
     "pickle.loads(x)", "eval(x)", "AutoModel.from_pretrained(x, trust_remote_code=True)", "run(x, shell=True)"],
)  # fmt: skip
def test_search_for_such_calls_finds_them(call: str) -> None:
    assert unsafe(call) == [call]


@pytest.mark.parametrize("name", ["x.png", "x.npy", "x.npz", "x.exr", "x.pfm", "x.txt"])
def test_pickle_under_another_name_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    mark, file = tmp_path / "ran", tmp_path / name
    file.write_bytes(pickle.dumps(Bomb(mark)))
    for read in (open_image, read_depth, Text().read):
        said(lambda read=read: read(file))  # type: ignore[misc]
    objects = io.BytesIO()
    np.save(objects, np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    assert "pickled objects, which are never loaded" in said(lambda: read_depth(objects.getvalue()))
    assert not mark.exists()


@pytest.mark.parametrize("file", ["model.safetensors", "ema.safetensors", "state.safetensors"])
def test_pickle_in_place_of_safetensors_is_refused_and_not_run(tmp_path: Path, file: str) -> None:
    from bridgeflow.assembly.codec_files import restore_codec
    from bridgeflow.checkpoints.checkpoint import Checkpoint

    mark = tmp_path / "ran"
    (tmp_path / file).write_bytes(pickle.dumps(Bomb(mark)))
    (tmp_path / "codec.json").write_text("{}")
    if file == "state.safetensors":
        told = said(lambda: restore_codec(Text(), tmp_path))
    else:
        told = said(lambda: Checkpoint(tmp_path, {}).weights())
    assert str(tmp_path) in told
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "[" * 50_000, '{"format": 1}', '{"format": 1, "step": "x"}', '{"format": 1, "step": 2, "plugins": [1]}',
     '{"format": 1, "step": 2, "files": []}', '{"format": 1, "step": 2, "sampling": 3}', "\xff"],
)  # fmt: skip
def test_descriptions_of_checkpoints_and_codecs_that_are_none(tmp_path: Path, text: str) -> None:
    from bridgeflow.assembly.codec_files import restore_codec
    from bridgeflow.checkpoints.checkpoint import open_checkpoint

    for name in ("meta.json", "codec.json"):
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    assert "cannot be read" in said(lambda: open_checkpoint(tmp_path))
    assert "holds no fitted codec" in said(lambda: restore_codec(Text(), tmp_path))


def test_model_folders_that_hold_only_pickles_are_refused_and_not_run(tmp_path: Path) -> None:
    from bridgeflow_plugins.image_latent.pretrained import load_autoencoder
    from bridgeflow_plugins.text.encoder import EncoderCodec

    mark, bomb = tmp_path / "ran", pickle.dumps(Bomb(tmp_path / "ran"))
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderTiny"}))
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(bomb)
    assert "diffusion_pytorch_model.safetensors" in said(lambda: load_autoencoder("AutoencoderTiny", str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1,
                                                      "num_attention_heads": 1, "intermediate_size": 8}))  # fmt: skip
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    (tmp_path / "pytorch_model.bin").write_bytes(bomb)
    text = Text(Text.Options(codec=EncoderCodec(path=str(tmp_path))))
    assert "safetensors" in said(lambda: text.encode(text.collate(["a"])))
    assert not mark.exists()


def test_postscript_is_not_handed_to_an_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark, tool = tmp_path / "ran", tmp_path / "gs"
    tool.write_text(f"#!/bin/sh\ntouch {mark}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "x.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    assert "is not a picture of a known format" in said(lambda: open_image(tmp_path / "x.png"))
    assert not mark.exists()


# -- folders -------------------------------------------------------------------------------------------------


def test_link_out_of_the_folder_is_refused_unless_links_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    picture(root / "a.png")
    picture(root / "deep" / "b.png")
    (root / "within.png").symlink_to("deep/b.png")
    (root / "out.png").symlink_to(picture(tmp_path / "secret.png"))
    picture(tmp_path / "elsewhere" / "c.png")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    (root / "around").symlink_to(".")
    (root / "loop.png").symlink_to("loop.png")
    found = each(root)
    assert sorted(row["image"].name for row in found if isinstance(row, dict)) == [
        "a.png",
        "b.png",
        "loop.png",
        "within.png",
    ]
    refused = sorted(row for row in found if isinstance(row, str))
    assert [row.partition(" ")[0] for row in refused] == ["'folder'", "'out.png'"]
    assert all("data.follow_links=true" in row for row in refused)
    assert "secret.png" in refused[1]
    followed = [row["image"].relative_to(root).as_posix() for row in each(root, follow_links=True)]  # type: ignore[index]
    assert sorted(followed) == ["a.png", "deep/b.png", "folder/c.png", "loop.png", "out.png", "within.png"]


@pytest.mark.parametrize("follow_links", [False, True])
def test_name_that_leads_up_is_refused_in_the_current_folder_too_and_whether_links_are_followed_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, follow_links: bool
) -> None:
    picture(tmp_path / "secret.png")
    picture(tmp_path / "data-too" / "b.png")
    picture(tmp_path / "data" / "a.png")
    names = ("a.png", "../secret.png", "../data-too/b.png")
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(json.dumps({"file_name": name}) for name in names))
    monkeypatch.chdir(tmp_path / "data")
    for root in (Path("."), tmp_path / "data"):
        found = each(root, follow_links=follow_links)
        assert [row for row in found if isinstance(row, dict)] == [{"image": root / "a.png"}]
        assert sum("lies outside the folder" in row for row in found if isinstance(row, str)) == 2


def test_folder_that_is_a_link_itself_is_fine(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "a.png")
    (tmp_path / "link").symlink_to("data")
    assert [row["image"] for row in each(tmp_path / "link")] == [tmp_path / "link" / "a.png"]  # type: ignore[index]


def test_pipes_devices_and_folders_named_as_pictures_do_not_hang(tmp_path: Path, check: Callable[..., str]) -> None:
    root = tmp_path / "data"
    picture(root / "a.png").with_suffix(".txt").write_text("a red square")
    for name in ("pipe.png", "pipe.txt"):
        os.mkfifo(root / name)
    (root / "folder.png").mkdir()
    (root / "empty.png").write_bytes(b"")
    (root / "broken.png").symlink_to("nowhere")
    told = check("t2i", root, "columns.text=image")
    assert "pipe.png is a pipe or a device where" in check("superres", root)
    assert "empty.png is empty (0 bytes)" in check("superres", root)
    assert "broken.png does not exist" in check("superres", root)
    assert "1 of 3 rows" in check("superres", root) or "3 of" not in told
    for read in (open_image, read_depth, Text().read):
        for path in (root / "pipe.png", Path("/dev/zero")):
            assert "pipe or a device" in said(lambda read=read, path=path: read(path))  # type: ignore[misc]


@pytest.mark.parametrize("value", ["SECRET", ["SECRET"], {"path": "SECRET"}, "~/secret.txt"])
@pytest.mark.parametrize("column", ["text", "image", "depth"])
def test_plain_column_is_no_way_to_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str, value: Any
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("what nobody may read")
    monkeypatch.setenv("HOME", str(tmp_path))
    root = tmp_path / "data"
    picture(root / "a.png")
    row = json.dumps({"file_name": "a.png", column: value}).replace("SECRET", str(secret))
    (root / "metadata.jsonl").write_text(row)
    (found,) = each(root)
    assert isinstance(found, dict)
    assert found["image"] == root / "a.png"
    if column != "image":
        readers: list[Callable[[Any], Any]] = [open_image, read_depth]
        for read in [*readers, *([] if isinstance(value, str) else [Text().read])]:
            said(lambda read=read: read(found[column]))
        if isinstance(value, str):
            assert Text().read(found[column]) == found[column]


def test_file_name_wins_over_keys_that_shadow_it(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    row = {"file_name": "a.png", "image": "b", "depth_file_name": "d.npy", "depth": 3, "image_file_name": "c.png"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    assert each(tmp_path) == [{"image": tmp_path / "a.png", "depth": tmp_path / "d.npy"}]


def test_many_rows_are_numbers_in_memory_and_missing_files_are_counted_without_a_look_at_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tracemalloc

    (tmp_path / "img").mkdir()
    picture(tmp_path / "img" / "00000.png")
    count = 20_000
    lines = (f'{{"file_name": "img/{i:05d}.png", "text": "thing {i}"}}\n' for i in range(count))
    (tmp_path / "metadata.jsonl").write_text("".join(lines))
    looks = []
    look = os.stat
    monkeypatch.setattr(os, "stat", lambda *given, **more: (looks.append(given), look(*given, **more))[1])
    tracemalloc.start()
    rows = Folder(path=str(tmp_path)).open("train")
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "19,999 of the files listed are not there, such as 'img/00001.png'" in rows.description
    assert len(looks) < 100
    assert held / count < 100
    assert {rows[i]["text"] for i in range(50)} <= {f"thing {i}" for i in range(count)}  # type: ignore[index]


def test_file_that_changes_under_a_run_is_told_not_misread(tmp_path: Path) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b"}\n')
    rows = Folder(path=str(tmp_path), held_out=0).open("train")
    file.write_text('{"text": "longer"}\n{"text": "b"}\n')
    assert "was changed while it was read" in said(lambda: rows[0])  # type: ignore[index]


def test_huge_line_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "LONGEST_LINE", 1 << 12)
    (tmp_path / "metadata.jsonl").write_text('{"text": "a"}\n{"text": "' + "x" * 100_000 + '"}\n{"text": "b"}\n')
    found = each(tmp_path)
    assert {row["text"] for row in found if isinstance(row, dict)} == {"a", "b"}
    assert [row for row in found if "line 2 has more than 4,096 bytes" in row]


# -- pictures, depth, captions -------------------------------------------------------------------------------


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def npy(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + b"\0" * 64


def test_sizes_that_are_only_claimed_take_no_memory(tmp_path: Path) -> None:
    assert "30000x30000 pixels, more than 200,000,000" in said(lambda: open_image(png(30000, 30000)))
    for shape in ((10**6, 10**6), (2**31, 2**31), (-1, 4), (120_000, 120_000)):
        assert "damaged or incomplete .npy file" in said(lambda shape=shape: read_depth(npy(shape)))  # type: ignore[misc]
    assert "damaged or incomplete PFM" in said(lambda: read_depth(b"Pf\n999999999 999999999\n-1.0\n1234"))
    exr.write_exr(np.ones((4, 4), np.float32), tmp_path / "x.exr")
    data = (tmp_path / "x.exr").read_bytes()
    start = data.index(b"dataWindow\0box2i\0") + 21
    huge = data[:start] + struct.pack("<iiii", 0, 0, 199_999, 199_999) + data[start + 16 :]
    assert "damaged or incomplete EXR" in said(lambda: read_depth(huge))


def test_exr_with_more_numbers_than_allowed_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exr.write_exr(np.ones((40, 30), np.float32), tmp_path / "x.exr")
    monkeypatch.setattr(exr, "MAX_NUMBERS", 1199)
    with pytest.raises(ValueError, match="1,200 numbers in it, more than 1,199"):
        exr.read_exr(tmp_path / "x.exr")
    monkeypatch.setattr(exr, "MAX_NUMBERS", 1200)
    assert exr.read_exr(tmp_path / "x.exr").shape == (40, 30)


def test_depth_without_a_measurement_is_passed_over_and_named_and_partly_missing_is_masked(
    tmp_path: Path, check: Callable[..., str]
) -> None:
    root = tmp_path / "data"
    (root / "depth").mkdir(parents=True)
    good = np.full((8, 8), 2.0, np.float32)
    some = good.copy()
    some[0, :4] = [np.nan, np.inf, -1, 0]
    none = {"nan": np.nan, "inf": np.inf, "negative": -1.0, "zero": 0.0}
    maps = {"good": good, "some": some, **{name: np.full((8, 8), value, np.float32) for name, value in none.items()}}
    for name, depth in maps.items():
        picture(root / "image" / f"{name}.png")
        np.save(root / "depth" / f"{name}.npy", depth)
    picture(root / "image" / "wide.png")
    np.save(root / "depth" / "wide.npy", np.ones((8, 16), np.float32))
    told = check("depth", root, "source.size=8", "target.size=8", "data.held_out=0")
    assert "2 of 7 rows read can be used" in told
    for name in none:
        assert f"depth/{name}.npy" in told
    assert "its depth 16x8" in told
    assert np.isnan(read_depth(root / "depth" / "some.npy")).sum() == 4


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("x" * 10_000_000, "has 10,000,000 characters"),
        (" x" * 5_000_000, "has 10,000,000 characters"),
        (b"caf\xe9", "is not UTF-8"),
        ("a \ud800 b", "half of a character in UTF-16"),
        ("", "is empty"),
        ("\0\x1b \x07", "is empty"),
        (3, "expected a text, not int"),
        ({"a": 1}, "expected a text, not dict"),
    ],
)
def test_captions_that_are_none(value: Any, told: str) -> None:
    assert told in said(lambda: Text().read(value))


def test_captions_in_every_script_are_read_and_control_characters_are_spaces() -> None:
    text = Text()
    for line in ("שלום עולם", "👩‍👩‍👧 family", "e\u0301 combining", "漢字"):
        assert text.read(line) == line
        assert int(text.collate([line])["attention_mask"].sum()) > 2
    assert text.read("a\0b\x1b[31mred\r\n\x9bc") == "a b [31mred c"


def test_preview_of_a_long_word_measures_it_a_few_times_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = 0
    measure = ImageFont.FreeTypeFont.getlength

    def counted(font: ImageFont.FreeTypeFont, text: str, *more: object) -> float:
        nonlocal measured
        measured += len(text)
        return measure(font, text, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageFont.FreeTypeFont, "getlength", counted)
    Text().preview("a" * 10_000)
    assert 0 < measured < 500_000


# -- what a terminal is shown --------------------------------------------------------------------------------


def test_names_with_orders_to_the_terminal_are_shown_escaped(tmp_path: Path, check: Callable[..., str]) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "\x1b[2J\nbridgeflow: all is well.png").write_text("no picture")
    (root / os.fsdecode(b"latin-\xe9.png")).write_text("no picture")
    told = check("superres", root)
    assert r"\x1b[2J\x0abridgeflow: all is well.png" in told
    assert r"latin-\udce9.png" in told
    assert "\nbridgeflow: all" not in told


def test_line_on_stdin_that_is_no_line_of_text_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for ending in (b"", b"\n  \nfour\n"):
        piped = b"\xef\xbb\xbfone\n" + b"x" * (2 * LONGEST_LINE + 5) + b"\ncaf\xe9\n" + ending
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(piped), encoding="utf-8"))
        first, *others = lines_on_stdin()
        assert first == "one"
        told = [str(given.value) for given in others if isinstance(given, Input)]
        assert told[0] == "line 2 on stdin has 1,048,576 bytes or more: give one input a line."
        assert told[1].startswith("line 3 on stdin is not UTF-8 text (")
        assert others[2:] == (["four"] if ending else [])
    monkeypatch.setattr("sys.stdin", io.StringIO("one\n\ntwo"))
    assert lines_on_stdin() == ["one", "two"]
