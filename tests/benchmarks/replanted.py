"""The planted bugs, planted again in the ways in which people train: under autocast, beside LoRA, on two ranks, in a
model class of the trainer's own.

    python tests/benchmarks/replanted.py --ways autocast,lora --count 60
    python tests/benchmarks/replanted.py --ways two-ranks --bugs step/rate-falls-after-sixteen --seed 0

Each bug is tried in the scenario in which the kill matrix shows most of it, or the next two; on ranks, whose steps are
fewer, in the one of many steps too. It is killed where a
property that has to kill it fails, or another must does; it cannot occur where its trainer breaks in that way (a model
class without the layer that it changes). Prints each that survives and a line for each way; exits with 1 if any does.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import itertools
import os
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

from sftspec import properties
from sftspec.conformance.sensitivity import signatures
from sftspec.conformance.sensitivity.mutants import load_mutants
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import GOLDENS, MANY_STEPS, SCENARIOS
from sftspec.properties import REGISTRY
from sftspec.tests.own_model import OwnModel, load, to_hugging_face
from sftspec.trainer import Pipeline

AREAS = ("masking", "packing", "step")
TRIES = 3
CAUGHT = ("fail", "ambiguous")


class Planted:
    """A broken trainer, run in another way."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


class Autocast(Planted):
    def train(self, job):
        job.model.forward = torch.autocast("cpu", torch.bfloat16)(job.model.forward)
        self.inner.train(job)


class Lora(Planted):
    def train(self, job):
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
        self.inner.train(replace(job, model=get_peft_model(job.model, adapters)))


class TwoRanks(Planted):
    """Ranks that sum their gradients, as the reference does where torchrun started it."""

    processes = 2

    @property
    def claims(self):
        return self.inner.claims | {"processes"}

    def train(self, job):
        self.inner.train(job)


class Own:
    """A model of the trainer's own class, called as the reference calls one of Hugging Face's."""

    def __init__(self, job):
        self.inner, self.config = (
            load(OwnModel(job.model.config), job.model.state_dict(), job.model.config),
            job.model.config,
        )
        names = {"input_ids": "idx", "attention_mask": "seen", "position_ids": "where"}
        job.listen_to(OwnModel, hidden="last", weights=to_hugging_face(job.model.config), arguments=names)

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def set_attn_implementation(self, name):
        """Its attention reads what it is given."""

    def __call__(self, input_ids, attention_mask=None, position_ids=None, segment_ids=None, use_cache=False):
        seen = torch.ones(*input_ids.shape, input_ids.shape[1], dtype=torch.bool)
        if segment_ids is not None:
            seen = segment_ids[:, :, None] == segment_ids[:, None, :]
        elif attention_mask is not None and attention_mask.dim() == 2:
            seen = attention_mask.bool()[:, None] | torch.eye(input_ids.shape[1], dtype=torch.bool)
        elif attention_mask is not None:
            seen = (attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0)[:, 0]
        return SimpleNamespace(logits=self.inner(input_ids, position_ids, seen))


class OwnClass(Planted):
    def train(self, job):
        self.inner.train(replace(job, model=Own(job)))


WAYS = {"autocast": Autocast, "lora": Lora, "two-ranks": TwoRanks, "own-class": OwnClass}
# What is shown only where a way cannot go: a GPT-2 or 16-bit weights in an own class, frozen parts beside adapters.
LEFT_OUT = {
    "autocast": lambda job: "dtype" in job.model,
    "lora": lambda job: "dtype" in job.model or "frozen" in job.settings or "resume_at" in job.settings,
    "two-ranks": lambda job: "world_size" in job.settings or "resume_at" in job.settings,
    "own-class": lambda job: bool(job.model) or "resume_at" in job.settings or "frozen" in job.settings,
}


def candidates(way):
    """(mutant, its scenarios) in an order that has nothing to do with what they are."""
    matrix, jobs = signatures.load(), {item.name: item for item in SCENARIOS}
    properties.load()  # a mutant may be killed by a property of any area
    for mutant in sorted(load_mutants(), key=lambda item: hashlib.sha256(item.name.encode()).hexdigest()):
        if mutant.name.partition("/")[0] not in AREAS or not isinstance(mutant.make(), Pipeline):
            continue
        row = {name: mark for name, mark in matrix.get(mutant.name, {}).items() if name in mutant.killed_by}
        shares: dict[str, float] = {}
        for name, mark in row.items():
            if REGISTRY[name].seam == "run":
                for scenario, share in mark.scenarios.items():
                    shares[scenario] = max(shares.get(scenario, 0.0), share)
        shown = [
            jobs[name]
            for name in sorted(shares, key=lambda name: (-shares[name], name))
            if name in jobs and name not in GOLDENS and not jobs[name].joins and not LEFT_OUT[way](jobs[name])
        ]
        if shown:
            yield mutant, shown[:TRIES] + ([jobs[MANY_STEPS]] if way == "two-ranks" else [])


def tried(way, mutant, scenarios, chosen, seed) -> str:
    """By what it is killed; "" where it survives; "cannot occur: …" where the trainer breaks."""
    broken = ""
    for scenario in scenarios:
        trial = put_on_trial(WAYS[way](mutant.make()), chosen, seed, [scenario])
        error = next((run.error for run in trial.runs if run.error), "")
        caught = [
            item.property.id for item in trial.verdicts if item.status in CAUGHT and item.property.level == "must"
        ]
        failed = {item.property.id for item in trial.verdicts if item.failed_in}
        shown = [name for name in mutant.killed_by if name in failed]
        del trial
        gc.collect()
        if shown:
            return shown[0]
        if caught:
            return f"another: {caught[0]}"
        broken = broken or error
    return f"cannot occur: {broken}" if broken else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--count", type=int, default=60, help="bugs that can occur, of each way")
    parser.add_argument("--skip", type=int, default=0, help="so many bugs of each way, which were tried before")
    parser.add_argument("--bugs", default="", help="these alone, by name, with commas between them")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    chosen = [item for item in properties.load(*AREAS) if item.seam == "run"]
    survived = 0
    for way in arguments.ways.split(","):
        began, own, other, cannot, left = cpu(), 0, 0, [], []
        for mutant, scenarios in itertools.islice(candidates(way), arguments.skip, None):
            if own + other + len(left) == arguments.count:
                break
            if arguments.bugs and mutant.name not in arguments.bugs.split(","):
                continue
            by = tried(way, mutant, scenarios, chosen, arguments.seed)
            own += bool(by) and not by.startswith(("another", "cannot"))
            other += by.startswith("another")
            if by.startswith("cannot"):
                cannot.append(mutant.name)
                print(f"{way}: {mutant.name} {by[:160]}", flush=True)
            if not by:
                left.append(mutant.name)
                print(f"{way}: {mutant.name} SURVIVED in {', '.join(item.name for item in scenarios)}", flush=True)
            if by.startswith("another"):
                print(f"{way}: {mutant.name} killed by {by}", flush=True)
        survived += len(left)
        total = own + other + len(left)
        print(
            f"{way}: {total} planted, {own} killed by what has to, {other} by another property, {len(left)} survived,"
            f" {len(cannot)} cannot occur; {cpu() - began:.0f} CPU s",
            flush=True,
        )
    return 1 if survived else 0


def cpu() -> float:
    """Seconds of CPU of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    sys.exit(main())
