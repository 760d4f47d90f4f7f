"""torchtune 0.6.1: `OpenAIToMessages` drops the calls of an answer, and where its content is null puts the text of the
message before in; and Qwen2's tokenizer writes a tool's result (role "ipython") with no header and no end.

Run in an environment with torchtune 0.6.1. Prints what is left of two answers with a call, and a conversation with a
tool's result; exits 1 if the call is gone or the result has no header.
"""

import json
import sys
import tempfile
from pathlib import Path

from tokenizers import pre_tokenizers
from torchtune.data import Message, OpenAIToMessages
from torchtune.models.qwen2._tokenizer import QWEN2_SPECIAL_TOKENS, Qwen2Tokenizer

folder = Path(tempfile.mkdtemp())
symbols = {symbol: number for number, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
(folder / "vocab.json").write_text(json.dumps(symbols))
(folder / "merges.txt").write_text("#version: 0.2\n")
tokenizer = Qwen2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), QWEN2_SPECIAL_TOKENS)
call = {"type": "function", "id": "1", "function": {"name": "look_up", "arguments": "{}"}}
answer = {"role": "assistant", "content": "Let me see.", "tool_calls": [call]}
kept = OpenAIToMessages()({"messages": [{"role": "user", "content": "A"}, answer]})["messages"][1]
print(f"of an answer with a call is left: {kept.text_content!r}, ipython={kept.ipython}")
null = OpenAIToMessages()({"messages": [{"role": "user", "content": "A"}, answer | {"content": None}]})["messages"][1]
print(f"where its content is null, after the user's 'A': {null.text_content!r}, masked={null.masked}")
talk = [
    Message(role="user", content="A"),
    Message(role="assistant", content="look_up()", ipython=True, eot=False),
    Message(role="ipython", content="7"),
    Message(role="assistant", content="It is 7."),
]
text = tokenizer.decode(tokenizer.tokenize_messages(talk)[0])
print(f"a tool's result: {text!r}")
sys.exit("look_up" not in kept.text_content or "look_up()<|im_end|>\n7<|im_start|>" in text)
