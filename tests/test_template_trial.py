"""Templates on trial: good ones pass, each planted bug fails the property that it is there for, and no code runs."""

from __future__ import annotations

import json

import pytest

from sftspec import properties
from sftspec.conformance.adapters import TrainerError
from sftspec.conformance.adapters.templates import templates_at
from sftspec.conformance.commands.cli import main
from sftspec.conformance.report.form import validate
from sftspec.conformance.trial.remembered_vocabulary import RememberedVocabulary
from sftspec.conformance.trial.template import (
    NOT_ASKED,
    OF_CALLS,
    TemplateOnTrial,
    against_goldens,
    put_template_on_trial,
    with_control_tokens_of,
)
from sftspec.conformance.trial.template_traits import traits_of_variants, variant_of
from sftspec.golden.small_tokenizer import load
from sftspec.jinja_templates import jinja_template
from sftspec.templates import TEMPLATES
from sftspec.vocabulary import Vocabulary

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
TEXTUAL = (
    "{% for m in messages %}{{ m.role + ': ' if m.role == 'user' else '' }}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% endfor %}"
)
MOVED = (
    "{% set system = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% for m in messages %}{% if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ (system if loop.index >= loop.length - 1 else '') + m.content + '<|im_end|>' }}{% endif %}"
    "{{ '\n' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def trial(source, names=(), variant=None, added=None, max_examples=100):
    template = jinja_template(source, bos_token="<|begin_of_text|>")
    variant = variant_of(template) if variant is None else variant
    candidate = TemplateOnTrial("mine", template, variant, with_control_tokens_of(added))
    chosen = [item for item in properties.load("template") if not names or item.id.split("/")[1] in names]
    verdicts = put_template_on_trial(candidate, chosen, max_examples=max_examples).verdicts
    return {verdict.property.id.split("/")[1]: verdict for verdict in verdicts}


FORGES = "no-call-thought-or-tool-becomes-a-control-token"
READ_BACK = "what-was-said-can-be-read-back"
ANSWER = "the-prompt-and-the-answer-are-the-training-text"
SUFFIX = "a-generation-prompt-opens-the-answer"
BOS = "one-bos-opens-the-sequence"
END = "every-answer-ends-in-one-end-of-turn-token"
PREFIX = "a-longer-conversation-begins-with-the-shorter-one"

PLANTED = {
    "header without its newline, gorilla#430": (READ_BACK, CHATML.replace("m.role + '\n'", "m.role + ' '", 1), None),
    "contents stripped": (READ_BACK, CHATML.replace("m.content", "m.content.strip()"), "chatml/openai"),
    "system dropped, aprender#2023": (
        "nothing-that-was-said-is-lost",
        "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}" + CHATML,
        None,
    ),
    "other generation prompt": (ANSWER, CHATML.replace("assistant\n", "assistant\n\n"), None),
    "no generation prompt, search-and-learn#23": (SUFFIX, CHATML.split("{% if add_generation_prompt")[0], None),
    "generation prompt always, first Llama-3": (SUFFIX, LLAMA3.replace("if add_generation_prompt", "if true"), None),
    "a message printed as it is": (
        "the-order-of-keys-changes-nothing", CHATML.replace("{{ m.content + ", "{{ m ~ "), None,
    ),
    "system moved to the last question": (PREFIX, MOVED, None),
    "markers are text": ("different-conversations-have-different-tokens", TEXTUAL, None),
    "BOS twice, OpenRLHF#393": (BOS, "{{ bos_token }}" + LLAMA3, None),
    "BOS removed, unsloth#10312": (BOS, LLAMA3.replace("{{ bos_token }}", ""), None),
    "end of turn outside of the generation block": (
        END, CHATML.replace("{{ m.content + '<|im_end|>' }}{% endgeneration %}",
                            "{{ m.content }}{% endgeneration %}{{ '<|im_end|>' }}"), None,
    ),
    "end of turn spelt": (END, CHATML.replace("'<|im_end|>'", "'<|im_end |>'"), None),
    "content outside of the generation block, trl#6361": (
        "the-first-token-after-the-prompt-is-a-target",
        CHATML.replace("{% generation %}{{ m.content + ", "{{ m.content }}{% generation %}{{ "), None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("source", [CHATML, LLAMA3], ids=["chatml", "llama3"])
def test_a_right_template_passes_what_can_be_asked_of_it(source):
    statuses = {name: verdict.status for name, verdict in trial(source).items()}
    assert {statuses.pop(name.split("/")[1]) for name in NOT_ASKED} == {"not-measured"}
    for name in ("a-call-has-one-text-in-every-form", "no-call-thought-or-tool-becomes-a-control-token", *OF_CALLS):
        assert statuses.pop(name.split("/")[-1]) == "not-measured"  # it has no place for calls, thoughts and tools
    assert len(statuses) == 26 and set(statuses.values()) == {"pass"}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_fails_its_property(bug):
    name, source, variant = PLANTED[bug]
    assert trial(source, [name], variant, max_examples=40)[name].status == "fail"


def test_the_plants_are_not_the_templates_themselves():
    assert len({source for _, source, _ in PLANTED.values()} | {CHATML, LLAMA3}) == len(PLANTED) + 2


def test_a_control_token_that_the_tokenizer_lacks_is_text():
    lacking = [token.content for token in load().get_added_tokens_decoder().values() if token.content != "<|im_end|>"]
    assert trial(CHATML, [END], added=lacking, max_examples=20)[END].status == "fail"
    small = with_control_tokens_of(lacking)
    assert small.encode("<|im_start|>a").ids == load().encode("<|im_start|>a").ids
    assert len(small.encode("<|im_end|>").ids) > 1


NEWLINE_TRAINED = (
    CHATML.replace("+ '<|im_end|>' }}{% endgeneration %}", "+ '<|im_end|>\n' }}{% endgeneration %}")
    .replace("{% endif %}{{ '\n' }}", "{{ '\n' }}{% endif %}")
)  # fmt: skip
EMPTY_DROPPED = (
    "{% set messages = messages[1:] if messages[0].role == 'system' and not messages[0].content else messages %}"
    + CHATML
)


@pytest.mark.parametrize(
    ("source", "convention"), [(NEWLINE_TRAINED, "trains the newline"), (EMPTY_DROPPED, "leaves an empty system")]
)
def test_a_convention_is_said_and_no_failure(source, convention):
    candidate = TemplateOnTrial("mine", jinja_template(source), "chatml/openai", load())
    assert len(candidate.habits) == 1 and candidate.habits[0].startswith(convention)
    names = [END, "no-content-becomes-a-control-token", READ_BACK]
    assert {verdict.status for verdict in trial(source, names).values()} == {"pass"}


def test_refused_conversations_are_not_failures_and_refusing_all_is_not_measured():
    no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
    assert trial(no_system, [BOS])[BOS].status == "pass"
    only_one = "{% if messages | length != 2 %}{{ raise_exception('two messages') }}{% endif %}" + CHATML
    verdict = trial(only_one, [PREFIX], "chatml/openai", max_examples=40)[PREFIX]
    assert verdict.status == "not-measured"


def test_what_renders_no_plain_conversation_is_not_measured_and_says_why():
    images = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"
    verdicts = trial(images, variant="")
    assert {verdict.status for verdict in verdicts.values()} == {"not-measured"}
    assert any("part" in verdict.reason or "renders no plain" in verdict.reason for verdict in verdicts.values())


def test_every_named_variant_is_recognised_by_its_text():
    known = traits_of_variants()
    same = {name: variant_of(TEMPLATES[name]) for name in TEMPLATES}
    assert same == {name: name for name in TEMPLATES} and len(known) == len(TEMPLATES)
    assert variant_of(jinja_template(CHATML)) == "chatml/openai"
    assert variant_of(jinja_template(LLAMA3, bos_token="<|begin_of_text|>")) == "llama3/hf"
    assert variant_of(jinja_template(CHATML.replace("im_start", "start"))) == ""


def test_goldens_tell_a_copy_from_its_variant():
    copy = against_goldens(jinja_template(CHATML), "chatml/openai")
    assert copy == (copy[1], copy[1], "") and copy[1] > 40
    equal, number, first = against_goldens(
        jinja_template(CHATML.replace("+ '<|im_end|>'", "+ '\n<|im_end|>'")), "chatml/openai"
    )
    assert equal < number and first.startswith("chatml/openai/")


def test_a_folder_of_templates_is_a_matrix_and_the_exit_code_is_that_of_the_worst(tmp_path, capsys):
    (tmp_path / "good.jinja").write_text(NEWLINE_TRAINED)
    (tmp_path / "bad.jinja").write_text(CHATML.replace("assistant\n", "assistant\n\n"))
    found = tmp_path / "found.json"
    select = ["--select", f"template/{ANSWER}"]
    assert main(["check", "template", str(tmp_path), "--json", str(found), *select]) == 1
    said = capsys.readouterr().out
    assert "2 templates on trial" in said and "1 of 2 templates does not conform" in said
    documents = {document["trainer"]["name"]: document for document in json.loads(found.read_text())}
    assert {name: item["verdicts"][0]["status"] for name, item in documents.items()} == {"good": "pass", "bad": "fail"}
    for document in documents.values():
        validate(document)
    assert main(["check", "template", str(tmp_path / "good.jinja"), *select]) == 0
    said = capsys.readouterr().out
    assert "judged as   chatml/openai" in said and "habits      trains the newline" in said


def test_a_tokenizer_folder_is_judged_with_its_tokens(tmp_path, capsys):
    (tmp_path / "tokenizer.json").write_text(load().to_str())
    config = {"chat_template": LLAMA3, "bos_token": "<|begin_of_text|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    folder = str(tmp_path)
    assert main(["check", "template", folder, "--tokenizer", folder, "--select", f"template/{BOS}"]) == 0
    assert "llama3/hf" in capsys.readouterr().out


def test_no_code_of_a_template_runs_when_it_is_judged(tmp_path):
    canary = tmp_path / "canary"
    attack = f"{{{{ cycler.__init__.__globals__.os.system('touch {canary}') }}}}"
    (tmp_path / "evil.jinja").write_text(attack + CHATML)
    assert main(["check", "template", str(tmp_path / "evil.jinja"), "--select", f"template/{BOS}"]) == 3
    assert not canary.exists()


@pytest.mark.parametrize(
    ("place", "words"),
    [("nowhere.jinja", "no template at"), ("trl:qwen3x", "did you mean qwen3"), ("chatml/opanai", "chatml/openai")],
)
def test_a_place_without_a_template_is_answered_with_what_there_is(place, words):
    pytest.importorskip("trl")
    with pytest.raises(TrainerError, match=words):
        list(templates_at(place))


def test_templates_of_trl_are_found_by_name():
    pytest.importorskip("trl")
    ((name, template),) = templates_at("trl:llama3")
    assert (name, template.end_of_turn, template.bos) == ("trl:llama3", "<|eot_id|>", "<|begin_of_text|>")


def test_options_of_templates_are_refused_for_a_trainer(capsys):
    assert main(["check", "reference", "x.jinja"]) == 2
    assert "sftspec check template" in capsys.readouterr().err


def test_the_tokenizer_that_trainers_are_given_renders_the_goldens():
    """What whole trainers are judged with on the witness is the published ChatML, by Hugging Face's own renderer."""
    from sftspec.conformance.witness.model import make_tokenizer
    from sftspec.golden.loader import load_cases

    tokenizer = make_tokenizer()
    cases = [case for case in load_cases(["chatml/openai"]) if case.text is not None]
    options = {"tokenize": False}
    found = {
        case.id: tokenizer.apply_chat_template(
            case.messages, add_generation_prompt=case.add_generation_prompt, **options
        )
        for case in cases
    }
    assert found == {case.id: case.text for case in cases} and len(cases) > 40


FAMILIES = {
    "Mistral's brackets, with spaces in contents as in Llama-2": (
        "{{ bos_token }}{% for m in messages %}{{ '[INST]' + m.content + '[/INST]' if m.role == 'user' else "
        "m.content + '</s>' if m.role == 'assistant' else '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}"
        "{% endfor %}"
    ),
    "OpenChat's roles": LLAMA3.replace("' + m.role + '", "' + ('GPT4 Correct ' + m.role | title) + '"),
    "words before each answer": LLAMA3.replace("{% generation %}{{ m", "{% generation %}{{ '>>>all\n' }}{{ m"),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_template_of_another_family_is_no_copy_of_a_named_variant(name):
    assert variant_of(jinja_template(FAMILIES[name], bos_token="<s>")) == ""


def test_a_chatml_with_a_bos_of_its_own_is_not_told_to_have_none():
    found = trial("{{ bos_token }}" + CHATML, [BOS])[BOS]
    assert found.status == "not-measured" and "opens with <|begin_of_text|>" in found.reason


def test_a_last_turn_without_its_newline_is_read_back():
    bare = CHATML.replace("{{ '\n' }}{% endfor %}", "{{ '' if loop.last else '\n' }}{% endfor %}")
    assert bare != CHATML and trial(bare, [READ_BACK])[READ_BACK].status == "pass"


def test_a_stretch_that_is_remembered_has_the_tokens_of_its_vocabulary(monkeypatch):
    asked = []
    real = Vocabulary.encode

    def heard(self, texts, literal):
        asked.extend(texts)
        return real(self, texts, literal)

    monkeypatch.setattr(Vocabulary, "encode", heard)
    texts = {("user\nHé", (5, 7)): None, ("<|im_end|>", (10,)): None}
    remembered, plain = RememberedVocabulary(load()), Vocabulary(load())
    for literal in (False, True, False, True):
        found, expected = remembered.encode(texts, literal), plain.encode(texts, literal)
        for text in texts:
            assert found[text].ids == expected[text].ids
            assert found[text].starts.tolist() == expected[text].starts.tolist()
            found[text].ids.clear()  # what is done to an answer does not reach the next one
    assert len(asked) == 2 * len(texts) + 4 * len(texts)


@pytest.mark.parametrize(
    ("thought", "status"),
    [("{{ m.reasoning_content }}", "pass"), ("", "not-measured"),
     ("{{ m.reasoning_content.split('<|im_end|>') | join('<|im_end|>') if m.reasoning_content }}", "fail")],
)  # fmt: skip
def test_a_template_that_is_no_variant_is_asked_for_control_tokens_in_thoughts(thought, status):
    source = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}" + thought + "<|im_end|>{% endfor %}"
    verdict = trial(source, [FORGES], "", max_examples=25)[FORGES]
    assert verdict.status == status and ("writes no tools, calls or thoughts" in verdict.reason) == (
        status == "not-measured"
    )


CALLING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}: {{ CONTENT }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }}{% for k, v in c.function.arguments.items() %} "
    "{{ k }}={{ ARGUMENT }}{% endfor %}</call>{% endfor %}<|im_end|>{% endfor %}"
)


@pytest.mark.parametrize(
    ("content", "argument", "statuses"),
    [("m.content or ''", "v | tojson", ["pass", "pass"]), ("m.content", "v | tojson", ["fail", "pass"]),
     ("m.role + m.content", "v | tojson", ["fail", "pass"]),
     ("m.content or ''", "v if v is string else v | string", ["pass", "fail"])],
    ids=["right", "says None", "adds None to a text", "Python's values"],
)  # fmt: skip
def test_calls_are_asked_of_a_template_that_writes_them(content, argument, statuses):
    names = [name.split("/")[1] for name in OF_CALLS]
    found = trial(CALLING.replace("CONTENT", content).replace("ARGUMENT", argument), names, "", max_examples=5)
    assert [found[name].status for name in names] == statuses


def test_a_call_that_is_python_may_say_none():
    source = CALLING.replace("CONTENT", "m.content or ''").replace("ARGUMENT", "v")
    source = source.replace(" {{ k", "{{ ', ' if not loop.first }}{{ k")
    as_python = source.replace("{{ c.function.name }}", "{{ c.function.name }}(").replace("</call>", ")</call>")
    name = OF_CALLS[1].split("/")[1]
    verdicts = [trial(each, [name], "", max_examples=5)[name] for each in (source, as_python)]
    assert [verdict.status for verdict in verdicts] == ["fail", "not-measured"]
    assert "Python's" in verdicts[1].reason


@pytest.mark.parametrize(
    ("source", "fields"),
    [(CHATML, ("results",)), (CALLING.replace("CONTENT", "m.content").replace("ARGUMENT", "v"),
     ("calls", "parallel calls", "results")),
     ("{% for m in messages %}{{ m.role }}{{ m.thinking or m.content }}<|im_end|>{% endfor %}", ("results",)),
     ("{% for message in messages %}{{ message.thinking }}{{ message.content }}<|im_end|>{% endfor %}",
      ("results", "thoughts"))],
    ids=["contents", "calls", "a name that is no message's", "thoughts as gpt-oss reads them"],
)  # fmt: skip
def test_what_a_template_takes_is_tried(source, fields):
    template = jinja_template(source, "mine", eos_token="<|im_end|>")
    assert TemplateOnTrial("mine", template, "", load()).fields == fields
