"""Texts and turns that are tidied up on the way to the template, and flags that are taken off."""

from __future__ import annotations

import html
import re
from itertools import accumulate

from sftspec.conformance.sensitivity.mutants import effect, killed_by, seen_in
from sftspec.conformance.sensitivity.mutants.breaking import (
    before_training,
    prepared,
    relabelled,
    with_contents,
    with_conversations,
    with_messages,
)
from sftspec.masking import IGNORE, encode
from sftspec.trainer import Pipeline


def trained_up_to(limit: int) -> Pipeline:
    """The reference with that many targets of a conversation at most."""
    return relabelled(
        lambda example, messages: [
            label if count <= limit else IGNORE
            for label, count in zip(
                example.labels, accumulate(label != IGNORE for label in example.labels), strict=True
            )
        ]
    )


@killed_by("conversations-stand-as-rendered")
@seen_in("no report known: a file opened in text mode")
@effect("other line ends than at inference", fix="read and write newline=''")
def line_ends_changed():
    """A carriage return before a newline is lost."""
    return with_contents(lambda content: content.replace("\r\n", "\n"))


@killed_by("conversations-stand-as-rendered")
@seen_in("no report known: web corpora cleaned at load")
@effect("HTML is learned as what it would show", fix="leave contents alone")
def entities_unescaped():
    """HTML entities in contents are replaced by what they stand for."""
    return with_contents(html.unescape)


@killed_by("conversations-stand-as-rendered")
@seen_in("subtle form of hiyouga/LLaMA-Factory#10772")
@effect("roles at inference do not match", fix="one message, one turn")
def users_joined():
    """Two messages of the user in a row become one."""

    def join(messages):
        joined: list[dict] = []
        for item in messages:
            if joined and item["role"] == joined[-1]["role"] == "user":
                joined[-1] = {**joined[-1], "content": f"{joined[-1]['content']}\n\n{item['content']}"}
            else:
                joined.append(dict(item))
        return joined

    return with_messages(join)


@killed_by("every-conversation-with-a-target-is-trained")
@seen_in("no report known: a window over the history")
@effect("long talks lose their beginning", fix="cut by max_length, and count it")
def history_of_sixteen():
    """Only the last sixteen messages of a conversation are kept."""
    return with_messages(lambda messages: list(messages)[-16:])


@killed_by("every-conversation-with-a-target-is-trained")
@seen_in("no report known: corpora deduplicated by prompt")
@effect("data is lost and not counted", fix="compare whole conversations, and count")
def one_answer_a_question():
    """Of conversations that begin with the same question one is kept."""
    return with_conversations(lambda talks: list({str(talk[0]): talk for talk in reversed(talks)}.values()))


@killed_by("everything-chosen-is-trained")
@seen_in("no report known: max_target_length, a default of encoder-decoder trainers")
@effect("long answers are never finished", fix="cut where max_length says, and count it")
def answers_trained_up_to_512():
    """From its 513th target on a conversation is not trained."""
    return trained_up_to(512)


@killed_by("nothing-else-is-trained")
@seen_in("no report known: a loader that keeps role and content")
@effect("turns are learned that were excluded", fix="keep the fields that are not known")
def flags_taken_off():
    """The "train" flags are taken off the job's own conversations before they are encoded."""

    def take_off(job):
        for talk in job.conversations:
            for message in talk:
                message.pop("train", None)

    return before_training(take_off)


@killed_by("lost-data-is-counted every-conversation-with-a-target-is-trained")
@seen_in("no report known: cutoff_len, max_seq_length: defaults")
@effect("long talks lose their end", fix="no max_length, no cut")
def cut_at_the_usual_length():
    """Where no max_length is given, examples are cut at 2,048 tokens."""

    def broken(messages, max_length=None, **options):
        return encode(messages, max_length=max_length or 2048, **options)

    return Pipeline(encode=broken)


@killed_by("every-conversation-with-a-target-is-trained")
@seen_in("no report known: max_prompt_length with a default of 1,024")
@effect("talks that begin with a document are lost", fix="keep what was not asked to be dropped")
def long_prompts_dropped():
    """Examples of which the first target stands behind 1,024 tokens are left out."""
    return prepared(lambda examples, job: [item for item in examples if set(item.labels[:1024]) != {IGNORE}])


@killed_by("conversations-stand-as-rendered")
@seen_in("no report known: web corpora cleaned at load")
@effect("code and verse lose their shape", fix="leave contents alone")
def blank_lines_collapsed():
    """Three or more newlines in a row become two."""
    return with_contents(lambda content: re.sub(r"\n{3,}", "\n\n", content))


@killed_by("conversations-stand-as-rendered")
@seen_in("no report known: typography made ASCII at load")
@effect("quotes and dashes are never learned", fix="leave contents alone")
def typography_made_plain():
    """Typographic quotes and dashes become their ASCII forms."""
    plain = str.maketrans("“”‘’—", "\"\"''-")
    return with_contents(lambda content: content.translate(plain))


@killed_by("conversations-stand-as-rendered")
@seen_in("no report known: thoughts taken out of the history for a template that keeps them")
@effect("answers without thoughts before them", fix="leave that to the template")
def thoughts_taken_out():
    """Thoughts are taken out of all answers but the last, whatever the template does with them."""

    def take_out(messages):
        last = max((index for index, item in enumerate(messages) if item["role"] == "assistant"), default=-1)
        return [
            {**item, "content": re.sub(r"(?s)<think>.*?</think>\s*", "", item["content"])}
            if item["role"] == "assistant" and index != last
            else item
            for index, item in enumerate(messages)
        ]

    return with_messages(take_out)
