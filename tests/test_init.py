"""`sftspec init` on small repositories: a plain loop, transformers' Trainer, TRL; the adapter imports, and trains."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest

from sftspec.conformance.commands.cli import main
from sftspec.conformance.gate.found import found_in
from sftspec.conformance.gate.start import open_places
from sftspec.tests.repositories import LOOP, SCRIPT, TRANSFORMERS, TRL


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


def imported(folder):
    """The adapter as another process imports it: nothing of the repository is run by that."""
    code = "import sftspec_adapter as a; print(sorted(a.Adapter.claims), getattr(a.Adapter, 'policy', 'all'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


REPOSITORIES = {
    "loop": (LOOP, 1, "['accumulation', 'clipping', 'padding'] all"),
    "transformers": (TRANSFORMERS, 1, "['accumulation', 'adamw', 'clipping', 'frozen', 'log', 'padding'] all"),
    "trl": (TRL, 0, "['accumulation', 'adamw', 'clipping', 'frozen', 'log', 'packing'] all"),
}


@pytest.mark.parametrize("kind", REPOSITORIES)
def test_the_adapter_imports_and_says_what_is_open(tmp_path, capsys, kind):
    text, places, said = REPOSITORIES[kind]
    folder = write(tmp_path / "mine", train=text)
    (folder / ".git").mkdir()
    assert main(["init", str(folder)]) == 0
    out = capsys.readouterr().out
    assert f"trains ({kind})" in out and "next:" in out
    found = open_places((folder / "sftspec_adapter.py").read_text(encoding="utf-8"))
    assert len(found) == places
    for number, what in found:
        assert f"fill in sftspec_adapter.py:{number}  {what}" in out
    assert imported(folder) == said
    assert (folder / ".github/workflows/sftspec.yml").is_file() and not (folder / "sftspec-baseline.toml").exists()


def test_options_of_the_trainer_are_kept_and_those_of_the_job_are_not(tmp_path):
    folder = write(tmp_path / "mine", train=TRL)
    assert main(["init", str(folder)]) == 0
    text = (folder / "sftspec_adapter.py").read_text(encoding="utf-8")
    for kept in ("\"packing_strategy\": 'wrapped'", "LoraConfig(r=8", '"assistant_only_loss": True', "def accepts"):
        assert kept in text
    assert "2048" not in text and "Qwen" not in text


def test_a_prompt_of_all_messages_but_the_last_is_a_policy(tmp_path):
    text = TRANSFORMERS.replace("def main", "def rows(messages):\n    return messages[:-1], messages[-1]\n\n\ndef main")
    folder = write(tmp_path / "mine", train=text)
    assert main(["init", str(folder)]) == 0
    assert imported(folder).endswith("last")
    assert "def accepts(self, messages)" in (folder / "sftspec_adapter.py").read_text(encoding="utf-8")


def test_nothing_is_overwritten_without_force(tmp_path, capsys):
    folder = write(tmp_path / "mine", train=LOOP)
    (folder / "sftspec_adapter.py").write_text("mine", encoding="utf-8")
    assert main(["init", str(folder)]) == 2
    assert "there already, and nothing was written; --force" in capsys.readouterr().err
    assert (folder / "sftspec_adapter.py").read_text(encoding="utf-8") == "mine" and not (folder / ".github").exists()
    assert main(["init", str(folder), "--force"]) == 0
    assert "class Adapter" in (folder / "sftspec_adapter.py").read_text(encoding="utf-8")


def test_of_several_places_one_is_to_be_named(tmp_path, capsys):
    folder = write(tmp_path / "mine", one=LOOP, two=LOOP, broken="def f(:")
    assert main(["init", str(folder)]) == 2
    assert f"sftspec init {folder / 'two.py'}:train" in capsys.readouterr().err
    assert main(["init", f"{folder / 'two.py'}:train"]) == 0
    assert "from two import train" in (folder / "sftspec_adapter.py").read_text(encoding="utf-8")


def test_where_nothing_trains_it_says_what_was_looked_for(tmp_path, capsys):
    folder = write(tmp_path / "mine", other="print(1)", broken="def f(:")
    assert main(["init", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "no loop with backward() and step()" in said and "broken.py was not read" in said


CALLS = {
    "def train(args):\n    for b in args.data:\n        (b*args.lr).backward(); optimizer.step()\n": (
        "args=SimpleNamespace(data=conversations_of(job), lr=job.learning_rate)"
    ),
    "class T:\n    def __init__(self, model, lr):\n        pass\n    def fit(self, dataset, epochs=1):\n"
    "        while True:\n            loss.backward(); self.o.step()\n": "T(\n            model=job.model",
    "def train(model_path, data_path, colour='red'):\n    for b in x:\n        loss.backward(); o.step()\n": (
        "data_path=data_file(job)"
    ),
    "for b in x:\n    loss.backward(); o.step()\n": "trains as a script",
}


@pytest.mark.parametrize("text", CALLS, ids=range(len(CALLS)))
def test_how_a_loop_is_called(tmp_path, text):
    folder = write(tmp_path / "mine", train=text)
    assert len(found_in(folder / "train.py")) == 1
    assert main(["init", str(folder)]) == 0
    adapter = (folder / "sftspec_adapter.py").read_text(encoding="utf-8")
    assert CALLS[text] in adapter and "colour" not in adapter
    imported(folder)


RATE, SGD = "step/the-learning-rate-is-the-jobs", "step/sgd-subtracts-rate-times-gradient"
CLIPPING = "step/clipping-is-by-the-norm-of-the-whole-gradient"


def test_a_script_with_a_command_line_is_run_as_it_is(tmp_path, capsys):
    """Nothing is left to fill in, and what it fixes (AdamW, its schedule, a norm of 1) is what the job asks for."""
    folder = write(tmp_path / "mine", finetune=SCRIPT)
    assert main(["init", str(folder)]) == 0
    assert "fill in sftspec_adapter.py" not in capsys.readouterr().out
    words = [word for name in (RATE, SGD, CLIPPING) for word in ("--select", name)]
    words += ["--scenario", "plain", "--scenario", "AdamW, clipped"]
    assert main(["check", str(folder / "sftspec_adapter.py"), *words]) == 0
    said = capsys.readouterr().out
    for name in (RATE, SGD, CLIPPING):
        assert re.search(rf"{name.partition('/')[2]} +must +pass", said), said


def test_of_a_script_without_a_function_the_imports_are_replaced_where_it_looks_for_them(tmp_path):
    script = SCRIPT.replace("def main():", "if True:").partition("\nif __name__")[0]
    folder = write(tmp_path / "mine", finetune=script.replace("torch.optim.AdamW(", "AdamW("))
    (folder / "finetune.py").write_text("from torch.optim import AdamW\n" + (folder / "finetune.py").read_text())
    assert main(["init", str(folder)]) == 0
    text = (folder / "sftspec_adapter.py").read_text(encoding="utf-8")
    assert 'runpy.run_path("finetune.py", run_name="__main__")' in text
    for name in ("torch.optim.AdamW", "transformers.get_cosine_schedule_with_warmup", "torch.nn.utils.clip_grad_norm_"):
        assert f'mock.patch("{name}"' in text
    assert imported(folder).startswith("['adamw', 'chat-template', 'clipping'")


def test_an_open_place_stops_the_trial_with_what_is_to_be_done(tmp_path, capsys):
    folder = write(tmp_path / "mine", train=LOOP)
    main(["init", str(folder)])
    spec = importlib.util.spec_from_file_location("adapter_with_a_gap", folder / "sftspec_adapter.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(NotImplementedError, match="a place to fill in: loader, which train takes"):
        module.fill_in(open_places((folder / "sftspec_adapter.py").read_text(encoding="utf-8"))[0][1])
