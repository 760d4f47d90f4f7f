"""torchtune 0.6.1: with max_seq_len set, the end-of-turn token of the last answer is never a target.

Run in an environment with torchtune 0.6.1. Prints both masks; exits 1 if they differ (True: not trained).
"""

import json
import sys
import tempfile
from pathlib import Path

from torchtune.data import Message
from torchtune.models.qwen2 import Qwen2Tokenizer
from torchtune.models.qwen2._tokenizer import bytes_to_unicode

folder = Path(tempfile.mkdtemp())
symbols = {symbol: number for number, symbol in enumerate(bytes_to_unicode().values())}
(folder / "vocab.json").write_text(json.dumps(symbols))
(folder / "merges.txt").write_text("#version: 0.2\n")
special = {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
talk = [Message("user", "A", masked=True), Message("assistant", "B")]
masks = {}
for longest in (None, 8192):
    tokenizer = Qwen2Tokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), special_tokens=special, max_seq_len=longest
    )
    tokens, masks[longest] = tokenizer.tokenize_messages(talk)
    print(f"max_seq_len={longest}: last token {tokens[-1]} (<|im_end|> is 258), masked: {masks[longest][-1]}")
sys.exit(masks[None] != masks[8192])
