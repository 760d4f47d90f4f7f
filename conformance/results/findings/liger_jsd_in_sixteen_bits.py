"""Liger 0.8.5: the JSD in chunks takes its softmax and its mixture in the dtype of the logits.

Run in an environment with liger-kernel 0.8.5. A student that is near its teacher, both in bfloat16, 128,256 tokens.
Prints how far the loss and the gradient of the hidden states are from those of the same bfloat16 logits in float64;
beside them, the same formula on these logits raised to float32. Exits 1 if Liger's is ten times as far.
"""

import sys

import torch
from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDLoss
from torch.nn.functional import log_softmax

POSITIONS, SIZE, TOKENS, BETA = 32, 64, 128_256, 0.3
torch.manual_seed(0)
weight = (torch.randn(TOKENS, SIZE) / SIZE**0.5).bfloat16()
near = torch.randn(POSITIONS, SIZE).bfloat16()
hidden = (near + 0.1 * torch.randn(POSITIONS, SIZE)).bfloat16().requires_grad_()


def formula(dtype):
    """The loss on the logits that bfloat16 gives, worked out in another dtype."""
    student, teacher = (log_softmax((states @ weight.t()).to(dtype), -1) for states in (hidden, near))
    beta = torch.tensor(BETA, dtype=dtype)
    mixture = torch.logaddexp(student + torch.log1p(-beta), teacher + torch.log(beta))
    told = beta * teacher.exp() * (teacher - mixture) + (1 - beta) * student.exp() * (student - mixture)
    return told.sum(-1).mean()


def liger():
    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=BETA, compiled=False)
    return loss(hidden, weight, near, weight, torch.zeros(POSITIONS, dtype=torch.long))


def of(loss):
    (gradient,) = torch.autograd.grad(loss, [hidden])
    return float(loss.detach()), gradient.double()


value, gradient = of(formula(torch.float64))
errors = {}
for name, loss in (("raised to float32", formula(torch.float32)), ("Liger's, in chunks", liger())):
    found, slope = of(loss)
    errors[name] = abs(found / value - 1), float((slope - gradient).norm() / gradient.norm())
    print(f"{name}: loss {found:.3e} for {value:.3e}, gradient {errors[name][1]:.1%} off")
plain, own = errors.values()
sys.exit(any(mine > 10 * theirs for mine, theirs in zip(own, plain, strict=True)))
