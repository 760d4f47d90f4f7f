"""The witness: a tiny real model that remembers what it was trained on.

A trainer is judged where nothing can be hidden, at the model. One place is tapped: the last hidden state h (positions x
H) that enters the output head W (V x H). The head is made so that W has full row rank and orthogonal rows; then the
gradient at h, g = u W with u = dL/dlogits, gives u back: u = g pinv(W). No logits have to exist, so fused, chunked and
sliced losses are read like any other. What h and g say is turned into rows of the ledger by `recovery`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sftspec.conformance.provenance import Provenance
from sftspec.golden import small_tokenizer
from sftspec.job import Job
from sftspec.step import RANK

END_OF_TURN = "<|im_end|>"
LOGIT_SCALE = 1.5
KINDS = ("rope", "learned")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def make_tokenizer(pad_is_end_of_turn: bool = False):
    """The small tokenizer as a fast Hugging Face tokenizer with the ChatML template (assistant turns marked)."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=small_tokenizer.build(),
        eos_token=END_OF_TURN,
        pad_token=END_OF_TURN if pad_is_end_of_turn else "<|pad|>",
        chat_template=CHATML,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def make_model(
    kind: str = "rope",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
    size: int = small_tokenizer.SIZE,
):
    """A causal LM of two layers: "rope" is a Llama, "learned" a GPT-2 (absolute positions). V = size, and H = V, or up
    to three more for its four heads.

    Rotary positions are relative: a model that has them cannot show positions that do not restart (trap H2), so the
    second kind is not optional.
    """
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    width = -(-size // 4) * 4
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model: Any
    common: dict[str, Any] = {"vocab_size": size, "tie_word_embeddings": False, "bos_token_id": None}
    if kind == "rope":
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=16, max_position_embeddings=2048, attention_dropout=dropout,
                initializer_range=0.15, **common,
            )
        )  # fmt: skip
    elif kind == "learned":
        model = GPT2LMHeadModel(
            GPT2Config(
                n_embd=width, n_inner=64, n_layer=2, n_head=4, n_positions=1024, attn_pdrop=dropout,
                resid_pdrop=dropout, embd_pdrop=dropout, initializer_range=0.15, **common,
            )
        )  # fmt: skip
    else:
        raise ValueError(f"unknown model kind {kind!r}; known: {', '.join(KINDS)}")
    with torch.no_grad():
        head = model.get_output_embeddings().weight
        torch.nn.init.orthogonal_(head)
        head.mul_(LOGIT_SCALE)
    torch.set_rng_state(state)
    model.generation_config.pad_token_id = model.config.pad_token_id
    return model.to(dtype)


@dataclass
class Call:
    """One recorded call of the base model.

    input_ids, position_ids  (B, T) int64
    hidden                   (B, T, H) last hidden state, as computed
    gradient                 dL/dhidden, or None while no backward pass has reached it
    arguments                names of the arguments that were given (and not None)
    random, drew             digest of the random state with which the call began; it had changed when it ended
    """

    index: int
    step: int
    rank: int
    input_ids: Tensor
    position_ids: Tensor
    hidden: Tensor
    arguments: tuple[str, ...]
    random: str = ""
    drew: bool = False
    gradient: Tensor | None = None


@dataclass
class StepRecord:
    """Copies made around one call of optimizer.step()."""

    learning_rate: float
    gradients: dict[str, Tensor]
    before: dict[str, Tensor]
    after: dict[str, Tensor] = field(default_factory=dict)


@dataclass
class ReplayRecord:
    """A call made again with other tokens: (B, T) bool masks of what was changed and of what moved."""

    call: int
    changed: Tensor
    moved: Tensor


class Tap:
    """Records every training call of job.model's base model, and every optimizer step on its head.

    Use as a context manager around `trainer.train(job)`. Nothing of the trainer is patched: it listens through
    PyTorch's public forward, tensor and optimizer hooks.

    max_replays: how many calls are made again with other tokens (see `replay`).
    """

    def __init__(self, job: Job, provenance: Provenance, max_replays: int = 4):
        self.job, self.provenance, self.max_replays = job, provenance, max_replays
        self.calls: list[Call] = []
        self.steps: list[StepRecord] = []
        self.replays: list[ReplayRecord] = []
        self.replayed = 0
        self._random = ""
        self._depth = 0
        self._handles: list = []

    def __enter__(self) -> Tap:
        from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

        base = self.job.model.base_model
        self._handles = [
            base.register_forward_pre_hook(self._before_forward),
            base.register_forward_hook(self._on_forward, with_kwargs=True),
            register_optimizer_step_pre_hook(self._before_step),
            register_optimizer_step_post_hook(self._after_step),
        ]
        return self

    def __exit__(self, *exception) -> None:
        for handle in self._handles:
            handle.remove()

    def _before_forward(self, module, args):
        self._random = _random_state()

    def _on_forward(self, module, args, kwargs, output):
        hidden = output[0] if isinstance(output, tuple) else output.last_hidden_state
        if not hidden.requires_grad or not torch.is_grad_enabled():
            return  # an evaluation, or one of our own replays
        input_ids = args[0] if args else kwargs.get("input_ids")
        if input_ids is None:
            return
        given = tuple(sorted(name for name, value in kwargs.items() if value is not None and value is not False))
        position_ids = kwargs.get("position_ids")
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        call = Call(
            len(self.calls),
            len(self.steps),
            _rank(),
            input_ids.detach().cpu().clone(),
            position_ids.detach().cpu().expand(input_ids.shape).clone(),
            hidden.detach().clone(),
            given,
            self._random,
            self._random != _random_state(),
        )
        self.calls.append(call)

        def on_gradient(gradient: Tensor) -> None:
            # Several backward passes over one graph (a loss for each row, say) add up, as in every .grad.
            call.gradient = gradient.detach().clone() if call.gradient is None else call.gradient + gradient

        hidden.register_hook(on_gradient)
        if self.replayed < self.max_replays:
            self.replayed += 1
            self._replay(module, args, kwargs, call)

    @torch.no_grad()
    def _replay(self, module, args, kwargs, call: Call) -> None:
        """Make the call again, with its exact arguments, changing the tokens of some examples and not of others.

        With examples numbered, one replay changes all whose bit b is 0 and the next all whose bit b is 1: after
        2 * ceil(log2(n)) of them every ordered pair of examples has been told apart. One more changes the last nonce
        of every example (what stands before it must not move), and one the padding.
        """
        if kwargs.get("past_key_values") is not None:
            return
        origins = self.provenance.resolve(call.input_ids.tolist())
        state = torch.get_rng_state()

        def forward(input_ids: Tensor) -> Tensor:
            torch.set_rng_state(state)
            given = input_ids.to(call.hidden.device)
            output = module.forward(given, *args[1:], **kwargs) if args else module.forward(
                **{**kwargs, "input_ids": given}
            )  # fmt: skip
            return output[0] if isinstance(output, tuple) else output.last_hidden_state

        same = forward(call.input_ids)
        for changed in self.provenance.perturbations(origins):
            mask = torch.tensor(changed)
            if mask.any():
                other = torch.where(mask, self.provenance.substitute(call.input_ids), call.input_ids)
                moved = (forward(other) != same).any(-1).cpu()
                self.replays.append(ReplayRecord(call.index, mask, moved))
        torch.set_rng_state(state)

    def _before_step(self, optimizer, args, kwargs) -> None:
        head = self.job.model.get_output_embeddings().weight
        groups = [group for group in optimizer.param_groups if any(item is head for item in group["params"])]
        self._depth += bool(groups)
        if groups and self._depth == 1:  # an optimizer's step may call that of its base class, which is hooked as well
            named = dict(self.job.model.named_parameters())
            last = self.steps[-1].after if self.steps else {}
            self.steps.append(
                StepRecord(
                    float(groups[0]["lr"]),
                    {name: item.grad.detach().clone() for name, item in named.items() if item.grad is not None},
                    {name: _kept(last.get(name), item) for name, item in named.items()},
                )
            )

    def _after_step(self, optimizer, args, kwargs) -> None:
        head = self.job.model.get_output_embeddings().weight
        if not any(item is head for group in optimizer.param_groups for item in group["params"]):
            return
        self._depth -= 1
        if self.steps and self._depth == 0:
            named = self.job.model.named_parameters()
            self.steps[-1].after = {name: item.detach().clone() for name, item in named}


def _random_state() -> str:
    states = [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else ())]
    return hashlib.sha256(b"".join(state.numpy().tobytes() for state in states)).hexdigest()


def _kept(last: Tensor | None, now: Tensor) -> Tensor:
    """A copy of a parameter; the one that there is already, if no bit has changed."""
    return last if last is not None and torch.equal(last, now) else now.detach().clone()


def _rank() -> int:
    """The rank that computes: torch.distributed's, or the one that the reference simulates in process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank()
    return RANK.get()
