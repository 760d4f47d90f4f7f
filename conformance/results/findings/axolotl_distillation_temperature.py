"""axolotl 0.19.0: in distillation the loss that is returned has the temperature squared, and its gradient has not.

Run in an environment with axolotl 0.19.0. Compares the gradient with a difference quotient of the loss, at the
temperatures 1 and 2; exits 1 if they differ.
"""

import sys

import torch
from axolotl.integrations.kd.kernels.liger import LigerFusedLinearKLTopKLogprobLoss

torch.manual_seed(0)
head = torch.randn(7, 4, dtype=torch.float64)
hidden = torch.randn(1, 3, 4, dtype=torch.float64)
direction = torch.randn_like(hidden)
ids = torch.tensor([[[0, 1, 2], [2, 3, 4], [4, 5, 6]]])
taught = torch.log_softmax(torch.randn(1, 3, 3, dtype=torch.float64), -1)
labels, seen, step = torch.tensor([[1, 2, 3]]), torch.ones_like(ids), 1e-3
worst = 0.0
for temperature in (1.0, 2.0):
    loss = LigerFusedLinearKLTopKLogprobLoss(0.0, 1.0, temperature, 0.0, compiled=False, compute_ce_loss=False)

    def value(states, loss=loss):
        return loss(head, states, ids, taught, seen, true_labels=labels)

    states = hidden.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(states), states)
    quotient = float(value(hidden + step * direction) - value(hidden - step * direction)) / (2 * step)
    slope = float((gradient * direction).sum())
    worst = max(worst, abs(quotient / slope - 1))
    print(f"temperature {temperature}: the loss changes {quotient / slope:.3f} times as fast as its gradient says")
sys.exit(worst > 0.05)
