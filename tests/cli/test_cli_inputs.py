from pathlib import Path
from typing import Any

import pytest

from bridgeflow.cli.inputs import Input, expand, read_one
from bridgeflow.data.folder import Folder
from bridgeflow.errors import BridgeflowError
from bridgeflow_plugins.image_latent import ImageLatent


class Words:
    textual = True
    reads = (".txt",)
    column = "text"


class Depths:
    textual = False
    reads = (".png", ".npy")
    column = "depth"


class Pictures:
    textual = False
    reads = (".png", ".jpg")
    column = "image"


def test_words_longer_than_a_file_name_are_words() -> None:
    prompt = "a small red cube " * 40
    assert expand([prompt], Words()) == [Input(prompt, prompt)]


def test_a_text_file_gives_its_lines_and_a_missing_one_is_no_prompt(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cone\n\n  a cube \n", encoding="utf-8")
    assert [entry.value for entry in expand([str(prompts), "a sphere"], Words())] == ["a cone", "a cube", "a sphere"]
    (missing,) = expand(["promts.txt"], Words())
    with pytest.raises(BridgeflowError, match=r"there is no file 'promts\.txt'"):
        missing.read(Words())
    assert expand(["write it to notes.txt"], Words())[0].value == "write it to notes.txt"


def test_a_folder_gives_the_files_that_are_read(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.md", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [Path(entry.name).relative_to(tmp_path).as_posix() for entry in expand([str(tmp_path)], Pictures())]
    assert found == ["a.jpg", "b.PNG", "sub/c.png"]
    assert expand(["gone.png"], Pictures())[0].value == Path("gone.png")


def told(entries: list[Input]) -> list[str]:
    """What can be read as it is, and the sentences on the others."""
    return [str(entry.value) for entry in entries]


def test_an_input_that_cannot_be_listed_stops_no_other(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("\ufeffa cone\n", encoding="utf-8")
    (tmp_path / "latin.txt").write_bytes("Stra\u00dfe".encode("latin-1"))
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "nothing").mkdir()
    given = [str(tmp_path), "missing.txt", str(tmp_path / "nothing"), Input("line 2", BridgeflowError("bad")), "a cube"]
    entries = expand(given, Words())
    sentences = told(entries)
    assert f"{tmp_path / 'blank.txt'} holds no line of text: " in sentences[0]
    assert sentences[1] == "a cone"
    assert sentences[2].startswith(f"{tmp_path / 'latin.txt'} cannot be read as UTF-8 text (")
    assert sentences[3].startswith("there is no file 'missing.txt': ")
    assert sentences[4].startswith(f"the folder '{tmp_path / 'nothing'}' holds no file that ends in .txt")
    assert sentences[5:] == ["bad", "a cube"]
    for place in (0, 2, 3, 4, 5):
        with pytest.raises(BridgeflowError):
            entries[place].read(str)
    with pytest.raises(BridgeflowError, match="cannot be read as UTF-8"):
        read_one(str(tmp_path / "latin.txt"), Words(), "--plus", str)


HIDDEN = ("._a", "__MACOSX/._a", "__MACOSX/b", ".ipynb_checkpoints/a-checkpoint", ".hidden", "s/.c/d")


@pytest.mark.parametrize(("source", "ending"), [(Pictures(), ".png"), (Words(), ".txt"), (Depths(), ".npy")])
def test_a_folder_gives_what_its_data_set_has_and_nothing_hidden(tmp_path: Path, source: Any, ending: str) -> None:
    for name in (*(hidden + ending for hidden in HIDDEN), "a" + ending, "s/b" + ending, "Thumbs.db", ".DS_Store"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("a cone")
    warned: list[str] = []
    found = expand([str(tmp_path)], source, warned.append)
    if source.textual:
        assert told(found) == ["a cone", "a cone"]
    else:
        assert told(found) == [str(tmp_path / ("a" + ending)), str(tmp_path / "s" / ("b" + ending))]
    assert warned == []


def test_of_pairs_each_side_takes_its_own_and_what_is_left_out_is_named(tmp_path: Path) -> None:
    for name in ("image/s/a.png", "depth/s/a.npy", "depth/s/b.png", "normals/s/a.png", "image/c.HEIC", "image/d.jfif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "linked").mkdir()
    (tmp_path / "image" / "link").symlink_to(tmp_path / "linked")
    warned: list[str] = []
    assert told(expand([str(tmp_path)], Pictures(), warned.append)) == [str(tmp_path / "image/s/a.png")]
    assert told(expand([str(tmp_path)], Depths(), warned.append)) == [
        str(tmp_path / "depth/s/a.npy"),
        str(tmp_path / "depth/s/b.png"),
    ]
    assert "2 pictures are left out, such as 'image/c.HEIC': .heic, .jfif cannot be read" in warned[0]
    assert "1 picture is left out, such as 'normals/s/a.png': beside depth/ only those of image/ are taken" in warned[0]
    assert "links to folders are not entered (1, such as 'image/link')" in warned[0]


def test_pictures_of_the_built_in_modality_are_those_of_its_data_sets(tmp_path: Path) -> None:
    names = ("a.png", "b.JFIF", "c.jpe", "d.mpo", "e.tga", "f.heic", "g.md")
    for name in names:
        (tmp_path / name).touch()
    rows = Folder(path=str(tmp_path), held_out=0).open("train")
    listed = sorted(str(rows[index]["image"]) for index in range(len(rows)))  # type: ignore[arg-type, index]
    assert told(expand([str(tmp_path)], ImageLatent(ImageLatent.Options()))) == listed
    assert listed == [str(tmp_path / name) for name in names[:5]]
