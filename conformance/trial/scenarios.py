"""The jobs on which a trainer is judged: few, rich, and each different from the others in what it can show.

A pad token of its own hides masks made by token id. AdamW and clipping hide constant factors, so most scenarios step
plain SGD without clipping (traps H5 and H9). What is said in them is in `corpora`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sftspec.conformance.trial.corpora import (
    CAPACITY,
    CUT,
    SMALL,
    Writer,
    cut_conversations,
    few_conversations,
    flagged_conversations,
    full_packs,
    golden_conversations,
    hostile_conversations,
    long_conversations,
    odd_conversations,
    one_long_conversation,
    seven_packs,
    thoughtful_conversations,
    unequal_conversations,
    weighted_conversations,
)
from sftspec.conventions import Conventions
from sftspec.conversation import Conversation
from sftspec.golden.reduced import REDUCED, hugging_face_tokenizer
from sftspec.job import Job


@dataclass(frozen=True)
class Scenario:
    """One job.

    claims   capabilities that a trainer must claim before it is given this job
    corpus   makes the conversations
    model    arguments of witness.make_model
    settings of the Job
    twin     settings that differ in a second run, to be compared with the first (None: no second run)
    areas    whose properties need this job: the others learn nothing from it that they do not see elsewhere
    joins    it joins settings that other jobs show one by one: only a bug in their meeting is seen here alone, and the
             kill matrix runs it only for the mutants that the others do not show
    """

    name: str
    claims: frozenset[str]
    corpus: Callable[[Writer], list[Conversation]]
    model: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    twin: dict[str, Any] | None = None
    areas: frozenset[str] = frozenset({"masking", "packing", "step"})
    joins: bool = False


def _scenario(
    name: str, areas: str, claims: Iterable[str], corpus, model=None, twin=None, joins=False, **settings
) -> Scenario:
    return Scenario(name, frozenset(claims), corpus, model or {}, settings, twin, frozenset(areas.split()), joins)


LEARNED = {"kind": "learned"}
# What a trainer says that it cannot train, by the arguments of the model that it is then not given.
WITHOUT = {"kind": "no-learned-positions", "dropout": "no-dropout"}
# An embedding, a norm and a matrix of the Llama; the rest of their layers is trained.
FROZEN = ("model.embed_tokens.weight", "model.layers.0.input_layernorm.weight", "model.layers.1.mlp.down_proj.weight")
# Of every variant that has a reduced vocabulary. Only the template's properties read these runs: their conversations
# were not made to be told apart, and repeat what the others show elsewhere.
GOLDENS = {f"goldens of {variant}": variant for variant in REDUCED}

UNEVEN, MANY_STEPS = "ranks, uneven", "ranks, many steps"
MOST_RANKS = 64

SCENARIOS = (
    _scenario("plain", "masking packing step", (), hostile_conversations, twin={}),
    _scenario("learned positions", "masking packing", (), hostile_conversations, LEARNED, batch_size=3),
    _scenario("pad is end-of-turn", "masking packing", (), hostile_conversations,
              batch_size=12, pad_is_end_of_turn=True),
    _scenario("one by one", "masking", (), hostile_conversations, batch_size=1),
    _scenario("one long conversation", "masking packing", ("padding",), one_long_conversation(210), batch_size=1),
    _scenario("one long conversation, bfloat16", "packing", ("padding", "bf16"), one_long_conversation(1),
              {"dtype": "bfloat16"}, batch_size=1),
    _scenario("odd turns", "masking", (), odd_conversations),
    _scenario("two epochs", "step", (), few_conversations, twin={"seed": 10**6}, epochs=2,
              batch_size=2, pad_is_end_of_turn=True),
    _scenario("accumulation", "step", ("accumulation",), unequal_conversations, batch_size=1, accumulation=9),
    _scenario("ranks", "step", ("ranks", "accumulation"), unequal_conversations,
              batch_size=2, accumulation=2, world_size=3),
    _scenario(UNEVEN, "masking step", ("processes",), unequal_conversations, batch_size=3),
    _scenario(MANY_STEPS, "step", ("processes",), few_conversations, batch_size=1, epochs=9),
    _scenario("dropout", "step", (), few_conversations, {"dropout": 0.1}, batch_size=2),
    _scenario("ranks, dropout", "step", ("ranks",), few_conversations, {**LEARNED, "dropout": 0.1},
              batch_size=1, world_size=4, joins=True),
    _scenario("truncation", "masking", ("truncation",), cut_conversations, max_length=CUT),
    _scenario("truncation, left", "masking", ("left-truncation",), cut_conversations, max_length=CUT,
              truncation_side="left"),
    _scenario("last turn only", "masking", ("policy",), hostile_conversations, policy="last"),
    _scenario("every token", "masking packing step", ("policy",), hostile_conversations, policy="every-token"),
    _scenario("odd turns, last turn only, cut", "masking", ("policy", "truncation"), odd_conversations,
              policy="last", max_length=CUT, epochs=2),
    _scenario("every token, cut", "masking", ("policy", "truncation", "accumulation"), hostile_conversations,
              policy="every-token", max_length=CUT, pad_is_end_of_turn=True, accumulation=2),
    _scenario("turns not to train", "masking", ("train-flag",), flagged_conversations),
    _scenario("turns not to train, last turn only, cut", "masking", ("train-flag", "policy", "truncation"),
              flagged_conversations, policy="last", batch_size=1, max_length=CUT),
    _scenario("turns not to train, every token", "masking", ("train-flag", "policy"), flagged_conversations,
              policy="every-token", pad_is_end_of_turn=True),
    _scenario("clipping", "step", ("clipping", "accumulation"), few_conversations, LEARNED,
              max_grad_norm=0.25, batch_size=2, accumulation=2),
    _scenario("clipping out of reach", "step", ("clipping",), few_conversations,
              max_grad_norm=100.0, learning_rate=1e-4),
    _scenario("AdamW", "step", ("adamw",), few_conversations,
              optimizer="adamw", learning_rate=1e-3, weight_decay=0.1, batch_size=2),
    _scenario("AdamW without decay", "step", ("adamw",), few_conversations,
              optimizer="adamw", learning_rate=1e-3, batch_size=2, epochs=2),
    _scenario("AdamW, clipped", "step", ("adamw", "clipping"), few_conversations, LEARNED,
              optimizer="adamw", learning_rate=1e-3, weight_decay=0.1, max_grad_norm=0.25, batch_size=3),
    _scenario("AdamW, two epochs", "step", ("adamw", "accumulation"), few_conversations,
              optimizer="adamw", learning_rate=1e-3, weight_decay=0.1, batch_size=1, accumulation=4, epochs=2,
              joins=True),
    _scenario("frozen parameters", "step", ("frozen", "adamw"), few_conversations, frozen=FROZEN,
              optimizer="adamw", learning_rate=5e-4, weight_decay=0.1, batch_size=1, epochs=3),
    _scenario("frozen parameters, clipping", "step", ("frozen", "clipping"), few_conversations, frozen=FROZEN,
              max_grad_norm=0.25, batch_size=2, joins=True),
    _scenario("ranks, AdamW, clipped", "step", ("ranks", "accumulation", "adamw", "clipping"), few_conversations,
              optimizer="adamw", learning_rate=1e-3, weight_decay=0.1, max_grad_norm=0.25, batch_size=1, accumulation=2,
              world_size=2, epochs=2, joins=True),
    _scenario("rate zero", "step", (), few_conversations, learning_rate=0.0),
    _scenario("bfloat16", "masking", ("bf16",), hostile_conversations, {"dtype": "bfloat16"}),
    _scenario("bfloat16, AdamW", "step", ("bf16", "adamw", "accumulation"), few_conversations,
              {"dtype": "bfloat16"}, optimizer="adamw", learning_rate=1e-2, weight_decay=10.0, batch_size=1,
              accumulation=4),
    _scenario("bfloat16, AdamW at a small rate", "step", ("bf16", "adamw", "padding"), few_conversations,
              {"dtype": "bfloat16"}, optimizer="adamw", learning_rate=1e-5, batch_size=1),
    _scenario("resume after one step", "step", ("resume", "adamw", "padding"), few_conversations, {"dropout": 0.1},
              {"resume_at": None}, optimizer="adamw", learning_rate=1e-3, resume_at=1, batch_size=2, epochs=2),
    _scenario("resume between epochs", "step", ("resume", "adamw", "padding"), few_conversations, {"dropout": 0.1},
              {"resume_at": None}, optimizer="adamw", learning_rate=2e-3, resume_at=4, batch_size=2, epochs=2),
    _scenario("resume in the second epoch", "step", ("resume", "adamw", "padding", "accumulation", "clipping"),
              few_conversations, {"dropout": 0.1}, {"resume_at": None}, optimizer="adamw", learning_rate=1e-3,
              weight_decay=0.1, max_grad_norm=0.25, resume_at=5, batch_size=1, accumulation=2, epochs=2, joins=True),
    _scenario("bfloat16, AdamW, clipped, resumed", "step",
              ("bf16", "adamw", "clipping", "resume", "padding"), few_conversations, {"dtype": "bfloat16"},
              {"resume_at": None}, optimizer="adamw", learning_rate=1e-3, max_grad_norm=0.25, resume_at=2,
              batch_size=2, joins=True),
    _scenario("bfloat16, ranks", "step", ("bf16", "ranks"), few_conversations, {"dtype": "bfloat16"},
              batch_size=2, world_size=2, joins=True),
    _scenario("truncation, frozen parameters, AdamW, resumed", "step",
              ("truncation", "frozen", "adamw", "resume", "padding"), few_conversations, {"dropout": 0.1},
              {"resume_at": None}, frozen=FROZEN, optimizer="adamw", learning_rate=5e-4, max_length=CUT, batch_size=2,
              pad_is_end_of_turn=True, resume_at=1, joins=True),
    _scenario("turns not to train, resumed", "step", ("train-flag", "resume", "padding"), flagged_conversations,
              {"dropout": 0.1}, {"resume_at": None}, batch_size=3, resume_at=1, joins=True),
    _scenario("ranks, frozen parameters, last turn only, clipping, resumed", "step",
              ("ranks", "frozen", "policy", "clipping", "resume", "padding"), few_conversations, {"dropout": 0.1},
              {"resume_at": None}, frozen=FROZEN, policy="last", max_grad_norm=0.25, batch_size=1, world_size=2,
              resume_at=3, epochs=2, joins=True),
    _scenario("thoughts", "masking", ("chat-template",), thoughtful_conversations, template="chatml/qwen3",
              batch_size=4),
    _scenario("turns that weigh", "masking step", ("weights",), weighted_conversations, batch_size=3),
    _scenario("turns that weigh, accumulation", "step", ("weights", "accumulation"), weighted_conversations,
              batch_size=1, accumulation=5),
    _scenario("packed, turns that weigh", "masking step", ("packing", "weights"), weighted_conversations,
              packing=True, batch_size=2),
    _scenario("packed", "masking packing", ("packing",), hostile_conversations, twin={},
              packing=True, batch_size=2),
    _scenario("packed, pad is end-of-turn", "masking packing", ("packing",), hostile_conversations,
              packing=True, batch_size=2, pad_is_end_of_turn=True),
    _scenario("packed, last turn only", "masking", ("packing", "policy"), hostile_conversations,
              packing=True, policy="last"),
    _scenario("packed, turns not to train", "masking", ("packing", "train-flag"), flagged_conversations, packing=True),
    _scenario("packed, learned positions", "packing", ("packing",), hostile_conversations, LEARNED,
              packing=True, batch_size=2),
    _scenario("packed, every token", "masking packing", ("packing", "policy"), unequal_conversations, LEARNED,
              packing=True, policy="every-token"),
    _scenario("packed, odd turns", "masking packing", ("packing",), odd_conversations, packing=True, max_length=1024,
              batch_size=1),
    _scenario("packed, accumulation", "packing step", ("packing", "accumulation"), seven_packs,
              twin={"seed": 10**6, "epochs": 1}, packing=True, max_length=SMALL, batch_size=1, accumulation=2,
              epochs=2),
    _scenario("packed, frozen parameters, AdamW, clipped", "step", ("packing", "frozen", "adamw", "clipping"),
              few_conversations, packing=True, frozen=FROZEN, optimizer="adamw", learning_rate=1e-3, weight_decay=0.1,
              max_grad_norm=0.25, batch_size=2, joins=True),
    _scenario("packed, bfloat16, clipped", "packing step", ("packing", "bf16", "clipping"), few_conversations,
              {"dtype": "bfloat16"}, packing=True, batch_size=2, max_grad_norm=0.25, joins=True),
    _scenario("packed, resumed", "packing step", ("packing", "resume"), few_conversations, {"dropout": 0.1},
              {"resume_at": None}, packing=True, batch_size=1, epochs=2, resume_at=4, joins=True),
    _scenario("packed, ranks", "packing step", ("packing", "ranks", "accumulation"), unequal_conversations,
              packing=True, batch_size=1, accumulation=2, world_size=2, joins=True),
    _scenario("packed, examples over the capacity", "masking packing", ("packing",), long_conversations,
              packing=True, batch_size=2),
    _scenario("packed, full rows", "packing", ("packing",), full_packs, packing=True, batch_size=2),
    *(_scenario(name, "template", ("chat-template",), golden_conversations(variant), template=variant, batch_size=12)
      for name, variant in GOLDENS.items()),
)  # fmt: skip


def scenarios_for(claims: frozenset[str], areas: Iterable[str] = ()) -> list[Scenario]:
    """The scenarios of a trainer (for some areas only, if named).

    One that cannot pad (no claim "padding") is given packed rows throughout.
    """
    return [
        scenario
        for scenario in SCENARIOS
        if scenario.claims <= claims
        and not ("processes" in claims and "template" in scenario.settings)  # a template is the same on every rank
        and ("padding" in claims or not scenario.name.startswith("truncation"))
        and not claims & {name for key, name in WITHOUT.items() if key in scenario.model}
        and (not areas or scenario.areas.intersection(areas))
    ]


def make_job(
    scenario: Scenario, trainer: Any, seed: int, workdir: Path, /, **changes: Any
) -> tuple[Job, list[Conversation]]:
    """The job of a scenario for a trainer, and the conversations that its setting does not accept."""
    import torch

    from sftspec.conformance.witness.model import make_model, make_tokenizer

    settings = {"policy": getattr(trainer, "policy", "all"), **scenario.settings, **changes}
    if "padding" not in getattr(trainer, "claims", {"padding"}):
        settings["packing"] = True
    if settings.get("packing"):
        settings.setdefault("max_length", CAPACITY)
    rate = settings.get("learning_rate", Job.learning_rate)
    divisor = (getattr(trainer, "conventions", None) or Conventions()).divisor(USUAL)
    if divisor < USUAL and settings.get("optimizer", "sgd") == "sgd":
        settings["learning_rate"] = rate * divisor / USUAL
    model = dict(scenario.model)
    model["dtype"] = getattr(torch, model.get("dtype", "float32"))
    writer = Writer(seed)
    written = scenario.corpus(writer) + spare_conversations(scenario, settings, getattr(trainer, "claims", ()), writer)
    accepts = getattr(trainer, "accepts", lambda conversation: True)
    corpus: list[Conversation] = []
    refused: list[Conversation] = []
    for conversation in written:
        (corpus if accepts(conversation) else refused).append(conversation)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "corpus.jsonl"
    for number, conversation in enumerate(corpus, 1):
        conversation.source = f"corpus.jsonl:{number}"
    path.write_text(
        "".join(json.dumps({"messages": item}, ensure_ascii=False) + "\n" for item in corpus), encoding="utf-8"
    )
    if settings.get("template") in REDUCED:
        tokenizer = hugging_face_tokenizer(settings["template"])
        model["size"] = len(tokenizer)
    else:
        tokenizer = make_tokenizer(settings.pop("pad_is_end_of_turn", False))
    trained = make_model(seed=seed, **model)
    for name in settings.get("frozen", ()):
        trained.get_parameter(name).requires_grad_(False)
    job = Job(
        model=trained,
        tokenizer=tokenizer,
        conversations=corpus,
        path=path,
        seed=settings.pop("seed", seed),
        workdir=workdir,
        **settings,
    )
    return job, refused


USUAL = 128.0  # targets of a step, about: a sum steps so many times as far as their mean


def spare_conversations(
    scenario: Scenario, settings: Mapping[str, Any], claims: Iterable[str], writer: Writer
) -> list[Conversation]:
    """What stands behind a corpus that ranks share, so that whole batches of all of them can be filled.

    Ranks need equally many batches, and most trainers repeat examples where those run out. In "ranks, uneven" they do.
    """
    if "processes" not in claims or settings.get("packing") or scenario.name == UNEVEN:
        return []
    whole = settings.get("batch_size", Job.batch_size) * settings.get("world_size", 1)
    return [writer.talk(1, write=lambda: writer.words(2)) for _ in range(whole - 1)]


def spare_of(scenario: Scenario, job: Job, seed: int) -> int:
    """How many of a job's conversations are such."""
    return len(job.conversations) - len(scenario.corpus(Writer(seed)))


def on_model(scenarios: Iterable[Scenario], config: dict[str, Any] | None) -> list[Scenario]:
    """The scenarios on a small model of this architecture (None: on the suite's own); without those whose point is a
    model of another, with learned positions or with dropout.
    """
    if config is None:
        return list(scenarios)
    return [
        replace(scenario, model={**scenario.model, "config": config})
        for scenario in scenarios
        if not WITHOUT.keys() & scenario.model.keys() and not scenario.settings.get("frozen")
    ]
