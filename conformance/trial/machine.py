"""On which machine, in which arithmetic and by which attention a trainer is to do its jobs.

Everything is asked of the trainer's process alone. A run that was recorded there is judged anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from sftspec.conformance.adapters import TrainerError
from sftspec.counted import counted

if TYPE_CHECKING:  # every command reads this module to say its options
    from sftspec.conformance.trial.scenarios import Scenario
    from sftspec.properties.ledger.run import Run

OF_WEIGHTS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Machine:
    """What is asked for beside the jobs; what is empty is left as it is.

    device     "cpu", "cuda" or "cuda:N"
    dtype      of the weights, in every scenario that does not name its own
    autocast   the dtype of torch.autocast, while weights stay float32
    attention  implementation of transformers, such as "eager", "sdpa" or "flex_attention"; "sdpa:math", "sdpa:flash",
               "sdpa:efficient" and "sdpa:cudnn" allow one kernel alone
    """

    device: str = ""
    dtype: str = ""
    autocast: str = ""
    attention: str = ""

    @property
    def asked(self) -> dict[str, str]:
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def options(self) -> list[str]:
        """As they are written on a command line."""
        return [word for name, value in self.asked.items() for word in (f"--{name}", value)]


HERE = Machine()


def require_able(machine: Machine, claims: frozenset[str]) -> None:
    """Raise TrainerError where a trainer does not say that it can do what is asked."""
    needed = {"bf16": machine.dtype in OF_WEIGHTS[1:], "autocast": bool(machine.autocast)}
    for claim, wanted in needed.items():
        if wanted and claim not in claims:
            reads = "trains under job.autocast" if claim == "autocast" else "trains weights of 16 bits"
            raise TrainerError(f"the trainer does not claim {claim!r}: if it {reads}, let it; else leave it out")


def on_machine(scenarios: Iterable[Scenario], machine: Machine) -> Iterator[Scenario]:
    """The scenarios as they are asked for there. Under autocast those whose weights have 16 bits are left out."""
    settings = {name: value for name, value in machine.asked.items() if name != "dtype"}
    for scenario in scenarios:
        own = scenario.model.get("dtype")
        if machine.autocast and own:
            continue
        model = {**scenario.model, "dtype": own or machine.dtype or "float32"}
        yield replace(scenario, model=model, settings={**scenario.settings, **settings})


def require_asked(run: Run) -> None:
    """Where the trainer did not compute as it was asked, its run is broken: it says nothing about that arithmetic."""
    asked, calls = run.job.autocast, [call for call in run.forwards if call.trained]
    without = sum(call.autocast != asked for call in calls)
    if not run.error and asked and without:
        some = "" if without == len(calls) else f" in {without} of {counted(len(calls), 'call')}"
        run.error = f"witness: autocast in {asked} was asked for, and the trainer computed without it{some}"
