"""LLaMA-Factory 0.9.5: of several tool calls in one answer the first is trained as the last.

Run in an environment with llamafactory 0.9.5 (DISABLE_VERSION_CHECK=1). An answer with two calls between their tags, as
a model writes it and as its templates take it with one call, in the form of sharegpt: prints what is trained; exits 1
if the order is another one.
"""

import sys
from types import SimpleNamespace

from llamafactory.data.converter import SharegptDatasetConverter
from llamafactory.data.parser import DatasetAttr
from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
from llamafactory.data.template import TEMPLATES
from newline_tokenizer import make

tokenizer = make()
given = SimpleNamespace(cutoff_len=1000, mask_history=False, train_on_prompt=False)
convert = SharegptDatasetConverter(DatasetAttr("file", "data", formatting="sharegpt"), None)
first = '<tool_call>\n{"name": "search", "arguments": {"name": "Rome"}}\n</tool_call>'
second = '<tool_call>\n{"name": "book", "arguments": {"number": 1}}\n</tool_call>'
wrong = 0
for answer in (f"I look.\n{first}", f"I look.\n{first}\n{second}"):
    turns = [{"from": "human", "value": "Book a room in Rome."}, {"from": "function_call", "value": answer}]
    made = convert({"conversations": turns})
    processor = SupervisedDatasetProcessor(TEMPLATES["qwen"], tokenizer, None, given)
    _, labels = processor._encode_data_example(
        made["_prompt"], made["_response"], made["_system"], made["_tools"], [], [], []
    )
    trained = tokenizer.decode([label for label in labels if label != -100])
    wrong += "book" in trained and trained.index("book") < trained.index("search")
    print(f"given:   {answer!r}\ntrained: {trained!r}")
sys.exit(wrong > 0)
