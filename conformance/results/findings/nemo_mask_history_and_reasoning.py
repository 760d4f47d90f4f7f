"""NeMo AutoModel 0.7.0: with mask_history and mask_reasoning_content, what stands before the reasoning is not trained.

Run in an environment with nemo-automodel 0.7.0. Prints a conversation with what is trained in brackets, without and
with mask_history; it has one answer, so that there is no history to mask. Exits 1 if they differ.
"""

import json
import sys
import tempfile
from pathlib import Path

from nemo_automodel.components.datasets.llm.chat_dataset import ChatDataset
from newline_tokenizer import make, shown

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
)

if __name__ == "__main__":
    answer = {"role": "assistant", "reasoning_content": "R", "content": "B"}
    tokenizer, texts = make(), []
    tokenizer.chat_template = TEMPLATE
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.jsonl")
        path.write_text(json.dumps({"messages": [{"role": "user", "content": "A"}, answer]}) + "\n")
        for mask_history in (False, True):
            dataset = ChatDataset(str(path), tokenizer, mask_reasoning_content=True, mask_history=mask_history)
            row = dataset[0]
            texts.append(shown(tokenizer, row["input_ids"][1:], row["labels"][:-1]))
            print(f"mask_history={mask_history}: {texts[-1]!r}")
    sys.exit(texts[0] != texts[1])
