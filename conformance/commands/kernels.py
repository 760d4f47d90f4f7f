"""`sftspec kernels`: every attention and every loss, distillation too, that this machine has, held against float64."""

from __future__ import annotations

import dataclasses
import json
import platform
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sftspec.conformance.report.printable import printable
from sftspec.conformance.trial.machine import OF_WEIGHTS

EPILOG = """\
exit codes: 0 nothing fails; 1 a kernel fails; 2 the device is not there; 3 nothing was measured

examples:
  sftspec kernels
  sftspec kernels attention --device cuda --dtype bfloat16 --dtype float32 --json kernels.json
"""
KINDS = ("attention", "losses", "distillation")


class KernelsError(ValueError):
    """A device that is not there."""


def add_kernels_arguments(command: ArgumentParser) -> None:
    command.epilog, command.formatter_class = EPILOG, RawDescriptionHelpFormatter
    command.add_argument("kinds", metavar="|".join(KINDS), nargs="*", help="only these (default: all)")
    command.add_argument("--device", metavar="DEVICE", default="cpu", help="cpu (default), cuda or cuda:N")
    command.add_argument(
        "--dtype", choices=OF_WEIGHTS, action="append", help="may be repeated (default: the first two)"
    )
    command.add_argument("--json", metavar="FILE", type=Path, help="write the outcomes, and the machine, as JSON")


def run_kernels(args: Namespace) -> int:
    from sftspec.conformance.report.terminal import make_console
    from sftspec.conformance.witness.place import PlaceError, require_device

    if odd := [kind for kind in args.kinds if kind not in KINDS]:
        raise KernelsError(f"no kind {odd[0]!r}; known: {', '.join(KINDS)}")
    try:
        require_device(args.device)
    except PlaceError as error:
        raise KernelsError(str(error)) from None
    console, dtypes = make_console(sys.stdout), args.dtype or OF_WEIGHTS[:2]
    found: dict[str, list[Any]] = {}
    try:
        for kind in args.kinds or KINDS:
            found[kind] = []
            found[kind].extend(on_trial(kind, dtypes, args.device))
            console.print(*lines_of(kind, found[kind]), sep="\n", markup=False, highlight=False, soft_wrap=True)
    finally:  # what there is by the time of an interruption is kept
        outcomes = [item for items in found.values() for item in items]
        counts = Counter(item.status for item in outcomes)
        console.print(f"{counts['pass']} pass, {counts['fail']} fail, {counts['not-measured']} not measured")
        if args.json:
            record = {"machine": machine(args.device), "outcomes": [dataclasses.asdict(item) for item in outcomes]}
            args.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 1 if counts["fail"] else 0 if counts["pass"] else 3


def lines_of(kind: str, outcomes: list[Any]) -> Iterator[str]:
    """A line for each kernel and dtype: the largest error, that of the plain way, in which ways it passes; then each
    reason, once.
    """
    yield f"{kind:37} {'dtype':9} {'error':>8} {'plain':>8}"
    rows: dict[tuple[str, str], list[Any]] = {}
    for item in outcomes:
        rows.setdefault((item.kernel, item.dtype), []).append(item)
    for (kernel, dtype), found in rows.items():
        figures = [item.figures for item in found if item.figures]
        largest = [f"{max(item[name] for item in figures):.1e}" if figures else "–" for name in ("error", "own")]
        yield f"{kernel:37} {dtype:9} {largest[0]:>8} {largest[1]:>8}  {said_of(found)}{beside(figures)}"
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for item in outcomes:
        if item.reason:
            reasons.setdefault((item.kernel, item.status, item.reason), []).append(f"{item.way}, {item.dtype}")
    for (kernel, status, reason), where in reasons.items():
        there = f" ({'; '.join(where)})" if status == "fail" else ""
        yield printable(f"{kernel}: {status}: {reason}{there}")
    yield ""


def said_of(found: list[Any]) -> str:
    """In which ways a kernel passes, and in which it does not."""
    ways = {
        status: [item.way for item in found if item.status == status] for status in ("pass", "fail", "not-measured")
    }
    if len(ways["pass"]) == len(found):
        return "pass"
    said = {name: "all" if len(named) == len(found) else ", ".join(named) for name, named in ways.items()}
    return "; ".join(f"{name}: {said[name]}" for name, named in ways.items() if named)


def beside(figures: list[dict[str, float]]) -> str:
    """What else was measured."""
    memory = f", {max(item['MB'] for item in figures):.0f} MB" if figures and "MB" in figures[0] else ""
    return memory + (", not the same twice" if any(item.get("bitwise") == 0 for item in figures) else "")


def on_trial(kind: str, dtypes: Sequence[str], device: str) -> Iterator[Any]:
    import torch

    from sftspec.conformance.kernels.attention import attention_on_trial
    from sftspec.conformance.kernels.distillation import distillation_on_trial
    from sftspec.conformance.kernels.losses import losses_on_trial

    asked: dict[str, Any] = dict(zip(KINDS, (attention_on_trial, losses_on_trial, distillation_on_trial), strict=True))
    return asked[kind]([getattr(torch, name) for name in dtypes], device)


def machine(device: str) -> dict[str, str]:
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "cpu"
    return {"device": name, "torch": torch.__version__, "python": platform.python_version()}
