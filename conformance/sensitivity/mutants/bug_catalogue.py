"""The catalogue of bugs that shipped, row by row: each is planted, or stands here with the reason why it is not.

T templates, M masks, P packing, L loss and step, B best-of-N, D distillation. A mutant of templates, best-of-N or
distillation opens `seen_in` with its row: "T-01: OpenRLHF/OpenRLHF#393"; those of the other areas stand in PLANTED.
"""

from __future__ import annotations

ROWS = {
    "T": "01 02 03 04 05 06 08 09 10 11 12 13 15 16 17 18 19 21 23 24 25",
    "M": "01 02 04 05 06 07 08 09 10 12 13 14 15 16 17 18 21 22 23 24 26 27",
    "P": "01 02 03 04 06 07 09 10 12 13 15 16 17 18 19 20 22 23 24 25",
    "L": "01 02 03 04 06 08 09 10 13 14 15 16 17 18 19 20 21 22 24 25 27 28 30",
    "B": "01 04 05 06 07 08 09 10 11 12 14 16 17 18 19",
    "D": "01 02 03 05 07 08 09 10 11 12 13 14 15 16 18 19 20 21 23",
}

PLANTED = {
    "M-01": "masking/pads-masked-by-id masking/packed-pads-masked-by-id",
    "M-02": "masking/end-of-turn-not-appended",
    "M-04": "masking/end-of-turn-masked masking/end-of-last-turn-masked",
    "M-05": "masking/marker-not-found",
    "M-06": "masking/marker-not-found",
    "M-07": "masking/first-user-turn-trained",
    "M-08": "masking/mask-drifts-by-turn masking/third-turn-lost",
    "M-09": "masking/mask-all-zeros",
    "M-10": "masking/empty-mask-becomes-ones",
    "M-12": "masking/first-answer-token-lost masking/last-header-token-trained masking/last-answer-token-lost",
    "M-13": "masking/header-trained",
    "M-14": "masking/separator-trained-undeclared",
    "M-15": "masking/only-the-last-turn masking/only-the-first-turn masking/policy-ignored",
    "M-16": "masking/mask-dropped masking/mask-dropped-when-packed",
    "M-17": "masking/tool-results-trained",
    "M-18": "masking/dropped-before-the-cut",
    "M-21": "masking/silent-default-length",
    "M-22": "masking/shifted-twice masking/shifted-twice-when-packed",
    "M-23": "masking/not-shifted",
    "M-24": "masking/target-lost-at-the-shard-edge",
    "M-26": "masking/prompt-of-length-two",
    "M-27": "masking/positions-reported-as-targets",
    "P-01": "packing/plain-causal-attention packing/third-segment-leaks",
    "P-02": "packing/cache-made",
    "P-03": "packing/plain-causal-attention",
    "P-04": "packing/positions-run-on packing/positions-begin-at-two packing/positions-restart-in-the-middle",
    "P-06": "packing/boundary-trained packing/two-labels-lost-at-each-boundary",
    "P-07": "packing/boundaries-subtracted-from-the-count",
    "P-09": "packing/segments-end-with-a-turn packing/boundary-one-token-late",
    "P-10": "packing/half-of-long-examples-lost masking/truncation-not-counted",
    "P-12": "packing/packs-half-as-large packing/search-tree-of-the-capacitys-size",
    "P-13": "packing/examples-split packing/last-pack-dropped",
    "P-16": "step/epochs-repeat",
    "P-18": "packing/sliding-window packing/window-replaces-the-block",
    "P-19": "packing/mask-inverted packing/attends-to-nothing",
    "P-20": "packing/first-rows-mask-for-all",
    "P-22": "packing/remainder-dropped",
    "P-23": "masking/masked-by-multiplication",
    "P-24": "packing/packing-switched-off",
    "L-01": "step/mean-of-means step/each-row-weighs-the-same",
    "L-02": "step/not-divided-by-accumulation",
    "L-03": "step/divided-twice step/multiplied-by-accumulation",
    "L-04": "step/denominator-per-rank step/averaged-over-ranks-once-more step/first-ranks-count-for-all",
    "L-06": "step/evaluation-multiplied",
    "L-08": "masking/masked-by-multiplication step/empty-micro-batches-counted",
    "L-09": "step/reduced-in-bfloat16 step/sixteen-bits-not-raised",
    "L-10": "step/labels-smoothed step/last-chunk-lost",
    "L-13": "step/clipped-before-unscaling",
    "L-14": "step/clipped-per-parameter step/clipped-by-the-largest-parameter",
    "L-15": "step/gradient-left-over step/zero-grad-per-micro-batch step/gradient-left-over-by-partial-windows",
    "L-16": "step/rate-decays step/rate-decays-with-micro-batches",
    "L-17": "step/resume-begins-the-data-again step/resume-skips-a-batch",
    "L-18": "step/resume-forgets-the-optimizer step/resume-forgets-the-random-state",
    "L-19": "step/lower-layers-cut-off step/lower-layers-halved",
    "L-22": "step/evaluation-averages-batches",
    "L-24": "step/divided-twice",
    "L-25": "step/loss-reported-per-micro-batch step/loss-reported-as-a-sum",
}

NOT_PLANTED = {
    "T-17": "code that runs in a template breaks out of the process, not out of the text: the tests of the sandbox "
    "hold malicious templates against it",
    "T-18": "nothing here continues a final message by cutting its rendering: a prefilled answer is continued as text "
    "before it is rendered, and B-18 is that bug",
    "T-23": "a cache that outlives its template needs two runs and the files between them; each job here has a folder "
    "of its own",
    "T-25": "what a base model never trained is a fact about its weights; the half that training can get wrong, "
    "embeddings that stay frozen, is step/embeddings-frozen",
    "P-15": "the jobs train at a constant rate, so that no schedule has a horizon to be computed from lengths",
    "P-17": "the witness attends; it has no recurrent or convolutional state that could leak",
    "P-25": "an evaluation is given its batches: that training is packed and evaluation is not cannot be seen in it",
    "L-20": "whether norms and biases decay is a convention: the property allows both for vectors, and no others",
    "L-21": "shards of a sequence that are averaged are ranks that are averaged: L-04",
    "L-27": "tensor, pipeline and expert parallelism need more than the one process in which a trainer is watched",
    "L-28": "the witness is dense: it has no router and no auxiliary loss",
    "B-04": "a reward function is given messages, never ids: which tokenizer it uses is its own affair",
    "B-05": "the reward model's BOS is a template's BOS: T-01 and T-02, on the template that it uses",
    "B-06": "the prompt of best-of-N is a prompt: T-06, on the template that it uses",
    "B-07": "where a reward head reads its score lies behind the reward function; selection is given numbers",
    "B-08": "a label read the wrong way round is the order of rewards reversed: seen from selection it is B-12",
    "B-14": "a sum and a mean of log-probabilities are two criteria; which was asked for is the user's convention",
    "B-17": "the fix that was merged does not say what was wrong",
}
