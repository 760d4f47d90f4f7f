"""What readers ask first, and the ids that decide it. The answers are the entries' own sentences: nothing is added."""

from __future__ import annotations

QUESTIONS = (
    ("Is the newline after the end-of-turn token trained?",
     ("separator", "MK-SPAN", "masking/nothing-else-is-trained")),
    ("What is the denominator, with gradient accumulation and across ranks?", ("denominator", "ST-ACC", "ST-DP")),
    ("What happens at the boundaries of a pack?", ("PK-MASK", "PK-POS", "PK-BOUND", "PK-INDEP")),
    ("Is the distillation loss multiplied by T², and when does that matter?", ("KD-VAL", "KD-T2", "KD-LIM")),
    ("How far does best-of-N move the policy (its KL)?", ("BN-KL", "BN-LAW")),
    ("What if truncation leaves no target?", ("MK-TRUNCDROP", "MK-NONEMPTY")),
    ("Which side is cut?", ("masking/a-cut-example-is-a-prefix", "MK-TRUNC")),
    ("What is AdamW exactly?", ("ST-ADAMW", "step/adamw-decays-and-corrects", "BOUND-UPDATE")),
    ("What is the gradient clipped by?", ("ST-CLIP", "ST-CLIPORDER", "ST-CLIPNOOP")),
    ("Are label smoothing and z-loss allowed?",
     ("label smoothing", "auxiliary loss", "step/the-loss-is-cross-entropy", "ST-ROWSUM")),
    ("How exact is equal?", ("equal", "BOUND-EXACT", "BOUND-SELF", "BOUND-LOSS")),
    ("What is ST-DUP?", ("ST-DUP",)),
    ("Is the end-of-turn token trained?", ("MK-EOT", "TP-EOT")),
    ("Who writes the BOS, the template or the tokenizer?", ("TP-BOS",)),
    ("Why is a mean of micro-batch means wrong?", ("token mean", "ST-ACCMUT")),
)  # fmt: skip
