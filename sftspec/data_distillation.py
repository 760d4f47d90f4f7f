"""Data distillation: the teacher's text becomes a conversation, and from there on everything is ordinary SFT.

The rule. What crosses over from the teacher is text, never ids and never control tokens: its answer up to its own
end-of-turn token becomes the content of an assistant's message; the *student's* template, tokenizer and mask do
the rest (`sftspec.encode`). An answer without that token was cut off; trained, it would teach to stop in mid-sentence:
it is skipped and counted, as is one that is empty or still holds control tokens. The system prompt that made the
teacher explain may be erased or replaced, so that the student learns to do so unasked.

Why pipelines get it wrong: the teacher's end-of-turn stays in the text, where the student's tokenizer spells it out or,
worse, knows it; the student is fed the teacher's ids (DistillKit#7); answers that hit the token limit are kept.

Sources: Kim and Rush 2016 (arXiv:1606.07947, sequence-level distillation); Alpaca and Self-Instruct (arXiv:2212.10560);
Orca 2, section 4 (arXiv:2311.11045, prompt erasing). Law KD-SEQ; bug D-12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from sftspec.conversation import Conversation
from sftspec.rejection_sampling import answer
from sftspec.templates import find_template

Teacher = Callable[[Sequence[Mapping]], str]
"""prompt -> what the teacher wrote, decoded with its control tokens, its end-of-turn token included."""

KEEP = "keep"


@dataclass(frozen=True)
class Lesson:
    """What one prompt yielded.

    index         place of the prompt among all prompts
    conversation  to train the student on; None when the prompt is skipped
    skipped       why there is nothing to train on ("" when there is)
    """

    index: int
    conversation: Conversation | None
    skipped: str = ""


def lessons_of(
    prompts: Sequence[Sequence[Mapping]], teacher: Teacher, teacher_template: str, system: str | None = KEEP
) -> Iterator[Lesson]:
    """One lesson for each prompt, in order, so that each can be written down before the next is asked for.

    prompts           conversations up to where the assistant is to answer, as the teacher is to see them
    teacher_template  the name of the teacher's template, whose control tokens must not cross over
    system            the student's system prompt instead of the teacher's: "keep" it, None erases it, else this text

    Raises ValueError for a prompt without a message, TemplateError for a template that does not exist.

    >>> prompts = [[{"role": "user", "content": "1 + 1"}]]
    >>> (lesson,) = lessons_of(prompts, lambda prompt: "2<|im_end|>", "chatml/openai")
    >>> lesson.conversation[-1]
    {'role': 'assistant', 'content': '2'}
    >>> (lesson,) = lessons_of(prompts, lambda prompt: "the sum is", "chatml/openai")
    >>> lesson.skipped
    "the teacher's answer does not end: it was cut off"
    """
    variant = find_template(teacher_template)
    for index, prompt in enumerate(prompts):
        if not prompt:
            raise ValueError(f"prompt {index} has no message: remove it")
        # KD-SEQ: text crosses over, up to the teacher's own end of turn, and no token of its template.
        text, end, _ = teacher(prompt).partition(variant.end_of_turn)
        left = [token for token in variant.control if token in text]
        if not end:
            yield Lesson(index, None, "the teacher's answer does not end: it was cut off")
        elif left:
            yield Lesson(index, None, f"the teacher's control token {left[0]} stands in its answer")
        elif not text.strip():
            yield Lesson(index, None, "the teacher's answer is empty")
        else:
            yield Lesson(index, erase_prompt(answer(prompt, text), system))


def erase_prompt(conversation: Conversation, system: str | None) -> Conversation:
    """Orca 2's prompt erasing: the system message is kept ("keep"), left out (None), or replaced by another text.

    >>> taught = Conversation([{"role": "system", "content": "Explain."}, {"role": "user", "content": "1 + 1"}])
    >>> list(erase_prompt(taught, None))
    [{'role': 'user', 'content': '1 + 1'}]
    """
    if system == KEEP:
        return conversation
    rest = [message for message in conversation if message["role"] != "system"]
    first = [] if system is None else [{"role": "system", "content": system}]
    return Conversation([*first, *rest], conversation.source, conversation.tools)
