"""instructlab-training 0.16.2: a run resumed from an on-demand checkpoint leaves out steps nobody took.

Run in an environment with instructlab-training 0.16.2. Three epochs of four batches through its `train`, its
`save_full_state` and `load_latest_full_state`, with stand-ins for the model, the engine and the loss; the checkpoint
is asked for before the optimizer's step. Prints the batches that were stepped on; exits 1 if any of the twelve lacks.
"""

import os
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import torch

os.environ.update(LOCAL_RANK="1", RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29577")

from instructlab.training import main_ds, on_demand_checkpoint, utils

torch.distributed.init_process_group("gloo")
EPOCHS, BATCHES = 3, 4


class Loader(list):
    """Four batches, in the same order in each epoch."""

    sampler = SimpleNamespace(set_epoch=lambda epoch: setattr(Loader, "epoch", epoch))


class Losses:
    """Stands in for `BatchLossManager`: notes the batch that a step would be taken on."""

    def __init__(self, *args, **kwargs) -> None:
        """Take what `train` hands over."""

    def process_batch(self, batch: int, interrupt_check: object = None) -> tuple:
        """Note the batch."""
        state["batch"] = (Loader.epoch, batch)
        numbers = dict.fromkeys(["total_samples", "total_length", "num_loss_counted_tokens", "num_minibatches"], 1)
        return SimpleNamespace(**numbers, grad_accum_steps=1, interrupted=False), 0.0


def run(stop: tuple | None) -> list:
    """Train to the end, or until a checkpoint is asked for at the batch `stop`; the batches stepped on."""
    state.update(done=[], stop=stop)
    args = SimpleNamespace(current_epoch=0, last_step=0, num_epochs=EPOCHS, output_dir=folder, lora_r=0)
    args.save_samples, args.save_samples_ds, args.checkpoint_at_epoch, args.save_last = 0, None, False, False
    args.distributed_training_framework = "deepspeed"
    accelerator = SimpleNamespace(save_samples=0, train_loader=Loader(range(BATCHES)), is_main_process=True)
    accelerator.take_optimizer_step = lambda: state["done"].append(state["batch"])
    accelerator.save_state = lambda output_dir: Path(output_dir).mkdir(parents=True)
    accelerator.load_state = lambda latest: None
    utils.load_latest_full_state(args, accelerator)
    model = SimpleNamespace(train=lambda: None, tokenizer=None)
    main_ds.train(args, model, accelerator, on_demand_checkpointing=True)
    return state["done"]


state: dict = {}
main_ds.BatchLossManager = Losses
utils.save_hf_format_accelerate = lambda **kwargs: None
on_demand_checkpoint.check_checkpoint_requested = lambda: state["batch"] == state["stop"]
lost = 0
for stop in ((0, 1), (1, 1)):
    with tempfile.TemporaryDirectory() as folder:
        before, after = run(stop), run(None)
    missing = [(e, b) for e in range(EPOCHS) for b in range(BATCHES) if (e, b) not in before + after]
    print(f"asked for in epoch {stop[0]}, batch {stop[1]}: {len(before)} steps, then {len(after)}; lost {missing}")
    lost += len(missing)
sys.exit(bool(lost))
