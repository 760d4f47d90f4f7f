"""verl 0.9.1: without padding, `truncation: left` cuts on the right, so that the answer is lost and the prompt is kept.

Run in an environment with verl 0.9.1. Prints what is left of a conversation of each way of cutting; exits 1 if both
are the same.
"""

import sys
import tempfile
from pathlib import Path

import pandas
from newline_tokenizer import make
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

if __name__ == "__main__":
    tokenizer, found = make(), {}
    messages = [{"role": "user", "content": "A A A A A A"}, {"role": "assistant", "content": "B"}]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "data.parquet")
        pandas.DataFrame({"messages": [messages]}).to_parquet(path)
        for way in ("left", "right"):
            settings = {"pad_mode": "no_padding", "truncation": way, "max_length": 20}
            row = MultiTurnSFTDataset(str(path), tokenizer, settings)[0]
            found[way] = tokenizer.decode(row["input_ids"]), int(row["loss_mask"].sum())
            print(f"{way}: {found[way][0]!r}, {found[way][1]} targets")
    sys.exit(found["left"] == found["right"])
