"""verl 0.9.1: the newline that an answer begins with is not trained, where it is one token with the header's.

Run in an environment with verl 0.9.1. Prints two conversations with what is trained in brackets; exits 1 if nothing of
the second answer's beginning is.
"""

import sys
import tempfile
from pathlib import Path

import pandas
from newline_tokenizer import make, shown
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

if __name__ == "__main__":
    tokenizer, texts = make(), []
    with tempfile.TemporaryDirectory() as folder:
        for number, answer in enumerate(("B", "\nB")):
            path = Path(folder, f"{number}.parquet")
            rows = [{"role": "user", "content": "A"}, {"role": "assistant", "content": answer}]
            pandas.DataFrame({"messages": [rows]}).to_parquet(path)
            row = MultiTurnSFTDataset(str(path), tokenizer, {"pad_mode": "no_padding"})[0]
            labels = [token if kept else -100 for token, kept in zip(row["input_ids"], row["loss_mask"], strict=True)]
            texts.append(shown(tokenizer, row["input_ids"].tolist(), labels))
    print(*map(repr, texts), sep="\n")
    sys.exit("[B" in texts[1])
