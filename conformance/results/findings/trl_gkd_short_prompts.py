"""TRL 0.19.1: GKDTrainer leaves out the beginnings of answers whose prompt is shorter than the longest of the batch.

Run in an environment with TRL 0.19.1. A short question with a long answer and a long one with a short answer, in one
batch: prints the targets of each alone and of both; exits 1 if targets are missing.
"""

import sys

from newline_tokenizer import make
from trl.trainer.utils import DataCollatorForChatML

tokenizer = make()
collate = DataCollatorForChatML(tokenizer, max_length=512)


def targets(*talks):
    """How many positions `GKDTrainer.compute_loss` takes: its slice of the labels."""
    inputs = collate([{"messages": talk} for talk in talks])
    return int((inputs["labels"][:, inputs["prompts"].shape[1] :] != -100).sum())


def talk(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


short, long = talk("A", "0123456789" * 9), talk("A" * 60, "0123456789")
alone, together = targets(short) + targets(long), targets(short, long)
print(f"targets of each alone: {targets(short)} and {targets(long)}; of both in a batch: {together}")
sys.exit(together != alone)
