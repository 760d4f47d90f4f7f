"""NeMo AutoModel 0.7.0: `ColumnMappedTextInstructionDataset` gives the next row in place of one without a target.

Run in an environment with nemo-automodel 0.7.0. Three rows, of which the first has an answer that is cut off: prints
what the dataset gives; exits 1 if a row is there twice.
"""

import json
import sys
import tempfile
from pathlib import Path

from nemo_automodel.components.datasets.llm.column_mapped_text_instruction_dataset import (
    ColumnMappedTextInstructionDataset,
)
from newline_tokenizer import make

if __name__ == "__main__":
    rows = [{"q": "A" * 40, "a": "one"}, {"q": "B", "a": "two"}, {"q": "C", "a": "three"}]
    tokenizer = make()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.jsonl")
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        dataset = ColumnMappedTextInstructionDataset(
            str(path), {"question": "q", "answer": "a"}, tokenizer, seq_length=20, truncation=True
        )
        given = [tokenizer.decode(dataset[number]["input_ids"]) for number in range(len(rows))]
    print(f"three rows, the first without a target: {given}")
    sys.exit(len(set(given)) < len(given))
