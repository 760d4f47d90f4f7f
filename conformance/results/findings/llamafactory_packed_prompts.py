"""LLaMA-Factory 0.9.5: with train_on_prompt and neat_packing each example's first token is trained from the last token
of the example before it, which it does not belong to.

Run in an environment with llamafactory 0.9.5 (DISABLE_VERSION_CHECK=1). Two examples in one row: prints the label that
the last token of the first one gets; exits 1 if it is trained.
"""

import sys
from types import SimpleNamespace

from llamafactory.data.processor.supervised import PackedSupervisedDatasetProcessor
from llamafactory.data.template import TEMPLATES
from newline_tokenizer import make

tokenizer = make()
given = {"cutoff_len": 200, "mask_history": False, "train_on_prompt": True, "neat_packing": True, "packing": True}
processor = PackedSupervisedDatasetProcessor(TEMPLATES["chatml"], tokenizer, None, SimpleNamespace(**given))
talks = [("A", "B"), ("C", "D")]
rows = processor.preprocess_dataset(
    {
        "_prompt": [[{"role": "user", "content": question}] for question, _ in talks],
        "_response": [[{"role": "assistant", "content": answer}] for _, answer in talks],
        **{name: [None] * len(talks) for name in ("_system", "_tools", "_images", "_videos", "_audios")},
    }
)
numbers, labels = rows["attention_mask"][0], rows["labels"][0]
border = numbers.index(2)  # where the second example begins: what the token before it is trained to predict
print(f"after {tokenizer.decode(rows['input_ids'][0][border - 3 : border])!r}, the end of the first example, ", end="")
print("nothing is trained" if labels[border] == -100 else f"{tokenizer.decode([labels[border]])!r} is trained")
sys.exit(labels[border] != -100)
