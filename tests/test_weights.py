"""Weights of messages, records and spans: read from the forms of others, carried to the loss, said by show and audit.

Every expected weight is counted by hand: the small tokenizer makes a token of each letter of "AB CD" and of the space,
and a turn of ChatML ends in one <|im_end|>.
"""

import json

import pytest
import torch

from sftspec import collate, encode, load_conversations, render, sft_loss
from sftspec.conformance.commands.cli import main
from sftspec.conversation import ConversationError
from sftspec.formats import read_record
from sftspec.golden import small_tokenizer
from sftspec.masking import IGNORE
from sftspec.spans import TemplateError
from sftspec.step import sft_step

ASK, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "AB CD"}
SIX = 6  # A, B, space, C, D, <|im_end|>


def weights(record, template="chatml/openai", **options):
    """The weights of all targets, in order."""
    read = read_record(json.loads(json.dumps(record)), "data.jsonl:1")
    example = encode(read, template, small_tokenizer.load(), **options)
    if example.weights is None:
        return [1.0] * example.num_targets
    assert all((label == IGNORE) == (not weight) for label, weight in zip(example.labels, example.weights, strict=True))
    return [weight for weight in example.weights if weight]


@pytest.mark.parametrize("fields", [
    {"weight": 0.5}, {"loss_scale": 0.5}, {"loss": True, "loss_scale": 0.5}, {"loss_weight": 0.5},
    {"weight": 0.5, "train": True},
])  # fmt: skip
def test_a_fraction_weighs_the_targets_of_its_message(fields):
    assert weights({"messages": [ASK, ANSWER, ASK, {**ANSWER, **fields}]}) == [1.0] * SIX + [0.5] * SIX


def test_a_weight_of_the_record_multiplies_those_of_its_messages():
    record = {
        "messages": [ASK, {**ANSWER, "weight": 0.5}, ASK, ANSWER, ASK, {**ANSWER, "train": False}],
        "weight": 0.25,
    }
    assert weights(record) == [0.125] * SIX + [0.25] * SIX
    assert weights({"instruction": "Q", "output": "AB CD", "sample_weight": 2.0}) == [2.0] * SIX


DETAIL = [{"begin_offset": 0, "end_offset": 1, "train": False}, {"begin_offset": 3, "end_offset": 4, "train": True}]
PARTS = [{"type": "text", "text": "AB"}, {"type": "text", "text": " CD", "train": False}]


@pytest.mark.parametrize("tokenization", ["whole", "segmented", "answers"])
@pytest.mark.parametrize(("answer", "expected"), [
    ({**ANSWER, "train_detail": DETAIL}, "CD<|im_end|>"),
    ({**ANSWER, "training_detail": DETAIL[:1]}, "<|im_end|>"),
    ({**ANSWER, "content": PARTS}, "AB<|im_end|>"),
    ({**ANSWER, "weight_spans": [[2, 5, 1.0]]}, " CD<|im_end|>"),
])  # fmt: skip
def test_spans_of_an_answer_are_trained_as_they_say(answer, expected, tokenization):
    read = read_record({"messages": [ASK, answer]}, "data.jsonl:1")
    whole = encode([ASK, ANSWER], "chatml/openai", small_tokenizer.load(), tokenization=tokenization)
    example = encode(read, "chatml/openai", small_tokenizer.load(), tokenization=tokenization)
    targets = [label for label in example.labels if label != IGNORE]
    assert small_tokenizer.load().decode(targets, skip_special_tokens=False) == expected
    assert example.input_ids == whole.input_ids  # a weight changes no token


def test_spans_and_weights_multiply_and_a_cut_takes_both():
    answer = {**ANSWER, "weight": 0.5, "weight_spans": [[0, 2, 0.5], [3, 5, 1.0]]}
    assert weights({"messages": [ASK, answer]}) == [0.25, 0.25, 0.5, 0.5, 0.5]
    whole = encode([ASK, answer], "chatml/openai", small_tokenizer.load())
    cut = encode([ASK, answer], "chatml/openai", small_tokenizer.load(), max_length=len(whole) - 2)
    assert cut.weights == whole.weights[:-2] and len(cut.labels) == len(cut.weights)


def test_a_token_on_an_edge_weighs_the_more():
    """ "\\n\\n" is one token of the small tokenizer, as of Qwen's."""
    answer = {"role": "assistant", "content": "A\n\nB", "weight_spans": [[0, 2, 1.0], [2, 4, 0.5]]}
    example = encode([ASK, answer], "chatml/openai", small_tokenizer.load())
    assert [weight for weight in example.weights if weight] == [1.0, 1.0, 0.5, 1.0]


def test_a_template_that_trims_moves_the_spans_with_the_text():
    answer = {"role": "assistant", "content": "  AB CD ", "weight_spans": [[0, 4, 0.5], [4, 8, 1.0]]}
    rendered = render([ASK, answer], "llama3/hf")
    parts = zip(rendered.spans, rendered.weights, strict=True)
    found = [(rendered.text[span.start : span.end], weight) for span, weight in parts if span.message == 1]
    assert found[1:] == [("AB", 0.5), (" CD", 1.0), ("<|eot_id|>", 1.0)]


def test_spans_that_a_template_does_not_write_as_they_stand_are_refused():
    answer = {"role": "assistant", "content": "<think>x</think>AB", "weight_spans": [[0, 3, 1.0]]}
    with pytest.raises(TemplateError, match="message 1: chatml/qwen3 does not write this content as it stands"):
        render([ASK, answer, ASK, ANSWER], "chatml/qwen3")


@pytest.mark.parametrize(("answer", "words"), [
    ({**ANSWER, "train_detail": [{"begin_offset": 3, "end_offset": 5, "train": True}]}, "no part of the content"),
    ({**ANSWER, "train_detail": [{"begin_offset": 0, "end_offset": 3}]}, "expected begin_offset"),
    ({**ANSWER, "train_detail": [*DETAIL, DETAIL[0]]}, "the character 0 is in two spans"),
    ({**ANSWER, "train_detail": DETAIL, "weight_spans": [[0, 1, 1]]}, "both say what"),
    ({**ANSWER, "train_detail": DETAIL, "reasoning": "x"}, "beside a thought or a call"),
    ({**ASK, "train_detail": DETAIL}, "this message is from user"),
    ({**ASK, "content": PARTS}, "this message is from user"),
    ({**ANSWER, "weight_spans": "all"}, "is 'all', not a list"),
])  # fmt: skip
def test_spans_that_cannot_be_read_exactly_are_refused_with_their_place(answer, words):
    with pytest.raises(ConversationError, match=f"data.jsonl:1, message 1: .*{words}"):
        read_record({"messages": [ASK, answer]}, "data.jsonl:1")


def test_the_loss_of_a_weighted_batch_is_the_weighted_mean():
    """Against torch's own cross-entropy, target by target."""
    tokenizer = small_tokenizer.load()
    half, one = (encode([ASK, {**ANSWER, **more}], tokenizer=tokenizer) for more in ({"weight": 0.5}, {}))
    batch = collate([half, one], pad_token_id=0)
    assert batch.weights.shape == batch.labels.shape and batch.summed_weight == 0.5 * SIX + SIX
    logits = torch.randn(*batch.labels.shape, tokenizer.get_vocab_size(), generator=torch.manual_seed(0)).double()
    losses = [
        torch.nn.functional.cross_entropy(row[:-1].double(), labels[1:], ignore_index=IGNORE, reduction="sum")
        for row, labels in zip(logits, batch.labels, strict=True)
    ]
    expected = (0.5 * losses[0] + losses[1]) / (0.5 * SIX + SIX)
    assert torch.allclose(sft_loss(logits, batch.labels, weights=batch.weights), expected, rtol=1e-12)
    assert collate([one, one], pad_token_id=0).weights is None


class Table(torch.nn.Embedding):
    def forward(self, input_ids, **ignored):
        return type("Output", (), {"logits": super().forward(input_ids)})


def test_a_step_divides_by_what_all_of_its_targets_weigh():
    """Two micro-batches, one of half weight: the update is that of the weighted mean over both."""
    tokenizer = small_tokenizer.load()
    size = tokenizer.get_vocab_size()
    half, one = (encode([ASK, {**ANSWER, **more}], tokenizer=tokenizer) for more in ({"weight": 0.5}, {}))
    models = [Table(size, size, _weight=torch.zeros(size, size, dtype=torch.float64)) for _ in range(2)]
    apart = [collate([half], pad_token_id=0), collate([one], pad_token_id=0)]
    together = [collate([half, one], pad_token_id=0)]
    reports = [
        sft_step(model, batches, torch.optim.SGD(model.parameters(), lr=1.0))
        for model, batches in zip(models, (apart, together), strict=True)
    ]
    assert [report.num_targets for report in reports] == [2 * SIX] * 2
    assert (
        reports[0].loss
        == pytest.approx(reports[1].loss, rel=1e-12)
        == pytest.approx(torch.log(torch.tensor(size)).item())
    )
    assert torch.allclose(models[0].weight, models[1].weight, rtol=1e-12)


def test_show_and_audit_say_what_the_targets_weigh(tmp_path, capsys):
    path, document = tmp_path / "data.jsonl", tmp_path / "out.json"
    records = [{"messages": [ASK, {**ANSWER, "weight": 0.5}]}, {"messages": [ASK, ANSWER]}]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert len(load_conversations(path)) == 2
    main(["show", str(path)])
    assert f"{SIX} of 16 tokens trained, weighing 3.00" in capsys.readouterr().out
    main(["audit", str(path), "--json", str(document)])
    assert "together the targets weigh 9.00 in the loss, not 12" in capsys.readouterr().out
    assert json.loads(document.read_text())["weight"] == 9.0
