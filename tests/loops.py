"""A right plain loop with places to change, and the ways in which people really run one.

Each subclass changes one thing; the tests put them on trial, right and with a bug planted.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

IGNORE = -100


class Loop:
    """Padded batches, the denominator counted over the whole step, SGD or AdamW."""

    name, version = "loop", "1"
    claims = frozenset({"padding", "accumulation", "clipping", "adamw", "truncation", "log"})

    def prepare(self, job):
        """The model to train: job.model, or what is put around it."""
        return job.model

    def tokenize(self, job, conversation):
        out = job.tokenizer.apply_chat_template(list(conversation), return_dict=True, return_assistant_tokens_mask=True)
        ids, marks = out["input_ids"][: job.max_length], out["assistant_masks"][: job.max_length]
        return ids, [token if mark else IGNORE for token, mark in zip(ids, marks, strict=True)]

    def rows(self, job, examples):
        """What stands in a row: an example."""
        return examples

    def pad(self, job, rows):
        width = max(len(ids) for ids, _ in rows)

        def fill(lists, value):
            return torch.tensor([[*items, *[value] * (width - len(items))] for items in lists])

        ids, labels = zip(*rows, strict=True)
        return fill(ids, job.tokenizer.pad_token_id), fill([[1] * len(row) for row in ids], 0), fill(labels, IGNORE)

    def logits(self, job, model, ids, mask):
        return model(input_ids=ids, attention_mask=mask, use_cache=False).logits

    def loss(self, logits, labels, count):
        return cross_entropy(logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / count

    def count(self, labels):
        return max(1, sum(int((one[:, 1:] != IGNORE).sum()) for one in labels))

    def parameters(self, job, model):
        return [item for item in model.parameters() if item.requires_grad]

    def backward(self, loss):
        if loss.requires_grad:
            loss.backward()

    def step(self, job, model, optimizer):
        if job.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), job.max_grad_norm)
        optimizer.step()

    def finish(self, job, model):
        """After the last step."""

    def train(self, job):
        model = self.prepare(job)
        examples = [self.tokenize(job, conversation) for conversation in job.conversations]
        make = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[job.optimizer]
        optimizer = make(self.parameters(job, model), lr=job.learning_rate, weight_decay=job.weight_decay)
        order, losses = torch.Generator().manual_seed(job.seed), []
        model.train()
        for _ in range(job.epochs):
            rows = self.rows(job, [examples[index] for index in torch.randperm(len(examples), generator=order)])
            batches = [self.pad(job, rows[at : at + job.batch_size]) for at in range(0, len(rows), job.batch_size)]
            for at in range(0, len(batches), job.accumulation):
                window = batches[at : at + job.accumulation]
                count, total = self.count([labels for _, _, labels in window]), 0.0
                for ids, mask, labels in window:
                    loss = self.loss(self.logits(job, model, ids, mask), labels, count)
                    self.backward(loss)
                    total += loss.item()
                losses.append(total)
                self.step(job, model, optimizer)
                optimizer.zero_grad()
        self.finish(job, model)
        job.report(losses=losses)


class Autocast(Loop):
    """float32 weights; the forward pass in 16 bits."""

    name, dtype = "autocast", torch.bfloat16

    def logits(self, job, model, ids, mask):
        with torch.autocast("cpu", self.dtype):
            return super().logits(job, model, ids, mask)


class Scaled(Autocast):
    """float16 with a GradScaler, which leaves out a step whose gradients overflowed."""

    name, dtype = "float16, scaled", torch.float16

    def prepare(self, job):
        self.scaler = torch.amp.GradScaler("cpu")
        return super().prepare(job)

    def backward(self, loss):
        if loss.requires_grad:
            self.scaler.scale(loss).backward()

    def step(self, job, model, optimizer):
        if not any(item.grad is not None for item in model.parameters()):
            return
        self.scaler.unscale_(optimizer)
        if job.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), job.max_grad_norm)
        self.scaler.step(optimizer)
        self.scaler.update()


class Lora(Loop):
    """LoRA by PEFT: base and head are frozen."""

    name, options = "LoRA", {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}

    def prepare(self, job):
        from peft import LoraConfig, get_peft_model

        return get_peft_model(job.model, LoraConfig(task_type="CAUSAL_LM", **self.options))


class FrozenHead(Loop):
    name = "frozen head"

    def prepare(self, job):
        job.model.get_output_embeddings().weight.requires_grad_(False)
        return job.model
