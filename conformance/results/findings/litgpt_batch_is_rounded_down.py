"""LitGPT 0.5.13: a global batch that is no multiple of the micro-batch is rounded down, in silence.

Run in an environment with litgpt 0.5.13. Ten samples a step in micro-batches of four, through `TrainArgs` as each
finetune script asks it: prints how many samples a step has then; exits 1 if it is not ten and nothing was said.
"""

import sys
import warnings

from litgpt.args import EvalArgs, TrainArgs
from litgpt.finetune.full import validate_args

with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always")
    args = TrainArgs(global_batch_size=10, micro_batch_size=4, epochs=1)
    validate_args(args, EvalArgs(max_new_tokens=1))
    accumulated = args.gradient_accumulation_iters(devices=1)
samples = accumulated * args.micro_batch_size
print(f"asked for 10 samples a step: {accumulated} micro-batches of {args.micro_batch_size}, {samples} samples")
sys.exit(samples != 10 and not heard)
