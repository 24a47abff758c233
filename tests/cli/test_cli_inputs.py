from pathlib import Path

import pytest

from bridgeflow.cli.inputs import Input, expand
from bridgeflow.errors import BridgeflowError


class Words:
    textual = True
    reads = (".txt",)


class Pictures:
    textual = False
    reads = (".png", ".jpg")


def test_words_longer_than_a_file_name_are_words() -> None:
    prompt = "a small red cube " * 40
    assert expand([prompt], Words()) == [Input(prompt, prompt)]


def test_a_text_file_gives_its_lines_and_a_missing_one_is_no_prompt(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cone\n\n  a cube \n", encoding="utf-8")
    assert [entry.value for entry in expand([str(prompts), "a sphere"], Words())] == ["a cone", "a cube", "a sphere"]
    with pytest.raises(BridgeflowError, match=r"there is no file 'promts\.txt'"):
        expand(["promts.txt"], Words())
    assert expand(["write it to notes.txt"], Words())[0].value == "write it to notes.txt"


def test_a_folder_gives_the_files_that_are_read(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "notes.md", "sub/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [Path(entry.name).relative_to(tmp_path).as_posix() for entry in expand([str(tmp_path)], Pictures())]
    assert found == ["a.jpg", "b.PNG", "sub/c.png"]
    assert expand(["gone.png"], Pictures())[0].value == Path("gone.png")
