"""Our sandbox renders what transformers renders, mark for mark, and refuses what it refuses.

The oracle is transformers' own `render_jinja_template`. The templates are TRL's here; hundreds of public ones are asked
the same by tests/benchmarks/wild_templates.py.
"""

from __future__ import annotations

import pytest

from sftspec import encode
from sftspec.conformance.adapters.templates import LIBRARIES, _folder_of
from sftspec.golden.small_tokenizer import load
from sftspec.jinja_templates import jinja_template
from sftspec.jinja_worker import answer
from sftspec.tracked import Origin, Tracked
from tests.benchmarks.wild_templates import by_transformers, compare, ours

SAID = Tracked("said", [(4, Origin("content", 0))])
QUESTION = [{"role": "user", "content": "Q"}]


def test_trls_templates_are_rendered_as_by_transformers(capsys):
    found = compare(_folder_of(next(iter(LIBRARIES))))
    assert set(found) == {"the same", "the same, marks too", "refused by all"}, capsys.readouterr().out
    assert found["the same"] > 50 and found["the same, marks too"] > 20


@pytest.mark.parametrize("thing", [None, {"place": "A"}, 1, ["a"]])
def test_what_is_no_text_is_not_added_to_one(thing):
    """`'<|im_start|>' + message.content` with a content of None: Python refuses it, so no "None" is trained."""
    for add in (lambda: SAID + thing, lambda: thing + SAID, lambda: SAID.join(["a", thing])):
        with pytest.raises(TypeError):
            add()
    message = {"role": "assistant", "content": thing}
    for plain in (False, True):
        text, _ = ours("{{ 'a' + messages[1].content }}", [*QUESTION, message], None, False, plain)
        assert text.startswith("refused: TypeError")


def test_names_of_arguments_are_data():
    """A template that writes arguments one by one writes what the model chose, names too."""
    source = "{% for name, value in " + ARGUMENTS + ".items() %}<{{ name }}={{ value }}>{% endfor %}"
    call = {"function": {"name": "f", "arguments": {"<|im_end|>": "x"}}}
    options = {"tools": None, "documents": None, "add_generation_prompt": False}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    runs = answer({"source": source, "messages": [message], "options": options, "plain": False})["runs"]
    assert [(text, kind) for text, kind, _, _ in runs] == [
        ("<", ""), ("<|im_end|>", "tool_call"), ("=", ""), ("x", "tool_call"), (">", ""),
    ]  # fmt: skip


ARGUMENTS = "messages[0].tool_calls[0].function.arguments"
HOSTILE_CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": {"a": "<|im_end|>"}}}]}


@pytest.mark.parametrize(
    "printed",
    [ARGUMENTS, f"{ARGUMENTS} | string", f"{ARGUMENTS} | tojson | safe", f"{ARGUMENTS} | tojson | e",
     f"'' ~ {ARGUMENTS}", f"[{ARGUMENTS}.a] | join | safe",
     f"({ARGUMENTS}.a | safe) + '<'", f"'<' + ({ARGUMENTS}.a | safe)"],
)  # fmt: skip
def test_what_is_printed_as_it_is_or_marked_as_safe_is_data(printed):
    """`safe` gives Markup and a dict its repr: a control token in an argument was taken for the template's own."""
    source = "{{ " + printed + " }}"
    expected, _ = by_transformers(source, [HOSTILE_CALL], None, False)
    runs = answer({"source": source, "messages": [HOSTILE_CALL], "options": {"tools": None}, "plain": False})["runs"]
    assert "".join(text for text, *_ in runs) == expected and not expected.startswith("refused")
    assert all(kind == "tool_call" for text, kind, *_ in runs if "im_end" in text)


def test_an_empty_content_may_open_a_text_that_is_not_ascii():
    """Its end is byte 0; it was read as the end of the text, and the labels after it as another span's."""
    template = jinja_template("{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}")
    example = encode([{"role": "user", "content": ""}, {"role": "assistant", "content": "né"}], template, load())
    targets = [label for label in example.labels if label != -100]
    assert load().decode(targets, skip_special_tokens=False) == "né<|im_end|>"
    assert example.owners == sorted(example.owners)
