"""LLaMA-Factory 0.9.5: with formatting openai the arguments of a tool call are encoded twice.

Run in an environment with llamafactory 0.9.5 (DISABLE_VERSION_CHECK=1). A call in the form of OpenAI, whose arguments
are a JSON string, in several templates: prints what is trained; exits 1 if the arguments are not the JSON object.
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
call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
row = {
    "messages": [
        {"role": "user", "content": "Is it warm in Rome?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
}
made = OpenAIDatasetConverter(attributes, SimpleNamespace(media_dir=""))(row)
given = SimpleNamespace(cutoff_len=1000, mask_history=False, train_on_prompt=False)
wrong = 0
for name in ("qwen", "qwen3_nothink", "llama3", "glm4"):
    processor = SupervisedDatasetProcessor(TEMPLATES[name], tokenizer, None, given)
    _, labels = processor._encode_data_example(
        made["_prompt"], made["_response"], made["_system"], made["_tools"], [], [], []
    )
    trained = tokenizer.decode([label for label in labels if label != -100])
    wrong += '{"city": "Rome"}' not in trained
    print(f"{name + ':':15}{trained!r}")
sys.exit(wrong > 0)
