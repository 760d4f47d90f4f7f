"""Kernels of attention and of the loss, right ones and broken ones, against float64."""

import json
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from sftspec.conformance.commands.cli import main
from sftspec.conformance.kernels import attention, losses
from sftspec.conformance.kernels.outcome import measured

BOTH = (torch.float32, torch.bfloat16)
WAYS = {way.name: way for way in attention.WAYS}


def of_attention(kernel, way, dtype=torch.float32):
    return measured("", way, dtype, partial(attention.judge, kernel, WAYS[way], dtype, "cpu"))


def of_loss(loss, dtype=torch.float32, size="small vocabulary"):
    return measured("", size, dtype, partial(losses.judge, loss, losses.SIZES[size], dtype, "cpu"))


@pytest.mark.parametrize("dtype", BOTH, ids=str)
@pytest.mark.parametrize("name", ["eager", "sdpa:math", "sdpa:flash", "sftspec_packed"])
def test_what_a_cpu_has_passes_in_every_way(name, dtype):
    found = {way: of_attention(attention.kernels()[name], way, dtype) for way in WAYS}
    without = {"sliding window"} if name == "sftspec_packed" else set()
    assert {way: item.status for way, item in found.items() if item.status != "pass"} == dict.fromkeys(
        without, "not-measured"
    )
    assert all(item.figures["bitwise"] == 1 for item in found.values() if item.figures)


def test_the_plain_way_is_the_formula():
    """Each output by the sum of the docstring, in Python's own numbers (float64)."""
    way = attention.Way("tiny", heads=1, key_heads=1, lengths=(2, 3), width=2, window=2)
    query, key, value, _ = (item.double()[0, 0].tolist() for item in attention.inputs(way, torch.float64, "cpu"))
    out = attention.plain(*attention.inputs(way, torch.float64, "cpu")[:3], way)[0, 0]
    for i, owner in enumerate((0, 0, 1, 1, 1)):
        seen = [j for j in range(i + 1) if (0, 0, 1, 1, 1)[j] == owner and i - j < 2]
        scores = [math.exp(sum(a * b for a, b in zip(query[i], key[j], strict=True)) / math.sqrt(2)) for j in seen]
        for d in range(2):
            expected = sum(s * value[j][d] for s, j in zip(scores, seen, strict=True)) / sum(scores)
            assert float(out[i, d]) == pytest.approx(expected, rel=1e-14, abs=1e-15)


def causal_only(query, key, value, way):
    return F.scaled_dot_product_attention(query, *attention.repeated(way, key, value), is_causal=True)


def of_another_window(query, key, value, way):
    return attention.plain(query, key, value, attention.Way(**{**vars(way), "window": way.window + 1}))


def heads_interleaved(query, key, value, way):
    wrong = (item.repeat(1, way.heads // way.key_heads, 1, 1) for item in (key, value))
    return attention.plain(query, *wrong, attention.Way(**{**vars(way), "key_heads": way.heads}))


def pads_attended(query, key, value, way):
    return attention.plain(query, key, value, attention.Way(**{**vars(way), "padding": 0, "lengths": (way.columns,)}))


def leaks_a_little(query, key, value, way):
    return attention.plain(query, key, value, way) + 1e-6 * value.mean()


def leaks_backwards(query, key, value, way):
    out = attention.plain(query, key, value, way)
    return out + 1e-6 * (key.mean() - key.mean().detach())


def holes(query, key, value, way):
    mask = way.allowed("cpu")
    mask[: way.padding] = False
    scores = (query @ key.transpose(-1, -2)).masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, -1) @ value


@pytest.mark.parametrize(
    ("broken", "way"),
    [
        (causal_only, "packed"), (of_another_window, "sliding window"), (heads_interleaved, "grouped heads"),
        (pads_attended, "left padding"), (leaks_a_little, "packed"), (leaks_backwards, "packed"),
        (holes, "left padding"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)  # fmt: skip
def test_a_broken_attention_fails(broken, way):
    assert of_attention(broken, way).status == "fail"


@pytest.mark.parametrize("dtype", BOTH, ids=str)
@pytest.mark.parametrize("name", ["logits and F.cross_entropy", "sftspec.sft_loss", "chunks, checkpointed"])
def test_a_right_loss_passes(name, dtype):
    assert of_loss(losses.losses()[name], dtype).status == "pass"


def test_the_reference_passes_at_a_vocabulary_of_128256():
    assert of_loss(losses.reference, size="vocabulary of 128,256").status == "pass"


def mean_of_chunks(hidden, head, labels):
    parts = zip(hidden.split(64), labels.split(64), strict=True)
    return torch.stack([F.cross_entropy(h @ head.T, y) for h, y in parts if (y != -100).any()]).mean()


def over_all_positions(hidden, head, labels):
    return F.cross_entropy(hidden @ head.T, labels, reduction="sum") / len(labels)


def head_forgotten(hidden, head, labels):
    return losses.plain(hidden, torch.cat([head[:-1], head[-1:].detach()]), labels)


def summed_in_16_bits(hidden, head, labels):
    logits = (hidden @ head.T).bfloat16()
    return F.cross_entropy(logits, labels).float()


def ignored_by_weight(hidden, head, labels):
    each = F.cross_entropy(hidden @ head.T, labels.clamp(min=0), reduction="none")
    return (each * torch.where(labels == -100, 1e-9, 1.0)).sum() / (labels != -100).sum()


@pytest.mark.parametrize(
    "broken", [mean_of_chunks, over_all_positions, head_forgotten, summed_in_16_bits, ignored_by_weight],
    ids=lambda value: value.__name__,
)  # fmt: skip
def test_a_broken_loss_fails(broken):
    assert of_loss(broken).status == "fail"


def test_a_gradient_of_nan_without_a_target_is_found():
    def divides(hidden, head, labels):
        scored = (labels != -100).float()
        each = F.cross_entropy(hidden @ head.T, labels.clamp(min=0), reduction="none")
        return (each * scored).sum() / scored.sum()

    found = of_loss(divides)
    assert found.status == "fail" and found.reason == "without a target the gradient of hidden states is not finite"


def test_what_is_not_here_is_not_measured_and_says_why(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(attention, "WAYS", attention.WAYS[:1])  # compilers take seconds for each
    path = tmp_path / "kernels.json"
    assert main(["kernels", "attention", "--dtype", "float32", "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    found = {(item["kernel"], item["way"]): item for item in record["outcomes"]}
    assert found["flash-attn varlen", "packed"]["status"] == "not-measured"
    assert "not installed" in found["flash-attn varlen", "packed"]["reason"]
    assert "forwards alone" in found["flex_attention", "packed"]["reason"]
    assert record["machine"]["torch"] == torch.__version__
    assert "fail, " in capsys.readouterr().out


def test_a_kernel_whose_compiler_breaks_is_not_measured_and_the_others_are():
    def breaks(*given):
        raise OSError("no such library")

    found = list(attention.attention_on_trial([torch.float32], "cpu", {"breaks": breaks, "eager": attention.plain}))
    assert [item.status for item in found] == ["not-measured"] * len(WAYS) + ["pass"] * len(WAYS)
    assert found[0].reason == "it refuses: OSError: no such library"


def test_what_was_found_before_an_interruption_is_kept(tmp_path, monkeypatch):
    def interrupted(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(attention, "kernels", lambda: {"eager": attention.plain, "slow": interrupted})
    path = tmp_path / "kernels.json"
    assert main(["kernels", "attention", "--dtype", "float32", "--json", str(path)]) == 2
    assert {item["kernel"] for item in json.loads(path.read_text())["outcomes"]} == {"eager"}


@pytest.mark.parametrize(("words", "said"), [(["--device", "cuda:9"], "no device"), (["speed"], "no kind 'speed'")])
def test_a_wrong_word_is_refused(words, said, capsys):
    assert main(["kernels", *words]) == 2
    assert said in capsys.readouterr().err
