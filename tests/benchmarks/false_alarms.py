"""No false alarm: put a clean trainer on trial under many seeds and count what was judged.

    python tests/benchmarks/false_alarms.py reference --seeds 31
    python tests/benchmarks/false_alarms.py trl --set packing=bfd --seeds 20

Prints every property that does not hold, then the conversations and pieces of evidence behind each property; exits
with 1 if there was an alarm.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections import Counter

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from sftspec import properties
from sftspec.conformance.adapters import resolve
from sftspec.conformance.judge import put_on_trial

ALARMS = ("fail", "ambiguous", "error")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trainer")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=1)
    arguments = parser.parse_args()
    trainer = resolve(arguments.trainer, dict(text.split("=", 1) for text in arguments.set)).trainer
    chosen = [item for item in properties.load("masking", "packing", "step") if item.seam == "run"]
    evidence: Counter[str] = Counter()
    judged: Counter[str] = Counter()
    alarms = 0
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        trial = put_on_trial(trainer, chosen, seed)
        conversations = {run.scenario: len(run.job.conversations) for run in trial.runs}
        for run in trial.runs:
            if run.error:
                alarms += 1
                print(f"seed {seed}, {run.scenario}: {run.error}", flush=True)
        for verdict in trial.verdicts:
            evidence[verdict.property.id] += sum(verdict.evidence.values())
            judged[verdict.property.id] += sum(conversations[name] for name in verdict.evidence)
            if verdict.status in ALARMS:
                alarms += 1
                found = verdict.counterexample or {}
                print(f"seed {seed}, {verdict.property.id}: {found.get('scenario')}: {found.get('note')}", flush=True)
        print(f"seed {seed}: {sum(conversations.values())} conversations, {trial.seconds:.0f} s", file=sys.stderr)
        del trial, run, verdict
        gc.collect()  # runs, jobs and models refer to one another
    print(f"{alarms} alarms in {arguments.seeds} seeds")
    for identifier, count in judged.most_common():
        print(f"{count:8,} conversations {evidence[identifier]:10,} pieces of evidence  {identifier}")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
