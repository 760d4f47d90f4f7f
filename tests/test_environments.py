"""Environments of trainers: what a lock file says, what is refused, and where `check` looks."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from sftspec.conformance.adapters import BUILT_IN
from sftspec.conformance.adapters.field import FIELD
from sftspec.conformance.commands.cli import main
from sftspec.conformance.environments import build, lock
from sftspec.conformance.environments.lock import PinnedError, parse_lock, read_lock
from sftspec.conformance.witness.shipping import ship

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
LOCK = f"# python: {HERE}\n# variable: SAID=twice 1\n# module: unused\ntorch==0\n"


def test_every_trainer_of_the_field_has_a_lock_with_exact_pins():
    for name in FIELD:
        found = read_lock(name)
        assert found.torch or name in ("mlx-lm", "tunix"), name
        assert len(found.pins) > 5, name
        assert len({pin.partition("==")[0].lower() for pin in found.pins}) == len(found.pins), name


def test_every_adapter_of_the_field_is_shipped_and_imports_in_a_process_that_has_torch_alone(tmp_path):
    folder = ship(tmp_path)
    places = sorted({BUILT_IN[name].place for name in FIELD})
    code = "import sys, importlib; sys.path[:] = [sys.argv[1], *(p for p in sys.path if 'sftspec' not in p)]\n"
    code += "sys.meta_path[:] = [item for item in sys.meta_path if 'editable' not in repr(item)]\n"
    code += "[getattr(importlib.import_module(p.split(':')[0]), p.split(':')[1])().claims for p in sys.argv[2:]]"
    done = subprocess.run([sys.executable, "-c", code, str(folder), *places], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-800:]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("torch==2.13.0\nnumpy>=2\n", "line 2: 'numpy>=2' is no pin; write NAME==VERSION"),
        ("torch==2.13.0+cpu\n", "no index has 2.13.0+cpu; leave out what is local"),
        ("torch==2.13.0\nsftspec==0.1.0\n", "sftspec is not its trainer's"),
        ("numpy==2.4.6\n", "pins none of torch, jax, mlx"),
        ("# variable: TWICE\ntorch==2.13.0\n", "variable 'TWICE'; write KEY=VALUE"),
    ],
    ids=["a range", "a build", "sftspec", "no torch", "no value"],
)
def test_a_lock_that_does_not_pin_is_refused(text, says):
    with pytest.raises(PinnedError, match="mine") as error:
        parse_lock("mine", text)
    assert says in str(error.value)


def test_a_name_that_has_no_environment_is_refused_with_those_that_there_are(capsys):
    assert main(["env", "create", "litgtp"]) == 2
    said = capsys.readouterr().err
    assert "no environment is called 'litgtp'" in said and "litgpt" in said


def test_check_says_how_a_missing_environment_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SFTSPEC_ENVS", str(tmp_path))
    assert main(["check", "litgpt", "--quick"]) == 2
    assert "make it with: sftspec env create litgpt" in capsys.readouterr().err


def test_an_environment_of_another_lock_is_not_used(tmp_path):
    (tmp_path / "litgpt" / "bin").mkdir(parents=True)
    build.python_in(tmp_path / "litgpt").parent.mkdir(exist_ok=True)
    build.python_in(tmp_path / "litgpt").touch()
    assert build.state_of("litgpt", tmp_path) == "unfinished"
    (tmp_path / "litgpt" / build.MADE_FROM).write_text("torch==1\n")
    with pytest.raises(PinnedError, match=r"of another lock file.*--again"):
        build.find_python("litgpt", tmp_path)
    (tmp_path / "litgpt" / build.MADE_FROM).write_text(lock.locks()["litgpt"].read_text())
    torch = tmp_path / f"torch-{read_lock('litgpt').torch}"
    torch.mkdir()
    (torch / "torch").symlink_to(tmp_path / "gone")
    with pytest.raises(PinnedError, match=r"lost the torch .*--again"):
        build.find_python("litgpt", tmp_path)
    (tmp_path / "gone").mkdir()
    assert build.find_python("litgpt", tmp_path) == build.python_in(tmp_path / "litgpt")


def test_a_torch_whose_links_are_broken_is_made_anew(tmp_path):
    version = distribution("torch").version.partition("+")[0]
    folder = tmp_path / f"torch-{version}"
    folder.mkdir()
    (folder / "torch").symlink_to(tmp_path / "gone")
    assert build.shared_torch(version, tmp_path, print) == folder
    assert (folder / "torch" / "__init__.py").exists() and build.is_whole(folder)


def test_another_python_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(PinnedError, match=r"is pinned for Python 2\.7, this is 3"):
        build.create(parse_lock("mine", "# python: 2.7\ntorch==2.13.0\n"), "", tmp_path)
    assert not any(tmp_path.iterdir())


def test_an_environment_is_a_venv_with_a_shared_torch_and_its_variables(tmp_path, monkeypatch):
    """The lock pins torch alone, so that nothing is downloaded; torch is a stand-in folder that is there already."""
    shared = tmp_path / "torch-0"
    shared.mkdir()
    (shared / "torch.py").write_text("shared = True\n")
    asked = []
    monkeypatch.setattr(build, "pip", lambda python, *words: asked.append(words))
    python = build.create(parse_lock("mine", LOCK), LOCK, tmp_path)
    code = "import os, torch, unused; print(torch.shared, os.environ['SAID'])"
    assert subprocess.run([python, "-c", code], capture_output=True, text=True).stdout == "True twice 1\n"
    assert asked == [("--no-deps", "-r", str(tmp_path / "mine" / "requirements.txt"))]
    with pytest.raises(PinnedError, match="is there already: add --again"):
        build.create(parse_lock("mine", LOCK), LOCK, tmp_path)


def test_the_judges_own_torch_is_linked_and_not_installed_again(tmp_path):
    import torch

    folder = build.shared_torch(torch.__version__.partition("+")[0], tmp_path, print)
    there = {path.name for path in folder.iterdir()}
    assert {"torch", "sympy", "jinja2"} <= there and "transformers" not in there
    assert (folder / "torch").resolve() == Path(torch.__file__).parent.resolve()


def test_pip_that_fails_is_said_with_its_own_words(tmp_path):
    with pytest.raises(PinnedError, match=r"(?s)pip install -r .*failed:.*nothing.txt"):
        build.pip(Path(sys.executable), "-r", str(tmp_path / "nothing.txt"))
