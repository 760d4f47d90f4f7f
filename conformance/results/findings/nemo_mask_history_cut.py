"""NeMo AutoModel 0.7.0: with mask_history, an earlier answer is trained where the last one was cut away.

Run in an environment with nemo-automodel 0.7.0. Prints a conversation of two answers with what is trained in brackets,
whole and cut before the second; exits 1 if the first is trained then.
"""

import json
import sys
import tempfile
from pathlib import Path

from nemo_automodel.components.datasets.llm.chat_dataset import ChatDataset
from newline_tokenizer import make, shown

if __name__ == "__main__":
    said = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, "ABCD", strict=True)]
    tokenizer, texts = make(), []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.jsonl")
        path.write_text(json.dumps({"messages": said}) + "\n")
        for limit in (None, 30):
            row = ChatDataset(str(path), tokenizer, seq_length=limit, truncation=bool(limit), mask_history=True)[0]
            texts.append(shown(tokenizer, row["input_ids"][1:], row["labels"][:-1]))
    print(*map(repr, texts), sep="\n")
    sys.exit("[" in texts[1])
