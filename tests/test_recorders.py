"""Trainers without torch: what is written in numpy is read as what the tap writes; loops in JAX and MLX are judged.

The loops run where an interpreter has the framework: this one, or that named by SFTSPEC_JAX or SFTSPEC_MLX.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sftspec import properties
from sftspec.conformance.adapters import TrainerError
from sftspec.conformance.trial.performer import alphabet_of, provenance_of
from sftspec.conformance.trial.scenarios import SCENARIOS, make_job
from sftspec.conformance.trial.two_processes import Limits, put_on_trial_apart, stage_of
from sftspec.conformance.witness import array_exchange, exchange, tap
from sftspec.conformance.witness.array_file import read_arrays, write_arrays
from sftspec.conformance.witness.listening import listen
from sftspec.conformance.witness.performer import require_framework
from sftspec.conformance.witness.recorder import Heard, Notebook, RecorderError, as_written, attended, substituted
from sftspec.masking import Conventions
from sftspec.properties.ledger.run import Run
from sftspec.tests.on_trial import found, not_passed
from sftspec.trainer import Pipeline

HERE = Path(__file__).parent


def test_the_library_of_the_format_reads_what_was_written_and_the_other_way_round(tmp_path):
    arrays = {"one": np.arange(6, dtype=np.float32).reshape(2, 3).T, "none": np.zeros((0, 2)), "on": np.array([True])}
    write_arrays(tmp_path / "ours", arrays)
    save_file({name: np.ascontiguousarray(item) for name, item in arrays.items()}, tmp_path / "theirs")
    for found_ in (load_file(tmp_path / "ours"), read_arrays(tmp_path / "theirs")):
        for name, item in arrays.items():
            assert found_[name].dtype == item.dtype and np.array_equal(found_[name], item)


def test_two_bytes_of_bfloat16_are_kept_as_they_are(tmp_path):
    sixteen = torch.randn(3, 4).bfloat16()
    exchange.write_tensors(tmp_path / "one", {"x": sixteen})
    write_arrays(tmp_path / "two", read_arrays(tmp_path / "one"))
    assert torch.equal(exchange.read_tensors(tmp_path / "two")["x"], sixteen)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """The folder of a job, and that job."""
    folder, scenario = tmp_path_factory.mktemp("job"), next(item for item in SCENARIOS if item.name == "two epochs")
    job, _ = make_job(scenario, Pipeline(), 0, folder)
    run = Run(job, Conventions(), scenario=scenario.name)
    streams = [stream.input_ids for stream in run.streams]
    exchange.write_job(folder, job, streams, alphabet_of(job.tokenizer), run.pad, 1, 0)
    return folder, job, provenance_of(run)


def test_a_job_read_without_torch_is_the_job(asked):
    folder, job, _ = asked
    read = array_exchange.read_job(folder).job
    assert read.model.config == job.model.config.to_dict() | {"architectures": ["LlamaForCausalLM"]}
    assert read.model.head_name == job.head_name
    assert {name: item.tobytes() for name, item in read.model.stored.items()} == {
        name: item.detach().numpy().tobytes() for name, item in job.model.named_parameters()
    }
    assert read.conversations == job.conversations and read.seed == job.seed
    same = exchange.read_job(folder).job.tokenizer
    assert read.tokenizer.get_vocab() == same.get_vocab() and read.tokenizer.chat_template == same.chat_template


def test_a_checkpoint_without_torch_is_loaded_by_hugging_face(asked, tmp_path):
    from transformers import AutoModelForCausalLM

    folder, job, _ = asked
    loaded = AutoModelForCausalLM.from_pretrained(array_exchange.read_job(folder).job.save_model(tmp_path / "saved"))
    pairs = zip(loaded.parameters(), job.model.parameters(), strict=True)
    assert type(loaded) is type(job.model) and all(torch.equal(one, other) for one, other in pairs)


def test_what_is_written_in_numpy_is_read_as_what_the_tap_writes(asked, tmp_path):
    """The reference is heard by the tap; the same in numpy, its calls made again by the notebook."""
    folder, _, provenance = asked
    job, _ = exchange.read_job(folder).accepted(range(len(asked[1].conversations)))
    heard = listen(Pipeline(), job, provenance, 1, 0)
    book = Notebook(array_exchange.read_job(folder).job, provenance, 1)
    for call in heard.calls:
        number = book.call(call.hidden, call.input_ids, call.position_ids, call.attended, call.arguments)
        book.gradient(number, call.gradient.numpy() / 2), book.gradient(number, call.gradient.numpy() / 2)
        book.calls[-1]["step"] = call.step
    for step in heard.steps:
        book.step(step.learning_rate, in_numpy(step.gradients), in_numpy(step.before))
    mine = book.heard(in_numpy(heard.final))
    mine.replays = [vars_in_numpy(item) for item in heard.replays]
    mine.head_name, mine.reported = heard.head_name, heard.reported
    array_exchange.write_heard(tmp_path, mine)
    read = exchange.read_heard(tmp_path)
    for kind in ("calls", "steps", "replays"):
        for one, other in zip(getattr(read, kind), getattr(heard, kind), strict=True):
            for field in dataclasses.fields(other):
                if field.name not in ("random", "drew"):  # what numpy cannot tell
                    assert equal(getattr(one, field.name), getattr(other, field.name)), (kind, field.name)
    assert equal(read.final, heard.final)
    assert read.head_name == heard.head_name


def in_numpy(tensors):
    return {name: item.detach().numpy() for name, item in tensors.items()}


def vars_in_numpy(record):
    return {name: item.numpy() if isinstance(item, torch.Tensor) else item for name, item in vars(record).items()}


def equal(one, other):
    if isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[name], item) for name, item in other.items())
    return one == other


def test_calls_are_made_again_with_the_tokens_that_the_tap_would_take(asked):
    _, _, provenance = asked
    ids = torch.tensor([provenance.streams[0]])
    assert np.array_equal(substituted(provenance, ids.numpy()), provenance.substitute(ids).numpy())


@pytest.mark.parametrize("shape", [(2, 4), (2, 4, 4), (2, 1, 4, 4)], ids=str)
def test_who_is_attended_to_is_read_off_a_mask_as_the_tap_does(shape):
    ids = torch.zeros(2, 4, dtype=torch.int64)
    mask = torch.ones(shape, dtype=torch.bool).tril() if len(shape) > 2 else torch.ones(shape, dtype=torch.bool)
    mask[..., 2] = False
    assert np.array_equal(attended(mask.numpy(), ids.numpy()), tap._attended(mask, ids).numpy())
    added = torch.where(mask, 0.0, -1e30)
    if len(shape) > 2:
        assert np.array_equal(attended(added.numpy(), ids.numpy()), tap._attended(mask, ids).numpy())


@pytest.mark.parametrize("change", ["other weights", "a name missing", "another shape"])
def test_training_has_to_begin_with_the_weights_that_were_given(asked, change):
    folder, _, provenance = asked
    job = array_exchange.read_job(folder).job
    own = {name: item.copy() for name, item in job.model.stored.items()}
    if change == "other weights":
        own["lm_head.weight"][0, 0] += 1
    elif change == "a name missing":
        del own["lm_head.weight"]
    else:
        own["lm_head.weight"] = own["lm_head.weight"].T[:-1]
    with pytest.raises(RecorderError, match="lm_head"):
        Notebook(job, provenance, 0).step(0.1, own, own, own)


def test_a_framework_that_is_none_or_not_there_is_refused():
    with pytest.raises(TrainerError, match="framework is 'caffe'; known: torch, jax, mlx"):
        require_framework(type("T", (), {"framework": "caffe"}), processes=1)
    if importlib.util.find_spec("mlx") is None:
        with pytest.raises(TrainerError, match="framework 'mlx' needs mlx, not installed here"):
            require_framework(type("T", (), {"framework": "mlx"}), processes=1)


def test_a_rate_in_float32_is_read_as_it_was_written():
    rates = [0.01, 1e-5, 3e-4, 0.0, 1 / 3]
    assert [as_written(np.float32(rate)) for rate in rates[:4]] == rates[:4]
    assert [as_written(rate) for rate in rates] == rates


def test_what_failed_is_written_and_read(tmp_path):
    array_exchange.write_heard(tmp_path, Heard(error="ValueError: no", final={"x": np.ones(1, np.float32)}))
    assert exchange.read_heard(tmp_path).error == "ValueError: no"


LOOPS = {"jax": "jax_loop.py", "mlx": "mlx_loop.py:MlxLoop"}
PLANTED = {
    "mask": ("masking/nothing-else-is-trained", "one by one"),
    "means": ("step/every-target-of-a-step-weighs-the-same", "accumulation"),
    "leak": ("packing/examples-do-not-see-each-other", "packed"),
    "positions": ("packing/positions-restart-with-each-example", "packed"),
}


def interpreter(framework: str) -> str:
    named = os.environ.get(f"SFTSPEC_{framework.upper()}", "")
    if not named and importlib.util.find_spec(framework) is None:
        pytest.skip(f"no interpreter with {framework}: name one in SFTSPEC_{framework.upper()}")
    return named or sys.executable


def trial_of_loop(framework: str, bug: str, names: set[str]):
    """Put a loop on trial in its own interpreter."""
    chosen = [item for item in properties.load("masking", "packing", "step") if item.seam == "run"]
    scenarios = [item for item in SCENARIOS if item.name in names]
    place, settings = f"{HERE / LOOPS[framework]}", {"bug": bug} if bug else {}
    with stage_of(place, settings, interpreter(framework), Limits(600.0)) as stage:
        trial = put_on_trial_apart(stage, stage.trainer(), chosen, scenarios)
    assert not [run.error for run in trial.runs if run.error]
    return trial


@pytest.mark.parametrize("framework", LOOPS)
def test_a_right_loop_passes(framework):
    trial = trial_of_loop(framework, "", {"packed", "accumulation", "AdamW, two epochs"})
    assert not_passed(trial) == {}
    passed = found(trial, "pass")
    assert {name for name, _ in PLANTED.values()} <= passed
    assert {"step/every-parameter-gets-its-gradient", "step/adamw-decays-and-corrects"} <= passed


@pytest.mark.parametrize("bug", PLANTED)
@pytest.mark.parametrize("framework", LOOPS)
def test_a_planted_bug_fails_the_property_that_names_it(framework, bug):
    name, scenario = PLANTED[bug]
    assert name in found(trial_of_loop(framework, bug, {scenario}), "fail")
