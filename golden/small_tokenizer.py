"""The small tokenizer: everything that has to run without a download runs on it.

A byte-level BPE of 320 tokens: 256 bytes, every control token of ChatML, Llama-2, Llama-3 and Qwen3, and a few merges.
Merges stay away from capital letters and digits, so that text made of these is one token per character: that is the
alphabet of the witness's nonces. The merges that exist are the ones that catch tokenization bugs: across newlines
("\\n\\n"), at the seam of header and content, and at punctuation ("]{").

`python -m sftspec.golden.small_tokenizer` writes small_tokenizer.json anew; a test compares it with the committed one.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

PATH = Path(__file__).with_name("small_tokenizer.json")
SIZE = 320

CONTROL_TOKENS = (
    "<|pad|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>",  # ChatML (Qwen)
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>",  # Qwen3
    "<unk>", "<s>", "</s>",  # Llama-2
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>",  # Llama-3
    "<|eot_id|>", "<|eom_id|>", "<|python_tag|>",
)  # fmt: skip

# Qwen3 marks the think and tool tags as added but not special: skip_special_tokens keeps them when decoding.
NOT_SPECIAL = frozenset(token for token in CONTROL_TOKENS if token[1:].strip("/>").startswith(("think", "tool_")))

# Spelt words merge left to right: "the" is "t"+"h", then "th"+"e". "Ġ" is the space and "Ċ" the newline of
# byte-level BPE.
MERGED_WORDS = (
    "ĊĊ", "Ġthe", "Ġth", "user", "assistant", "system", "Ġan", "Ġin", "Ġto", "er", "ing", "ĠĠ", "]{", "..", "\":", "é",
)  # fmt: skip

# Qwen2's pre-tokenizer pattern: newlines run together, digits stand alone.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def build():
    """Make the tokenizer from the tables above. Returns `tokenizers.Tokenizer`."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    vocabulary = {symbol: index for index, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    for word in MERGED_WORDS:
        symbols = list(pre_tokenizers.ByteLevel(use_regex=False, add_prefix_space=False).pre_tokenize_str(word)[0][0])
        if word[0] in "ĠĊ":
            symbols = list(word)
        left = symbols[0]
        for right in symbols[1:]:
            if left + right not in vocabulary:
                vocabulary[left + right] = len(vocabulary)
                merges.append((left, right))
            left += right
    room = SIZE - len(CONTROL_TOKENS) - len(vocabulary)
    if room < 0:
        raise ValueError(f"{-room} tokens over {SIZE}: shorten MERGED_WORDS")
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(use_regex=False, add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    fillers = [f"<|reserved_{index}|>" for index in range(room)]
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False, special=token not in NOT_SPECIAL) for token in (*CONTROL_TOKENS, *fillers)]
    )
    return tokenizer


@lru_cache(maxsize=1)
def load():
    """The committed tokenizer, as `tokenizers.Tokenizer` (shared: do not modify it)."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(PATH))


if __name__ == "__main__":
    text = json.dumps(json.loads(build().to_str()), ensure_ascii=True, indent=1, sort_keys=True)
    PATH.write_text(text + "\n", encoding="utf-8")
    print(f"{PATH.name}: {build().get_vocab_size()} tokens")
