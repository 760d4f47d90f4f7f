"""TRL 1.16.0: beside a column "text" the completions of a dataset get no end-of-sequence token.

Run in an environment with TRL 1.16.0. A prompt and its completion, with and without a column "text" beside them, as
SFTTrainer prepares them: prints both; exits 1 if the completion has no end where that column is there.
"""

import sys
import tempfile

from datasets import Dataset
from newline_tokenizer import make, shown
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

tokenizer = make()
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ROW = {"prompt": "What is two? ", "completion": "One and one."}


def prepared(row):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    arguments = SFTConfig(tempfile.mkdtemp(), use_cpu=True, bf16=False, report_to=[])
    trainer = SFTTrainer(model, args=arguments, train_dataset=Dataset.from_list([row]), processing_class=tokenizer)
    (made,) = trainer.train_dataset
    return shown(tokenizer, made["input_ids"], made["labels"])


alone = prepared(ROW)
beside = prepared({**ROW, "text": ROW["prompt"] + ROW["completion"]})
print(f"prompt and completion:       {alone!r}")
print(f"with a column text beside:   {beside!r}")
sys.exit("<|im_end|>" in alone and "<|im_end|>" not in beside)
