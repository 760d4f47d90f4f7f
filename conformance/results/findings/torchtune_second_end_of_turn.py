"""torchtune 0.6.1: a conversation that ends with the user's message gets a second end-of-turn token.

Run in an environment with torchtune 0.6.1. Exits 1 if <|im_end|> stands twice behind the last message.
"""

import json
import sys
import tempfile
from pathlib import Path

from torchtune.data import Message, validate_messages
from torchtune.models.qwen2 import Qwen2Tokenizer
from torchtune.models.qwen2._tokenizer import bytes_to_unicode

folder = Path(tempfile.mkdtemp())
symbols = {symbol: number for number, symbol in enumerate(bytes_to_unicode().values())}
(folder / "vocab.json").write_text(json.dumps(symbols))
(folder / "merges.txt").write_text("#version: 0.2\n")
special = {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
tokenizer = Qwen2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), special_tokens=special)
talk = [Message("user", "A", masked=True), Message("assistant", "B"), Message("user", "C", masked=True)]
validate_messages(talk)
tokens, mask = tokenizer.tokenize_messages(talk)
end = [special["<|im_end|>"], *tokenizer.encode("\n", add_bos=False, add_eos=False), special["<|im_end|>"]]
print(repr(tokenizer.decode(tokens)))
sys.exit(tokens[-3:] == end)
