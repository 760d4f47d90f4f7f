"""No false alarm in the ways in which people train: each way, right, on the plain, packed and accumulated jobs of
many seeds.

    python tests/benchmarks/honest_ways.py --seeds 5
    python tests/benchmarks/honest_ways.py --ways lora,ddp-2 --jobs plain --seeds 20 --first 6
    python tests/benchmarks/honest_ways.py --jobs whole --seeds 3

A way is the reference's own pipeline with one thing done as people do it, so that a failure of a must, an ambiguous
verdict, a property that breaks or a run that breaks is an alarm, and a fault of the suite's (or of this script's). The
job "whole" is every job that the way claims, read by all properties of a run. Prints each alarm as it comes, then a
line for each way and job: seeds, alarms, properties that passed, seconds of CPU. Exits with 1 if there was an alarm.
"""

from __future__ import annotations

import argparse
import copy
import gc
import os
import sys
import warnings
from dataclasses import dataclass, replace

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
import torch.distributed as ranks

from sftspec import properties
from sftspec.attention import NAME as PACKED_ATTENTION
from sftspec.collation import collate
from sftspec.conformance.adapters import resolve
from sftspec.conformance.sensitivity.mutants.data_parallel import DataParallel, order, sharded
from sftspec.conformance.trial.judge import put_on_trial
from sftspec.conformance.trial.scenarios import GOLDENS, scenarios_for
from sftspec.masking import Conventions, encode
from sftspec.packing import pack
from sftspec.step import StepReport, forward_logits, sft_loss, sft_step
from sftspec.tests.sequence_parallel import SequenceParallel
from sftspec.trainer import Pipeline, make_optimizer

REFERENCE = Pipeline()
JOBS = ("plain", "packed", "accumulation")
ALARMS = ("fail", "ambiguous", "error")


def scaled_step(model, batches, optimizer, max_grad_norm=None, loss=sft_loss, clip=None) -> StepReport:
    """float16 and a GradScaler; what overflows is left out."""
    count, total = sum(batch.num_targets for batch in batches), 0.0
    optimizer.zero_grad(set_to_none=True)
    if not count:
        return StepReport(float("nan"), 0, 0.0, skipped=True)
    scaler = model.scaler
    for batch in batches:
        if batch.num_targets:
            with torch.autocast("cpu", torch.float16):
                part = loss(forward_logits(model, batch), batch.labels, num_targets=count)
            scaler.scale(part).backward()
            total += float(part.detach())
    scaler.unscale_(optimizer)
    if max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    scaler.step(optimizer)
    scaler.update()
    return StepReport(total, count, 0.0)


class Scaled:
    name, claims, conventions = "float16", Pipeline.claims - {"log"}, Conventions()

    def train(self, job):
        job.model.scaler = torch.amp.GradScaler("cpu")
        Pipeline(step=scaled_step).train(job)


class Around:
    """The reference on a model that was changed first."""

    claims, conventions = Pipeline.claims - {"log"}, Conventions()

    def __init__(self, change, pipeline=REFERENCE):
        self.change, self.pipeline = change, pipeline

    def train(self, job):
        self.pipeline.train(replace(job, model=self.change(job)))


def in_bfloat16(job):
    """float32 weights; each forward pass in bfloat16, as accelerate does it. A context around several steps would keep
    the casts of the first: that is a fault, and is seen.
    """
    job.model.forward = torch.autocast("cpu", torch.bfloat16)(job.model.forward)
    return job.model


def with_adapters(job):
    from peft import LoraConfig, get_peft_model

    options = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear", "lora_dropout": 0.0}
    return get_peft_model(job.model, LoraConfig(task_type="CAUSAL_LM", **options))


def with_a_frozen_head(job):
    job.model.get_output_embeddings().weight.requires_grad_(False)
    return job.model


def checkpointed(job):
    job.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return job.model


def compiled(job):
    """Graphs are captured, differentiated ahead of time and kept for the jobs that follow; their code is not generated,
    which takes a minute each.
    """
    torch._dynamo.config.recompile_limit, torch._dynamo.config.accumulated_recompile_limit = 512, 4096
    job.model.compile(backend="aot_eager", dynamic=True)
    return job.model


def loaded(job):
    """A folder does not say what is frozen: the job does."""
    from transformers import AutoModelForCausalLM

    folder = job.save_model()
    job.listen_to(type(job.model))
    model = AutoModelForCausalLM.from_pretrained(folder)
    for name in job.frozen:
        model.get_parameter(name).requires_grad_(False)
    return model


def with_an_average(job):
    job.model.average = [copy.deepcopy(job.model)]  # in a list, so that it is no part of the model
    return job.model


@torch.no_grad()
def averaging_step(model, *rest):
    with torch.enable_grad():
        report = sft_step(model, *rest)
    for kept, now in zip(model.average[0].parameters(), model.parameters(), strict=True):
        kept.lerp_(now, 0.1)
    return report


@dataclass(frozen=True)
class Ranks(DataParallel):
    """Rows of one example, or packs, dealt out to the ranks."""

    claims = frozenset({"padding", "packing", "accumulation", "processes"})

    def train(self, job):
        ranks.init_process_group("gloo")
        if job.packing:
            job.model.set_attn_implementation(PACKED_ATTENTION)
        model, optimizer = self.wrap(job.model), make_optimizer(job)
        model.train()
        given = {"tokenizer": job.tokenizer, "template": job.template, "max_length": job.max_length}
        examples = [encode(talk, policy=job.policy, **given) for talk in job.conversations]
        for epoch in range(job.epochs):
            rows = [[index] for index in order(job, epoch) if examples[index].num_targets or not job.packing]
            if job.packing:
                bins = pack([len(examples[index]) for (index,) in rows], job.max_length)
                rows = [[rows[place][0] for place in bin] for bin in bins]
            each = job.batch_size * ranks.get_world_size()
            for start in range(0, len(rows), each * job.accumulation):
                window = rows[start : start + each * job.accumulation]
                dealt = [
                    window[at : at + each][ranks.get_rank() :: ranks.get_world_size()]
                    for at in range(0, len(window), each)
                ]
                self.step(model, [self.batch(job, examples, mine) for mine in dealt], optimizer, job)
        ranks.destroy_process_group()

    def batch(self, job, examples, rows):
        """A micro-batch; one without a target where no row is left: every rank takes part in every reduction."""
        given = {"pad_token_id": job.tokenizer.pad_token_id}
        if not job.packing:
            batch = collate([examples[index] for (index,) in rows or [[0]]], **given)
        else:
            batch = collate(examples, rows or [[0]], **given)
        return batch if rows else replace(batch, labels=torch.full_like(batch.labels, -100))


def sharded_in_16_bits(model):
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for layer in model.model.layers if hasattr(model, "model") else model.transformer.h:
        fully_shard(layer, mp_policy=policy)
    return fully_shard(model, mp_policy=policy)


def trl(packing):
    return resolve("trl", {"peft": "lora"} | ({"packing": "bfd"} if packing else {})).trainer


WAYS = {
    "autocast": lambda packing: Around(in_bfloat16),
    "float16": lambda packing: Scaled(),
    "lora": lambda packing: Around(with_adapters),
    "lora-trl": trl,
    "frozen-head": lambda packing: Around(with_a_frozen_head),
    "ddp-2": lambda packing: Ranks(processes=2),
    "ddp-4": lambda packing: Ranks(processes=4),
    "fsdp2-2": lambda packing: Ranks(wrap=sharded, processes=2),
    "fsdp2-4": lambda packing: Ranks(wrap=sharded, processes=4),
    "fsdp2-bf16-2": lambda packing: Ranks(wrap=sharded_in_16_bits, processes=2),
    "sequence-2": lambda packing: SequenceParallel(),
    "ema": lambda packing: Around(with_an_average, Pipeline(step=averaging_step)),
    "compile": lambda packing: Around(compiled),
    "checkpointing": lambda packing: Around(checkpointed),
    "by-path": lambda packing: Around(loaded),
    "prompt-apart": lambda packing: Pipeline(conventions=Conventions(tokenization="answers")),
}


def jobs_of(way, job) -> list:
    """The jobs by this name that a way claims; "whole": all of them but those that templates alone are read of."""
    claimed = scenarios_for(WAYS[way](job.startswith("packed")).claims, ("masking", "packing", "step"))
    return [item for item in claimed if item.name == job or (job == "whole" and item.name not in GOLDENS)]


def alarms_of(trial) -> list[str]:
    found = [f"{run.scenario} broke: {run.error}" for run in trial.runs if run.error]
    for verdict in trial.verdicts:
        if verdict.status in ALARMS and (verdict.property.level == "must" or verdict.status == "error"):
            shown = verdict.counterexample or {}
            note = verdict.reason or shown.get("note", "")
            found.append(f"{verdict.property.id} {verdict.status} in {shown.get('scenario', 'no job')!r}: {note}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--jobs", default=";".join(JOBS), help='names with ; between them, or "whole"')
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=1)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    chosen = [item for item in properties.load("masking", "packing", "step") if item.seam == "run"]
    table, total = [], 0
    for way in arguments.ways.split(","):
        for job in arguments.jobs.split(";"):
            if not (scenarios := jobs_of(way, job)):
                continue
            began, alarms, passed = cpu(), 0, 0
            for seed in range(arguments.first, arguments.first + arguments.seeds):
                trial = put_on_trial(WAYS[way](job.startswith("packed")), chosen, seed, scenarios)
                for said in alarms_of(trial):
                    alarms += 1
                    print(f"ALARM {way}, {job}, seed {seed}: {said}", flush=True)
                passed += sum(verdict.status == "pass" for verdict in trial.verdicts)
                del trial
                gc.collect()  # runs, jobs and models refer to one another
            total += alarms
            table.append((way, job, arguments.seeds, alarms, passed / arguments.seeds, cpu() - began))
            print(
                "{:14} {:14} {:3} seeds {:3} alarms, {:5.1f} properties passed, {:6.1f} CPU s".format(*table[-1]),
                flush=True,
            )
    print(f"{total} alarms in {sum(row[2] for row in table)} trials")
    return 1 if total else 0


def cpu() -> float:
    """Seconds of CPU of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    sys.exit(main())
