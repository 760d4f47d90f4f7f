"""No false alarm: put a clean trainer on trial under many seeds and count what was judged.

    python tests/benchmarks/false_alarms.py reference --seeds 20
    python tests/benchmarks/false_alarms.py trl --set packing=bfd --seeds 20
    python tests/benchmarks/false_alarms.py reference --conversations 10000

With --conversations every property is read until it found evidence in that many conversations: from the second seed on,
a property that has them rests, and so does a scenario that shows nothing to the others. Prints every property that does
not hold, then the conversations and pieces of evidence behind each property; exits with 1 if there was an alarm.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import os
import sys
from collections import Counter, defaultdict

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from sftspec import properties
from sftspec.conformance.adapters import resolve
from sftspec.conformance.trial.judge import claims_of, put_on_trial
from sftspec.conformance.trial.scenarios import scenarios_for

ALARMS = ("fail", "ambiguous", "error")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainer")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--conversations", type=int, metavar="N", help="instead of a number of seeds")
    arguments = parser.parse_args()
    trainer = resolve(arguments.trainer, dict(text.split("=", 1) for text in arguments.set)).trainer
    chosen = [item for item in properties.load("masking", "packing", "step") if item.seam == "run"]
    scenarios = scenarios_for(claims_of(trainer), ())
    evidence: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    shows: defaultdict[str, set[str]] = defaultdict(set)  # a property's id -> scenarios in which it found evidence
    alarms = seeds = 0
    for seed in itertools.count(arguments.first):
        if arguments.conversations is None and seeds == arguments.seeds:
            break
        if arguments.conversations is not None and seeds:
            chosen = [item for item in chosen if shows[item.id] and judged[item.id] < arguments.conversations]
            useful = set().union(*(shows[item.id] for item in chosen))
            scenarios = [scenario for scenario in scenarios if scenario.name in useful]
            if not chosen:
                break
        trial = put_on_trial(trainer, chosen, seed, scenarios)
        seeds += 1
        conversations = {run.scenario: len(run.job.conversations) for run in trial.runs}
        for run in trial.runs:
            if run.error:
                alarms += 1
                print(f"seed {seed}, {run.scenario}: {run.error}", flush=True)
        for verdict in trial.verdicts:
            evidence[verdict.property.id] += sum(verdict.evidence.values())
            judged[verdict.property.id] += sum(conversations[name] for name in verdict.evidence)
            shows[verdict.property.id].update(verdict.evidence)
            if verdict.status in ALARMS:
                alarms += 1
                found = verdict.counterexample
                note = verdict.reason or f"{found['scenario']}: {found['note']}"
                print(f"seed {seed}, {verdict.property.id}: {note}", flush=True)
        size = f"{len(chosen)} properties, {sum(conversations.values())} conversations"
        print(f"seed {seed}: {size}, {trial.seconds:.0f} s", file=sys.stderr)
        del trial, run, verdict
        gc.collect()  # runs, jobs and models refer to one another
    print(f"{alarms} alarms in {seeds} seeds")
    for identifier, count in judged.most_common():
        print(f"{count:8,} conversations {evidence[identifier]:10,} pieces of evidence  {identifier}")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
