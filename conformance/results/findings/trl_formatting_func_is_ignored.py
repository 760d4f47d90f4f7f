"""TRL 1.16.0: a formatting_func is called, and what it returns is thrown away, where the dataset has messages, or a
prompt and a completion.

Run in an environment with TRL 1.16.0. One conversation in three forms, as SFTTrainer prepares it with a formatting_func
that writes "Question: … Answer: …": prints what is trained; exits 1 if it is something else.
"""

import sys
import tempfile

from datasets import Dataset
from newline_tokenizer import make, shown
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer

tokenizer = make()
sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def prepared(row, write):
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))
    # without completion_only_loss=False a prompt and a completion raise an error, which says to set it
    given = {"use_cpu": True, "bf16": False, "report_to": [], "completion_only_loss": False}
    trainer = SFTTrainer(
        model, args=SFTConfig(tempfile.mkdtemp(), **given), train_dataset=Dataset.from_list([row]),
        processing_class=tokenizer, formatting_func=lambda row: "Question: {} Answer: {}".format(*write(row)),
    )  # fmt: skip
    (made,) = trainer.train_dataset
    return shown(tokenizer, made["input_ids"], made["labels"])


talk = [{"role": "user", "content": "What is two?"}, {"role": "assistant", "content": "One and one."}]
seen = {
    "question, answer": prepared(
        {"question": "What is two?", "answer": "One and one."}, lambda row: (row["question"], row["answer"])
    ),
    "messages": prepared({"messages": talk}, lambda row: [message["content"] for message in row["messages"]]),
    "prompt, completion": prepared(
        {"prompt": "What is two?", "completion": "One and one."}, lambda row: (row["prompt"], row["completion"])
    ),
}
for columns, text in seen.items():
    print(f"{columns + ':':20}{text!r}")
sys.exit(any("Question: What is two? Answer: One and one." not in text for text in seen.values()))
