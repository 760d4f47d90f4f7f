"""The audit beside bare encoding of the same texts: `python tests/benchmarks/bench_audit.py FILE.jsonl [TOKENIZER]`.

One run prints ratios of processor seconds, because one machine's milliseconds say little: rounds alternate, and the
median of the paired ratios is shown. The audit reads the file, parses JSON, checks, renders, encodes, masks and counts;
`encode_batch_fast` gets the finished texts. `datasets` is `Dataset.map(apply_chat_template)` with a mask, read from the
same file. The tokenizer is Qwen's, from the pinned package of the goldens, if none is named.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable
from itertools import chain

from sftspec import load_conversations, render
from sftspec.conformance.audit.batch import Auditor, Settings
from sftspec.conformance.audit.shards import cut, find_sources
from sftspec.conformance.audit.summary import Summary
from sftspec.golden.vocabularies import cache_directory, load_vocabulary

ROUNDS, AT_ONCE = 5, 500
TEMPLATE = "chatml/qwen2.5"
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}"
    "{% endfor %}"
)


def seconds(work: Callable[[], object]) -> float:
    """Processor seconds of this process."""
    used = time.process_time()
    work()
    return time.process_time() - used


def main(path: str, tokenizer: str | None = None) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if tokenizer is None:
        load_vocabulary("qwen")
        tokenizer = str(next(cache_directory().glob("qwen-*.json")))
    auditor = Auditor(Settings(tuple(find_sources([path])), TEMPLATE, tokenizer))
    inner = auditor.examiner and auditor.tokenizer.inner
    conversations = load_conversations(path)
    texts = [render(conversation, TEMPLATE).text for conversation in conversations]

    def audit() -> Summary:
        return sum((auditor(shard).summary for shard in cut(list(auditor.settings.sources))), Summary())

    def bare() -> None:
        for start in range(0, len(texts), AT_ONCE):
            inner.encode_batch_fast(texts[start : start + AT_ONCE], add_special_tokens=False)

    def mapped() -> None:
        from datasets import Dataset
        from transformers import PreTrainedTokenizerFast

        fast = PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=CHATML)
        rows = Dataset.from_list([{"messages": list(conversation)} for conversation in conversations])
        rows.map(
            lambda row: fast.apply_chat_template(
                row["messages"], return_assistant_tokens_mask=True, return_dict=True, tokenize=True
            ),
            load_from_cache_file=False,
        )

    ratios: dict[str, list[float]] = {"encode_batch_fast": [], "datasets": []}
    for _ in range(ROUNDS):
        ours = seconds(audit)
        for name, work in (("encode_batch_fast", bare), ("datasets", mapped)):
            ratios[name].append(seconds(work) / ours)
    summary = audit()
    print(f"{summary.records:,} records, {summary.tokens:,} tokens; throughput of the audit, the other's is 1:")
    for name, values in ratios.items():
        print(f"  {name:20} {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")


if __name__ == "__main__":
    main(*chain(sys.argv[1:3]))
