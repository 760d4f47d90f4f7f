"""No false alarm on any machine that a CPU can be: each arithmetic, each attention, two and four gloo ranks, ten seeds.

    python tests/benchmarks/honest_machines.py --write conformance/results/machines.md
    python tests/benchmarks/honest_machines.py --seeds 2 --crossed --only trl,ranks

The trainers are right in these settings, so that a failure of a must, an ambiguous verdict, a property that breaks or a
run that breaks is an alarm. Each way is asked as `sftspec check TRAINER --dtype … --attention … --processes N` asks it,
by one job that shows it: a packed or padded one for attention, one of nine micro-batches for arithmetic and ranks.
Prints each alarm as it comes, and a line for each way; exits with 1 if there was one.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import psutil

from sftspec import properties
from sftspec.conformance.trial.corpora import few_conversations
from sftspec.conformance.trial.judge import Trial
from sftspec.conformance.trial.machine import Machine
from sftspec.conformance.trial.scenarios import SCENARIOS
from sftspec.conformance.trial.two_processes import Stage, put_on_trial_apart, stage_of

ARITHMETICS = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16 autocast": {"autocast": "bfloat16"},
}
# Every one that has a way back on a CPU: FlexAttention has none there.
ATTENTIONS = ("eager", "sdpa:math", "sdpa:flash")
# The job, and the setting, in which a trainer shows isolation.
ISOLATION: dict[str, tuple[str, dict[str, str]]] = {
    "reference": ("packed", {}),
    "transformers": ("plain", {"collator": "flattening"}),
    "accelerate": ("plain", {}),
    "trl": ("packed", {"packing": "bfd"}),
}
# Eight conversations, and asked once: the fewest that fill packs and rows.
JOBS = {
    item.name: replace(item, corpus=few_conversations, twin=None)
    for item in SCENARIOS
    if item.name in ("plain", "packed", "accumulation")
}
ALARMS = ("fail", "ambiguous", "error", "blocked")


@dataclass(frozen=True)
class Way:
    """One trainer by one job; a seed after another is given the next of the machines."""

    trainer: str
    machines: tuple[tuple[str, str], ...]  # (arithmetic, attention)
    processes: int
    job: str
    settings: tuple[tuple[str, str], ...] = ()

    def machine(self, number: int) -> Machine:
        arithmetic, attention = self.machines[number % len(self.machines)]
        return Machine(**ARITHMETICS[arithmetic], attention=attention)

    @property
    def cells(self) -> tuple[str, str, str, str, str]:
        arithmetics, attentions = (list(dict.fromkeys(names)) for names in zip(*self.machines, strict=True))
        said = " ".join(f"{name}={value}" for name, value in self.settings)
        ranks = f"{self.processes} ranks" if self.processes > 1 else "alone"
        attention = ", ".join(name or "its own" for name in attentions)
        return f"{self.trainer} {said}".strip(), ", ".join(arithmetics), attention, ranks, self.job


def ways(crossed: bool) -> Iterator[Way]:
    """Those of one trainer, setting and number of ranks follow one another.

    crossed: ten seeds for every attention in every arithmetic, and for every arithmetic on ranks.
    """
    for trainer, (job, settings) in ISOLATION.items():
        attentions = (*([""] if trainer == "reference" else []), *ATTENTIONS)
        for arithmetic in ARITHMETICS:
            machines = [(arithmetic, attention) for attention in attentions]
            for group in [[item] for item in machines] if crossed else [machines]:
                yield Way(trainer, tuple(group), 1, job, tuple(settings.items()))
        for processes in (1, 2, 4):
            machines = [(arithmetic, "") for arithmetic in ARITHMETICS]
            for group in [[item] for item in machines] if crossed or processes == 1 else [machines]:
                yield Way(trainer, tuple(group), processes, "accumulation")


def alarms_of(trial: Trial) -> Iterator[str]:
    for run in trial.runs:
        if run.error:
            yield f"broke: {run.error}"
    for verdict in trial.verdicts:
        if verdict.status in ALARMS and (verdict.property.level == "must" or verdict.status == "error"):
            said = verdict.reason or (verdict.counterexample or {}).get("note")
            yield f"{verdict.property.id} {verdict.status}: {said}"


def measured(group: list[Way], seeds: range) -> Iterator[tuple[Way, int, float, float]]:
    """Of each way of one trainer, whose processes do them all: alarms, properties that passed, CPU seconds a seed."""
    chosen = [item for item in properties.load("masking", "packing", "step") if item.seam == "run"]
    with stage_of(group[0].trainer, dict(group[0].settings), processes=group[0].processes) as stage:
        trainer = stage.trainer()
        for way in group:
            job = JOBS[way.job]
            began, alarms, passed = cpu(stage), 0, 0
            for number, seed in enumerate(seeds):
                stage.machine = way.machine(number)
                trial = put_on_trial_apart(stage, trainer, chosen, [job], seed)
                for said in alarms_of(trial):
                    alarms += 1
                    print(f"ALARM {', '.join(way.cells)}, seed {seed}: {said}", flush=True)
                passed += sum(verdict.status == "pass" for verdict in trial.verdicts)
                del trial
                gc.collect()  # runs, jobs and models refer to one another
            yield way, alarms, passed / len(seeds), (cpu(stage) - began) / len(seeds)


HEAD = """\
# No false alarm on the machines that a CPU can be

`python tests/benchmarks/honest_machines.py --write {place}`: all properties of a run. {alarms} alarms in {trials}
trials: the seeds of a row one after another on the next of its machines. FlexAttention has no way back on a CPU, and is
judged forwards by `sftspec kernels`.

| trainer | arithmetic | attention | ranks | job | seeds | alarms | properties that passed | CPU s a seed |
|---|---|---|---|---|---|---|---|---|
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--crossed", action="store_true", help="so many seeds of every machine, not of every row")
    parser.add_argument("--only", default="", help="ways that hold each of these words")
    parser.add_argument("--write", metavar="FILE", type=Path, help="the table, as Markdown")
    arguments = parser.parse_args()
    words = [word for word in arguments.only.split(",") if word]
    chosen = [way for way in ways(arguments.crossed) if all(word in " ".join(way.cells) for word in words)]
    rows, total = [], 0
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    for _, group in itertools.groupby(chosen, key=lambda way: (way.trainer, way.settings, way.processes)):
        for way, alarms, passed, seconds in measured(list(group), seeds):
            total += alarms
            rows.append(f"| {' | '.join(way.cells)} | {len(seeds)} | {alarms} | {passed:.1f} | {seconds:.1f} |")
            print(rows[-1], flush=True)
    trials = len(chosen) * arguments.seeds
    print(f"{total} alarms in {trials} trials")
    if arguments.write:
        said = {"place": arguments.write, "alarms": total, "trials": trials}
        arguments.write.write_text(HEAD.format(**said) + "\n".join(rows) + "\n", encoding="utf-8")
    return 1 if total else 0


def cpu(stage: Stage) -> float:
    """Seconds of CPU of this process and of the trainer's."""
    ranks = [process for performer in stage.performers for process in performer.ranks.processes]
    return time.process_time() + sum(sum(psutil.Process(item.pid).cpu_times()[:2]) for item in ranks)


if __name__ == "__main__":
    sys.exit(main())
