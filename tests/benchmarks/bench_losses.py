"""Losses and best-of-N beside what people use instead, each in turn, as ratios of processor time and of memory.

    python tests/benchmarks/bench_losses.py

Prints the processor seconds of a forward and a backward pass (best of the rounds), the memory that each adds at its
peak, and both as multiples of the plain way. Exits with 1 if a target is missed: `sft_loss` at most 1.05 times
cross-entropy over the selected rows at a vocabulary of 128,256, with an error of the gradient no larger;
`distillation_loss` at most 1.5 times F.kl_div + F.cross_entropy with 1.2 times the memory, in every divergence;
`expected_best_of_n` of a million rewards at most 0.15 s (on a quiet machine).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sftspec.distillation import distillation_loss
from sftspec.order_statistics import expected_best_of_n, subset_weights
from sftspec.step import sft_loss

Loss = Callable[[Tensor], Tensor]
TEMPERATURE = 2.0


def selected_rows(logits: Tensor, labels: Tensor) -> Tensor:
    chosen = labels[:, 1:] != -100
    return F.cross_entropy(logits[:, :-1][chosen].float(), labels[:, 1:][chosen])


def plain_distillation(logits: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    chosen = labels[:, 1:] != -100
    student, taught = (F.log_softmax(z[:, :-1][chosen] / TEMPERATURE, -1) for z in (logits, teacher))
    soft = TEMPERATURE**2 * F.kl_div(student, taught, reduction="sum", log_target=True)
    hard = F.cross_entropy(logits[:, :-1][chosen], labels[:, 1:][chosen], reduction="sum")
    return (soft + hard) / 2 / chosen.sum()


def batch(rows: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of student and teacher (1, rows, size), and labels of which half is ignored."""
    torch.manual_seed(0)
    student, teacher = (torch.randn(1, rows, size).mul_(3) for _ in range(2))
    labels = torch.randint(0, size, (1, rows))
    labels[:, : rows // 2] = -100
    return student, teacher, labels


def ways(name: str) -> tuple[Tensor, dict[str, Loss]]:
    """The logits, and what is compared on them: the plain way first."""
    if name == "sft":
        logits, _, labels = batch(512, 128_256)
        return logits, {
            "selected rows": partial(selected_rows, labels=labels),
            "sft_loss": partial(sft_loss, labels=labels),
        }
    logits, teacher, labels = batch(512, 32_768)
    given = {"teacher_logits": teacher, "labels": labels, "temperature": TEMPERATURE}
    settings = {f"divergence {item}": {"divergence": item} for item in ("forward_kl", "reverse_kl", "jsd")}
    settings["top_k 64"] = {"top_k": 64}
    ours = {label: partial(distillation_loss, **given, **setting) for label, setting in settings.items()}
    return logits, {"F.kl_div + F.cross_entropy": partial(plain_distillation, teacher=teacher, labels=labels), **ours}


def backward(loss: Loss, start: Tensor) -> tuple[float, Tensor]:
    logits = start.clone().requires_grad_()
    before = time.process_time()
    loss(logits).backward()
    return time.process_time() - before, logits.grad


def peak(name: str, way: str) -> float:
    """MB that a forward and a backward pass add at their peak, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, name, way], capture_output=True, text=True, check=True)
    return float(done.stdout)


def peak_here(name: str, way: str) -> float:
    start, losses = ways(name)
    logits = start.requires_grad_()
    before = _resident()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak is counted from here
    losses[way](logits).backward()
    with open("/proc/self/status") as file:
        highest = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    return highest / 1024 - before


def _resident() -> float:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1024


def compare(name: str, rounds: int, limit: float) -> list[str]:
    start, losses = ways(name)
    best = dict.fromkeys(losses, float("inf"))
    for _ in range(rounds):
        for way, loss in losses.items():
            best[way] = min(best[way], backward(loss, start)[0])
    plain, missed = next(iter(losses)), []
    memory = {way: peak(name, way) for way in losses}
    for way, seconds in best.items():
        times, more = seconds / best[plain], memory[way] / memory[plain]
        print(f"{way:28} {seconds:7.3f} s  x{times:.2f}  {memory[way]:6.0f} MB  x{more:.2f}", flush=True)
        if times > limit or more > 1.2:
            missed.append(f"{way}: {times:.2f} times the time, {more:.2f} times the memory of {plain}")
    return missed


def gradient_errors() -> list[str]:
    """Relative error of the gradient, against float64, on fewer rows."""
    logits, _, labels = batch(64, 128_256)
    (_, exact), (_, ours), (_, plain) = (
        backward(partial(loss, labels=labels), start)
        for loss, start in ((sft_loss, logits.double()), (sft_loss, logits), (selected_rows, logits))
    )
    found, other = (float((item.double() - exact).norm() / exact.norm()) for item in (ours, plain))
    print(f"gradient of sft_loss: relative error {found:.1e}, of F.cross_entropy {other:.1e}")
    return [f"the gradient of sft_loss errs by {found:.1e}"] if found > other else []


def best_of_n() -> list[str]:
    rewards, missed = np.random.default_rng(0).normal(size=10**6), []
    for n in (4, 64, 512):
        subset_weights.cache_clear()
        before = time.process_time()
        expected_best_of_n(rewards, n)
        seconds = time.process_time() - before
        print(f"expected_best_of_n of 1,000,000, n = {n:3}: {seconds:.3f} s")
        missed += [f"expected_best_of_n, n = {n}: {seconds:.2f} s"] if seconds > 0.15 else []
    return missed


def main() -> int:
    torch.set_num_threads(1)
    if len(sys.argv) == 3:
        print(peak_here(*sys.argv[1:]))
        return 0
    missed = compare("sft", 4, 1.05) + gradient_errors() + compare("distillation", 4, 1.5) + best_of_n()
    print(*(f"MISSED {line}" for line in missed), sep="\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
