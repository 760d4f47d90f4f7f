"""torchtune's recipes `full_finetune_single_device` and `lora_finetune_single_device`, with its Qwen2 tokenizer and its
chat dataset.

A recipe's class is loaded from the file that `tune run` runs; config, dataset, tokenizer, loss, collator and
checkpointer are torchtune's own components. Its model builders derive the heads' width from the model's, which is not
so in the model that is handed over: `decoder` puts torchtune's modules together as they do.
"""

from __future__ import annotations

import importlib.util
import json
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftspec.adapters import Adapter
from sftspec.conventions import Conventions
from sftspec.conversation import Conversation
from sftspec.job import Job

FULL = ("full_finetune_single_device", "FullFinetuneRecipeSingleDevice")
LORA = ("lora_finetune_single_device", "LoRAFinetuneRecipeSingleDevice")
RANK, ALPHA = 8, 16
ADAPTED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
           "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip


@dataclass(frozen=True)
class Torchtune:
    """`FullFinetuneRecipeSingleDevice` on `torchtune.datasets.chat_dataset`.

    packed            fill rows of max_length tokens (`dataset.packed`)
    train_on_input    train every message, not the assistant's alone
    lora              `LoRAFinetuneRecipeSingleDevice`: adapters of rank 8, alpha 16, on all linear layers but the head
    optimizer_in_bwd  step each parameter as soon as its gradient is there; it refuses accumulation and clipping then
    """

    packed: bool = False
    train_on_input: bool = False
    lora: bool = False
    optimizer_in_bwd: bool = False

    name = "torchtune"

    @property
    def conventions(self) -> Conventions:
        """Each part of a message is encoded by itself; header and newline of a trained turn are trained, and no newline
        ends a conversation; packed rows are filled up with id 0, whatever the tokenizer's pad is.
        """
        return Conventions(
            header=True,
            separator=True,
            final_separator=False,
            tokenization="segmented",
            pad=0 if self.packed else None,
        )

    @property
    def version(self) -> str:
        from importlib.metadata import version

        return version("torchtune")

    @property
    def claims(self) -> frozenset[str]:
        layout = {"packing"} if self.packed else {"padding", "truncation"}
        does = {"adamw", "bf16", "log"} | (set() if self.optimizer_in_bwd else {"accumulation", "clipping"})
        return frozenset(layout | does | {"no-learned-positions", "no-dropout"})

    @property
    def policy(self) -> str:
        return "every-token" if self.train_on_input else "all"

    def accepts(self, conversation: Conversation) -> bool:
        """What `torchtune.data.validate_messages` lets pass; and no text that Qwen2's tokenizer composes (NFC), for the
        job's tokenizer does not.
        """
        from torchtune.data import Message, validate_messages

        if not all(unicodedata.is_normalized("NFC", item["content"]) for item in conversation):
            return False

        try:
            validate_messages([Message(role=item["role"], content=item["content"]) for item in conversation])
        except ValueError:
            return False
        return True

    def train(self, job: Job) -> None:
        from torchtune.modules import TransformerDecoder

        log = job.workdir / "log" / "log.txt"
        job.listen_to(
            TransformerDecoder,
            hidden="norm",
            weights=lambda own: to_hugging_face(own, job.model.config),
            arguments={"input_ids": "tokens", "attention_mask": "mask", "position_ids": "input_pos"},
            adapters=adapters(job.model.config) if self.lora else (),
        )
        config = self.config(job)
        recipe = recipe_class(*(LORA if self.lora else FULL))(config)
        recipe.setup(config)
        recipe.train()
        recipe.cleanup()
        text = log.read_text(encoding="utf-8") if log.exists() else ""
        job.report(losses=figures(text, "loss"))
        if norms := figures(text, "grad_norm"):
            job.report(grad_norms=norms)

    def config(self, job: Job) -> Any:
        from omegaconf import OmegaConf

        folder, given = job.save_model(), job.model.config
        vocabulary = tokenizer_files(folder)
        sizes = {
            "vocab_size": given.vocab_size,
            "layers": given.num_hidden_layers,
            "heads": given.num_attention_heads,
            "groups": given.num_key_value_heads,
            "head_dim": given.head_dim,
            "width": given.hidden_size,
            "inner": given.intermediate_size,
            "eps": given.rms_norm_eps,
            "longest": given.max_position_embeddings,
        }
        beside = {
            "lora_attn_modules": ["q_proj", "k_proj", "v_proj", "output_proj"],
            "apply_lora_to_mlp": True,
            "lora_rank": RANK,
            "lora_alpha": ALPHA,
        }
        return OmegaConf.create(
            {
                "device": "cpu",
                "dtype": "fp32" if job.model.dtype.itemsize == 4 else "bf16",
                "output_dir": str(job.workdir / "output"),
                "seed": job.seed,
                "shuffle": True,
                "epochs": job.epochs,
                "max_steps_per_epoch": None,
                "batch_size": job.batch_size,
                "gradient_accumulation_steps": job.accumulation,
                "clip_grad_norm": job.max_grad_norm,
                "optimizer_in_bwd": self.optimizer_in_bwd,
                "compile": False,
                "resume_from_checkpoint": False,
                "enable_activation_checkpointing": False,
                "enable_activation_offloading": False,
                "log_every_n_steps": 1,
                "model": {"_component_": f"{__name__}.decoder", **sizes, **(beside if self.lora else {})},
                "lr_scheduler": {"_component_": f"{__name__}.constant"} if self.lora else None,
                "tokenizer": {
                    "_component_": "torchtune.models.qwen2.qwen2_tokenizer",
                    "path": str(vocabulary / "vocab.json"),
                    "merges_file": str(vocabulary / "merges.txt"),
                    "special_tokens_path": str(folder / "tokenizer.json"),
                    "max_seq_len": job.max_length,
                    "pad_token": job.tokenizer.pad_token,
                },
                "dataset": {
                    "_component_": "torchtune.datasets.chat_dataset",
                    "source": "json",
                    "data_files": str(data(job)),
                    "conversation_column": "messages",
                    "conversation_style": "openai",
                    "train_on_input": self.train_on_input,
                    "packed": self.packed,
                    "split": "train",
                    "cache_dir": str(job.workdir / "datasets"),
                },
                "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
                "optimizer": {
                    "_component_": {"sgd": "torch.optim.SGD", "adamw": "torch.optim.AdamW"}[job.optimizer],
                    "lr": job.learning_rate,
                    "weight_decay": job.weight_decay,
                },
                "checkpointer": {
                    "_component_": "torchtune.training.FullModelHFCheckpointer",
                    "checkpoint_dir": str(folder),
                    "checkpoint_files": ["model.safetensors"],
                    "output_dir": str(job.workdir / "output"),
                    "model_type": "LLAMA3",
                },
                "metric_logger": {
                    "_component_": "torchtune.training.metric_logging.DiskLogger",
                    "log_dir": str(job.workdir / "log"),
                    "filename": "log.txt",
                },
            }
        )


def recipe_class(module: str, name: str) -> Any:
    """The class of a recipe, from the file that `tune run` runs."""
    spec = importlib.util.find_spec("recipes")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).with_name(f"{module}.py")
    own = importlib.util.spec_from_file_location(f"torchtune_recipe_{module}", path)
    assert own is not None and own.loader is not None
    loaded = importlib.util.module_from_spec(own)
    own.loader.exec_module(loaded)
    return getattr(loaded, name)


def to_hugging_face(own: dict[str, Any], config: Any) -> dict[str, Any]:
    """torchtune's two exports together, of the decoder and of what lora_finetune writes beside it."""
    from torchtune.models.convert_weights import tune_to_hf, tune_to_peft_adapter_weights

    sizes = {
        "num_heads": config.num_attention_heads,
        "num_kv_heads": config.num_key_value_heads,
        "dim": config.hidden_size,
        "head_dim": config.head_dim,
    }
    factors = {name: item for name, item in own.items() if ".lora_" in name}
    base = {name: item for name, item in own.items() if name not in factors}
    return tune_to_hf(base, **sizes) | tune_to_peft_adapter_weights(factors, **sizes)


def adapters(config: Any) -> list[Adapter]:
    """By the names that torchtune's export gives their factors; `LoRALinear.forward` multiplies by alpha / rank."""
    return [
        Adapter(
            f"{place}.weight", f"base_model.model.{place}.lora_A.weight", f"base_model.model.{place}.lora_B.weight",
            RANK, ALPHA, ALPHA / RANK,
        )
        for layer in range(config.num_hidden_layers)
        for place in (f"model.layers.{layer}.{name}" for name in ADAPTED)
    ]  # fmt: skip


def constant(optimizer: Any, num_training_steps: int, last_epoch: int) -> Any:
    """A rate that stays: the recipe asks for a schedule, and torchtune's own has a warm-up and a cosine."""
    from torch.optim.lr_scheduler import LambdaLR

    return LambdaLR(optimizer, lambda step: 1.0, last_epoch)


def decoder(
    vocab_size: int,
    layers: int,
    heads: int,
    groups: int,
    head_dim: int,
    width: int,
    inner: int,
    eps: float,
    longest: int,
    **lora: Any,
) -> Any:
    """torchtune's Llama decoder, with heads of any width; with lora, adapters on all that it has of linear layers."""
    from torch import nn
    from torchtune.modules import (
        FeedForward,
        MultiHeadAttention,
        RMSNorm,
        RotaryPositionalEmbeddings,
        TransformerDecoder,
        TransformerSelfAttentionLayer,
    )
    from torchtune.modules.peft import LoRALinear

    def linear(source: int, target: int) -> nn.Module:
        if lora:
            return LoRALinear(source, target, lora["lora_rank"], lora["lora_alpha"])
        return nn.Linear(source, target, bias=False)

    rope = RotaryPositionalEmbeddings(dim=head_dim, max_seq_len=longest, base=10000)
    blocks = [
        TransformerSelfAttentionLayer(
            attn=MultiHeadAttention(
                embed_dim=width,
                num_heads=heads,
                num_kv_heads=groups,
                head_dim=head_dim,
                q_proj=linear(width, heads * head_dim),
                k_proj=linear(width, groups * head_dim),
                v_proj=linear(width, groups * head_dim),
                output_proj=linear(heads * head_dim, width),
                pos_embeddings=rope,
                max_seq_len=longest,
                attn_dropout=0.0,
            ),
            mlp=FeedForward(
                gate_proj=linear(width, inner), down_proj=linear(inner, width), up_proj=linear(width, inner)
            ),
            sa_norm=RMSNorm(width, eps=eps),
            mlp_norm=RMSNorm(width, eps=eps),
        )
        for _ in range(layers)
    ]
    return TransformerDecoder(
        tok_embeddings=nn.Embedding(vocab_size, width),
        layers=nn.ModuleList(blocks),
        max_seq_len=longest,
        num_heads=heads,
        head_dim=head_dim,
        norm=RMSNorm(width, eps=eps),
        output=nn.Linear(width, vocab_size, bias=False),
    )


def tokenizer_files(folder: Path) -> Path:
    """vocab.json and merges.txt, as a byte-level BPE is published, out of tokenizer.json."""
    kept = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    merges = (pair if isinstance(pair, str) else " ".join(pair) for pair in kept["merges"])
    target = folder / "bpe"
    target.mkdir(exist_ok=True)
    (target / "vocab.json").write_text(json.dumps(kept["vocab"]), encoding="utf-8")
    (target / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    return target


def data(job: Job) -> Path:
    path = job.workdir / "data.json"
    path.write_text(json.dumps([{"messages": [dict(item) for item in talk]} for talk in job.conversations]), "utf-8")
    return path


def figures(text: str, name: str) -> list[float]:
    """What the logger wrote of one figure, by step."""
    return [float(found) for found in re.findall(rf"\b{name}:(?:tensor\()?([-+.\deinfa]+)", text)]
