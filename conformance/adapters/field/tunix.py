"""Tunix's `PeftTrainer` in JAX, on its own Llama and its own loss, with positions and attention by its `sft.utils`.

It leaves rows to its user: they are rendered with the assistant mask and filled up here. Its environment has no torch:
its steps are recorded (conformance/witness/jax_recorder.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sftspec.conventions import Conventions
from sftspec.job import Job

WIDTH = 256  # rows are filled up to a multiple of it: XLA compiles once for each shape
MANY = 1024  # tokens of a micro-batch: its runs then take longer than to compile it with care


@dataclass(frozen=True)
class Tunix:
    """`tunix.sft.peft_trainer.PeftTrainer`, full fine-tuning."""

    name, framework = "tunix", "jax"
    conventions = Conventions()
    # Of its accumulation (optax.MultiSteps) each micro-batch would be heard as a step: it is not claimed.
    claims = frozenset({"padding", "truncation", "clipping", "adamw", "log", "no-learned-positions", "no-dropout"})

    @property
    def version(self) -> str:
        from importlib.metadata import version

        return version("google-tunix")

    def train(self, job: Job) -> None:
        import jax
        from flax import nnx

        kept = (job.optimizer, job.max_grad_norm, str(job.model.config))
        fresh = made(job)
        trainer = KEPT.pop(kept, fresh)
        for part, given in ((trainer.model, fresh.model), (trainer.optimizer, fresh.optimizer)):
            # On a device that is named: else its step is compiled again when they come out of it.
            nnx.update(part, jax.device_put(nnx.state(given), jax.devices()[0]))
        trainer.metrics_logger, RATE[0] = Losses(), job.learning_rate
        trainer.train(batches(job, rendered(job)))
        trainer.close()  # it tells the last loss
        jax.effects_barrier()
        job.recorder.trained(nnx.to_pure_dict(nnx.state(trainer.model, nnx.Param)))  # type: ignore[attr-defined]
        job.report(losses=trainer.metrics_logger.told)
        KEPT[kept] = trainer


KEPT: dict[tuple, Any] = {}  # trainers of earlier jobs, whose steps are compiled: they get this job's weights and state
RATE = [0.0]  # the job's, which a step that was compiled for an earlier job looks up


def made(job: Job) -> Any:
    """A trainer with the job's weights and rates. It may be given several jobs: it is managed by its caller."""
    import optax
    from tunix.sft.peft_trainer import PeftTrainer, TrainingConfig

    # Rates stand in the optimizer's state: the compiled step holds none.
    adamw = optax.inject_hyperparams(optax.adamw, static_args=("b1", "b2", "eps", "eps_root"))
    sgd = optax.inject_hyperparams(optax.sgd)
    is_adamw = job.optimizer == "adamw"
    inner = adamw(job.learning_rate, weight_decay=job.weight_decay) if is_adamw else sgd(job.learning_rate)

    def named(params: Any) -> dict[str, Any]:
        return to_hugging_face(job.model.config, params)

    optimizer = job.recorder.optimizer(inner, named, lambda steps: RATE[0])  # type: ignore[attr-defined]
    if job.max_grad_norm is not None:
        optimizer = optax.chain(optax.clip_by_global_norm(job.max_grad_norm), optimizer)
    config = TrainingConfig(eval_every_n_steps=10**9, gradient_accumulation_steps=job.accumulation)
    trainer = PeftTrainer(llama(job), optimizer, config, metrics_logger=Losses())
    trainer.is_managed_externally = True  # else it leaves out as many batches as it has trained
    return trainer.with_gen_model_input_fn(model_input)


class Losses:
    """Its logger's place: the losses that it tells."""

    def __init__(self) -> None:
        self.told: list[float] = []

    def log(self, prefix: str, name: str, value: Any, mode: Any, step: int | None) -> None:
        if name == "loss":
            self.told.append(float(value))

    def close(self) -> None:
        """Nothing is open."""


def llama(job: Job) -> Any:
    """Its Llama with the job's weights, by its own loader; what enters the head is recorded."""
    from flax import nnx
    from tunix.models.llama3 import model as own
    from tunix.models.llama3.params import create_model_from_safe_tensors

    given, recorder = job.model.config, job.recorder  # type: ignore[attr-defined]
    config = own.ModelConfig(
        num_layers=given["num_hidden_layers"],
        vocab_size=given["vocab_size"],
        embed_dim=given["hidden_size"],
        hidden_dim=given["intermediate_size"],
        num_heads=given["num_attention_heads"],
        head_dim=given["head_dim"],
        num_kv_heads=given["num_key_value_heads"],
        rope_theta=int(given["rope_parameters"]["rope_theta"]),
        norm_eps=given["rms_norm_eps"],
    )

    class HeardLlama(own.Llama3):
        """The same, with an ear before the head."""

        def __call__(self, input_tokens: Any, positions: Any, cache: Any, attention_mask: Any) -> Any:
            graph, params, rest = nnx.split(self, nnx.Param, ...)

            def hidden(params: Any, input_ids: Any, position_ids: Any, seen: Any) -> Any:
                found = {}

                def head(states: Any) -> Any:
                    found["states"] = states
                    return states

                inner = nnx.merge(graph, params, rest)
                inner.lm_head = head
                own.Llama3.__call__(inner, input_ids, position_ids, None, seen)
                return found["states"]

            states = recorder.hidden(
                hidden, params, input_ids=input_tokens, position_ids=positions, seen=attention_mask
            )
            return self.lm_head(states), None

    model = create_model_from_safe_tensors(str(job.save_model()), config)
    model.__class__ = HeardLlama
    return model


def to_hugging_face(config: dict[str, Any], params: Any) -> dict[str, Any]:
    """Its parameters, or their gradients, by Hugging Face's names: the inverse of its `llama3.params`."""
    size = config["hidden_size"]
    layers = {}
    for number in range(config["num_hidden_layers"]):
        layer, place = params["layers"][number], f"model.layers.{number}"
        for name in "qkv":
            layers[f"{place}.self_attn.{name}_proj"] = layer["attn"][f"{name}_proj"]["w"].reshape(size, -1).T
        layers[f"{place}.self_attn.o_proj"] = layer["attn"]["o_proj"]["w"].reshape(-1, size).T
        for name in ("gate", "up", "down"):
            layers[f"{place}.mlp.{name}_proj"] = layer["mlp"][f"{name}_proj"]["kernel"].T
        for name in ("input_layernorm", "post_attention_layernorm"):
            layers[f"{place}.{name}"] = layer[name]["w"]
    ends = {
        "model.embed_tokens": params["embedder"]["input_embedding"],
        "model.norm": params["final_norm"]["w"],
        "lm_head": params["lm_head"]["w"].T,
    }
    return {f"{name}.weight": value for name, value in {**ends, **layers}.items()}


def model_input(batch: dict[str, Any]) -> dict[str, Any]:
    """What its loss is given, as its examples and its command make it, with the padding known and not looked for."""
    from tunix.sft.utils import build_positions_from_mask, make_causal_attn_mask

    return {
        "input_tokens": batch["input_tokens"],
        "input_mask": batch["input_mask"],
        "positions": build_positions_from_mask(batch["real"]),
        "attention_mask": make_causal_attn_mask(batch["real"]),
    }


def rendered(job: Job) -> list[tuple[list[int], list[int]]]:
    """Of each conversation its ids, and which of them are targets."""
    found = []
    for talk in job.conversations:
        out = job.tokenizer.apply_chat_template(list(talk), return_dict=True, return_assistant_tokens_mask=True)
        found.append((out["input_ids"][: job.max_length], out["assistant_masks"][: job.max_length]))
    return found


def batches(job: Job, rows: list[tuple[list[int], list[int]]]) -> Iterator[dict[str, Any]]:
    """Micro-batches of (B, T) arrays: ids, which of them are targets, and which are no padding.

    The last is filled up with rows of padding: another number of rows would be compiled anew.
    """
    import jax
    import numpy as np

    order = np.random.default_rng(job.seed)
    for _ in range(job.epochs):
        shuffled = [rows[index] for index in order.permutation(len(rows))]
        for at in range(0, len(rows), job.batch_size):
            chosen = shuffled[at : at + job.batch_size]
            shape = job.batch_size, -(-max(len(ids) for ids, _ in chosen) // WIDTH) * WIDTH
            ids, mask = np.full(shape, job.tokenizer.pad_token_id, np.int32), np.zeros(shape, bool)
            real = np.zeros(shape, bool)
            for line, (tokens, targets) in enumerate(chosen):
                ids[line, : len(tokens)], mask[line, : len(tokens)], real[line, : len(tokens)] = tokens, targets, True
            jax.config.update("jax_disable_most_optimizations", ids.size < MANY)  # when this shape is compiled
            yield {"input_tokens": ids, "input_mask": mask, "real": real}
