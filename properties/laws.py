"""Which law is enforced where: every law is a property, or stands here with the reason why it is none.

The ids are those of the project's theory note (areas: TP template, MK masking, PK packing, ST step, BN best-of-N, KD
distillation). `coverage()` is the table that a test holds against the registry.
"""

from __future__ import annotations

from sftspec import properties

LAWS = {
    "template": "PARSE PREFIX GEN GENSUF NOGENTRAIN INJ NOFORGE BOS EOT CAT TRAININF DET ERR PRES",
    "masking": "SPAN LABEL EOT ZERO IGNVAL USERPERM SHIFT FIRST CAUSAL NONEMPTY TRUNC TRUNCDROP COUNT WEIGHT",
    "packing": "PART CAP LONG DET POS MASK BACKEND INDEP JAC LOGITS LOSSGRAD BOUND NTOK PAD LB FFD ANYFIT EFF",
    "step": "CE GRAD ROWSUM SHIFTINV UNIF NONNEG CONVEX PERM VOCPERM PAD DUP ACC ACCMUT DP CLIP CLIPDIR CLIPNOOP "
    "CLIPIDEM CLIPHOM CLIPORDER NONFINITE SGD ADAMW ADAMSCALE GRADCHECK ZEROLR ZERO_GRAD EVAL RESUME DET EPOCH UPCAST "
    "REPORT DESC CONST",
    "best_of_n": "ARGMAX ALIGN PERM TIE NAN MONO SUB TOPK EMAX ASYM HD CONC OTHER EST ESTTRUE LAW KL WIN GOODHART SFT",
    "distillation": "VAL GRAD LIM BOUND T2 ZERO SHIFT DIR NOTEACH MASK RED MIX CE HARD ACC JSD TOPK VOCAB SEQ",
}
PREFIXES = {"template": "TP", "masking": "MK", "packing": "PK", "step": "ST", "best_of_n": "BN", "distillation": "KD"}

NOT_OBSERVABLE = {
    "ST-ADAMSCALE": "a fact about Adam's formula, not about a trainer: it is why the scenarios that are to show a "
    "constant factor step plain SGD",
    "ST-DESC": "follows from the gradient being that of the loss and the update being p - lr g, which are both "
    "properties; the curvature of a real model is unknown, so a loss that rises proves nothing",
}


def coverage() -> dict[str, list[str] | str]:
    """For each law the ids of its properties, or the reason why it has none ("" where neither exists)."""
    items = properties.load()
    reasons = dict(NOT_OBSERVABLE)
    for module in properties.modules():
        reasons.update(getattr(module, "NOT_OBSERVABLE", {}))
    table: dict[str, list[str] | str] = {}
    for area, names in LAWS.items():
        for name in names.split():
            law = f"{PREFIXES[area]}-{name}"
            table[law] = [item.id for item in items if law in item.laws] or reasons.get(law, "")
    return table
