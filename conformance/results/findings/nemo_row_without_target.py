"""NeMo AutoModel 0.7.0: `ColumnMappedTextInstructionDataset` gives the next row in place of one without a target, and
with a chat template puts an empty system message before a row that has no context.

Run in an environment with nemo-automodel 0.7.0. Three rows, of which the first has an answer that is cut off, and one
row in ChatML: prints what the dataset gives; exits 1 if a row is there twice, or a system message was put in.
"""

import json
import sys
import tempfile
from pathlib import Path

from nemo_automodel.components.datasets.llm.column_mapped_text_instruction_dataset import (
    ColumnMappedTextInstructionDataset,
)
from newline_tokenizer import make


def texts(rows, **settings):
    """The rows of the dataset as text."""
    tokenizer = make()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        columns = {"question": "q", "answer": "a"}
        dataset = ColumnMappedTextInstructionDataset(str(path), columns, tokenizer, **settings)
        return [tokenizer.decode(dataset[number]["input_ids"]) for number in range(len(rows))]


if __name__ == "__main__":
    rows = [{"q": "A" * 40, "a": "one"}, {"q": "B", "a": "two"}, {"q": "C", "a": "three"}]
    plain = texts(rows, use_hf_chat_template=False, seq_length=20, truncation=True)
    chat = texts(rows[1:2], use_hf_chat_template=True)
    print(f"three rows, the first without a target: {plain}\na row in ChatML: {chat[0]!r}")
    sys.exit(len(set(plain)) < len(plain) or "system" in chat[0])
