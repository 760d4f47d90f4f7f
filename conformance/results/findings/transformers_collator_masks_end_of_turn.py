"""transformers 5.23.0: DataCollatorForLanguageModeling masks every id that is the pad's, also where it ends a turn.

Run in an environment with transformers 5.23.0 (`sftspec env create accelerate`). Exits 1 if the end is not a target.
"""

import sys

from newline_tokenizer import make
from transformers import DataCollatorForLanguageModeling

tokenizer = make()
tokenizer.pad_token = tokenizer.eos_token  # as tokenizers without a pad token are commonly given one
ids = tokenizer("A<|im_end|>", add_special_tokens=False)["input_ids"]
labels = DataCollatorForLanguageModeling(tokenizer, mlm=False)([{"input_ids": ids}])["labels"][0].tolist()
print(f"ids {ids}, labels {labels}")
sys.exit(labels[-1] == -100)
