"""What is installed: every folder with modules, every file that a module reads; and what CI calls of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sftspec.conformance.commands.cli import main, parser
from sftspec.conformance.commands.tested import TESTED, untested

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
FOLDERS = {folder: package for package, folder in SETUP["package-dir"].items()}
SCRIPTS = {"tests/benchmarks", "conformance/results/findings"}  # run by their path
NOT_READ = {"tests/documents"}  # of tests, which run in the repository
KINDS = {".json", ".md", ".css", ".js", ".jinja", ".txt", ".toml", ".html", ".yaml", ".csv"}

pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="an installed copy has no sources")


def files() -> list[Path]:
    """What the packages' folders hold, relative to the repository."""
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
    return sorted(path.relative_to(ROOT) for path in found if path.is_file())


def package_of(folder: Path) -> str:
    return ".".join([FOLDERS[folder.parts[0]], *folder.parts[1:]])


def shipped_data() -> set[Path]:
    """The files that package-data names."""
    folder_of = {package_of(path.parent): path.parent for path in files()}
    return {
        found.relative_to(ROOT)
        for package, patterns in SETUP["package-data"].items()
        for pattern in patterns
        for found in (ROOT / folder_of[package]).glob(pattern)
    }


def test_every_folder_with_modules_is_a_package():
    folders = {path.parent for path in files() if path.suffix == ".py" and path.parent.as_posix() not in SCRIPTS}
    assert {package_of(folder) for folder in folders} == set(SETUP["packages"])


def test_every_file_that_is_no_module_is_shipped():
    there = {path for path in files() if path.suffix in KINDS and path.parent.as_posix() not in NOT_READ}
    there -= {path for path in there if path.is_relative_to("conformance/results")}  # read in the repository
    assert there and not {path for path in there if path.suffix != ".py"} - shipped_data()


def test_every_pattern_of_the_shipped_files_finds_one():
    folder_of = {package_of(path.parent): path.parent for path in files()}
    for package, patterns in SETUP["package-data"].items():
        for pattern in patterns:
            assert list((ROOT / folder_of[package]).glob(pattern)), f"{package}: {pattern}"


def commands() -> set[str]:
    (action,) = [item for item in parser()._subparsers._group_actions if item.choices]
    return set(action.choices)


def test_the_hooks_call_commands_that_exist():
    for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")):
        assert hook["entry"].split()[0] == "sftspec" and hook["entry"].split()[1] in commands()


def test_the_audit_hook_refuses_a_file_with_a_bad_line(tmp_path):
    hooks = {item["id"]: item for item in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))}
    entry = hooks["sftspec-audit"]["entry"].split()[1:]
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    bad.write_text(good.read_text() + '{"messages": [\n')
    assert (main([*entry, str(good)]), main([*entry, str(bad)])) == (0, 1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["check", "mine.py:T", "--json", "sftspec.json", "--markdown", "summary.md"]),
        (
            {"SELECT": "packing step", "SETTINGS": "a=1", "ARGUMENTS": "--quick"},
            ["check", "mine.py:T", "--select", "packing", "--select", "step", "--set", "a=1", "--quick", "--json"],
        ),
        (
            {"BASELINE": "known.toml"},
            ["check", "mine.py:T", "--baseline", "known.toml", "--json", "sftspec.json", "--markdown", "summary.md"],
        ),
        ({"TRAINER": "mine.py:T;touch hacked"}, ["check", "mine.py:T;touch hacked", "--json"]),
    ],
)
def test_the_actions_script_calls_check_with_what_it_was_given(tmp_path, settings, expected):
    """The script runs as it stands; `sftspec` here prints what it is called with, and the parser reads that."""
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    step = action["runs"]["steps"][-1]
    assert set(re.findall(r"inputs\.([\w-]+)", str(action["runs"]))) == set(action["inputs"])
    assert "${{" not in step["run"]  # what is given is data, never part of the script
    (tmp_path / "sftspec").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "sftspec").chmod(0o755)
    (tmp_path / "known.toml").write_text("")
    names = dict.fromkeys(step["env"], "") | {"TRAINER": "mine.py:T", "GITHUB_STEP_SUMMARY": "summary.md"} | settings
    environment = {**os.environ, **names, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", step["run"]], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    called = done.stdout.split("\n")[:-1]
    assert done.returncode == 0, done.stderr
    assert called[: len(expected)] == expected and parser().parse_args(called)
    assert not (tmp_path / "hacked").exists()


def constraints() -> dict[str, str]:
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def test_what_a_fresh_machine_installs_is_pinned_to_what_was_tested():
    pinned = constraints()
    for name in TESTED:
        assert not untested({name: pinned[name]})
    for place in ("README.md", ".ci/run"):
        installs = re.findall(r"pip install .*-e .*", (ROOT / place).read_text(encoding="utf-8"))
        assert installs and all("-c .ci/constraints.txt" in line for line in installs)


@pytest.mark.parametrize(
    ("installed", "said"),
    [("5.2.0", "older than"), ("5.24.0.dev0", ""), ("5.25.0", "newer than"), ("6.0rc1", "newer than")],
)  # fmt: skip
def test_a_release_that_was_not_tested_is_said_and_not_refused(installed, said):
    assert [said in sentence for sentence in untested({"transformers": installed})] == ([True] if said else [])
