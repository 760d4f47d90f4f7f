"""Which tokens are targets: without a mask the model writes the user's turn, without the end-of-turn it never stops."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from sftspec.conformance.breakit import Chart, Outcome, above, below, experiment
from sftspec.conformance.breakit.classroom import (
    END_OF_TURN,
    LETTERS,
    control,
    dialogues,
    dictionary,
    make_model,
    next_probabilities,
    planted,
    prompts,
    teach,
    tokenizer,
    write_on,
)
from sftspec.trainer import Pipeline

STEPS = 150
CAP = 20


@lru_cache(maxsize=4)
def taught(seed: int, mutant: str = "") -> Any:
    """The model after 150 steps of 32 dialogues, under the reference or under a mutant."""
    model = make_model(seed)
    teach(model, planted(mutant) if mutant else Pipeline(), dialogues(seed, 32 * STEPS))
    return model


def before_stop(written: list[int]) -> list[int]:
    """What a runtime that honours the end-of-turn token returns."""
    end = control(END_OF_TURN)
    return written[: written.index(end)] if end in written else written


def exact_matches(seed: int, written: list[list[int]]) -> float:
    words = dictionary(seed)
    right = [
        tokenizer().decode(before_stop(ids)) == words[letter] for letter, ids in zip(LETTERS, written, strict=True)
    ]
    return sum(right) / len(right)


def stop_rate(written: list[list[int]]) -> float:
    return sum(control(END_OF_TURN) in ids for ids in written) / len(written)


@experiment(caught_by="masking/nothing-else-is-trained", mutant="masking/mask-dropped")
def no_loss_mask(seed: int) -> Outcome:
    """The loss covers every token: the model learns to write the user's turns too.

    It shows only where generation goes on past the end-of-turn token (LIMA and Llama-2 train the answers alone). A
    runtime that stops there hides it: the answers up to it may be as good as with a mask.
    """
    names = {"loss mask": "", "no loss mask": "masking/mask-dropped"}
    opens, talks, right = {}, {}, {}
    header = control("<|start_header_id|>")
    for name, mutant in names.items():
        model = taught(seed, mutant)
        written = write_on(model, prompts(), CAP)
        end = [control(END_OF_TURN)]
        answered = [prompt + before_stop(ids) + end for prompt, ids in zip(prompts(), written, strict=True)]
        opens[name] = float(next_probabilities(model, answered)[:, header].mean())
        user = tokenizer().decode(end) + "<|start_header_id|>user<|end_header_id|>"
        talks[name] = sum(user in tokenizer().decode(ids) for ids in written) / len(written)
        right[name] = exact_matches(seed, written)
    kept, broken = names
    return Outcome(
        f"After its answer the model without a mask opens another turn with probability {opens[broken]:.3f} (with a"
        f" mask {opens[kept]:.3f}) and writes the user's header in {talks[broken]:.0%} of its texts"
        f" ({talks[kept]:.0%}). Cut at the end-of-turn token, {right[broken]:.0%} of its answers are right"
        f" ({right[kept]:.0%}): whoever stops there sees nothing.",
        (
            above("p(header | end of turn), without a mask minus with one", opens[broken] - opens[kept], 0.5),
            above("share of texts with a user's turn, difference", talks[broken] - talks[kept], 0.5),
        ),
        (
            Chart(
                "",
                "share of generated texts",
                {
                    name: [("opens a turn", opens[name]), ("writes the user", talks[name]), ("is right", right[name])]
                    for name in names
                },
            ),
        ),
    )


@experiment(caught_by="masking/end-of-turn-is-trained", mutant="masking/end-of-turn-masked")
def end_of_turn_untrained(seed: int) -> Outcome:
    """The end-of-turn token is no target: the model never stops.

    It happens where pad is the end-of-turn token and is masked by its id (trl#976), or where the end is searched for
    as eos_token_id in a template that ends turns with another token (axolotl#3754). The answer itself is learnt.
    """
    names = {"trained": "", "not trained": "masking/end-of-turn-masked"}
    stops, lengths, starts = {}, {}, {}
    words = dictionary(seed)
    for name, mutant in names.items():
        written = write_on(taught(seed, mutant), prompts(), CAP)
        stops[name] = stop_rate(written)
        lengths[name] = sum(len(before_stop(ids)) for ids in written) / len(written)
        texts = [tokenizer().decode(ids) for ids in written]
        starts[name] = sum(text.startswith(words[letter]) for letter, text in zip(LETTERS, texts, strict=True)) / 26
    kept, broken = names
    return Outcome(
        f"Within {CAP} tokens {stops[kept]:.0%} of the answers stop when the end-of-turn token is trained, and"
        f" {stops[broken]:.0%} when it is not: mean length {lengths[kept]:.1f} against {lengths[broken]:.1f} tokens."
        f" The beginning is right in {starts[kept]:.0%} and {starts[broken]:.0%}.",
        (
            above("stop rate, end-of-turn trained", stops[kept], 0.9),
            below("stop rate, end-of-turn not trained", stops[broken], 0.1),
        ),
        (
            Chart(
                "",
                f"share of answers that stop within {CAP} tokens",
                {name: [("stops", stops[name])] for name in names},
            ),
        ),
    )
