"""Tables of one optimizer step: clipping and AdamW."""

from __future__ import annotations

import itertools

import mpmath
from exact import digits
from mpmath import mpf


def clip() -> list[dict]:
    """g * min(1, c / |g|) over all tensors together; |g| <= c stays exactly as it is."""
    gradients = [[[3.0], [4.0, 12.0]], [[0.125, -0.25], [0.5]], [[300.0, -400.0], [0.0, 1.0]], [[0.0], [0.0]]]
    cases = []
    for gradient, largest in itertools.product(gradients, [0.5, 1.0, 13.0]):
        norm = mpmath.sqrt(mpmath.fsum(mpf(g) ** 2 for tensor in gradient for g in tensor))
        factor = mpf(1) if norm <= largest else largest / norm
        clipped = [[factor * mpf(g) for g in tensor] for tensor in gradient]
        cases.append({"gradients": gradient, "max_norm": largest, "norm": digits(norm), "clipped": digits(clipped)})
    return cases


def adamw() -> list[dict]:
    """Decoupled weight decay, Loshchilov & Hutter 2019, algorithm 2: parameters after the first and second step."""
    settings = itertools.product([0.125, 2.0**-10], [0.0, 0.125], [2.0**-27, 0.5])
    cases = []
    for lr, decay, eps in settings:
        beta1, beta2, parameters, gradients = 0.875, 0.984375, [1.0, -2.0, 0.5], [[0.5, -4.0, 0.0], [-0.25, 1.0, 0.125]]
        p, m, v, after = [mpf(x) for x in parameters], [mpf(0)] * 3, [mpf(0)] * 3, []
        for step, gradient in enumerate(gradients, 1):
            for i, g in enumerate(map(mpf, gradient)):
                p[i] *= 1 - mpf(lr) * decay
                m[i], v[i] = beta1 * m[i] + (1 - mpf(beta1)) * g, beta2 * v[i] + (1 - mpf(beta2)) * g**2
                corrected = m[i] / (1 - mpf(beta1) ** step), v[i] / (1 - mpf(beta2) ** step)
                p[i] -= lr * corrected[0] / (mpmath.sqrt(corrected[1]) + eps)
            after.append(list(p))
        options = {"lr": lr, "weight_decay": decay, "eps": eps, "betas": [beta1, beta2]}
        cases.append({"parameters": parameters, "gradients": gradients, "options": options, "after": digits(after)})
    return cases
