"""The example distributions, built and installed as anybody would install them."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import shutil
import site
import subprocess
import sys
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bridgeflow import registry
from bridgeflow.cli.main import invoke
from tests.warm import Warm

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"

InstallExample = Callable[[str], Path]


def _succeed(line: list[str], folder: Path) -> None:
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, f"{' '.join(line)}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="session")
def install_example(tmp_path_factory: pytest.TempPathFactory) -> InstallExample:
    """Builds the wheel of `docs/examples/NAME` and installs it into a folder of its own, once a session.

    `install_example("bridgeflow-edges")` gives that folder: put it on PYTHONPATH and run from anywhere.
    """
    made: dict[str, Path] = {}

    def install(name: str) -> Path:
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            source = root / "source"
            # A copy, so that no build folder and no metadata is left in the tree.
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "build", "dist", "runs", ".venv")
            shutil.copytree(EXAMPLES / name, source, ignore=ignored)
            build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(root / "dist")]
            _succeed([*build, str(source)], root)
            (wheel,) = (root / "dist").iterdir()
            pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--disable-pip-version-check"]
            _succeed([*pip, "--target", str(root / "site"), str(wheel)], root)
            made[name] = root / "site"
        return made[name]

    return install


@dataclass(frozen=True)
class Elsewhere:
    """A folder to work in, with wheels of examples installed and nothing of their sources."""

    folder: Path
    sites: tuple[Path, ...]

    def started(self, *arguments: str | Path) -> str:
        """stdout of `python -m ARGUMENTS`, a process of its own. Fails where the exit code is not 0."""
        own = {"PYTHONPATH": os.pathsep.join(map(str, self.sites)), "BRIDGEFLOW_CACHE": str(self.folder / "cache")}
        own |= {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environment = {key: value for key, value in os.environ.items() if key != "BRIDGEFLOW_PLUGINS"} | own
        line = [sys.executable, "-m", *map(str, arguments)]
        done = subprocess.run(line, capture_output=True, text=True, cwd=self.folder, env=environment, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def call(self, *arguments: str | Path) -> str:
        """stdout of `bridgeflow ARGUMENTS`, by this process, which has waited for torch already; one test of each
        distribution at least starts a process for its command. Fails where the exit code is not 0."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setenv("BRIDGEFLOW_CACHE", str(self.folder / "cache"))
            patch.delenv("BRIDGEFLOW_PLUGINS", raising=False)
            for folder in reversed(self.sites):
                patch.syspath_prepend(str(folder))
            registry.forget()
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                    code = invoke([str(argument) for argument in arguments])
            finally:
                patch.undo()
                registry.forget()
        assert code == 0, out.getvalue() + err.getvalue()
        return out.getvalue()


@pytest.fixture(scope="module")
def elsewhere(
    install_example: InstallExample, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Elsewhere]]:
    """`elsewhere("bridgeflow-edges")`: a folder of its own, with the wheels of these examples."""
    sites: list[Path] = []

    def make(*names: str) -> Elsewhere:
        own = tuple(install_example(name) for name in names)
        sites.extend(own)
        return Elsewhere(tmp_path_factory.mktemp("elsewhere"), own)

    yield make
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is not None and any(Path(file).is_relative_to(own) for own in sites):
            del sys.modules[name]


class Workshop:
    """A throwaway environment with bridgeflow in it, and a folder to work in, as a plugin's author has them.

    It sees the packages of the environment that runs the tests; what pip installs into it stays in it. Its commands
    of bridgeflow and pytest are processes with torch imported already (`warm.py`); those that such a command starts
    itself are not.
    """

    def __init__(self, root: Path) -> None:
        environment = root / "environment"
        venv.create(environment, with_pip=False, symlinks=True)
        (packages,) = (environment / "lib").glob("python*/site-packages")
        lines = [f"import site; site.addsitedir({folder!r})\n" for folder in site.getsitepackages()]
        (packages / "tests.pth").write_text("".join(lines))
        self.cache, self.folder, self.commands = root / "cache", root / "work", root / "commands"
        for folder in (self.folder, self.commands):
            folder.mkdir()
        self._python = environment / "bin" / "python"
        self._warm = Warm(self._python, self._environment())
        warm = f"exec {shlex.join(self._warm.line)}"
        self._command("bridgeflow", f'{warm} bridgeflow "$@"')
        self._command(
            "python",
            f'if [ "$1 $2" = "-m pytest" ]; then shift 2; {warm} pytest "$@"; fi\nexec \'{self._python}\' "$@"',
        )
        # Nothing is fetched, and what bridgeflow itself requires is not what is tried here.
        offline = "--no-index --no-deps --no-build-isolation --disable-pip-version-check --quiet"
        self._command("pip", f'command="$1"; shift; exec \'{self._python}\' -m pip "$command" {offline} "$@"')

    def _command(self, name: str, body: str) -> None:
        (self.commands / name).write_text(f"#!/bin/sh\n{body}\n")
        (self.commands / name).chmod(0o755)

    def _environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "BRIDGEFLOW_PLUGINS")}
        own = {"BRIDGEFLOW_CACHE": str(self.cache), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        return {**kept, **own, "PATH": os.pathsep.join([str(self.commands), os.environ["PATH"]])}

    def close(self) -> None:
        """Ends the process that commands fork from."""
        self._warm.close()

    def run(self, commands: str) -> str:
        """What commands of a shell print, errors among it; a `cd` lasts. Fails where one of them does."""
        place = self.commands / "place"
        done = subprocess.run(
            ["bash", "-e", "-c", f"{commands}\npwd > '{place}'"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env=self._environment(),
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}"
        self.folder = Path(place.read_text().strip())
        return done.stdout


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    """An environment and a folder of their own."""
    made = Workshop(tmp_path)
    yield made
    made.close()
