"""Put a trainer on trial in a few scenarios, and say what was found."""

from __future__ import annotations

from sftspec import properties
from sftspec.conformance.trial.judge import Trial, put_on_trial
from sftspec.conformance.trial.scenarios import SCENARIOS


def trial_of(trainer, names: str, *areas: str, seed: int = 0) -> Trial:
    """The trial of a trainer in the scenarios named ("plain; two epochs"), on the properties of runs of some areas."""
    chosen = [item for item in properties.load(*areas) if item.seam == "run" and item.area in (areas or (item.area,))]
    wanted = [item.strip() for item in names.split(";")]
    scenarios = [scenario for scenario in SCENARIOS if scenario.name in wanted]
    assert len(scenarios) == len(wanted), names
    trial = put_on_trial(trainer, chosen, seed, scenarios)
    assert not [run for run in trial.runs if run.error], [run.error for run in trial.runs]
    return trial


def found(trial: Trial, *statuses: str) -> set[str]:
    """Ids of the properties with one of these statuses."""
    return {verdict.property.id for verdict in trial.verdicts if verdict.status in statuses}


def not_passed(trial: Trial) -> dict[str, str]:
    """What speaks against the trainer: id, and why."""
    return {
        verdict.property.id: f"{verdict.status}: {verdict.reason} {(verdict.counterexample or {}).get('note', '')}"
        for verdict in trial.verdicts
        if verdict.status in ("fail", "ambiguous", "error", "blocked")
    }
