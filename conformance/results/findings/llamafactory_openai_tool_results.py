"""LLaMA-Factory 0.9.5: with formatting openai two results of tools are joined with Qwen's tags, whatever the template.

Run in an environment with llamafactory 0.9.5 (DISABLE_VERSION_CHECK=1). Two results in a row in templates that do not
know these tags: prints what the model is shown; exits 1 if the tags are there.
"""

import sys
from types import SimpleNamespace

from llamafactory.data.converter import OpenAIDatasetConverter
from llamafactory.data.parser import DatasetAttr
from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
from llamafactory.data.template import TEMPLATES
from newline_tokenizer import make

tokenizer = make()
tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
attributes = DatasetAttr("file", "data", formatting="openai", messages="messages", observation_tag="tool", **tags)
cities = [{"city": "Rome"}, {"city": "Oslo"}]
calls = [{"type": "function", "function": {"name": "weather", "arguments": city}} for city in cities]
row = {
    "messages": [
        {"role": "user", "content": "Where is it warmer?"},
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "30"},
        {"role": "tool", "content": "10"},
        {"role": "assistant", "content": "In Rome."},
    ]
}
made = OpenAIDatasetConverter(attributes, SimpleNamespace(media_dir=""))(row)
given = SimpleNamespace(cutoff_len=1000, mask_history=False, train_on_prompt=False)
found = 0
for name in ("llama3", "mistral", "gemma", "default"):
    processor = SupervisedDatasetProcessor(TEMPLATES[name], tokenizer, None, given)
    ids, _ = processor._encode_data_example(
        made["_prompt"], made["_response"], made["_system"], made["_tools"], [], [], []
    )
    text = tokenizer.decode(ids)
    found += "tool_response" in text
    print(f"{name + ':':10}{text[text.index('Oslo') :]!r}")
sys.exit(found > 0)
