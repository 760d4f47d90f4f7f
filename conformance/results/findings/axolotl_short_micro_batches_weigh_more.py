"""axolotl 0.19.0: with gradient accumulation each micro-batch of a step weighs the same, however few targets it holds.

Run in an environment with axolotl 0.19.0. Two conversations of 2 and 41 targets, one a micro-batch, in one step: prints
the gradient's distance from that of the mean over 43 targets, and of the mean of the two means; exits 1 if it is the
second.
"""

import sys

import torch
from axolotl.train import setup_model_and_trainer
from axolotl_run import configured, said
from torch.optim.optimizer import register_optimizer_step_pre_hook

if __name__ == "__main__":
    cfg, meta, tokenizer = configured([said("B"), said("B" * 40)], gradient_accumulation_steps=2)
    trainer, model, *_ = setup_model_and_trainer(cfg, meta)
    seen = {}
    register_optimizer_step_pre_hook(lambda *args: seen.update(grad=model.lm_head.weight.grad.clone()))

    def gradient(total):
        """Of the summed loss of each row, divided by `total(row's targets)`."""
        model.zero_grad()
        for row in meta.train_dataset:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
            logits = model(input_ids=ids).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum")
            (loss / total(int((labels[0, 1:] != -100).sum()))).backward()
        return model.lm_head.weight.grad.clone()

    targets = [sum(label != -100 for label in row["labels"]) for row in meta.train_dataset]
    right, means = gradient(lambda count: sum(targets)), gradient(lambda count: 2 * count)
    model.zero_grad()
    trainer.train()
    print(f"targets {targets}, model_accepts_loss_kwargs {trainer.model_accepts_loss_kwargs}")
    far, near = ((seen["grad"] - other).norm() / other.norm() for other in (right, means))
    print(f"from the mean over {sum(targets)} targets: {far:.2%}; from the mean of two means: {near:.2%}")
    sys.exit(bool(far > near))
