"""TRL 0.19.1: of a conversational completion the assistant's header is trained, which inference writes itself.

Run in an environment with TRL 0.19.1. Prints a prompt and its completion with what is trained in brackets; exits 1 if
the header is.
"""

import sys
import tempfile

from datasets import Dataset
from newline_tokenizer import make, shown
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

tokenizer = make()
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
row = {"prompt": [{"role": "user", "content": "A"}], "completion": [{"role": "assistant", "content": "B"}]}
arguments = SFTConfig(tempfile.mkdtemp(), use_cpu=True, bf16=False, report_to=[])
trainer = SFTTrainer(model, args=arguments, train_dataset=Dataset.from_list([row]), processing_class=tokenizer)
batch = next(iter(trainer.get_train_dataloader()))
text = shown(tokenizer, batch["input_ids"][0].tolist(), batch["labels"][0].tolist())
print(repr(text))
sys.exit("[<|im_start|>assistant" in text)
