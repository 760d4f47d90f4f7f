"""Templates: what is asked at inference is the text that was trained.

A prompt that differs from the training text by one newline asks the model for something that it never saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hypothesis import strategies as st

from sftspec.properties import must, takes
from sftspec.properties.cases.conversations import ALL_FIELDS, HELLO, ONE_FIELD, SYSTEM_ONLY
from sftspec.properties.cases.template import (
    CALL_KEYS,
    EACH_TEMPLATE,
    EDGES_IN_EVERY,
    EMPTY_THOUGHTS,
    HOSTILE,
    IGNORE,
    IN_EVERY,
    RESULT_IN_EVERY,
    SMALL,
    TAKE_A_LATE_SYSTEM,
    TAKE_TOOLS,
    conversations,
    hostile_text,
    in_each,
    names,
    plain_text,
    text_or_refusal,
    tool,
    value_or_none,
)
from sftspec.templates import TEMPLATES


@must(
    seam="render",
    laws=("TP-GEN",),
    floor=50,
    given={"messages": conversations(plain_text, "assistant"), "template": names},
    examples=IN_EVERY,
)
def the_prompt_and_the_answer_are_the_training_text(render, messages, template):
    """The training text is the prompt for its last turn, then the answer, then one token that ends the turn.

    A generation prompt with another newline or space, or one that is missing (search-and-learn#23, instructlab#232):
    the model then writes its own header.
    """
    prompt = render(messages[:-1], template, add_generation_prompt=True).text
    text = render(messages, template).text
    yield messages, text.startswith(prompt), f"the prompt {prompt[-40:]!r} is not the beginning of {text[-80:]!r}"
    thoughts = EMPTY_THOUGHTS if template == "chatml/qwen3" else ""
    said = thoughts + messages[-1]["content"] + TEMPLATES[template].end_of_turn
    rest = text[len(prompt) :]
    yield messages, "".join(rest.split()) == "".join(said.split()), f"expected {said!r}, found {rest!r}"
    yield messages, rest.rstrip("\n").endswith(TEMPLATES[template].end_of_turn), f"the turn ends with {rest[-12:]!r}"


def generation_prompt(render: Callable, template: str) -> str:
    """What a prompt adds to a question."""
    bare = render(HELLO, template).text
    return render(HELLO, template, add_generation_prompt=True).text[len(bare) :]


def prompted(render: Callable, messages: list[dict], template: str, may_refuse: bool, **options: Any) -> Iterator:
    """Evidence that a prompt is the training text and the suffix that a question gets."""
    text, _ = text_or_refusal(render, messages, template, **options)
    prompt, refusal = text_or_refusal(render, messages, template, add_generation_prompt=True, **options)
    if text is None or prompt is None:
        yield messages, may_refuse, refusal
        return
    suffix = generation_prompt(render, template)
    yield messages, prompt == text + suffix, f"expected {suffix!r} at the end, found {prompt[-40:]!r}"


DRAWN = {
    "given": HOSTILE,
    "examples": [
        *IN_EVERY,
        *RESULT_IN_EVERY,
        *in_each(TAKE_A_LATE_SYSTEM, SYSTEM_ONLY),
        *in_each(TAKE_TOOLS, HELLO),
        *in_each(sorted(CALL_KEYS), ONE_FIELD[1][:3]),
    ],
}


@must(seam="render", laws=("TP-GENSUF",), floor=50, **DRAWN)
def a_prompt_is_the_text_and_one_suffix(render, messages, template):
    """A prompt is the training text and one suffix, the same for every conversation; after an answer or a call it may
    be refused.

    A suffix that depends on the last role, or on the number of turns, is another header in long conversations.
    """
    calls = any("tool_calls" in message for message in messages)
    yield from prompted(render, messages, template, calls or messages[-1]["role"] == "assistant")


@must(seam="render", laws=("TP-GENSUF",), floor=20, **DRAWN)
def a_prompt_beside_tools_has_the_same_suffix(render, messages, template):
    """Beside tools a prompt has the same suffix, unless it is refused.

    The branch of a template for tools forgets the header of the answer, and the model writes its own.
    """
    if template in TAKE_TOOLS and takes(render, "tools"):
        yield from prompted(render, messages, template, True, tools=[tool("find")])


@must(seam="render", laws=("TP-GENSUF",), floor=1, **EACH_TEMPLATE)
def a_generation_prompt_opens_the_answer(render, template):
    """A prompt has a suffix that opens the answer, except in Llama-2, where the user's turn ends with it.

    Without one the model goes on with the user's turn. Llama-2's " [/INST]" is in the training text as well.
    """
    suffix = generation_prompt(render, template)
    yield template, bool(suffix) != template.startswith("llama2"), f"the generation prompt is {suffix!r}"


@must(seam="render", laws=("TP-NOGENTRAIN",), floor=50, **DRAWN)
def no_training_text_ends_with_a_generation_prompt(render, messages, template):
    """No training text ends with the generation prompt.

    A dangling header of a turn that is not there, as in the first published Llama-3 template, is learnt as an end.
    """
    suffix = generation_prompt(render, template)
    offers = template in TAKE_TOOLS and takes(render, "tools")
    for options in ({}, {"tools": [tool("find")]}) if offers else ({},):
        text, _ = text_or_refusal(render, messages, template, **options)
        if text is not None:
            yield messages, not suffix or not text.endswith(suffix), f"the training text ends with {suffix!r}"


THOUGHTS_AND_CALLS = [
    *in_each(["chatml/qwen3"], ALL_FIELDS[:2], ONE_FIELD[0]),
    *in_each(sorted(CALL_KEYS), ONE_FIELD[1][:2]),
]
ANSWERED = {
    "given": {
        "messages": conversations(hostile_text, "assistant"),
        "template": names,
        "tokenization": st.sampled_from(["whole", "segmented"]),
    },
    "examples": [
        {**arguments, "tokenization": axis}
        for axis in ("whole", "segmented")
        for arguments in (*IN_EVERY, *THOUGHTS_AND_CALLS)
    ],
}


def asked_and_trained(
    encode: Callable, messages: list[dict], template: str, vocabulary: Any, **options: Any
) -> tuple[list[int], Any] | None:
    """(tokens of the prompt for the last answer, the example that is trained); None where the two cannot be compared.

    Whole text can merge the prompt's last newline with the answer's first: then the prompt is no prefix of the example,
    so an answer with white space in front is asked by segments only. Thoughts and calls may be refused.
    """
    if options["tokenization"] == "whole" and messages[-1]["content"][:1].isspace():
        return None
    options |= {"template": template, "tokenizer": vocabulary.tokenizer, "special_tokens": "literal"}
    is_plain = messages[-1].keys() == {"role", "content"}
    example = encode(messages, **options) if is_plain else value_or_none(encode, messages, **options)
    return example and (encode(messages[:-1], add_generation_prompt=True, **options).input_ids, example)


@must(seam="encode", laws=("TP-TRAININF",), floor=50, **ANSWERED)
def the_prompt_at_inference_opens_the_trained_tokens(encode, messages, template, tokenization, vocabulary=SMALL):
    """The tokens of the prompt at inference are the first tokens of the example that was trained, one for one.

    Another template, another flag or another way of cutting at inference, and the model is asked what it was never
    taught (souprise#17, LLaMA-Factory#10769).
    """
    if found := asked_and_trained(encode, messages, template, vocabulary, tokenization=tokenization):
        prompt, example = found
        same = example.input_ids[: len(prompt)] == prompt
        yield messages, same, "the prompt's tokens are not those before the answer"


@must(
    seam="encode",
    laws=("TP-TRAININF",),
    floor=50,
    needs=("template/the-prompt-at-inference-opens-the-trained-tokens",),
    **ANSWERED,
)
def the_first_token_after_the_prompt_is_a_target(encode, messages, template, tokenization, vocabulary=SMALL):
    """The first token after the prompt is a target.

    It is what the model is asked for first; a mask that begins a token late never teaches it (verl#3287).
    """
    if found := asked_and_trained(encode, messages, template, vocabulary, tokenization=tokenization):
        prompt, example = found
        first = example.labels[len(prompt) : len(prompt) + 1]
        yield messages, first not in ([], [IGNORE]), "the first token after the prompt is no target"


@must(
    seam="encode",
    laws=("TP-TRAININF",),
    floor=50,
    needs=("template/the-prompt-at-inference-opens-the-trained-tokens",),
    **ANSWERED,
)
def every_token_of_the_answer_is_a_target(encode, messages, template, tokenization, vocabulary=SMALL):
    """Between the prompt and the last target every token is a target, thoughts and calls included.

    A mask of contents alone: the model calls no tools, and thinks as it did before.
    """
    if found := asked_and_trained(encode, messages, template, vocabulary, tokenization=tokenization):
        prompt, example = found
        end = 1 + max((place for place, label in enumerate(example.labels) if label != IGNORE), default=-1)
        trained, written = (row[len(prompt) : end] for row in (example.labels, example.input_ids))
        yield messages, end > 0 and trained == written, "a token that the model writes in its answer is no target"


@must(
    seam="encode",
    laws=("TP-TRAININF",),
    floor=50,
    needs=("template/the-prompt-at-inference-opens-the-trained-tokens",),
    **ANSWERED,
)
def the_policy_last_trains_the_last_answer(encode, messages, template, tokenization, vocabulary=SMALL):
    """Under the policy "last" the targets are those of the last answer, and no others.

    One mask for every policy: what is trained of an answer does not depend on what is trained beside it.
    """
    if not takes(encode, "policy"):
        return
    if found := asked_and_trained(encode, messages, template, vocabulary, tokenization=tokenization):
        prompt, example = found
        axes = {"template": template, "tokenizer": vocabulary.tokenizer, "special_tokens": "literal"}
        alone = encode(messages, policy="last", tokenization=tokenization, **axes).labels
        expected = [IGNORE] * len(prompt) + example.labels[len(prompt) :]
        yield messages, alone == expected, "the policy last trains other targets than those of the last answer"


@must(seam="render", laws=("TP-BOS",), floor=50, given=HOSTILE, examples=[*IN_EVERY, *EDGES_IN_EVERY])
def the_first_bos_has_one_owner(render, messages, template):
    """With bos="tokenizer" the text lacks the BOS that opens it, and nothing else.

    Both owners make two (OpenRLHF#393, trl#3328), none makes none (unsloth#10312), and Llama-2's rounds keep theirs
    (axolotl#952): no tokenizer adds those. A BOS that was written in a content stays as well.
    """
    if not takes(render, "bos"):
        return
    text, rest = (render(messages, template, bos=owner).text for owner in ("template", "tokenizer"))
    yield messages, TEMPLATES[template].bos + rest == text, f"expected {text!r} without its first BOS, found {rest!r}"
