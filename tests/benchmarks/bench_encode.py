"""Encoding with masks, beside its limit and Hugging Face's: `python tests/benchmarks/bench_encode.py FILE.jsonl …`.

One run prints ratios, because one machine's milliseconds say little: rounds alternate between the contestants and the
median of the paired ratios is shown.

    limit, segments  bare `encode_batch_fast` on the texts between the control tokens: no ids joined, no mask
    limit, whole     the same on whole texts, the least that any encoder can do
    hf mask          `apply_chat_template(return_assistant_tokens_mask=True)`, batched, its own ChatML with
                     {% generation %}
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from collections.abc import Callable

from transformers import PreTrainedTokenizerFast

from sftspec import load_conversations, render
from sftspec.golden.vocabularies import load_vocabulary
from sftspec.masking import encode_batch

ROUNDS = 7
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
)


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Processor seconds of all threads, and elapsed seconds."""
    used, started = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - used, time.perf_counter() - started


def main(paths: list[str]) -> None:
    conversations = [conversation for path in paths for conversation in load_conversations(path)]
    tokenizer = load_vocabulary("qwen")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=CHATML)
    texts = [render(conversation).text for conversation in conversations]
    segments = [part for text in texts for part in re.split(r"<\|im_start\|>|<\|im_end\|>", text) if part]
    plain = [list(conversation) for conversation in conversations]
    contestants: dict[str, Callable[[], object]] = {
        "ours": lambda: encode_batch(conversations, "chatml/openai", tokenizer),
        "limit, segments": lambda: tokenizer.encode_batch_fast(segments, add_special_tokens=False),
        "limit, whole": lambda: tokenizer.encode_batch_fast(texts, add_special_tokens=False),
        "hf mask": lambda: fast.apply_chat_template(
            plain, return_assistant_tokens_mask=True, return_dict=True, tokenize=True
        ),
    }
    ours = encode_batch(conversations, "chatml/openai", tokenizer)
    theirs = contestants["hf mask"]()
    assert [example.input_ids for example in ours] == theirs["input_ids"]
    masks = [[int(label != -100) for label in example.labels] for example in ours]
    assert masks == theirs["assistant_masks"], "ids equal, masks differ"
    ratios: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        taken = {name: seconds(work) for name, work in contestants.items()}
        for name, (used, elapsed) in taken.items():
            ratios[name].append((used / taken["ours"][0], elapsed / taken["ours"][1]))
    print(f"{len(conversations)} conversations, {sum(map(len, ours))} tokens, {len(segments)} segments")
    print("throughput of ours, theirs = 1; CPU seconds, and elapsed seconds")
    for name, values in ratios.items():
        if name != "ours":
            used, elapsed = (statistics.median(column) for column in zip(*values, strict=True))
            print(f"  {name:16} {used:5.2f} {elapsed:5.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
