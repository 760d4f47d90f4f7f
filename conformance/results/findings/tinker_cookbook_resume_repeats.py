"""tinker-cookbook 0.6.1: a resumed run repeats the steps that its checkpoint holds.

Run in an environment with tinker-cookbook 0.6.1. Its supervised loop on six batches, against a service that only
writes down what it is asked for; then once more from the checkpoint that was made behind batch 2. Prints the batches
that are in the checkpoint and those of the resumed run; exits 1 if one is in both.
"""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

for unused in ("blobfile", "datasets"):  # the samples are made here, and these want more packages
    sys.modules[unused] = MagicMock()

import chz  # noqa: E402
import tinker  # noqa: E402
from tinker_cookbook.supervised import train  # noqa: E402
from tinker_cookbook.supervised.types import SupervisedDataset, SupervisedDatasetBuilder  # noqa: E402

asked = []


async def come(**given):
    return SimpleNamespace(**given)


class Client:
    """A training client: requests are carried out in the order in which they are made."""

    def forward_backward(self, data, loss_fn):
        asked.append(data[0].loss_fn_inputs["target_tokens"].data[0])
        values = tinker.TensorData(data=[0.0], dtype="float32", shape=[1])
        return come(loss_fn_outputs=[{"logprobs": values}])

    def optim_step(self, parameters):
        return come(metrics=None)

    def save_state(self, name, ttl_seconds):
        asked.append(name)
        return come(path=f"tinker://{name}")

    def save_weights_for_sampler(self, name, ttl_seconds):
        return come(path=f"tinker://{name}")


class Service:
    def __init__(self, **given):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    async def create_lora_training_client(self, **given):
        return Client()

    async def create_training_client_from_state_with_optimizer(self, path, **given):
        return Client()


class Batches(SupervisedDataset):
    def get_batch(self, index):
        inputs = {
            "weights": tinker.TensorData(data=[1.0], dtype="float32", shape=[1]),
            "target_tokens": tinker.TensorData(data=[index], dtype="int64", shape=[1]),
        }
        return [tinker.Datum(model_input=tinker.ModelInput.from_ints([1]), loss_fn_inputs=inputs)]

    def __len__(self):
        return 6


@chz.chz
class Builder(SupervisedDatasetBuilder):
    def __call__(self):
        return Batches(), None


async def unchecked(*given):
    pass


tinker.ServiceClient = Service
train.get_tokenizer = lambda name: SimpleNamespace(decode=lambda ids, **given: "a", all_special_ids=[])
train.colorize_example = lambda datum, tokenizer: ""
train.fetch_model_pricing = lambda name: None
train.model_info.warn_if_renderer_not_recommended = lambda *given: None
train.checkpoint_utils.check_renderer_name_for_checkpoint_async = unchecked
folder = Path(tempfile.mkdtemp())
config = train.Config(
    log_path=str(folder), model_name="none", recipe_name="none", dataset_builder=Builder(), save_every=2
)
asyncio.run(train.main(config))
held = [item for item in asked[: asked.index("000002")] if isinstance(item, int)]
(store,) = folder.rglob("checkpoints.jsonl")
first = next(line for line in store.read_text().splitlines() if json.loads(line)["name"] == "000002")
store.write_text(first + "\n")  # the run was stopped after this checkpoint
asked.clear()
asyncio.run(train.main(config))
resumed = [item for item in asked if isinstance(item, int)]
print(f"batches in the checkpoint: {held}; batches of the run that is resumed from it: {resumed}")
sys.exit(bool(set(held) & set(resumed)))
