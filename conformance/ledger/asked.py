"""What a recording has to be of: the job that the suite asks for, made anew, and compared with what was written down.

A recording comes from a stranger. Conversations, model, configuration and tokenizer are therefore made here, by the
name of the scenario: nothing in the folder says which class is loaded or which file is read. What the folder says of
them must equal what was asked; a recording of another, easier job is refused.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftspec.conformance.ledger.store import RecordingError
from sftspec.conformance.trial.machine import HERE, Machine, on_machine
from sftspec.conformance.trial.scenarios import MOST_RANKS, SCENARIOS, Scenario, make_job, scenarios_for
from sftspec.conformance.witness.identity import SEQUENCE
from sftspec.conventions import Conventions
from sftspec.conversation import Conversation, ConversationError
from sftspec.counted import counted
from sftspec.job import Job

POLICIES = ("all", "last", "every-token", "contents")


@dataclass
class _Asked:
    """What `make_job` reads of a trainer, for one that ran elsewhere: which conversations it accepted is recorded."""

    claims: frozenset[str]
    policy: str
    conventions: Conventions
    recorded: Sequence[Mapping[str, Any]]
    taken: int = 0

    def accepts(self, conversation: Conversation) -> bool:
        if self.taken == len(self.recorded):
            return False
        now = self.recorded[self.taken]
        same = now["messages"] == list(conversation) and now["tools"] == conversation.tools
        self.taken += same
        return same


def job_asked(
    record: Mapping[str, Any],
    place: str,
    claims: frozenset[str],
    seed: int,
    is_twin: bool,
    machine: Machine = HERE,
) -> tuple[Job, list[Conversation]]:
    """The job of a recorded scenario on a machine, and what the trainer did not accept. Raises RecordingError where the
    recorded job is another one.

    record  of the run: its scenario and its job
    place   names the file
    """
    scenario = next((item for item in on_machine(SCENARIOS, machine) if item.name == record["scenario"]), None)
    if scenario is None:
        raise RecordingError(f"{place}: scenario {record['scenario']!r:.80} is none of this version: record again")
    if is_twin and scenario.twin is None:
        raise RecordingError(f"{place}: scenario {scenario.name!r} has no second run")
    if scenario.twin is not None and not (is_twin or record["twin"] or record["error"]):
        raise RecordingError(f"{place}: the second run of scenario {scenario.name!r} is missing")
    policy = record["job"]["settings"]["policy"]
    if policy not in POLICIES:
        raise RecordingError(f"{place}: job.settings.policy is {policy!r:.80}; known: {', '.join(POLICIES)}")
    trainer = _Asked(claims, policy, Conventions(**record["conventions"]), record["job"]["conversations"])
    changes = dict(scenario.twin or {}) if is_twin else {}
    if (
        "processes" in claims and SEQUENCE not in claims
    ):  # how many is the recording's own choice, and the same in every run
        changes["world_size"] = count = record["job"]["settings"]["world_size"]
        if not (type(count) is int and 2 <= count <= MOST_RANKS):
            raise RecordingError(f"{place}: job.settings.world_size is {count!r:.80}, not 2 to {MOST_RANKS} ranks")
    with tempfile.TemporaryDirectory(prefix="sftspec-") as folder:
        try:
            job, refused = make_job(scenario, trainer, seed, Path(folder), **changes)
        except ConversationError:
            said = f"none of the conversations that scenario {scenario.name!r} has with seed {seed} is recorded"
            raise RecordingError(f"{place}: job.conversations: {said}") from None
    if trainer.taken < len(trainer.recorded):
        here = f"{place}: job.conversations[{trainer.taken}]"
        raise RecordingError(f"{here} is none of scenario {scenario.name!r}, or stands elsewhere there")
    for name, value in record["job"]["settings"].items():
        asked = getattr(job, name)
        asked = list(asked) if isinstance(asked, tuple) else asked
        if type(asked) is not type(value) or asked != value:
            said = f"{value!r:.80}; scenario {scenario.name!r} asks {asked!r}"
            raise RecordingError(f"{place}: job.settings.{name} is {said}")
    _same_model(record["job"]["model"], job.model, place)
    return job, refused


COMPARED = {  # of the configurations that the witness has, whatever the version of transformers writes beside them
    "LlamaForCausalLM": ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                         "num_key_value_heads", "head_dim", "max_position_embeddings", "attention_dropout"),
    "GPT2LMHeadModel": ("vocab_size", "n_embd", "n_inner", "n_layer", "n_head", "n_positions", "attn_pdrop",
                        "resid_pdrop", "embd_pdrop"),
}  # fmt: skip


def _same_model(record: Mapping[str, Any], model: Any, place: str) -> None:
    kind = type(model).__name__
    if record["class"] != kind:
        raise RecordingError(f"{place}: job.model.class is {record['class']!r:.80}; this scenario's model is a {kind}")
    for name in COMPARED[kind]:
        found, asked = record["config"].get(name), getattr(model.config, name)
        if isinstance(found, bool) or found != asked:
            raise RecordingError(f"{place}: job.model.config.{name} is {found!r:.80}; the witness has {asked!r}")


def require_scenarios(names: Sequence[str], claims: frozenset[str], place: str, machine: Machine = HERE) -> None:
    """Every scenario that the claims ask for is there, once, and no other. Raises RecordingError."""
    asked: list[Scenario] = list(on_machine(scenarios_for(claims), machine))
    for scenario in asked:
        count = names.count(scenario.name)
        if count != 1:
            says = "is missing" if not count else f"is there {counted(count, 'time')}"
            raise RecordingError(f"{place}: the run of scenario {scenario.name!r} {says}; the claims ask for each once")
    others = sorted(set(names) - {scenario.name for scenario in asked})
    if others:
        raise RecordingError(f"{place}: the claims ask for no scenario {others[0]!r}")
