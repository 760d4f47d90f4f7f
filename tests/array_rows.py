"""Rows for loops without torch: conversations in tokens, padded or packed, as arrays of numpy. `bug` plants one."""

from __future__ import annotations

import numpy as np

IGNORE, WIDTH = -100, 128
CLAIMS = frozenset(
    {"padding", "packing", "truncation", "accumulation", "clipping", "adamw", "log", "no-learned-positions",
     "no-dropout"}
)  # fmt: skip


def tokenize(job, conversation, bug=""):
    """Token ids and labels of a conversation: the assistant's turns are trained."""
    out = job.tokenizer.apply_chat_template(list(conversation), return_dict=True, return_assistant_tokens_mask=True)
    ids, marks = out["input_ids"][: job.max_length], out["assistant_masks"][: job.max_length]
    return ids, [token if mark or bug == "mask" else IGNORE for token, mark in zip(ids, marks, strict=True)]


def packed(job, examples):
    """Rows of examples: next-fit into max_length tokens, or one a row."""
    rows = []
    for example in examples:
        used = sum(len(ids) for ids, _ in rows[-1]) if rows else 0
        if job.packing and rows and used + len(example[0]) <= job.max_length:
            rows[-1].append(example)
        else:
            rows.append([example])
    return rows


def batch_of(job, rows, bug=""):
    """(B, T) arrays of a micro-batch, filled up to a multiple of WIDTH: XLA compiles once for each shape."""
    length = max(sum(len(ids) for ids, _ in row) for row in rows)
    shape = len(rows), -(-length // WIDTH) * WIDTH
    ids, labels = np.full(shape, job.tokenizer.pad_token_id, np.int32), np.full(shape, IGNORE, np.int32)
    segments, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    for number, row in enumerate(rows):
        at = 0
        for segment, (tokens, targets) in enumerate(row, 1):
            here = slice(at, at + len(tokens))
            ids[number, here], labels[number, here] = tokens, targets
            labels[number, at] = IGNORE  # nothing of its own stands before it
            segments[number, here] = 1 if bug == "leak" else segment
            positions[number, here] = np.arange(at, at + len(tokens)) - (0 if bug == "positions" else at)
            at += len(tokens)
    return {"input_ids": ids, "labels": labels, "segment_ids": segments, "position_ids": positions}


def steps_of(job, bug=""):
    """For each optimizer step its micro-batches, and the denominator of each."""
    examples, order = [tokenize(job, item, bug) for item in job.conversations], np.random.default_rng(job.seed)
    for _ in range(job.epochs):
        rows = packed(job, [examples[index] for index in order.permutation(len(examples))])
        batches = [batch_of(job, rows[at : at + job.batch_size], bug) for at in range(0, len(rows), job.batch_size)]
        for at in range(0, len(batches), job.accumulation):
            window = batches[at : at + job.accumulation]
            counts = [int((batch["labels"][:, 1:] != IGNORE).sum()) for batch in window]
            if bug == "means":
                yield [(batch, max(count, 1) * len(window)) for batch, count in zip(window, counts, strict=True)]
            else:
                yield [(batch, max(sum(counts), 1)) for batch in window]
