"""Rows as TRL prepares them, dumped as a user would: right ones pass, and each planted fault is named."""

from __future__ import annotations

import json

import pytest

from sftspec import encode_batch, load_conversations
from sftspec.conformance.audit.prepared import CAPACITY, POSITIONS, READ, chosen_properties
from sftspec.conformance.commands.cli import main
from sftspec.golden import small_tokenizer

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
)
END = small_tokenizer.load().token_to_id("<|im_end|>")
CITIES = ("rome", "oslo", "bern", "kiev", "lima", "cairo", "delhi", "tokyo", "quito", "accra")
TALKS = [
    {"messages": [
        {"role": "user", "content": f"question {number} about {city}"},
        {"role": "assistant", "content": f"answer {city} {number * 7}"},
        *([{"role": "user", "content": f"and {city}{number}?"}, {"role": "assistant", "content": f"yes {number}"}]
          if number % 3 == 0 else []),
    ]}
    for number, city in enumerate(CITIES * 2)
]  # fmt: skip


@pytest.fixture(scope="module")
def trl(tmp_path_factory):
    """TRL's own preparation: plain rows, rows packed by bfd and by wrapped, rows cut to 60 tokens."""
    pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    folder = tmp_path_factory.mktemp("prepared")
    (folder / "talks.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in TALKS))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=small_tokenizer.load(), chat_template=TEMPLATE, eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    model = LlamaForCausalLM(config)
    for name, options in {
        "plain": {"max_length": None},
        "packed": {"packing": True, "packing_strategy": "bfd", "max_length": 256},
        "wrapped": {"packing": True, "packing_strategy": "wrapped", "max_length": 256},
        "cut": {"max_length": 60},
    }.items():
        settings = SFTConfig(
            output_dir=str(folder / name), assistant_only_loss=True, report_to=[], use_cpu=True, bf16=False, **options
        )
        trainer = SFTTrainer(
            model=model, args=settings, train_dataset=Dataset.from_list(TALKS), processing_class=tokenizer
        )
        trainer.train_dataset.to_json(folder / f"{name}.jsonl")
        trainer.train_dataset.to_parquet(folder / f"{name}.parquet")
    return folder


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def judged(folder, rows, *options, data=True, code=None):
    """(ids of must properties that fail, the document) of these rows."""
    path = rows
    if isinstance(rows, list):
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = folder / "verdicts.json"
    conversations = ["--data", str(folder / "talks.jsonl")] if data else []
    found = main(["audit", "--prepared", str(path), *conversations, "--json", str(out), *options])
    document = json.loads(out.read_text())
    assert code is None or found == code, document["failed"]
    return set(document["failed"]), document


def status(document):
    return {item["id"]: item["status"] for item in document["verdicts"]}


def test_the_template_that_made_the_rows_is_named(trl, capsys):
    for given, said in (("chatml/openai", ""), ("chatml/qwen2.5", "chatml/openai"), ("llama3/hf", "chatml/openai")):
        _, document = judged(trl, trl / "plain.jsonl", "--template", given)
        assert document["likely_template"] == said
        assert (f"with --template {said}" in " ".join(capsys.readouterr().out.split())) == bool(said)


@pytest.mark.parametrize("file", ["plain.jsonl", "plain.parquet", "packed.jsonl", "packed.parquet", "cut.jsonl"])
def test_what_trl_prepares_passes(trl, file):
    failed, document = judged(trl, trl / file, code=0)
    assert not failed and document["matched"] == len(TALKS) and not document["shifted"]
    measured = {name for name, found in status(document).items() if found == "pass"}
    expected = {"nothing-else-is-trained", "everything-chosen-is-trained", "end-of-turn-is-trained",
                "each-target-is-the-next-token", "every-position-has-an-origin"}  # fmt: skip
    assert {f"masking/{name}" for name in expected} <= measured
    packed = file.startswith("packed")
    assert document["packed"] == packed
    assert ("packing/packed-examples-are-whole" in measured) == packed
    assert ("packing/positions-restart-with-each-example" in measured) == packed  # TRL writes seq_lengths
    assert (document["max_length"] == 60) == file.startswith("cut")
    reasons = {item["id"]: item["reason"] for item in document["verdicts"] if item["status"] == "not-measured"}
    assert "reads a gradient" in reasons["packing/examples-do-not-see-each-other"]


def test_what_is_read_off_rows_are_properties_of_a_run():
    known = {item.id for item in chosen_properties()}
    assert set(READ) <= known and {POSITIONS, CAPACITY} <= set(READ)


def test_wrapped_packing_splits_conversations(trl):
    failed, document = judged(trl, trl / "wrapped.jsonl", code=1)
    assert failed == {"packing/packed-examples-are-whole"}
    verdict = next(item for item in document["verdicts"] if item["id"] in failed)
    assert verdict["counterexample"]["scenario"].startswith("wrapped.jsonl:")


def trained_all(rows):
    return [row | {"labels": row["input_ids"]} for row in rows]


def end_masked(rows):
    return [row | {"labels": [-100 if label == END else label for label in row["labels"]]} for row in rows]


def last_only(rows):
    changed = []
    for row in rows:
        labels = list(row["labels"])
        last = max(place for place, label in enumerate(labels) if label != -100)
        first = max(place for place in range(last) if labels[place] == -100)
        changed.append(row | {"labels": [-100] * first + labels[first:]})
    return changed


def first_lost(rows):
    return [
        row | {"labels": [-100 if place and row["labels"][place - 1] == -100 else label
                          for place, label in enumerate(row["labels"])]}
        for row in rows
    ]  # fmt: skip


def shifted_twice(rows):
    return [row | {"labels": [*row["labels"][2:], -100, -100]} for row in rows]


def one_lost(rows):
    return rows[1:]


def newline_lost(rows):
    newline = small_tokenizer.load().token_to_id("Ċ")
    changed = []
    for row in rows:
        keep = [n for n, token in enumerate(row["input_ids"]) if token != newline or row["input_ids"][n - 1] != END]
        changed.append({key: [row[key][n] for n in keep] for key in ("input_ids", "labels")})
    return changed


def prompt_put_in(rows):
    extra = small_tokenizer.load().encode("You are kind.").ids
    before = {"input_ids": extra, "labels": [-100] * len(extra)}
    return [{key: [*more, *row[key]] for key, more in before.items()} for row in rows]


def padding_trained(rows):
    width = max(len(row["input_ids"]) for row in rows) + 3
    return [
        {key: row[key] + [END] * (width - len(row["input_ids"])) for key in ("input_ids", "labels")} | {
            "attention_mask": [1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"]))}
        for row in rows
    ]  # fmt: skip


def positions_counted_on(rows):
    return [{"input_ids": row["input_ids"], "labels": row["labels"], "position_ids": list(range(len(row["input_ids"])))}
            for row in rows]  # fmt: skip


FAULTS = {
    trained_all: "masking/nothing-else-is-trained", end_masked: "masking/end-of-turn-is-trained",
    last_only: "masking/everything-chosen-is-trained", first_lost: "masking/first-token-of-an-answer-is-trained",
    shifted_twice: "masking/each-target-is-the-next-token",
    one_lost: "masking/every-conversation-with-a-target-is-trained",
    newline_lost: "masking/conversations-stand-as-rendered", prompt_put_in: "masking/every-position-has-an-origin",
    padding_trained: "masking/padding-is-never-trained",
    positions_counted_on: "packing/positions-restart-with-each-example",
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_named(trl, fault):
    file = "packed.jsonl" if fault is positions_counted_on else "plain.jsonl"
    failed, _ = judged(trl, fault(rows_of(trl / file)), code=1)
    assert FAULTS[fault] in failed


def masks(rows, shift=0, name="loss_mask"):
    """The labels as a mask, in line or one place before."""
    marked = [[int(label != -100) for label in row["labels"]] for row in rows]
    return [
        {"input_ids": row["input_ids"], name: mask[shift:] + [0] * shift}
        for row, mask in zip(rows, marked, strict=True)
    ]


@pytest.mark.parametrize("name", ["loss_mask", "completion_mask", "assistant_masks", "weights"])
@pytest.mark.parametrize("shift", [0, 1])
def test_where_a_mask_stands_is_found_out_and_said(trl, name, shift):
    failed, document = judged(trl, masks(rows_of(trl / "plain.jsonl"), shift, name), code=0)
    assert not failed and document["shifted"] == bool(shift) and "agree with the conversations" in document["how"]


def test_labels_that_were_shifted_already_are_found_out_and_wrong_where_they_must_not_be(trl):
    rows = [row | {"labels": [*row["labels"][1:], -100]} for row in rows_of(trl / "plain.jsonl")]
    failed, document = judged(trl, rows, code=0)
    assert not failed and document["shifted"]
    failed, _ = judged(trl, rows, "--labels", "aligned", code=1)
    assert "masking/each-target-is-the-next-token" in failed


def test_two_masks_are_on_together(trl):
    rows = [row | {"completion_mask": [1] * len(row["input_ids"])} for row in masks(rows_of(trl / "plain.jsonl"))]
    failed, document = judged(trl, rows, code=0)
    assert not failed and document["column"] == "loss_mask and completion_mask"


@pytest.mark.parametrize("key", ["seq_idx", "cu_seqlens", "segment_ids", "position_ids"])
def test_segments_say_where_positions_restart(trl, key):
    rows = []
    for row in rows_of(trl / "packed.jsonl"):
        lengths = row["seq_lengths"]
        flat = [number for number, length in enumerate(lengths) for _ in range(length)]
        told = {
            "seq_idx": flat, "segment_ids": [number + 1 for number in flat],
            "cu_seqlens": [sum(lengths[:n]) for n in range(len(lengths) + 1)],
            "position_ids": [place for length in lengths for place in range(length)],
        }[key]  # fmt: skip
        rows.append({"input_ids": row["input_ids"], "labels": row["labels"], key: told})
    failed, document = judged(trl, rows, code=0)
    assert not failed and status(document)["packing/positions-restart-with-each-example"] == "pass"
    joined = [row | {key: [0] * len(row[key]) if key != "cu_seqlens" else [0, len(row["input_ids"])]} for row in rows]
    if key != "position_ids":
        assert "packing/positions-restart-with-each-example" in judged(trl, joined, code=1)[0]


def test_padded_rows_of_safetensors_are_read(trl):
    import numpy as np
    from safetensors.numpy import save_file

    rows = rows_of(trl / "plain.jsonl")
    width = max(len(row["input_ids"]) for row in rows)
    tensors = {
        name: np.array([row[key] + [fill] * (width - len(row[key])) for row in rows])
        for name, key, fill in (("input_ids", "input_ids", END), ("labels", "labels", -100))
    }
    tensors["attention_mask"] = np.array([[place < len(row["labels"]) for place in range(width)] for row in rows], int)
    save_file(tensors, trl / "rows.safetensors")
    failed, document = judged(trl, trl / "rows.safetensors", code=0)
    assert not failed and document["rows"] == len(TALKS)
    assert status(document)["masking/padding-is-never-trained"] == "pass"


def test_rows_by_our_own_encoder_pass(trl):
    examples = encode_batch(load_conversations(trl / "talks.jsonl"), "chatml/openai", small_tokenizer.load())
    rows = [{"input_ids": item.input_ids, "labels": item.labels} for item in examples]
    assert judged(trl, rows, code=0)[0] == set()


def test_a_convention_is_declared(trl):
    from sftspec import Conventions

    talks = load_conversations(trl / "talks.jsonl")
    examples = encode_batch(talks, "chatml/openai", small_tokenizer.load(), conventions=Conventions(separator=True))
    rows = [{"input_ids": item.input_ids, "labels": item.labels} for item in examples]
    assert "masking/nothing-else-is-trained" in judged(trl, rows, code=1)[0]
    assert judged(trl, rows, "--convention", "separator=true", code=0)[0] == set()


def test_rows_alone_show_what_they_can(trl):
    rows = rows_of(trl / "plain.jsonl")
    assert judged(trl, rows, data=False, code=0)[1]["verdicts"] == []
    for fault, name in ((shifted_twice, "labels of other tokens"), (padding_trained, "padding trained")):
        _, document = judged(trl, fault(rows), data=False, code=1)
        assert {item["name"] for item in document["findings"] if item["rows"]} >= {name}
    packed = [row | {"labels": row["input_ids"]} for row in rows_of(trl / "packed.jsonl")]
    _, document = judged(trl, packed, data=False, code=1)
    assert next(item for item in document["findings"] if item["name"] == "boundaries trained")["rows"] == len(packed)
    _, document = judged(trl, [rows[0], rows[0], end_masked(rows)[1]], "--tokenizer", "small", data=False)
    found = {item["name"]: item["examples"] for item in document["findings"] if item["rows"]}
    assert found["duplicates"] == [{"place": "rows.jsonl:2", "note": "as rows.jsonl:1"}] and "ends untrained" in found


@pytest.mark.parametrize(("row", "words"), [
    ({"input_ids": [1, 2, 3], "labels": [1, 2]}, "labels has 2 entries for 3 tokens"),
    ({"input_ids": [1, 2], "other": [1, 2]}, "nothing marks its targets"),
    ({"labels": [1, 2]}, "it has no input_ids"),
    ({"input_ids": ["a"], "labels": [1]}, "input_ids holds 'a'"),
    ({"input_ids": {"0": 1}, "labels": [1]}, "input_ids is {'0': 1}, not a list"),
    ({"input_ids": [1, 2], "labels": [None, 2]}, "labels holds None"),
    ({"input_ids": [], "labels": []}, "input_ids is empty"),
    ({"input_ids": [1, 2], "labels": [1, 2], "cu_seqlens": [0, 1]}, "it has to rise from 0 to 2"),
    ({"input_ids": [1, 2], "labels": [1, 2], "seq_lengths": [1, 2]}, "seq_lengths add up to 3"),
    ([1, 2], "expected an object"),
])  # fmt: skip
def test_a_bad_row_is_named_and_the_others_are_judged(trl, row, words):
    _, document = judged(trl, [row, *rows_of(trl / "plain.jsonl")], code=1)
    (bad,) = document["bad_rows"]
    assert bad["place"] == "rows.jsonl:1" and words in bad["reason"] and document["rows"] == len(TALKS)


@pytest.mark.parametrize(("options", "words"), [
    (["--data", "OTHER"], "give the template and tokenizer that the rows were made with"),
    (["--data", "TALKS", "--convention", "taste=good"], "known are end_of_turn"),
    (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
])  # fmt: skip
def test_what_does_not_belong_together_is_refused(trl, capsys, options, words):
    other = trl / "other.jsonl"
    other.write_text(json.dumps({"messages": [{"role": "user", "content": "ZZZ 99"}]}))
    names = {"TALKS": str(trl / "talks.jsonl"), "OTHER": str(other)}
    options = [names.get(item, item) for item in options]
    assert main(["audit", "--prepared", str(trl / "plain.jsonl"), *options]) == 2
    assert words in capsys.readouterr().err
    assert main(["audit"]) == 2 and "give files of conversations" in capsys.readouterr().err


ASK, SAY = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "AB CD"}


def differing(folder, conversations, rows, *options):
    """{(what, where): (rows, times, the texts)} of rows against their conversations, and what the report says."""
    (folder / "talks.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in conversations))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = ["--prepared", str(folder / "rows.jsonl"), "--data", str(folder / "talks.jsonl")]
    main(["audit", *files, "--template", "chatml/openai", "--json", str(folder / "out.json"), *options])
    found = json.loads((folder / "out.json").read_text())["differences"]
    return {(item["what"], item["where"]): (item["rows"], item["times"], dict(item["texts"])) for item in found}


def row_of(example, **more):
    return {"input_ids": list(example.input_ids), "labels": list(example.labels), **more}


def test_every_difference_from_the_reference_is_named_and_counted(tmp_path, capsys):
    talks = [[ASK, SAY, ASK, {**SAY, "content": f"EF {number}"}] for number in "123"]
    right = [row_of(example) for example in encode_batch(talks, tokenizer=small_tokenizer.load())]
    assert differing(tmp_path, talks, right) == {}
    assert "no difference from the reference, in 3 rows" in capsys.readouterr().out
    wrong = json.loads(json.dumps(right))
    ends = [place for place, token in enumerate(wrong[0]["input_ids"]) if token == END]
    wrong[0]["labels"][ends[-1]] = -100  # the last end of turn is not trained
    wrong[1]["labels"][ends[0]] = END  # and a user's is
    for row in wrong[2].values():  # the last newline is left out
        del row[-1]
    assert differing(tmp_path, talks, wrong) == {
        ("not trained", "end_of_turn of the last message"): (1, 1, {"'<|im_end|>'": 1}),
        ("trained", "end_of_turn"): (1, 1, {"'<|im_end|>'": 1}),
        ("left out", "separator of the last message"): (1, 1, {"'\\n'": 1}),
    }


def test_weights_of_rows_are_compared_with_those_of_their_conversations(tmp_path):
    """As ms-swift writes them: labels, and loss_scale beside them; as Fireworks renders them: token_weights."""
    talks = [[ASK, {**SAY, "weight": 0.5}], [ASK, {**SAY, "content": "EF"}]]
    examples = encode_batch(talks, tokenizer=small_tokenizer.load())
    weights = [example.weights or [float(label >= 0) for label in example.labels] for example in examples]
    pairs = list(zip(examples, weights, strict=True))
    for rows in (
        [row_of(example, loss_scale=scale) for example, scale in pairs],
        [{"token_ids": list(example.input_ids), "token_weights": scale} for example, scale in pairs],
    ):
        assert differing(tmp_path, talks, rows) == {}
    found = differing(tmp_path, talks, [row_of(example) for example in examples])
    assert set(found) == {("weighs 1 for 0.5", "content of the last message"),
                          ("weighs 1 for 0.5", "end_of_turn of the last message")}  # fmt: skip


def test_packed_rows_are_not_compared(tmp_path):
    """Two conversations in a row, though nothing tells where the second begins."""
    talks = [[ASK, SAY], [{**ASK, "content": "R"}, {**SAY, "content": "EF"}]]
    one, two = encode_batch(talks, tokenizer=small_tokenizer.load())
    both = {name: [*getattr(one, name), *getattr(two, name)] for name in ("input_ids", "labels")}
    assert differing(tmp_path, talks, [both]) == {}
    assert json.loads((tmp_path / "out.json").read_text())["compared"] == 0
    assert differing(tmp_path, talks, [row_of(one)]) == {}
    assert json.loads((tmp_path / "out.json").read_text())["compared"] == 1
