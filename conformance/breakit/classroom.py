"""A tiny model that can be taught in seconds, and asked what it has learnt.

A GPT-2 of two layers with learned positions (a model with rotary positions hides positions that do not restart) learns
a dictionary: the user says a letter, the assistant answers with the one or two letters that belong to it. Everything
runs through the reference Pipeline, or through a mutant of it, on the Llama-3 template.
"""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from sftspec.conformance.sensitivity.mutants import load_mutants
from sftspec.conversation import Conversation
from sftspec.job import Job
from sftspec.masking import Encoded, encode
from sftspec.trainer import Pipeline

TEMPLATE = "llama3/hf"
END_OF_TURN = "<|eot_id|>"
LETTERS = string.ascii_uppercase


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    from transformers import PreTrainedTokenizerFast

    from sftspec.golden import small_tokenizer

    return PreTrainedTokenizerFast(tokenizer_object=small_tokenizer.build(), eos_token=END_OF_TURN, pad_token="<|pad|>")


def make_model(seed: int, positions: int = 128, width: int = 64) -> Any:
    """A GPT-2 with two layers over the small tokenizer's 320 tokens, the same for the same seed."""
    from transformers import GPT2Config, GPT2LMHeadModel

    state = torch.get_rng_state()
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer()),
            n_embd=width,
            n_layer=2,
            n_head=4,
            n_positions=positions,
            attn_pdrop=0.0,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=None,
            initializer_range=0.1,  # so that attention has something to look at from the first step
        )
    )
    torch.set_rng_state(state)
    return model


def teach(model: Any, pipeline: Pipeline, conversations: Sequence[Conversation], **settings: Any) -> Job:
    """Train the model in place, AdamW at a rate of 3e-3 unless the settings of the Job say otherwise."""
    defaults: dict[str, Any] = {"batch_size": 32, "optimizer": "adamw", "learning_rate": 3e-3, "template": TEMPLATE}
    job = Job(model, tokenizer(), list(conversations), **{**defaults, **settings})
    pipeline.train(job)
    model.eval()
    return job


def planted(name: str) -> Pipeline:
    """The reference with one bug: a mutant, by its name."""
    return next(mutant for mutant in load_mutants() if mutant.name == name).make()


# ------------------------------------------------------------------------------------------------ the dictionary


def dictionary(seed: int) -> dict[str, str]:
    """A word of one or two letters for each letter of the alphabet."""
    generator = random.Random(seed)
    return {letter: "".join(generator.choices(LETTERS, k=generator.choice((1, 2)))) for letter in LETTERS}


def dialogues(seed: int, count: int) -> list[Conversation]:
    """Conversations of two questions and their answers."""
    words, generator = dictionary(seed), random.Random(seed + 1)
    return [
        Conversation(
            message
            for letter in generator.choices(LETTERS, k=2)
            for message in ({"role": "user", "content": letter}, {"role": "assistant", "content": words[letter]})
        )
        for _ in range(count)
    ]


def encoded(messages: list[dict], **options: Any) -> Encoded:
    return encode(messages, template=TEMPLATE, tokenizer=tokenizer(), **options)


def prompts() -> list[list[int]]:
    """The ids of every first question, ready for the assistant to write."""
    return [encoded([{"role": "user", "content": letter}], add_generation_prompt=True).input_ids for letter in LETTERS]


def control(token: str) -> int:
    return tokenizer().convert_tokens_to_ids(token)


# ------------------------------------------------------------------------------------------------ asking the model


@torch.no_grad()
def write_on(model: Any, prompts: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """The next `count` tokens of each prompt (all of one length), greedily, past any end-of-turn token."""
    ids = torch.tensor(prompts)
    for _ in range(count):
        following = model(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1)
        ids = torch.cat((ids, following[:, None]), dim=1)
    return ids[:, len(prompts[0]) :].tolist()


@torch.no_grad()
def next_probabilities(model: Any, prompts: Sequence[Sequence[int]]) -> Tensor:
    """The distribution of the token after each prompt: (prompts, V); prompts may differ in length."""
    return torch.stack(
        [model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].softmax(-1) for ids in prompts]
    )


@torch.no_grad()
def nats_per_token(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """Mean negative log-likelihood of the answer's tokens after the prompt."""
    ids = torch.tensor([[*prompt, *answer]])
    log_probs = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return -float(log_probs.gather(-1, torch.tensor(answer)[:, None]).mean())
