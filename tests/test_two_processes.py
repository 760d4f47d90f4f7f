"""A trainer in a process of its own gets the verdicts that it gets in the judge's, whatever interpreter it has."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import venv
from pathlib import Path

import pytest
import torch

from sftspec import properties
from sftspec.conformance.adapters import resolve
from sftspec.conformance.commands.cli import main
from sftspec.conformance.report.document import identify, make_document
from sftspec.conformance.report.isolation import Isolation
from sftspec.conformance.trial.judge import Trial, put_on_trial
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.conformance.trial.two_processes import put_on_trial_apart, stage_of
from sftspec.conformance.witness.shipping import MODULES, OF_ARRAYS
from sftspec.conformance.witness.tensor_file import read_tensors, write_tensors
from sftspec.tests.test_readme import readme_trainer

# Twins, a resume, packing, bfloat16, dropout, and conversations that TRL does not accept.
ASKED = {
    ("reference", ()): ("two epochs", "resume after one step", "packed, learned positions", "bfloat16, AdamW"),
    ("trl", (("packing", "wrapped"),)): ("packed", "accumulation"),
}
ABSENT = ("hypothesis", "jsonschema", "pytest")


def asked_of(names) -> list:
    return [item for item in SCENARIOS if item.name in names]


def told(trial: Trial, identity: dict, isolation: dict | None = None) -> dict:
    document = make_document(trial, identity, "sftspec check", 0, isolation=isolation)
    for item in (document, *document["scenarios"]):
        item.pop("seconds", None)
    return document


@pytest.mark.long
@pytest.mark.parametrize("place", ASKED, ids=[place for place, _ in ASKED])
def test_both_paths_give_one_document(place):
    name, settings = place
    chosen = [item for item in properties.load("masking", "packing", "step") if item.seam == "run"]
    candidate = resolve(name, dict(settings))
    here = put_on_trial(candidate.trainer, chosen, 0, asked_of(ASKED[place]))
    isolation = Isolation()
    with stage_of(name, dict(settings)) as stage:
        there = put_on_trial_apart(stage, stage.trainer(), chosen, asked_of(ASKED[place]), keep=isolation.add)
        said = stage.said["identity"]
    assert told(there, said, isolation.record()) == told(here, identify(candidate.trainer, candidate.setting))
    assert sum(sum(item.evidence.values()) for item in there.verdicts) > 1000
    assert not any(step.gradients or step.before or step.after for run in there.runs for step in run.steps)


@pytest.fixture(scope="module")
def other_interpreter(tmp_path_factory) -> Path:
    """An environment that has torch and transformers, with what these need, and nothing that the judge needs beside."""
    folder = tmp_path_factory.mktemp("other")
    venv.create(folder / "env", with_pip=False)
    library = folder / "library"
    library.mkdir()
    for name in needed("torch", "transformers"):
        for file in importlib.metadata.files(name) or ():
            top = file.parts[0]
            if top not in ("..", "__pycache__", "bin") and not (library / top).exists():
                (library / top).symlink_to(Path(str(file.locate())).parents[len(file.parts) - 2] if len(file.parts) > 1
                                           else Path(str(file.locate())))  # fmt: skip
    site = next((folder / "env").glob("lib/python3*/site-packages"))
    (site / "library.pth").write_text(str(library))
    return folder / "env" / "bin" / "python"


def needed(*names: str) -> set[str]:
    """Distributions with all that they require here."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            each = map(Requirement, requires)
            left += [item.name for item in each if item.marker is None or item.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.long
def test_a_trainer_runs_in_another_interpreter(other_interpreter, tmp_path, capsys):
    path = tmp_path / "my_trainer.py"
    refuse = "import importlib.util as u\n" + "".join(f"assert u.find_spec({name!r}) is None\n" for name in ABSENT)
    path.write_text(refuse + readme_trainer(), encoding="utf-8")
    verdicts = tmp_path / "verdicts.json"
    arguments = ["check", str(path), "--python", str(other_interpreter), "--json", str(verdicts)]
    names = ("two epochs", "truncation", "clipping")
    assert main([*arguments, *(word for name in names for word in ("--scenario", name))]) in (0, 3)
    assert f"--python {other_interpreter}" in json.loads(verdicts.read_text())["command"]
    document = json.loads(verdicts.read_text(encoding="utf-8"))
    assert [item["error"] for item in document["scenarios"]] == ["", "", ""]
    assert sum(item["status"] == "pass" for item in document["verdicts"]) > 20


def test_an_interpreter_that_is_none_is_refused(tmp_path, capsys):
    path = tmp_path / "my_trainer.py"
    path.write_text(readme_trainer(), encoding="utf-8")
    assert main(["check", str(path), "--python", "no/such/python"]) == 2
    assert "no/such/python: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("framework", "modules"),
    [
        ("torch", MODULES),
        ("numpy", [name for name in OF_ARRAYS if not name.endswith(("jax_recorder", "mlx_recorder"))]),
    ],
    ids=["torch", "numpy"],
)
def test_what_is_shipped_imports_one_framework_and_the_standard_library_alone(framework, modules, tmp_path):
    import subprocess

    from sftspec.conformance.witness.shipping import ship

    allowed = sorted({framework, "sftspec", *sys.stdlib_module_names})
    code = f"""
import builtins, sys
sys.path[:0] = [{str(ship(tmp_path))!r}]
import {framework}
real = builtins.__import__
def only(name, globals=None, *rest):
    if (globals or {{}}).get("__name__", "").startswith("sftspec") and name.partition(".")[0] not in {allowed!r}:
        raise AssertionError(name)
    return real(name, globals, *rest)
builtins.__import__ = only
for name in {modules!r}:
    __import__(name)
import sftspec
print(sftspec.Conventions(), sftspec.Job, sftspec.__file__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout


def test_tensors_come_back_bit_for_bit(tmp_path):
    from safetensors.torch import load_file

    tensors = {
        "f32": torch.tensor([[0.0, -0.0, float("nan"), float("inf")]]), "bf16": torch.randn(3, 5).bfloat16(),
        "ids": torch.arange(7), "mask": torch.tensor([True, False]), "none": torch.empty(0, 4),
        "one": torch.tensor(2.5), "turned": torch.randn(4, 3).T,
    }  # fmt: skip
    write_tensors(tmp_path / "file", tensors)
    for found in (read_tensors(tmp_path / "file"), load_file(tmp_path / "file")):
        assert found.keys() == tensors.keys()
        for name, value in tensors.items():
            assert found[name].dtype == value.dtype and found[name].shape == value.shape
            assert (
                found[name]
                .contiguous()
                .flatten()
                .view(torch.uint8)
                .equal(value.contiguous().flatten().view(torch.uint8))
            )
