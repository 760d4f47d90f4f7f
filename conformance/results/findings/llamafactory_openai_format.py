"""LLaMA-Factory 0.9.5: `formatting: openai` writes "detailed thinking off" into the system prompt of every conversation
without tools, and of an answer with tool calls it keeps the calls alone.

Run in an environment with llamafactory 0.9.5 (DISABLE_VERSION_CHECK=1). Prints what its converter makes of two
conversations; exits 1 if a system prompt was put in, or an answer's text is gone.
"""

import sys

from llamafactory.data.converter import get_dataset_converter
from llamafactory.data.parser import DatasetAttr

TAGS = {
    "messages": "messages", "role_tag": "role", "content_tag": "content", "user_tag": "user",
    "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "tool_calls", "system_tag": "system",
}  # fmt: skip

attributes = DatasetAttr(load_from="file", dataset_name="data.json", formatting="openai", **TAGS)
convert = get_dataset_converter("openai", attributes, None)
plain = convert({"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]})
print(f"no system message was given; the system prompt is {plain['_system']!r}")
call = {"function": {"name": "look_up", "arguments": "{}"}}
answer = {"role": "assistant", "content": "Let me look that up.", "tool_calls": [call]}
tools = convert({"messages": [{"role": "user", "content": "A"}, answer]})
kept = tools["_response"][0]["content"]
print(f"of an answer {answer['content']!r} with a call is left {kept!r}")
sys.exit(bool(plain["_system"]) or answer["content"] not in kept)
