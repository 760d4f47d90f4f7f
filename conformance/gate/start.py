"""`sftspec init`: the files with which a repository's training is put on trial, found out rather than asked for.

sftspec_adapter.py              how the suite calls the training
.github/workflows/sftspec.yml   the trial in CI, against the baseline, with a summary
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from sftspec.conformance.gate.adapter_text import adapter_text
from sftspec.conformance.gate.baseline import DEFAULT
from sftspec.conformance.gate.found import Found, found_in, python_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ADAPTER, WORKFLOW = "sftspec_adapter.py", Path(".github/workflows/sftspec.yml")
MARK = re.compile(r'(?:fill_in\("|"FILL IN: )(.*?)"')
CPU = "--extra-index-url https://download.pytorch.org/whl/cpu"


class InitError(ValueError):
    """Nothing that trains was found, or several; or a file that would be overwritten. Says what to do."""


def find_training(path: Path, name: str = "") -> tuple[Found, list[str]]:
    """The one place under a path that trains, and the files that could not be read. Raises InitError.

    name: the function or class, where there are several.
    """
    if not path.exists():
        raise InitError(f"{path}: no such file or folder")
    found: list[Found] = []
    unread = []
    for file in python_files(path):
        try:
            found += found_in(file)
        except (SyntaxError, ValueError, OSError, RecursionError) as error:
            unread.append(f"{file} was not read: {error}")
    if name:
        found = [item for item in found if name in (item.owner, f"{item.owner}.{item.method}")]
    if not found:
        what = f"no {name} that trains" if name else "nothing that trains"
        raise InitError(
            f"{path}: {what}: no SFTTrainer, no Trainer of transformers, no loop with backward() and step(); write the"
            " adapter by hand, as in README.md" + "".join(f"\n  {line}" for line in unread)
        )
    if len(found) > 1:
        lines = "".join(f"\n  sftspec init {item.place}   ({item.kind}, line {item.line})" for item in found)
        raise InitError(f"{path}: {len(found)} places train; say which:{lines}")
    return found[0], unread


def repository_of(folder: Path) -> Path:
    """The nearest folder above that is a git repository's root, or the folder itself."""
    return next((item for item in (folder, *folder.parents) if (item / ".git").exists()), folder)


def identity_of(root: Path) -> tuple[str, str]:
    """Name and version as pyproject.toml says them, or the folder's name."""
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError):
        project = {}
    name, version = project.get("name"), project.get("version")
    return (name if isinstance(name, str) else root.name), (version if isinstance(version, str) else "0")


def requirement() -> str:
    """How pip gets this very sftspec, as far as its installation says it; "" for a folder of this machine."""
    try:
        installed = distribution("sftspec")
    except PackageNotFoundError:
        return ""
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    if "vcs_info" in origin:
        return f"sftspec @ {origin['vcs_info']['vcs']}+{origin['url']}@{origin['vcs_info']['commit_id']}"
    return "" if origin else f"sftspec=={installed.version}"


def own_requirements(root: Path) -> str:
    """How the repository's own packages are installed; "" where it does not say."""
    names = [name for name in ("requirements.txt", "requirements-dev.txt") if (root / name).exists()]
    if names:
        return f"-r {names[0]}"
    return "-e ." if (root / "pyproject.toml").exists() or (root / "setup.py").exists() else ""


WORKFLOW_TEXT = """\
# The training is held to the specification of supervised fine-tuning. Written by `sftspec init`.
name: sftspec
on: [push, pull_request]
permissions:
  contents: read
jobs:
  conformance:
    runs-on: ubuntu-latest
    timeout-minutes: 45
    defaults:
      run:
        working-directory: {place}
    steps:
      - uses: actions/checkout@v4
      - uses: actions/setup-python@v5
        with:
          python-version: "{python}"
      - name: Install, with torch for CPUs
        run: |
          pip install {index} {packages}
      - name: Put the training on trial
        run: >-
          sftspec check {adapter} --baseline {baseline}
          --json sftspec.json --markdown "$GITHUB_STEP_SUMMARY"
      - uses: actions/upload-artifact@v4
        if: always()
        with:
          name: sftspec
          path: {json}
"""
SOURCE = "FILL IN: where pip finds sftspec, such as sftspec @ git+https://HOST/OWNER/sftspec"


def workflow_text(folder: Path, repository: Path, is_library: bool) -> str:
    """The workflow of GitHub Actions. is_library: the trainer is one of transformers or TRL."""
    place = folder.relative_to(repository).as_posix()
    packages = [f'"{requirement() or SOURCE}"', "accelerate datasets" if is_library else "", own_requirements(folder)]
    return WORKFLOW_TEXT.format(
        place=json.dumps(place),
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        index=CPU,
        packages=" ".join(filter(None, packages)),
        adapter=ADAPTER,
        baseline=DEFAULT,
        json=json.dumps((Path(place) / "sftspec.json").as_posix()),
    )


def texts_for(found: Found, folder: Path) -> dict[Path, str]:
    """What init writes: file to text."""
    repository = repository_of(folder)
    name, version = identity_of(folder)
    return {
        folder / ADAPTER: adapter_text(found, folder, name, version),
        repository / WORKFLOW: workflow_text(folder, repository, found.kind != "loop"),
    }


def open_places(text: str) -> list[tuple[int, str]]:
    """(line, what) of each place that the user has to fill."""
    lines = enumerate(text.splitlines(), 1)
    return [(number, what) for number, line in lines for what in MARK.findall(line)]


def write(texts: dict[Path, str], force: bool, others: Sequence[Path] = ()) -> None:
    """Write all files, or none where one is there already. Raises InitError."""
    there = [str(path) for path in (*texts, *others) if path.exists() or path.is_symlink()]
    if there and not force:
        raise InitError(f"{', '.join(there)}: there already, and nothing was written; --force writes anew")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
