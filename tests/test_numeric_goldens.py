"""The public functions against tables of 40 digits that neither they nor torch had a part in (golden/numeric).

Every bound is the rounding error of the formula in float64, derived in properties/BOUNDS.md and restated in
`properties/cases/distillation.py`; a case that misses it is a wrong formula, not noise.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from fractions import Fraction
from importlib import resources

import numpy as np
import pytest
import torch

from sftspec.distillation import distillation_loss
from sftspec.order_statistics import (
    best_of_n_kl_bound,
    best_of_n_law,
    expected_best_of_n,
    expected_max_normal,
    pass_at_n,
)
from sftspec.properties.cases.distillation import Case, hard_bound, soft_bound
from sftspec.step import clip_gradients, sft_loss

U = 2.0**-53
NUMERIC = resources.files("sftspec.golden") / "numeric"


def cases(table: str) -> list[dict]:
    return json.loads((NUMERIC / f"{table}.json").read_text(encoding="utf-8"))["cases"]


def errors(seen, expected) -> np.ndarray:
    """|seen - expected|, element by element, with the expected value in all its digits."""
    seen = np.asarray(seen)
    exact = np.asarray(expected, dtype=object)
    assert seen.shape == exact.shape
    pairs = zip(seen.ravel(), exact.ravel(), strict=True)
    return np.array([float(abs(Fraction(float(x)) - Fraction(y))) for x, y in pairs]).reshape(seen.shape)


def ids(case: dict) -> str:
    return "-".join(f"{key}={value}" for key, value in case.items() if isinstance(value, (int, float, str)))[:60]


def run_loss(loss, case: dict) -> tuple[float, torch.Tensor]:
    student = torch.tensor(case["student_logits"], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor(case.get("teacher_logits", case["student_logits"]), dtype=torch.float64)
    value = loss(student, teacher, torch.tensor(case["labels"]))
    value.backward()
    return float(value.detach()), student.grad


def torch_cross_entropy(student, _, labels):
    return torch.nn.functional.cross_entropy(student[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


@pytest.mark.parametrize("loss", [lambda z, _, y: sft_loss(z, y), torch_cross_entropy], ids=["sftspec", "torch"])
@pytest.mark.parametrize("case", cases("cross_entropy"), ids=ids)
def test_cross_entropy_value_and_gradient(case, loss):
    value, gradient = run_loss(loss, case)
    shape = Case(case["student_logits"], case["student_logits"], case["labels"])
    n, v, m = len(shape.rows), shape.vocabulary, shape.largest
    assert errors(value, case["value"]) <= hard_bound(shape) / 2
    assert errors(gradient, case["gradient"]).max() <= U / n * (v + 7.4 + 4 * math.log(v) + m)


def gradient_bound(case: dict) -> float:
    """Rounding error of an entry of any of the soft gradients: T/n [e (2G + 2) + (V + 8) u (2G + 1)].

    e is the error of a log-probability and G = 2M/T + ln V the largest gap between two of them. The entry is at most
    T/n * p (|gap| + 2): p errs by e relative, the gap by 2e, and the log-softmax backward pass sums V products.
    """
    shape = Case(case["student_logits"], case["teacher_logits"], case["labels"])
    temperature, v, n = case["temperature"], shape.vocabulary, len(shape.rows)
    m = shape.largest / temperature
    e, gap = U * (v + 6 + 4 * math.log(v) + 4 * m), 2 * m + math.log(v)
    return temperature / n * (e * (2 * gap + 2) + (v + 8) * U * (2 * gap + 1))


@pytest.mark.parametrize("table", ["distillation", "reverse_kl", "jsd", "top_k"])
def test_distillation_value_and_gradient(table):
    for case in cases(table):
        options = {key: case[key] for key in ("temperature", "divergence", "beta", "top_k") if key in case}
        alpha = case.get("alpha", 1.0)
        value, gradient = run_loss(lambda s, t, y, a=alpha, o=options: distillation_loss(s, t, y, alpha=a, **o), case)
        shape = Case(case["student_logits"], case["teacher_logits"], case["labels"])
        bound = alpha * soft_bound(shape, case["temperature"]) / 2 + (1 - alpha) * hard_bound(shape) / 2
        bound += 4 * U * abs(float(case["value"]))
        assert errors(value, case["value"]) <= bound, ids(case)
        bound = gradient_bound(case) + U * (shape.vocabulary + 24 + shape.largest)
        assert errors(gradient, case["gradient"]).max() <= bound, ids(case)


def test_the_distillation_tables_tell_wrong_formulas_apart():
    """Each wrong loss misses its table by at least a thousand times the bound, on most cases."""
    wrong = {
        "no T**2": lambda s, t, y, T: distillation_loss(s, t, y, T, 1.0) / T**2,
        "swapped": lambda s, t, y, T: distillation_loss(s, t, y, T, 1.0, divergence="reverse_kl"),
        "mean over V": lambda s, t, y, T: distillation_loss(s, t, y, T, 1.0) / s.shape[-1],
        "not shifted": lambda s, t, y, T: distillation_loss(s.roll(1, 1), t.roll(1, 1), y, T, 1.0),
    }
    for name, loss in wrong.items():
        missed = []
        for case in cases("distillation"):
            if case["alpha"] == 1.0 and case["temperature"] not in (1.0, 10000.0):
                value, _ = run_loss(lambda s, t, y, f=loss, c=case: f(s, t, y, c["temperature"]), case)
                shape = Case(case["student_logits"], case["teacher_logits"], case["labels"])
                missed.append(errors(value, case["value"]) > 1000 * soft_bound(shape, case["temperature"]))
        assert np.mean(missed) > 0.7, name


def test_clipping():
    """The norm is exact to its P + 3 roundings; torch's own clipping shrinks by 1e-6 / c more."""
    for case in cases("clip"):
        for clip, extra in ((clip_gradients, 0.0), (torch.nn.utils.clip_grad_norm_, 1e-6 / case["max_norm"])):
            tensors = [torch.nn.Parameter(torch.zeros(len(g), dtype=torch.float64)) for g in case["gradients"]]
            for tensor, gradient in zip(tensors, case["gradients"], strict=True):
                tensor.grad = torch.tensor(gradient, dtype=torch.float64)
            norm = float(clip(tensors, case["max_norm"]))
            assert errors(norm, case["norm"]) <= 8 * U * norm
            for tensor, expected in zip(tensors, case["clipped"], strict=True):
                size = tensor.grad.abs().max().item() + case["max_norm"]
                assert errors(tensor.grad, expected).max() <= (12 * U + extra) * size


def test_adamw_two_steps():
    """torch.optim.AdamW, which sft_step is given, against Loshchilov & Hutter: within 16u (|p| + lr) a step."""
    for case in cases("adamw"):
        parameter = torch.nn.Parameter(torch.tensor(case["parameters"], dtype=torch.float64))
        optimizer = torch.optim.AdamW([parameter], **case["options"])
        for step, (gradient, expected) in enumerate(zip(case["gradients"], case["after"], strict=True), 1):
            parameter.grad = torch.tensor(gradient, dtype=torch.float64)
            optimizer.step()
            bound = step * 16 * U * (parameter.detach().abs().max().item() + case["options"]["lr"])
            assert errors(parameter.detach(), expected).max() <= bound


def test_expected_maxima_of_normals():
    """Within 4 units in the last place, up to a trillion samples; an array gives the same numbers."""
    table = cases("expected_max_normal")
    for case in table:
        value = expected_max_normal(case["n"])
        assert errors(value, case["value"]) <= 4 * math.ulp(float(case["value"])), case["n"]
    counts = np.array([case["n"] for case in table])
    assert expected_max_normal(counts).tolist() == [expected_max_normal(case["n"]) for case in table]


def test_published_expected_maxima():
    """Five decimals, as Harter 1961 (Biometrika 48, 151-165) tabulates them."""
    published = {2: 0.56419, 3: 0.84628, 4: 1.02938, 5: 1.16296, 6: 1.26721, 7: 1.35218, 8: 1.42360, 9: 1.48501}
    published |= {10: 1.53875, 20: 1.86748, 50: 2.24907, 100: 2.50759}
    for n, value in published.items():
        assert abs(expected_max_normal(n) - value) <= 0.5e-5


def test_estimator_of_best_of_n():
    """3 roundings of sum(weight |reward|) without ties, 8 with; at m = 10,000 as at m = 2."""
    for case in cases("best_of_n_estimator"):
        m, n, correct = case["m"], case["n"], case.get("correct")
        if correct is None:
            rewards = [(7919 * i % 16381 - 8000) / 8 for i in range(m)]
            size, roundings = expected_best_of_n(np.abs(rewards), n), 3
        else:
            rewards, size, roundings = [1.0] * correct + [0.0] * (m - correct), 1.0, 8
            assert errors(pass_at_n(m, correct, n), case["value"]) <= U * float(case["value"])
        assert errors(expected_best_of_n(rewards, n), case["value"]) <= roundings * U * size, (m, n)


def test_law_of_the_winner_and_its_divergence():
    for case in cases("best_of_n_law"):
        base, n = np.array(case["weights"]) / sum(case["weights"]), case["n"]
        law = best_of_n_law(base, case["rewards"], n)
        # F**n magnifies the rounding of F n times; ln n - (n-1)/n cancels below n = 4.
        assert errors(law, case["law"]).max() <= (n + 8) * U
        assert errors(best_of_n_kl_bound(n), case["kl_bound"]) <= 3 * U * max(1.0, math.log(n))
        kl = math.fsum(mass * math.log(mass / p) for mass, p in zip(law, base, strict=True) if mass > 0)
        assert errors(kl, case["kl"]) <= (n + 16) * U * (1 - math.log(base.min()))
        assert kl <= best_of_n_kl_bound(n) + (n + 16) * U * (1 - math.log(base.min()))


def test_the_tables_are_what_their_generator_makes():
    """All but the expected maxima, whose 50-digit integrals take a minute."""
    quick = sorted(path.name[:-5] for path in NUMERIC.iterdir() if path.name.endswith(".json"))
    quick.remove("expected_max_normal")
    command = [sys.executable, str(NUMERIC / "generate.py"), "--check", *quick]
    assert len(quick) == 9 and subprocess.run(command, check=False).returncode == 0
