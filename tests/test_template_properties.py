"""Every template property holds for our functions and fails for a function with the bug that it is there for."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from sftspec import encode, render
from sftspec.golden.small_tokenizer import load
from sftspec.properties import REGISTRY, laws
from sftspec.spans import assemble
from sftspec.templates import TEMPLATES, find_template
from sftspec.tests.seam_verdict import DoesNotHold, evidence, properties_of

PROPERTIES = properties_of("template")
OURS = {"render": render, "encode": encode}


@pytest.mark.parametrize("item", PROPERTIES, ids=lambda item: item.id)
def test_it_holds_for_ours_with_enough_evidence(item):
    assert evidence(item, OURS[item.seam]) >= item.floor


def test_every_law_of_templates_has_a_property():
    wanted = {law for law in laws.laws() if law.startswith("TP-")}
    assert wanted == {law for item in PROPERTIES for law in item.laws if law.startswith("TP-")}


def pieces_changed(change):
    """render and encode with every piece (kind, message, text) of every template changed."""

    def broken(template):
        variant = find_template(template)
        return replace(variant, pieces=lambda *arguments: [change(*piece) for piece in variant.pieces(*arguments)])

    def broken_render(messages, template, add_generation_prompt=False):
        return render(messages, broken(template), add_generation_prompt)

    def broken_encode(messages, template, **options):
        return encode(messages, broken(template), **options)

    return {"render": broken_render, "encode": broken_encode}


def text_changed(change):
    def broken(messages, template, add_generation_prompt=False):
        rendered = render(messages, template, add_generation_prompt)
        return assemble([("content", 0, change(rendered.text, messages))])

    return {"render": broken}


def ids_changed(change):
    def broken(messages, template, **options):
        example = encode(messages, template, **options)
        ids, labels = change(example.input_ids, example.labels, template)
        return replace(example, input_ids=ids, labels=labels)

    return {"encode": broken}


def header_without_newline(kind, message, text):
    return kind, message, text.rstrip("\n") if kind == "header" else text


def content_stripped(kind, message, text):
    return kind, message, text.strip() if kind == "content" else text


def end_of_turn_spelt(kind, message, text):
    """The token's letters with a space in them: text that stops nothing."""
    return kind, message, text.replace("<|im_end|>", "<|im_end |>").replace("</s>", "< /s>").replace("_id|>", "_id |>")


def other_generation_prompt(kind, message, text):
    return kind, message, text + " " if kind == "generation_prompt" else text


def dropping_late_systems(messages, template, add_generation_prompt=False):
    """aprender#2023: only the first system message is kept; here, of any message with neighbours of its own role."""
    return render([{**messages[0], "content": ""}, *messages[1:]], template, add_generation_prompt)


def generation_prompt_always(messages, template, add_generation_prompt=False):
    last_is_user = messages[-1]["role"] == "user"
    return render(messages, template, add_generation_prompt=last_is_user or add_generation_prompt)


clock = itertools.count()
dated = text_changed(lambda text, messages: f"{text}{next(clock)}")


def keys_in_order(messages, template, add_generation_prompt=False):
    joined = [("content", 0, "|".join(map(str, message.values()))) for message in messages]
    return assemble(joined)


def changing_its_input(messages, template, add_generation_prompt=False):
    messages[0]["content"] = messages[0]["content"].strip() + "!"
    return render(messages, template, add_generation_prompt)


def skipping_what_is_broken(messages, template, add_generation_prompt=False):
    kept = [m for m in messages if m["role"] in ("system", "user", "assistant") and isinstance(m["content"], str)]
    return render(kept or [{"role": "user", "content": ""}], template, add_generation_prompt)


def none_as_text(messages, template, add_generation_prompt=False):
    text = [{**message, "role": "user", "content": str(message["content"])} for message in messages]
    return render(text, "chatml/openai", add_generation_prompt)


def system_moved_to_the_last_user(messages, template, **options):
    """Llama-2 style, but glued to the last question: history changes with every turn."""
    if messages[0]["role"] == "system" and len(messages) > 1:
        users = [index for index, message in enumerate(messages) if message["role"] == "user"]
        moved = [dict(message) for message in messages[1:]]
        moved[users[-1] - 1]["content"] = messages[0]["content"] + moved[users[-1] - 1]["content"]
        messages = moved
    return encode(messages, template, **options)


def textual_markers(messages, template, **options):
    """Contents and markers are the same kind of text, and none of the markers is left."""
    joined = "".join(message["content"] for message in messages)
    return encode([{"role": "user", "content": joined}], "chatml/openai", **options)


def always_parsed(messages, template, **options):
    return encode(messages, template, **{**options, "special_tokens": "parse"})


def first_bos_doubled(ids, labels, template):
    bos = TEMPLATES[template].bos
    return (ids[:1] + ids, [-100, *labels]) if bos else (ids, labels)


def first_bos_removed(ids, labels, template):
    return (ids[1:], labels[1:]) if TEMPLATES[template].bos else (ids, labels)


def one_bos_for_llama2(ids, labels, template):
    inner = [index for index, token in enumerate(ids) if index and token == load().token_to_id("<s>")]
    keep = [index for index in range(len(ids)) if index not in inner]
    return [ids[index] for index in keep], [labels[index] for index in keep]


def end_of_turn_untrained(ids, labels, template):
    end = load().token_to_id(TEMPLATES[template].end_of_turn)
    return ids, [-100 if label == end else label for label in labels]


def always_segmented(messages, template, **options):
    return encode(messages, template, **{**options, "tokenization": "segmented"})


def header_is_trained(messages, template, **options):
    from sftspec.masking import Conventions

    return encode(messages, template, **options, conventions=Conventions(header=True))


def prompt_without_its_header(messages, template, add_generation_prompt=False, **options):
    return encode(messages, template, **options)


def first_target_lost(ids, labels, template):
    """verl#3287: the mask starts one token late."""
    lost = [index for index, label in enumerate(labels) if label != -100 and (not index or labels[index - 1] == -100)]
    return ids, [-100 if index in lost else label for index, label in enumerate(labels)]


def users_merged(messages, template, add_generation_prompt=False, tools=None):
    """Two messages of a user in a row become one: every letter is there."""
    merged = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"] == "user":
            merged[-1] = {**message, "content": f"{merged[-1]['content']}\n{message['content']}"}
        else:
            merged.append(message)
    return render(merged, template, add_generation_prompt, tools)


def opening_answer_dropped(messages, template, add_generation_prompt=False):
    start = len(messages) > 1 and messages[0]["role"] == "assistant"
    return render(messages[start:], template, add_generation_prompt)


def untrained_messages_dropped(messages, template, add_generation_prompt=False):
    return render([m for m in messages if m.get("train", True)] or messages, template, add_generation_prompt)


def tokenizers_bos_doubled(messages, template, add_generation_prompt=False, bos="template"):
    return render(messages, template, add_generation_prompt)


def control_strings_deleted(messages, template, **options):
    def cleaned(text):
        return text.replace("<|im_end|>", "") if options.get("special_tokens") == "literal" else text

    return encode([{**m, "content": cleaned(m["content"] or "")} for m in messages], template=template, **options)


def always_whole(messages, template, **options):
    return encode(messages, template, **{**options, "tokenization": "whole"})


def parsed_by_default(messages, template, **options):
    return encode(messages, template, **{"special_tokens": "parse", "tokenization": "whole", **options})


def parameters_renamed(kind, message, text):
    return kind, message, text.replace('"parameters": ', '"arguments": ') if kind == "tool_call" else text


def first_tool_only(messages, template, add_generation_prompt=False, tools=None):
    return render(messages, template, add_generation_prompt, tools and tools[:1])


def results_as_messages_of_a_tool(messages, template, add_generation_prompt=False):
    turned = [{**m, "role": "user"} if m["role"] == "tool" else m for m in messages]
    return render(turned, template, add_generation_prompt)


def results_stripped(messages, template, add_generation_prompt=False, tools=None):
    tidy = [{**m, "content": m["content"].strip()} if m["role"] == "tool" else m for m in messages]
    return render(tidy, template, add_generation_prompt)


BROKEN = [
    ("every-turn-of-an-agent-is-written-as-the-first", {"render": results_as_messages_of_a_tool}),
    ("what-is-said-around-a-call-stands-as-it-is", {"render": results_stripped}),
    ("each-call-is-json-with-the-keys-of-its-variant", pieces_changed(parameters_renamed)),
    ("every-tool-is-listed-as-it-was-given", {"render": first_tool_only}),
    ("results-are-a-users-message-in-tags", {"render": results_as_messages_of_a_tool}),
    ("what-others-published-is-rendered", {"render": users_merged}),
    ("whoever-speaks-is-heard-or-refused", {"render": opening_answer_dropped}),
    ("a-message-that-is-not-trained-is-rendered", {"render": untrained_messages_dropped}),
    ("the-first-bos-has-one-owner", {"render": tokenizers_bos_doubled}),
    ("tokens-spell-the-published-text", {"encode": control_strings_deleted}),
    ("segments-are-encoded-by-themselves", {"encode": always_whole}),
    ("an-axis-that-is-not-named-is-the-variants-own", {"encode": parsed_by_default}),
    ("what-was-said-can-be-read-back", pieces_changed(header_without_newline)),
    ("what-was-said-can-be-read-back", pieces_changed(content_stripped)),
    ("what-was-said-can-be-read-back", {"render": dropping_late_systems}),
    ("nothing-that-was-said-is-lost", {"render": dropping_late_systems}),
    ("a-system-prompt-that-nobody-wrote-is-the-variants-own", {"render": dropping_late_systems}),
    ("a-longer-conversation-begins-with-the-shorter-one", {"encode": system_moved_to_the_last_user}),
    ("the-prompt-and-the-answer-are-the-training-text", pieces_changed(other_generation_prompt)),
    ("the-prompt-and-the-answer-are-the-training-text", pieces_changed(end_of_turn_spelt)),
    ("a-generation-prompt-opens-the-answer", {"render": generation_prompt_always}),
    ("different-conversations-have-different-tokens", {"encode": textual_markers}),
    ("no-content-becomes-a-control-token", {"encode": always_parsed}),
    ("one-bos-opens-the-sequence", ids_changed(first_bos_doubled)),
    ("one-bos-opens-the-sequence", ids_changed(first_bos_removed)),
    ("one-bos-opens-the-sequence", ids_changed(one_bos_for_llama2)),
    ("every-answer-ends-in-one-end-of-turn-token", pieces_changed(end_of_turn_spelt)),
    ("every-answer-ends-in-one-end-of-turn-token", ids_changed(end_of_turn_untrained)),
    ("whole-text-is-cut-at-control-tokens-only", {"encode": always_segmented}),
    ("the-first-token-after-the-prompt-is-a-target", {"encode": prompt_without_its_header}),
    ("the-first-token-after-the-prompt-is-a-target", ids_changed(first_target_lost)),
    ("the-same-conversation-has-the-same-text", dated),
    ("the-order-of-keys-changes-nothing", {"render": keys_in_order}),
    ("rendering-changes-no-message", {"render": changing_its_input}),
    ("a-broken-message-is-refused", {"render": skipping_what_is_broken}),
    ("a-broken-message-is-refused", {"render": none_as_text}),
]


@pytest.mark.parametrize(("name", "functions"), BROKEN, ids=[str(number) for number in range(len(BROKEN))])
def test_it_fails_for_a_broken_one(name, functions):
    item = REGISTRY[f"template/{name}"]
    with pytest.raises(DoesNotHold):
        evidence(item, functions[item.seam])
