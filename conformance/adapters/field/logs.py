"""What a Trainer of transformers, or one that is built on it, logged: told to the job by a callback."""

from __future__ import annotations

from typing import Any

from sftspec.job import Job


def log_callback(listening: Job | None = None) -> Any:
    """A TrainerCallback that keeps what is logged at each step: give it to a trainer, then `report_logs` to the job.

    listening: the job is told which model is trained when training begins. A trainer that puts adapters around what it
    loads calls the model's `forward` by itself, and not the model.
    """
    from transformers import TrainerCallback

    class KeepLogs(TrainerCallback):
        def __init__(self) -> None:
            self.entries: list[dict[str, Any]] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
            if listening is not None:
                listening.listen_to(model.get_base_model() if hasattr(model, "get_base_model") else model)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
            self.entries.append(dict(logs or {}))

    return KeepLogs()


def report_logs(job: Job, callback: Any) -> None:
    """Tell the job the losses and gradient norms that were logged."""
    steps = [entry for entry in callback.entries if "loss" in entry]
    job.report(losses=[float(entry["loss"]) for entry in steps])
    if norms := [float(entry["grad_norm"]) for entry in steps if "grad_norm" in entry]:
        job.report(grad_norms=norms)
