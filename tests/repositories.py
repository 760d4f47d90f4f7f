"""Three small repositories as people have them, and the one place that a plain loop leaves open, filled."""

LOOP = """\
import torch


def train(model, loader, optimizer, epochs=1, accumulation=1, max_grad_norm=None):
    model.train()
    for _ in range(epochs):
        batches = list(loader())
        for start in range(0, len(batches), accumulation):
            window = batches[start : start + accumulation]
            count = max(1, sum(int((labels[:, 1:] != -100).sum()) for _, _, labels in window))
            for ids, mask, labels in window:
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum")
                (loss / count).backward()
            if max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
"""

BATCHES = """\


def batches_of(job):
    import torch

    def rows(conversation):
        out = job.tokenizer.apply_chat_template(
            list(conversation), return_dict=True, return_assistant_tokens_mask=True
        )
        labels = [token if on else -100 for token, on in zip(out["input_ids"], out["assistant_masks"])]
        return out["input_ids"], labels

    def fill(part, value):
        width = max(map(len, part))
        return torch.tensor([list(row) + [value] * (width - len(row)) for row in part])

    def batches():
        order = torch.randperm(len(job.conversations)).tolist()
        every = [rows(job.conversations[i]) for i in order]
        for start in range(0, len(every), job.batch_size):
            ids, labels = zip(*every[start : start + job.batch_size])
            mask = [[1] * len(row) for row in ids]
            yield fill(ids, job.tokenizer.pad_token_id), fill(mask, 0), fill(labels, -100)

    return batches
"""

TRANSFORMERS = """\
import sys

from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

raise SystemExit("a script that is not to be imported")


def main():
    name = sys.argv[1]
    tokenizer = AutoTokenizer.from_pretrained(name)
    args = TrainingArguments(
        output_dir="out", learning_rate=2e-5, gradient_accumulation_steps=8, max_grad_norm=1.0
    )
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(name),
        args=args,
        train_dataset=load(tokenizer),
        data_collator=collator,
    )
    trainer.train()


if __name__ == "__main__":
    main()
"""

TRL = """\
from datasets import load_dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

dataset = load_dataset("json", data_files="chats.jsonl")["train"]
trainer = SFTTrainer(
    model="Qwen/Qwen2.5-0.5B",
    args=SFTConfig(
        output_dir="out", packing=True, packing_strategy="wrapped", assistant_only_loss=True, max_length=2048
    ),
    train_dataset=dataset,
    peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
"""


def filled(adapter: str) -> str:
    """The adapter of LOOP with its open place filled as its message says."""
    lines = adapter.splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if "loader=fill_in(" in line)
    lines[at] = lines[at][: lines[at].index("fill_in(")] + "batches_of(job),\n"
    return "".join(lines) + BATCHES
