"""A real teacher with a template of its own; a student with another; between them nothing but text."""

from __future__ import annotations

from collections import Counter

import pytest

from sftspec.conformance.breakit.classroom import (
    END_OF_TURN,
    LETTERS,
    dialogues,
    dictionary,
    encoded,
    make_model,
    teach,
    tokenizer,
    write_on,
)
from sftspec.data_distillation import Lesson, lessons_of
from sftspec.masking import encode
from sftspec.trainer import Pipeline

STUDENT = "chatml/openai"
QUESTIONS = [[{"role": "system", "content": "EXPLAIN"}, {"role": "user", "content": letter}] for letter in LETTERS]


@pytest.fixture(scope="module")
def teacher():
    """A model that has learnt the dictionary on Llama-3's template, as a function from a prompt to its raw text."""
    model = make_model(0)
    teach(model, Pipeline(), dialogues(0, 32 * 150))

    def write(prompt):
        asked = [message for message in prompt if message["role"] == "user"]
        return tokenizer().decode(write_on(model, [encoded(asked, add_generation_prompt=True).input_ids], 4)[0])

    return write


@pytest.mark.long
def test_the_student_learns_the_teachers_text_in_its_own_template(teacher):
    lessons = list(lessons_of(QUESTIONS, teacher, "llama3/hf", system=None))
    assert [lesson.index for lesson in lessons] == list(range(26)) and not any(lesson.skipped for lesson in lessons)
    words = dictionary(0)
    for letter, lesson in zip(LETTERS, lessons, strict=True):
        written = [{"role": "user", "content": letter}, {"role": "assistant", "content": words[letter]}]
        assert lesson.conversation == written
        example = encode(lesson.conversation, template=STUDENT, tokenizer=tokenizer())
        targets = [token for token in example.labels if token != -100]
        assert tokenizer().decode(targets) == words[letter] + "<|im_end|>"
        assert END_OF_TURN not in tokenizer().decode(example.input_ids)
    student = make_model(1)
    teach(student, Pipeline(), [lesson.conversation for lesson in lessons] * 120, template=STUDENT)
    prompts = [
        encode([{"role": "user", "content": x}], STUDENT, tokenizer(), add_generation_prompt=True).input_ids
        for x in LETTERS
    ]
    texts = [tokenizer().decode(ids).partition("<|im_end|>")[0] for ids in write_on(student, prompts, 4)]
    assert texts == list(words.values())


@pytest.mark.parametrize(
    ("system", "first"),
    [("keep", "EXPLAIN"), ("BRIEF", "BRIEF"), (None, "A")],
)
def test_the_prompt_that_made_the_teacher_explain_is_kept_replaced_or_erased(system, first):
    (lesson,) = lessons_of(QUESTIONS[:1], lambda prompt: f"X{END_OF_TURN}", "llama3/hf", system)
    assert lesson.conversation[0]["content"] == first
    assert [message["role"] for message in lesson.conversation[-2:]] == ["user", "assistant"]
    assert QUESTIONS[0][0]["content"] == "EXPLAIN"


def test_what_cannot_be_taught_is_skipped_and_counted():
    texts = ["never ends", f"  {END_OF_TURN}", f"a <|start_header_id|> b{END_OF_TURN}", f"good{END_OF_TURN}more"]
    lessons = list(lessons_of(QUESTIONS[:4], lambda prompt: texts[LETTERS.index(prompt[-1]["content"])], "llama3/hf"))
    reasons = Counter(lesson.skipped.split(":")[0] for lesson in lessons)
    assert reasons == {
        "the teacher's answer does not end": 1,
        "the teacher's answer is empty": 1,
        "the teacher's control token <|start_header_id|> stands in its answer": 1,
        "": 1,
    }
    assert lessons[0] == Lesson(0, None, "the teacher's answer does not end: it was cut off")
    assert lessons[3].conversation[-1]["content"] == "good"


def test_a_prefilled_answer_is_continued():
    prompt = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "<think>"}]
    (lesson,) = lessons_of([prompt], lambda prompt: f"X{END_OF_TURN}", "llama3/hf")
    assert lesson.conversation[-1] == {"role": "assistant", "content": "<think>X"}


def test_a_prompt_without_a_message_is_refused():
    with pytest.raises(ValueError, match="prompt 0 has no message"):
        list(lessons_of([[]], lambda prompt: "", "llama3/hf"))
