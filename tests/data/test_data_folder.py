"""Folders of one's own pictures: what belongs to each, what is held out, what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridgeflow.data.folder import Folder
from bridgeflow.errors import BridgeflowError

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Makes a folder from relative paths and contents; pictures may stay empty, for nothing opens them here."""

    def make(*names: str, **contents: str | bytes) -> Path:
        root = tmp_path / "data"
        files: dict[str, str | bytes] = {**dict.fromkeys(names, ""), **contents}
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return make


def lines(*rows: dict[str, Any]) -> str:
    return "\n".join(json.dumps(row) for row in rows) + "\n"


def records(root: Path, **settings: Any) -> list[dict[str, Any]]:
    """Every row of both splits, with paths relative to the folder, by picture."""
    found = []
    for split in ("train", "held_out"):
        rows = Folder(path=str(root), **settings).open(split)  # type: ignore[arg-type]
        found += [rows[i] for i in range(len(rows))]  # type: ignore[arg-type, index]
    plain = [
        {key: v.relative_to(root).as_posix() if isinstance(v, Path) else v for key, v in row.items()} for row in found
    ]
    return sorted(plain, key=lambda row: str(row.get("image")))


def pictures(root: Path, split: str, **settings: Any) -> list[str]:
    rows = Folder(path=str(root), **settings).open(split)  # type: ignore[arg-type]
    return [rows[i]["image"].relative_to(root).as_posix() for i in range(len(rows))]  # type: ignore[arg-type, index]


def refusal(root: Path | str, split: str = "train") -> str:
    with pytest.raises(BridgeflowError) as caught:
        Folder(path=str(root)).open(split)  # type: ignore[arg-type]
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def usable(root: Path, **settings: Any) -> list[dict[str, Any]]:
    """The rows of both splits that can be read."""
    return [row for row in _each(root, **settings) if isinstance(row, dict)]


def unusable(root: Path, **settings: Any) -> list[str]:
    """What is said of the others."""
    return [row for row in _each(root, **settings) if isinstance(row, str)]


def _each(root: Path, **settings: Any) -> Iterator[dict[str, Any] | str]:
    for split in ("train", "held_out"):
        rows = Folder(path=str(root), **settings).open(split)  # type: ignore[arg-type]
        for index in range(len(rows)):  # type: ignore[arg-type]
            try:
                yield rows[index]  # type: ignore[index]
            except BridgeflowError as error:
                yield str(error)


def test_pictures_alone_are_found_at_any_depth_whatever_their_ending(tree: Tree) -> None:
    root = tree("a.png", "b.JPG", "deep/er/c.webp", "notes.md", "a.npy")
    assert records(root) == [{"image": "a.png"}, {"image": "b.JPG"}, {"image": "deep/er/c.webp"}]


def test_files_that_an_operating_system_leaves_are_passed_over(tree: Tree) -> None:
    root = tree("a.png", ".cache/b.png", "__MACOSX/._c.png", "._a.png", ".metadata/metadata.jsonl")
    assert records(root) == [{"image": "a.png"}]


def test_text_beside_a_picture_is_its_text(tree: Tree) -> None:
    root = tree("a.png", "sub/b.png", "c.png", "lonely.txt", **{"a.txt": "words", "sub/b.txt": "more"})
    assert records(root) == [
        {"image": "a.png", "text": "a.txt"},
        {"image": "c.png"},
        {"image": "sub/b.png", "text": "sub/b.txt"},
    ]


@pytest.mark.parametrize("folder", ["image", "images"])
def test_depth_beside_image_folder_is_paired_by_name(tree: Tree, folder: str) -> None:
    root = tree(f"{folder}/a.jpg", f"{folder}/b.jpg", "depth/a.png", "depth/unpaired.npy")
    assert records(root) == [{"depth": "depth/a.png", "image": f"{folder}/a.jpg"}, {"image": f"{folder}/b.jpg"}]


def notes(root: Path, **settings: Any) -> str:
    return str(Folder(path=str(root), **settings).open("train").description)  # type: ignore[arg-type]


@pytest.mark.parametrize("above", ["", "train/", "2024/kitchen/"])
def test_depth_is_paired_by_its_path_below_image_and_depth(tree: Tree, above: str) -> None:
    pairs = [
        ("image/a.jpg", "depth/a.npy"),
        ("image/s1/a.png", "depth/s1/a.npy"),
        ("image/s2/t/a.png", "depth/s2/t/a.exr"),
    ]
    root = tree(*(f"{above}{name}" for pair in pairs for name in pair), f"{above}depth/s1/notes.md")
    assert records(root) == [{"image": above + image, "depth": above + depth} for image, depth in pairs]
    assert "such as" not in notes(root)


def test_scenes_with_image_and_depth_of_their_own_are_paired_and_splits_too(tree: Tree) -> None:
    names = [f"{split}/{scene}/{name}" for split in ("train", "test") for scene in ("s1", "s2")
             for name in ("images/0.png", "depth/0.png")]  # fmt: skip
    root = tree(*names)
    expected = [{"image": name, "depth": name.replace("images", "depth")} for name in names if "images" in name]
    assert records(root) == sorted(expected, key=lambda row: row["image"])


def test_what_is_not_paired_or_lies_beside_is_counted_and_named(tree: Tree) -> None:
    root = tree(
        "image/a.png", "image/s/b.png", "image/s/c.png", "depth/a.npy", "depth/b.npy", "depth/read.me",
        "normals/a.png", "stray.jpg",
    )  # fmt: skip
    assert records(root) == [{"image": "image/a.png", "depth": "depth/a.npy"}, {"image": "image/s/b.png"},
                             {"image": "image/s/c.png"}]  # fmt: skip
    told = notes(root)
    assert "2 of the pictures without a file in depth/, such as 'image/s/b.png'" in told
    assert "1 of the files in depth/ without a picture, such as 'depth/b.npy'" in told
    assert "2 pictures are left out, such as 'stray.jpg': beside depth/ only those of image/ are taken" in told


def test_a_picture_may_have_both_depth_and_words(tree: Tree) -> None:
    root = tree("image/s/a.png", "image/s/a.txt", "depth/s/a.png", "depth/s/a.txt")
    assert records(root) == [{"image": "image/s/a.png", "text": "image/s/a.txt", "depth": "depth/s/a.png"}]


@pytest.mark.parametrize("name", ["image", "depth"])
def test_links_in_place_of_image_and_depth_are_entered_where_they_lead_inside(
    tree: Tree, tmp_path: Path, name: str
) -> None:
    other = {"image": "depth", "depth": "image"}[name]
    root = tree(f"{other}/s/a.png", "kept/s/a.png")
    (root / name).symlink_to("kept")
    assert records(root) == [{"image": "image/s/a.png", "depth": "depth/s/a.png"}]
    (root / name).unlink()
    (tmp_path / "own").mkdir()
    (root / name).symlink_to(tmp_path / "own")
    assert "leads by a link to" in refusal(root)


@pytest.mark.parametrize("ending", ["jfif", "jpe", "JPE", "mpo", "tga", "jp2", "Pbm"])
def test_every_ending_of_a_picture_that_is_read_is_taken_in_any_case(tree: Tree, ending: str) -> None:
    root = tree(f"a.{ending}", "a.TXT", f"s/b.{ending}", "s/b.Caption", f"image/c.{ending}")
    assert records(root) == [
        {"image": f"a.{ending}", "text": "a.TXT"},
        {"image": f"image/c.{ending}"},
        {"image": f"s/b.{ending}", "text": "s/b.Caption"},
    ]


def test_text_in_plain_lower_case_goes_first(tree: Tree) -> None:
    root = tree("a.png", "a.txt", "a.TXT", "a.caption")
    assert records(root) == [{"image": "a.png", "text": "a.txt"}]


def test_pictures_that_cannot_be_read_here_are_counted_and_named(tree: Tree) -> None:
    root = tree("a.png", "s/b.HEIC", "c.heic", "d.CR2", "e.md", ".f.heic")
    assert records(root) == [{"image": "a.png"}]
    told = "3 pictures are left out, such as 'c.heic': .cr2, .heic cannot be read, so save them as PNG or JPEG"
    assert told in notes(root)
    (root / "a.png").unlink()
    assert told in refusal(root)


def test_a_column_that_holds_a_file_s_name_is_left_as_it_is_wherever_one_stands(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree("a.png", "b.png", "conditioning/a.png")
    rows = [
        {"file_name": "a.png", "conditioning": "conditioning/a.png", "text": "a.png", "all": ["a.png", "b.png"]},
        {"file_name": "b.png", "conditioning": str(root / "a.png"), "text": str(root), "all": [str(root / "a.png")]},
    ]
    (root / "metadata.jsonl").write_text(lines(*rows))
    expected = [{"image": row["file_name"], **{k: v for k, v in row.items() if k != "file_name"}} for row in rows]
    assert records(root) == expected
    monkeypatch.chdir(root)
    assert records(Path(".")) == expected


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_absolute_path_in_a_column_that_is_not_read_harms_no_row(tree: Tree, kind: str) -> None:
    import pyarrow
    import pyarrow.parquet

    root = tree("a.png", "b.png")
    rows = [{"file_name": name, "source": str(root / name)} for name in ("a.png", "b.png")]
    if kind == "csv":
        body = "".join(f"{row['file_name']},{row['source']}\n" for row in rows)
        (root / "metadata.csv").write_text(f"file_name,source\n{body}")
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "metadata.parquet")
    assert records(root) == [{"image": row["file_name"], "source": row["source"]} for row in rows]


def test_metadata_in_json_lines_gives_columns_and_files(tree: Tree) -> None:
    text = lines(
        {"file_name": "a.png", "text": ["one", "two"], "depth_file_name": "d/a.npy", "n": 3, "none": None},
        {"file_name": "b.png", "text": "héllo\u2028there", "depth_file_name": None},
    )
    root = tree("a.png", "b.png", "stray.png", **{"metadata.jsonl": "\ufeff" + text.replace("\n", "\r\n\n")})
    assert records(root) == [
        {"image": "a.png", "text": ["one", "two"], "depth": "d/a.npy", "n": 3},
        {"image": "b.png", "text": "héllo\u2028there"},
    ]
    assert set(Folder(path=str(root)).open("train").columns) == {"image", "text", "depth", "n"}
    assert set(Folder(path=str(root)).open("held_out").columns) == {"image", "text", "depth", "n"}


def test_metadata_in_csv_gives_the_same(tree: Tree) -> None:
    root = tree("a.png")
    with (root / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [["", "file_name", "text", "depth_file_name"], ["0", "a.png", "one,\ntwo", "d.npy"], ["", "b.png", "", ""]]
        )
    assert records(root) == [{"": "0", "image": "a.png", "text": "one,\ntwo", "depth": "d.npy"}, {"image": "b.png"}]


def test_metadata_in_parquet_gives_the_same(tree: Tree) -> None:
    import pyarrow
    import pyarrow.parquet

    root = tree("a.png")
    rows = [{"file_name": "a.png", "text": "one", "depth_file_name": "d.npy"}, {"file_name": "b.png", "text": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), root / "metadata.parquet")
    assert records(root) == [{"image": "a.png", "text": "one", "depth": "d.npy"}, {"image": "b.png"}]


def test_metadata_of_subfolders_is_relative_to_them(tree: Tree) -> None:
    root = tree(**{"x/metadata.jsonl": lines({"file_name": "a.png"}), "y/metadata.csv": "file_name\n../x/b.png\n"})
    assert records(root) == [{"image": "x/a.png"}, {"image": "y/../x/b.png"}]


@pytest.mark.parametrize("name", ["test", "validation", "val", "held_out"])
def test_folder_of_its_own_is_what_is_held_out(tree: Tree, name: str) -> None:
    root = tree("train/a.png", "train/b.png", f"{name}/c.png", "elsewhere/d.png")
    assert sorted(pictures(root, "train", held_out=0.9)) == ["train/a.png", "train/b.png"]
    assert pictures(root, "held_out") == [f"{name}/c.png"]


def test_folders_of_both_splits_may_be_listed_in_one_metadata(tree: Tree) -> None:
    rows = [{"file_name": f"{name}.png", "text": name} for name in ("train/a", "train/b", "test/c")]
    root = tree(**{"metadata.jsonl": lines(*rows), "train/x.png": "", "test/x.png": ""})
    held = Folder(path=str(root)).open("held_out")
    assert len(held) == 1  # type: ignore[arg-type]
    assert held[0]["text"] == "test/c"  # type: ignore[index]
    assert sorted(pictures(root, "train")) == ["train/a.png", "train/b.png"]


def test_train_folder_alone_is_split_as_any_other(tree: Tree) -> None:
    root = tree(*(f"train/{i}.png" for i in range(10)))
    assert len(pictures(root, "train")) == 9
    assert len(pictures(root, "held_out")) == 1


@pytest.mark.parametrize(
    ("count", "share", "held"), [(1, 0.05, 0), (2, 0.05, 1), (40, 0.05, 2), (40, 0.0, 0), (2, 0.9, 1), (3, 0.99, 2)]
)
def test_share_held_out(tree: Tree, count: int, share: float, held: int) -> None:
    root = tree(*(f"{i:03d}.png" for i in range(count)))
    assert len(pictures(root, "held_out", held_out=share)) == held
    assert len(pictures(root, "train", held_out=share)) == count - held


def test_held_out_rows_are_disjoint_scattered_and_the_same_each_time(tree: Tree) -> None:
    names = [f"{i:03d}.png" for i in range(60)]
    root = tree(*names)
    held, train = pictures(root, "held_out", held_out=0.2), pictures(root, "train", held_out=0.2)
    assert set(held) | set(train) == set(names)
    assert set(held).isdisjoint(train)
    assert pictures(root, "held_out", held_out=0.2) == held
    assert sorted(held) != names[:12]
    assert sorted(held) != names[-12:]


def test_held_out_rows_do_not_depend_on_the_order_or_place_of_the_listing(tree: Tree, tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "text": str(i)} for i in range(30)]
    root = tree(**{"metadata.jsonl": lines(*rows)})
    held = pictures(root, "held_out")
    (root / "metadata.jsonl").write_text(lines(*rows[::-1]))
    assert pictures(root, "held_out") == held
    moved = root.rename(tmp_path / "moved")
    assert pictures(moved, "held_out") == held


def test_further_pictures_leave_most_of_the_split_as_it_was(tree: Tree) -> None:
    before = set(pictures(tree(*(f"{i:03d}.png" for i in range(100))), "held_out", held_out=0.1))
    after = set(pictures(tree("new0.png", "new1.png"), "held_out", held_out=0.1))
    assert len(before & after) >= 8


def test_captions_of_one_picture_are_held_out_together(tree: Tree) -> None:
    rows = [{"file_name": f"{i}.png", "text": f"{i} in the {j}th words"} for i in range(8) for j in range(5)]
    root = tree(**{"metadata.jsonl": lines(*rows)})
    for share in (0.05, 0.15, 0.3, 0.48):
        held, train = pictures(root, "held_out", held_out=share), pictures(root, "train", held_out=share)
        assert set(held).isdisjoint(train)
        assert len(held) + len(train) == 40


def test_fingerprint_changes_with_the_rows(tree: Tree) -> None:
    def fingerprint(text: str, split: str = "train") -> str:
        root = tree(**{"metadata.jsonl": lines(*({"file_name": f"{i}.png", "text": text} for i in range(4)))})
        return Folder(path=str(root)).open(split).fingerprint  # type: ignore[arg-type]

    first = fingerprint("x")
    assert fingerprint("x") == first
    assert fingerprint("y") != first
    assert fingerprint("x", "held_out") != first


@pytest.mark.parametrize(
    "name", ["../outside.png", "/etc/passwd", "sub/../../outside.png", "link/outside.png", "a\0.png"]
)
@pytest.mark.parametrize("column", ["file_name", "depth_file_name"])
def test_file_outside_the_folder_is_refused(tree: Tree, tmp_path: Path, name: str, column: str) -> None:
    row = {"file_name": "a.png", column: name}
    root = tree(**{"metadata.jsonl": lines({"file_name": "a.png"}, row)})
    (tmp_path / "outside.png").touch()
    (root / "link").symlink_to(tmp_path)
    (told,) = unusable(root)
    assert told.startswith(f"{root / 'metadata.jsonl'}, row 2: {name!r} ")
    assert "lies outside the folder" in told or "is no file name" in told
    assert len(usable(root)) == 1


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metadata.jsonl", '\n{"file_name": \n[1]\n', ", line 2 is not JSON (Expecting value): "),
        ("metadata.jsonl", '{"file_name": "a.png", "text": "é"}'.encode("latin-1"), ", line 1 is not UTF-8 ("),
        ("metadata.jsonl", '{"file_name": "a.png"}'.encode("utf-16"), ", line 1 is not UTF-8 ("),
        ("metadata.jsonl", "\n\n", " lists nothing: "),
        ("metadata.csv", "file_name,text\na.png,é".encode("latin-1"), ", line 2 is not UTF-8: "),
        ("metadata.csv", "file_name,text,text\na.png,b,c\n", ", line 1 names the column 'text' twice: "),
        ("metadata.csv", "file_name,text\n", " lists nothing: "),
        ("metadata.csv", "", " lists nothing: "),
        ("metadata.parquet", "junk", ": it must be Parquet."),
    ],
)
def test_metadata_that_cannot_be_used_is_named_with_the_place(
    tree: Tree, name: str, content: str | bytes, told: str
) -> None:
    root = tree("a.png", **{name: content})
    sentence = refusal(root)
    assert sentence.startswith(str(root / name))
    assert told in sentence


def test_row_without_a_file_name_lacks_only_its_picture(tree: Tree) -> None:
    root = tree(**{"metadata.jsonl": lines({"file_name": "a.png", "text": "x"}, {"text": "y"})})
    assert {"image": "a.png", "text": "x"} in records(root)
    assert {"text": "y"} in records(root)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("metadata.jsonl", '{"file_name": "a.png"}\n\n{"file_name": \n', ", line 3 is not JSON (Expecting value): "),
        ("metadata.jsonl", '[1]\n{"file_name": "a.png"}\n', ", line 1 is not a JSON object: "),
        ("metadata.jsonl", '{"file_name": 3}\n{"file_name": "a.png"}\n', ", row 1: 3 is no file name: "),
        ("metadata.jsonl", '{"file_name": ""}\n{"file_name": "a.png"}\n', ", row 1: the file_name is empty: every row"),
        ("metadata.jsonl", b'{"file_name": "a.png"}\n{"file_name": "\xe9"}', ", line 2 is not UTF-8 ("),
        (
            "metadata.jsonl",
            '{"file_name": "a.png"}\n' + "[" * 100_000,
            ", line 2 holds a value that is too large or too",
        ),
        (
            "metadata.jsonl",
            '{"n": ' + "9" * 5000 + '}\n{"file_name": "a.png"}',
            ", line 1 holds a value that is too large",
        ),
        ("metadata.csv", b"file_name,text\na.png,x\nb.png,\xe9\n", ", line 3 is not UTF-8: save it in UTF-8."),
        ("metadata.csv", "file_name,text\na.png,b\na.png,b,c\n", ", line 3 has more cells than the heading: "),
        ("metadata.csv", "file_name,text\na.png,x\n,y\n", ", row 2: the file_name is empty"),
        ("metadata.csv", 'file_name,text\na.png,x\nb.png,"y\nc.png,z\n', ", line 3 opens a quote that nothing closes"),
        ("metadata.csv", "file_name,text\nb.png," + "y" * 200_000 + "\na.png,x\n", ", line 2 is not CSV (field larger"),
    ],
)
def test_row_that_cannot_be_used_is_named_and_the_others_go_on(
    tree: Tree, name: str, content: str | bytes, told: str
) -> None:
    root = tree("a.png", **{name: content})
    (sentence,) = unusable(root)
    assert sentence.startswith(str(root / name))
    assert told in sentence
    assert len(sentence) < 400
    assert [row["image"] for row in usable(root)] == [root / "a.png"]


def test_no_folder_and_nothing_in_it(tree: Tree, tmp_path: Path) -> None:
    assert refusal("/no/such") == "there is no folder '/no/such': give one that holds pictures, as folder:PATH."
    assert refusal("~nobody_here/x").startswith("there is no folder '~nobody_here/x'")
    root = tree("notes.txt", "depth.npy")
    assert refusal(root).startswith(f"the folder '{root}' holds no pictures (.png, .jpg, .webp or others)")
    assert refusal(root / "notes.txt").startswith("there is no folder")
    split = tree("train/a.png", "test/notes.txt")
    assert refusal(split, "held_out").startswith(f"the folder '{split / 'test'}' holds no pictures")


def test_home_is_understood(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree("a.png")
    monkeypatch.setenv("HOME", str(root.parent))
    assert len(Folder(path="~/data").open("train")) == 1  # type: ignore[arg-type]
