"""Installed distributions: what they are called, where they came from, and the pip commands that install them."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

OWN_DISTRIBUTION = "bridgeflow-torch"
OWN_PACKAGE = "bridgeflow"
"""What is imported, and the name of the command."""
FORMER_NAME = "bridgeflow"
"""What older checkpoints, recipes and installations call this distribution. Another project has that name on the
package index, so nothing may ever ask pip for it."""


def normal(distribution: str) -> str:
    """The name as pip compares it (PEP 503): My_Plugin and my-plugin are one."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def identity(distribution: str) -> str:
    """What two names of one distribution have in common: `normal`, with our own name for our former one."""
    name = normal(distribution)
    return OWN_DISTRIBUTION if name == FORMER_NAME else name


def name_and_version(own: Distribution) -> tuple[str, str]:
    """What a distribution calls itself; by its folder where its metadata cannot be read."""
    try:
        return own.metadata["Name"] or "a nameless distribution", own.metadata["Version"] or "of no version"
    except Exception:
        folder = getattr(own, "_path", None)
        name, _, version = getattr(folder, "stem", "").partition("-")
        return name or "a nameless distribution", version or "of no version"


def installed_distribution(name: str) -> Distribution | None:
    """The installed distribution of that name, as pip compares names, or None."""
    try:
        return distribution(name)
    except (PackageNotFoundError, ValueError):
        # The quick look-up misses a folder whose name an older tool wrote in another form.
        return next((own for own in distributions() if normal(name_and_version(own)[0]) == normal(name)), None)


def origin(own: Distribution | None) -> dict[str, Any]:
    """What pip noted of where a distribution came from (PEP 610); empty for one of a package index."""
    try:
        noted = json.loads((own and own.read_text("direct_url.json")) or "{}")
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def requirement(noted: Mapping[str, Any]) -> str:
    """The URL that pip takes for what `origin` gave, with the commit and the folder inside; '' where there is none."""
    url, own = noted.get("url"), noted.get("vcs_info")
    if not isinstance(url, str):
        return ""
    if isinstance(own, dict) and {"vcs", "commit_id"} <= own.keys():
        url = f"{own['vcs']}+{url}@{own['commit_id']}"
    inner = noted.get("subdirectory")
    return f"{url}#subdirectory={inner}" if isinstance(inner, str) and inner else url


def _local_path(noted: Mapping[str, Any]) -> Path | None:
    """The folder or wheel on this machine that a distribution was installed from."""
    try:
        url = urlsplit(str(noted.get("url", "")))
    except ValueError:
        return None
    if url.scheme != "file":
        return None
    inner = noted.get("subdirectory")
    return Path(unquote(url.path), inner if isinstance(inner, str) else "")


def editable_folder(noted: Mapping[str, Any]) -> Path | None:
    """The source of an editable installation, from what `origin` gave."""
    about = noted.get("dir_info")
    return _local_path(noted) if isinstance(about, dict) and about.get("editable") is True else None


def reinstall_command(name: str) -> str:
    """The command that installs a distribution again from where it came from.

    Nothing that it requires is installed with it: an old plugin may require the other project called bridgeflow.
    """
    noted = origin(installed_distribution(name))
    folder = editable_folder(noted)
    if folder is not None:
        return f"pip install -e {shlex.quote(str(folder))}"
    local, url = _local_path(noted), requirement(noted)
    if local is None and not url and identity(name) == OWN_DISTRIBUTION:
        return f"install {OWN_DISTRIBUTION} again from where it came"
    what = shlex.quote(str(local)) if local is not None else f'"{name} @ {url}"' if url else name
    return f"pip install --force-reinstall --no-deps {what}"


def other_project() -> str | None:
    """A sentence on an installed distribution of our former name, whose package bridgeflow stands in for this one;
    None where there is none."""
    try:
        found = distribution(FORMER_NAME)
    except PackageNotFoundError:
        return None
    name, version = name_and_version(found)
    again = reinstall_command(OWN_DISTRIBUTION)
    again = again if again.startswith("install ") else f"install {OWN_DISTRIBUTION} again ({again})"
    return (
        f"the distribution {name} {version} is installed too, and its package {OWN_PACKAGE!r} may replace that of "
        f"{OWN_DISTRIBUTION}: pip uninstall {FORMER_NAME}, then {again}."
    )


def install_what_has(module: str, distribution: str) -> str:
    """How to get a module that a distribution imports: by what the distribution requires, where that says it."""
    try:
        own = installed_distribution(distribution)
        required = list(own.requires or ()) if own is not None else []
    except (AttributeError, TypeError, ValueError, OSError):
        required = []
    names = [
        found.group()
        for line in required
        if "extra" not in line.partition(";")[2] and (found := re.match(r"[\w.-]+", line))
    ]
    names = [name for name in names if identity(name) != OWN_DISTRIBUTION]
    called_so = [name for name in names if normal(name) == normal(module)]
    missing = called_so or [name for name in names if installed_distribution(name) is None]
    if missing:
        return f"pip install {' '.join(missing)}"
    return f"install what has the module {module!r} (pip install {module} where it is called so)"
