"""LLaMA-Factory 0.9.5: with packing, an example of exactly cutoff_len tokens is cut by one, here its end-of-turn token.

Run in an environment with llamafactory 0.9.5 (DISABLE_VERSION_CHECK=1). An example in its template llama3, at a
cutoff_len of its length: prints what is trained with and without packing; exits 1 if they differ.
"""

import sys

from llamafactory.data.processor.supervised import PackedSupervisedDatasetProcessor, SupervisedDatasetProcessor
from llamafactory.data.template import TEMPLATES
from llamafactory.hparams import DataArguments
from newline_tokenizer import make

tokenizer = make()
tokenizer.add_special_tokens({"additional_special_tokens": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]})
ANSWER = "one two three four five six seven eight nine ten"
ROW = {
    "_prompt": [[{"role": "user", "content": "A"}]], "_response": [[{"role": "assistant", "content": ANSWER}]],
    "_system": [""], "_tools": [""], "_images": [None], "_videos": [None], "_audios": [None],
}  # fmt: skip


def trained(kind, cutoff_len, **settings):
    arguments = DataArguments(template="llama3", cutoff_len=cutoff_len, **settings)
    made = kind(TEMPLATES["llama3"], tokenizer, None, arguments).preprocess_dataset(ROW)
    return [label for label in made["labels"][0] if label != -100], made["input_ids"][0]


_, ids = trained(SupervisedDatasetProcessor, 1000)
whole, _ = trained(SupervisedDatasetProcessor, len(ids))
packed, _ = trained(PackedSupervisedDatasetProcessor, len(ids), packing=True, neat_packing=True)
print(f"cutoff_len {len(ids)}, which is its length, without packing: {tokenizer.decode(whole)!r}")
print(f"with neat_packing: {tokenizer.decode(packed)!r}")
sys.exit(whole != packed)
