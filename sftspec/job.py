"""What is asked of a trainer: a model, conversations, and how to train the one on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sftspec.adapters import Adapter
from sftspec.conversation import Conversation, load_conversations
from sftspec.handover import Handover, StandIn

PER_STEP = {"losses", "grad_norms", "num_targets"}
COUNTS = {"examples_dropped", "examples_truncated", "tokens_truncated", "steps_skipped"}

# The rank that is computing, where ranks are simulated in one process.
RANK: ContextVar[int] = ContextVar("rank", default=0)

# What the configurations of models call the rates of their dropout.
DROPOUTS = ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop")


def has_dropout(config: Any) -> bool:
    """Does a model's configuration ask for dropout?

    >>> from types import SimpleNamespace
    >>> has_dropout(SimpleNamespace(attn_pdrop=0.1)), has_dropout(SimpleNamespace())
    (True, False)
    """
    return any(getattr(config, name, 0.0) for name in DROPOUTS)


def weights_in(model: Any, dtype: Any) -> Any:
    """The same model with weights in a torch dtype and buffers in float32 at least, as `from_pretrained(dtype=...)`
    gives it. `model.to(torch.bfloat16)` rounds the frequencies of rotary positions as well, and positions beyond a few
    hundred go astray (transformers#29285).

    >>> import torch
    >>> norm = weights_in(torch.nn.BatchNorm1d(1), torch.bfloat16)
    >>> norm.weight.dtype, norm.running_mean.dtype
    (torch.bfloat16, torch.float32)
    """
    import torch

    model.to(torch.promote_types(dtype, torch.float32))
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


class JobError(ValueError):
    """A job that nobody can do as it stands; says what is missing."""


@dataclass
class Job:
    """Train `model` on `conversations`, exactly so.

    model            a Hugging Face causal LM, to be trained in place (not a copy of it)
    tokenizer        a fast Hugging Face tokenizer with a chat template; pad may equal the end-of-turn token
    conversations    the corpus, in order; read from `path` if it is not given
    path             the corpus as JSONL of {"messages": [...]}
    template         the chat template, by name
    policy           "all" assistant turns, the "last" one, "every-token", or the "contents" of every role
    batch_size       rows of one micro-batch (packing: packed rows)
    accumulation     micro-batches of one optimizer step; the last step of an epoch may have fewer
    world_size       ranks that share a step
    epochs           passes over the corpus
    max_length       tokens of one row at most: longer examples are cut, packs never exceed it
    truncation_side  the end at which they are cut: the "right" one, or the "left" (not of packs)
    packing          put several examples into one row
    optimizer        "sgd" (no momentum) or "adamw" (betas 0.9 and 0.999, eps 1e-8)
    learning_rate    constant over the run
    weight_decay     AdamW's decoupled decay
    max_grad_norm    clip the accumulated gradient to this norm; None: do not clip
    frozen           parameters by name that are not trained: they come with requires_grad False, and stay as they are
    seed             of the order of the examples
    resume_at        save everything after so many optimizer steps, forget it, load it, and go on
    workdir          a folder that the trainer may write to
    device           where the model is, and where its inputs go: "cpu", "cuda" or "cuda:N"
    autocast         compute under torch.autocast in "bfloat16" or "float16", keep the weights as they are; "": do not
    attention        the model's attention implementation is set to this one, and stays; "": the trainer chooses
    """

    model: Any
    tokenizer: Any
    conversations: list[Conversation] = field(default_factory=list)
    path: Path | None = None
    template: str = "chatml/openai"
    policy: str = "all"
    batch_size: int = 4
    accumulation: int = 1
    world_size: int = 1
    epochs: int = 1
    max_length: int | None = None
    packing: bool = False
    optimizer: str = "sgd"
    learning_rate: float = 1e-2
    weight_decay: float = 0.0
    max_grad_norm: float | None = None
    frozen: tuple[str, ...] = ()
    seed: int = 0
    resume_at: int | None = None
    workdir: Path = Path("sftspec-workdir")
    reported: dict[str, Any] = field(default_factory=dict)
    handover: Handover = field(default_factory=Handover, repr=False)
    device: str = "cpu"
    autocast: str = ""
    attention: str = ""
    truncation_side: str = "right"

    def __post_init__(self) -> None:
        if not self.conversations:
            if self.path is None:
                raise JobError("the job has nothing to train on: give conversations, or the path of a JSONL file")
            self.conversations = load_conversations(self.path)
        if self.packing and not self.max_length:
            raise JobError("packing needs max_length, the number of tokens of a row")
        for name in ("batch_size", "accumulation", "world_size", "epochs"):
            if getattr(self, name) < 1:
                raise JobError(f"{name} is {getattr(self, name)}; give 1 or more")

    @property
    def prefix(self) -> int | None:
        """Tokens of an example's beginning that are kept of a longer one; None where none is cut at its right end."""
        return self.max_length if self.truncation_side == "right" else None

    @property
    def head_name(self) -> str:
        """The model's output head among its parameters."""
        head = self.model.get_output_embeddings().weight
        return next(name for name, parameter in self.model.named_parameters() if parameter is head)

    def save_model(self, folder: Path | None = None) -> Path:
        """Write the model and the tokenizer as a Hugging Face checkpoint, for a trainer that loads by path.

        folder: None is a new one in the job's workdir, for each rank its own. Returns the folder: config.json,
        model.safetensors, the tokenizer's files. Tell who loads it: `job.listen_to(ModelClass)`.
        """
        folder = Path(folder if folder is not None else self.workdir / self.handover.home)
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        self.handover.folders.append(folder)
        return folder

    def listen_to(
        self,
        model: Any,
        hidden: str = "",
        weights: Callable[[dict[str, Any]], Mapping[str, Any]] | None = None,
        arguments: Mapping[str, str] | None = None,
        adapters: Sequence[Adapter] = (),
    ) -> None:
        """Say which model is trained in place of `job.model`, before it is called; it has to begin with its weights.

        model: the module, or its class (then the first instance that is called for training is meant).
        hidden, weights, arguments, adapters: of a class that is not Hugging Face's, see `sftspec.handover.StandIn`.

        Raises JobError where one of hidden and weights is missing, or adapters are given without them.

        >>> job.listen_to(LlamaForCausalLM)  # doctest: +SKIP
        >>> job.listen_to(GPT, hidden="ln_f", weights=to_hf, arguments={"input_ids": "idx"})  # doctest: +SKIP
        """
        if bool(hidden) != (weights is not None):
            missing = "weights, which gives its state under job.model's names" if hidden else "hidden, the submodule"
            raise JobError(f"listen_to a model of your own class needs hidden and weights: give {missing}")
        if adapters and not hidden:
            raise JobError("adapters beside a Hugging Face model are PEFT's, and are read off it: leave them out")
        stand_in = StandIn(model, hidden, weights, dict(arguments or {}), tuple(adapters))
        for listen in self.handover.listeners:
            listen(stand_in)

    def report(self, **figures: Any) -> None:
        """A trainer tells what it logged and lost; what is told again takes the place of what was told.

        losses, grad_norms, num_targets                         a number for each optimizer step: the mean loss in nats,
                                                                the gradient's norm before clipping, the targets
        examples_dropped, examples_truncated, tokens_truncated  a number: what was not trained
        steps_skipped                                           a number, for whoever reads the report

        Raises JobError for another name, or another shape.
        """
        for name, figure in figures.items():
            if name not in PER_STEP | COUNTS:
                raise JobError(f"nobody reads the report of {name!r}; known: {', '.join(sorted(PER_STEP | COUNTS))}")
            try:
                self.reported[name] = [float(each) for each in figure] if name in PER_STEP else int(figure)
            except (TypeError, ValueError):
                asked = "a list with one number for each optimizer step" if name in PER_STEP else "one whole number"
                raise JobError(f"report({name}=...) takes {asked}, not {figure!r:.80}") from None
