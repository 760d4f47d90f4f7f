"""Real vocabularies cut down to the pieces that goldens use, so that a witness can hold them.

Rule of this file: on the texts of its goldens a reduced vocabulary is the real one, token for token. It has the 256
bytes, every piece that a merge makes on the way to a token of these texts, and their merges in the real order; so each
step of byte-pair encoding finds the same best pair. Ids are numbered anew, in the order of the real ids; `ids` says
which is which. The witness needs as many dimensions as tokens (conformance/witness/model.py): 151,669 would not fit.

`python -m sftspec.golden.reduced` makes reduced/*.json from the pinned packages of vocabularies.py: Qwen's (Apache-2.0)
and Llama-3's (Meta Llama 3 Community License), the pieces of these texts and no more. It needs a registry; reading the
files does not.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from sftspec.golden.loader import GoldenCase, load_cases

FOLDER = Path(__file__).with_name("reduced")
LONGEST = 120  # tokens: the one long case would make every row of its batch as long

QWEN25 = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. "
    "You are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

# Thoughts are kept after the last question alone, where the last answer has a think block, empty or not. What the model
# is to write is a target, the think block too.
QWEN3 = (
    "{% set last = namespace(question=messages | length - 1) %}"
    "{% for message in messages %}{% if message['role'] == 'user' and not (message['content'].startswith("
    "'<tool_response>') and message['content'].endswith('</tool_response>')) %}"
    "{% set last.question = loop.index0 %}{% endif %}{% endfor %}"
    "{% for message in messages %}{% set content = message['content'] %}"
    "{% if message['role'] == 'assistant' %}{% set thoughts = message['reasoning_content'] %}"
    "{% if thoughts is not string %}{% set thoughts = '' %}{% if '</think>' in content %}"
    "{% set thoughts = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}{% endif %}"
    "{{ '<|im_start|>assistant\\n' }}{% generation %}"
    "{% if loop.index0 > last.question and (loop.last or thoughts) %}"
    "{{ '<think>\\n' + thoughts.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}"
    "{% else %}{{ content }}{% endif %}{{ '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% elif message['role'] == 'tool' %}"
    "{% if loop.first or loop.previtem['role'] != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\\n<tool_response>\\n' + content + '\\n</tool_response>' }}"
    "{% if loop.last or loop.nextitem['role'] != 'tool' %}{{ '<|im_end|>\\n' }}{% endif %}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\\n' + content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Reduced:
    """What a trainer is given for the goldens of a variant.

    vocabulary     name in vocabularies.SOURCES
    chat_template  Jinja, with {% generation %} around what the goldens train
    bos, eos, pad  special tokens ("": none)
    file           name of the reduced vocabulary's file
    only_ascii     the goldens within ASCII alone: on this vocabulary another variant's show the others
    """

    vocabulary: str
    chat_template: str
    bos: str
    eos: str
    pad: str
    file: str
    only_ascii: bool = False

    @property
    def special(self) -> frozenset[str]:
        return frozenset({self.bos, self.eos, self.pad} - {""})


REDUCED = {
    "chatml/qwen2.5": Reduced("qwen", QWEN25, "", "<|im_end|>", "<|endoftext|>", "qwen"),
    "chatml/qwen3": Reduced("qwen", QWEN3, "", "<|im_end|>", "<|endoftext|>", "qwen3", only_ascii=True),
    "llama3/hf": Reduced("llama3", LLAMA3, "<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>", "llama3"),
}


def whole_cases(variant: str) -> list[GoldenCase]:
    """The goldens that a trainer is asked for: a whole conversation, not long, no tools, with something to train."""
    return [
        case
        for case in load_cases([variant])
        if case.trained
        and len(case.input_ids or ()) <= LONGEST
        and not (case.add_generation_prompt or case.tools)
        and {message["role"] for message in case.messages} <= {"system", "user", "assistant"}
        and (not REDUCED[variant].only_ascii or (case.text or "").isascii())
    ]


@cache
def goldens(variant: str) -> list[GoldenCase]:
    """The same, in the ids of the reduced vocabulary; none for a variant without one."""
    if variant not in REDUCED:
        return []
    number = {token: place for place, token in enumerate(_read(REDUCED[variant].file)["ids"])}
    return [
        dataclasses.replace(case, input_ids=[number[token] for token in case.input_ids or ()])
        for case in whole_cases(variant)
    ]


def hugging_face_tokenizer(variant: str) -> Any:
    """The reduced vocabulary as a fast Hugging Face tokenizer with the variant's chat template; made anew each time."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    reduced = REDUCED[variant]
    inner = Tokenizer.from_str(json.dumps(_read(reduced.file)["tokenizer"]))
    if reduced.bos:  # as the model's own tokenizer does: encoded like any text, a rendered one gets a second BOS
        bos = (reduced.bos, inner.token_to_id(reduced.bos))
        inner.post_processor = TemplateProcessing(single=f"{reduced.bos} $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=reduced.bos or None,
        eos_token=reduced.eos,
        pad_token=reduced.pad,
        chat_template=reduced.chat_template,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


@cache
def _read(file: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{file}.json").read_text(encoding="utf-8"))


def reduce(state: dict[str, Any], texts: Iterable[str], special: frozenset[str]) -> dict[str, Any]:
    """A tokenizer.json cut down to what it uses on texts: {"ids": the real ids, "tokenizer": with new ids}."""
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import ByteLevel

    whole = Tokenizer.from_str(json.dumps(state))
    model = state["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
    used: set[tuple[str, str]] = set()
    pieces = set(ByteLevel.alphabet())
    control = set(special)
    added = {token["content"]: token["id"] for token in state["added_tokens"]}
    for text in texts:
        control |= added.keys() & {whole.id_to_token(token) for token in whole.encode(text).ids}
        for word in _words(whole, text, added):
            if model["ignore_merges"] and word in model["vocab"]:
                pieces.add(word)
            else:
                used |= set(_merges(word, ranks))
    pieces |= {left + right for left, right in used}
    real = {piece: model["vocab"][piece] for piece in pieces} | {token: added[token] for token in control}
    ids = sorted(real.values())
    number = {token: place for place, token in enumerate(ids)}
    model = model | {
        "vocab": {piece: number[real[piece]] for piece in sorted(pieces, key=real.__getitem__)},
        "merges": [list(pair) for pair in sorted(used, key=ranks.__getitem__)],
    }
    kept = [token | {"id": number[token["id"]]} for token in state["added_tokens"] if token["content"] in control]
    return {"ids": ids, "tokenizer": state | {"model": model, "added_tokens": kept}}


def _words(tokenizer: Any, text: str, added: Iterable[str]) -> Iterator[str]:
    """What byte-pair encoding is asked to cut: the text between control tokens, normalized, word by word."""
    between = re.split("|".join(map(re.escape, sorted(added, key=len, reverse=True))), text)
    for part in filter(None, between):
        if tokenizer.normalizer is not None:
            part = tokenizer.normalizer.normalize_str(part)
        yield from (word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(part))


def _merges(word: str, ranks: dict[tuple[str, ...], int]) -> Iterator[tuple[str, str]]:
    """The merges that are made on the way to a word's tokens (Sennrich et al. 2016): the best pair first."""
    symbols = list(word)
    while len(symbols) > 1:
        best = min(pairwise(symbols), key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            return
        yield best
        place = next(place for place, pair in enumerate(pairwise(symbols)) if pair == best)
        symbols[place : place + 2] = ["".join(best)]


def make(variant: str) -> dict[str, Any]:
    """The file of a variant's vocabulary. Needs the whole vocabulary."""
    from sftspec.golden.vocabularies import SOURCES, load_vocabulary

    reduced = REDUCED[variant]
    state = json.loads(load_vocabulary(reduced.vocabulary).to_str())
    texts = [case.text or "" for case in whole_cases(variant)]
    return {"source": SOURCES[reduced.vocabulary].requirement, **reduce(state, texts, reduced.special)}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, item in REDUCED.items():
        made = make(name)
        (FOLDER / f"{item.file}.json").write_text(json.dumps(made, indent=None) + "\n", encoding="utf-8")
        print(f"{item.file}.json: {len(made['ids'])} of the tokens of {made['source']}")
