"""Texts and turns that are tidied up on the way to the template, and flags that are taken off."""

from __future__ import annotations

import html

from sftspec.conformance.mutants import mutant
from sftspec.conformance.mutants.breaking import before_training, with_contents, with_conversations, with_messages


@mutant("conversations-stand-as-rendered", "a file opened in text mode", "other line ends than at inference",
        "read and write newline=''")  # fmt: skip
def line_ends_changed():
    """A carriage return before a newline is lost."""
    return with_contents(lambda content: content.replace("\r\n", "\n"))


@mutant("conversations-stand-as-rendered", "web corpora cleaned at load", "HTML is learned as what it would show",
        "leave contents alone")  # fmt: skip
def entities_unescaped():
    """HTML entities in contents are replaced by what they stand for."""
    return with_contents(html.unescape)


@mutant("conversations-stand-as-rendered", "variant of hiyouga/LLaMA-Factory#10772", "roles at inference do not match",
        "one message, one turn")  # fmt: skip
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


@mutant("every-conversation-with-a-target-is-trained", "a window over the history", "long talks lose their beginning",
        "cut by max_length, and count it")  # fmt: skip
def history_of_sixteen():
    """Only the last sixteen messages of a conversation are kept."""
    return with_messages(lambda messages: list(messages)[-16:])


@mutant("every-conversation-with-a-target-is-trained", "corpora deduplicated by prompt", "data is lost and not counted",
        "compare whole conversations, and count")  # fmt: skip
def one_answer_a_question():
    """Of conversations that begin with the same question one is kept."""
    return with_conversations(lambda talks: list({str(talk[0]): talk for talk in reversed(talks)}.values()))


@mutant("nothing-else-is-trained", "a loader that keeps role and content", "turns are learned that were excluded",
        "keep the fields that are not known")  # fmt: skip
def flags_taken_off():
    """The "train" flags are taken off the job's own conversations before they are encoded."""

    def take_off(job):
        for talk in job.conversations:
            for message in talk:
                message.pop("train", None)

    return before_training(take_off)
