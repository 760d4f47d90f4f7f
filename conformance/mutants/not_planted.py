"""The catalogue of bugs that shipped, row by row: each is planted, or stands here with the reason why it is not.

T templates, M masks, P packing, L loss and step, B best-of-N, D distillation. A mutant of templates, best-of-N or
distillation opens `seen_in` with its row: "T-01: OpenRLHF/OpenRLHF#393".
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
