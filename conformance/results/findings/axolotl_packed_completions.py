"""axolotl 0.19.0: with sample_packing the first token of a completion is trained from the last token of the text before
it in the row, which it does not belong to.

Run in an environment with axolotl 0.19.0. Two texts of `type: completion` in one row: prints the label that the last
token of the first one gets; exits 1 if it is trained.
"""

import os
import sys

os.environ.update({"AXOLOTL_DO_NOT_TRACK": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"})

from axolotl.prompt_strategies.completion import CompletionPrompter, CompletionPromptTokenizingStrategy
from axolotl.utils.collators import V2BatchSamplerDataCollatorForSeq2Seq
from axolotl.utils.trainer import add_position_ids
from newline_tokenizer import make

tokenizer = make()
strategy = CompletionPromptTokenizingStrategy(CompletionPrompter(), tokenizer, False, 256, max_length=2048)
rows = [add_position_ids(dict(strategy.tokenize_prompt({"text": text}))) for text in ("AA", "BB")]
rows = [{name: value[0] if isinstance(value[0], list) else value for name, value in row.items() if name != "length"}
        for row in rows]  # fmt: skip
batch = V2BatchSamplerDataCollatorForSeq2Seq(tokenizer)([rows])
ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
border = len(rows[0]["input_ids"])
print(f"after {tokenizer.decode(ids[:border])!r} ", end="")
print("nothing is trained" if labels[border] == -100 else f"{tokenizer.decode([labels[border]])!r} is trained")
sys.exit(labels[border] != -100)
