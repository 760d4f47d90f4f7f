"""Which scenarios show a property: those in which the reference gives it evidence.

So one property can be asked again without the whole trial. `evidence.json` is written from a trial of the reference by
`python -m sftspec.conformance.trial.evidence`. A property that does not stand there is read off every scenario.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from sftspec.conformance.trial.judge import Trial
from sftspec.conformance.trial.scenarios import Scenario
from sftspec.counted import counted
from sftspec.properties import AREAS

PATH = Path(__file__).with_name("evidence.json")

# Few, each different from the others in what it shows: padded and packed rows, several micro-batches, epochs and
# optimizers, a cut, frozen parameters, a resume.
QUICK = frozenset(
    {
        "plain", "two epochs", "accumulation", "truncation", "clipping", "AdamW", "frozen parameters", "rate zero",
        "bfloat16", "resume after one step", "turns not to train", "packed", "packed, accumulation",
    }
)  # fmt: skip


@cache
def evidence() -> dict[str, list[str]]:
    """Names of scenarios by the id of a property."""
    return json.loads(PATH.read_text(encoding="utf-8"))


def listed() -> set[str]:
    """The scenarios that the table knows: a new one is asked of every property."""
    return set().union(*evidence().values())


def scenarios_of(names: Sequence[str], known: Sequence[Scenario]) -> list[Scenario]:
    """Of the known scenarios, those that the properties of these areas and ids need; all without a name."""
    everything = {item.name for item in known}
    wanted: set[str] = set() if names else everything
    for name in names:
        if name in AREAS:
            wanted |= {item.name for item in known if name in item.areas}
        else:
            wanted |= set(evidence().get(name, everything)) | everything - listed()
    return [item for item in known if item.name in wanted]


def said_of_quick(trial: Trial, number: int, showing: Sequence[Scenario]) -> None:
    """Let each verdict that passes say what was not run."""
    for verdict in trial.verdicts:
        if verdict.status != "pass":
            continue
        if verdict.property.seam != "run":
            said = "quick: 20 drawn examples of 100"
        else:
            known = {item.name for item in showing} & set(evidence().get(verdict.property.id, ()))
            ran = sum(name in known for name in verdict.evidence)
            said = (
                f"quick: {ran} of {counted(len(known), 'scenario')}"
                if known
                else f"quick: {counted(number, 'scenario')}"
            )
        verdict.reason = f"{verdict.reason}; {said}" if verdict.reason else said


def main() -> None:
    """Write evidence.json anew."""
    from sftspec import properties
    from sftspec.conformance.trial.judge import put_on_trial
    from sftspec.trainer import Pipeline

    chosen = [item for item in properties.load() if item.seam == "run"]
    found = {item.property.id: sorted(item.evidence) for item in put_on_trial(Pipeline(), chosen).verdicts}
    rows = [f"{json.dumps(name)}: {json.dumps(scenarios)}" for name, scenarios in found.items() if scenarios]
    PATH.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
