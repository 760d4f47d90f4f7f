"""Small repositories as people have them, and the one place that a plain loop leaves open, filled."""

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

SCRIPT = """\
import argparse
import json

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup


def rows(path, tokenizer, max_len):
    for line in open(path):
        out = tokenizer.apply_chat_template(
            json.loads(line)["messages"], return_dict=True, return_assistant_tokens_mask=True
        )
        labels = [token if on else -100 for token, on in zip(out["input_ids"], out["assistant_masks"])]
        yield {"input_ids": out["input_ids"][:max_len], "labels": labels[:max_len]}


def collate(batch, pad):
    width = max(len(row["input_ids"]) for row in batch)
    fill = lambda key, value: torch.tensor([row[key] + [value] * (width - len(row[key])) for row in batch])
    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in batch])
    return {"input_ids": fill("input_ids", pad), "labels": fill("labels", -100), "attention_mask": mask}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="Qwen/Qwen2.5-0.5B")
    parser.add_argument("--data", required=True)
    parser.add_argument("--output", default="out")
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--max-len", type=int, default=1024)
    parser.add_argument("--verbose", action="store_true")
    args = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model)
    loader = DataLoader(
        list(rows(args.data, tokenizer, args.max_len)), batch_size=args.batch_size, shuffle=True,
        collate_fn=lambda batch: collate(batch, tokenizer.pad_token_id),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0)
    scheduler = get_cosine_schedule_with_warmup(optimizer, 2, 100)
    model.train()
    for _ in range(args.epochs):
        for batch in loader:
            model(**batch).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    model.save_pretrained(args.output)


if __name__ == "__main__":
    main()
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
