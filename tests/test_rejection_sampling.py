"""Rejection sampling: the properties, a real model that generates, and a round that gains what theory predicts."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sftspec.order_statistics import best_of_n_law, expected_max_normal
from sftspec.rejection_sampling import (
    Round,
    derived_seed,
    rejection_sample,
    rejection_sampling_round,
    select,
)
from sftspec.selection import UNRANKED
from sftspec.tests.seam_verdict import evidence, properties_of

PROPERTIES = {item.check.__name__: item for item in properties_of("best_of_n", "rejection_sample")}


@pytest.mark.parametrize("name", PROPERTIES)
def test_the_property_holds_for_ours(name):
    assert evidence(PROPERTIES[name], rejection_sample, max_examples=100) >= PROPERTIES[name].floor


# ---------------------------------------------------------------- the pieces

PROMPT = [{"role": "user", "content": "2 + 2?"}]


def test_candidates_without_rewards_are_skipped_and_counted():
    prompts = [[{"role": "user", "content": text}] for text in ("none", "nan", "empty", "good")]

    def sample(prompt, n, seed):
        return [] if prompt[0]["content"] == "empty" else ["a", "b"]

    def reward(conversation):
        return {"none": None, "nan": math.nan, "good": float(conversation[-1]["content"] == "b")}[
            conversation[0]["content"]
        ]

    done = Round(tuple(rejection_sample(prompts, sample, reward, n=2)))
    assert done.conversations == [[prompts[3][0], {"role": "assistant", "content": "b"}]]
    assert done.skipped == {"no candidate has a reward": 2, "no completion was sampled": 1}
    assert [each.winner for each in done.selections] == [UNRANKED, UNRANKED, UNRANKED, 1]
    assert (done.sampled_reward, done.selected_reward) == (0.5, 1.0)
    assert [each.distinct for each in done.selections] == [2, 2, 0, 2]


def test_what_is_not_n_completions_is_refused():
    for completions in (["a", "b", "c"], "ab"):
        with pytest.raises(ValueError, match="prompt 3: expected at most 2 completions"):
            select(3, PROMPT, lambda *_, c=completions: c, lambda _: 0.0, 2, 0)
    with pytest.raises(ValueError, match="prompt 0 has no message"):
        list(rejection_sample([[]], lambda *_: ["a"], lambda _: 0.0, 1))
    with pytest.raises(ValueError, match="at least one completion"):
        list(rejection_sample([PROMPT], lambda *_: ["a"], lambda _: 0.0, 0))
    with pytest.raises(ValueError, match="round 0 leaves nothing to train on"):
        rejection_sampling_round([PROMPT], lambda *_: ["a"], lambda _: None, lambda _: None, 1)


def test_seeds_are_the_same_everywhere_and_differ_by_prompt_round_and_seed():
    assert derived_seed(0, "prompt", 0) == 0xE81100E4  # printf 0/prompt/0 | sha256sum
    seeds = [derived_seed(s, kind, i) for s in range(3) for kind in ("prompt", "round") for i in range(50)]
    assert len(set(seeds)) == 300 and max(seeds) < 2**32


# ---------------------------------------------------------------- a real model

CHARACTERS = "abcdefghijklmnop"


def tiny_model(seed: int) -> GPT2LMHeadModel:
    """A GPT-2 over 16 letters and one control token (id 16), random, with clearly unequal next-token odds."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=17, n_positions=16, n_embd=32, n_layer=1, n_head=2, initializer_range=0.3,
        bos_token_id=16, eos_token_id=16, pad_token_id=16, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def encode(text: str) -> torch.Tensor:
    return torch.tensor([[16, *map(CHARACTERS.index, text)]])


def sampler(model, length: int):
    """`sample` on the model's own generate: n strings of a fixed length, seeded, the global state left alone."""

    def sample(prompt, n, seed):
        ids = encode(prompt[-1]["content"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, num_return_sequences=n, top_k=0,
                min_new_tokens=length, max_new_tokens=length, bad_words_ids=[[16]],
            )  # fmt: skip
        return ["".join(CHARACTERS[token] for token in row[ids.shape[1] :]) for row in out]

    return sample


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def test_a_real_model_is_sampled_seeded_and_resumable():
    sample = sampler(tiny_model(0), length=6)
    prompts = [user(text) for text in ("abc", "p", "abc", "fed")]

    def vowels(conversation):
        return float(sum(letter in "aeio" for letter in conversation[-1]["content"]))

    state = torch.random.get_rng_state()
    whole = list(rejection_sample(prompts, sample, vowels, n=4, seed=7))
    assert torch.equal(state, torch.random.get_rng_state())
    assert list(rejection_sample(prompts, sample, vowels, n=4, seed=7, start=2)) == whole[2:]
    assert whole[0].candidates != whole[2].candidates  # equal prompts, samples of their own
    assert all(each.distinct > 1 for each in whole)
    for each, prompt in zip(whole, prompts, strict=True):
        assert vowels(each.conversation) == max(each.rewards) and each.conversation[:-1] == prompt
    assert whole != list(rejection_sample(prompts, sample, vowels, n=4, seed=8))


def next_letter_odds(model) -> np.ndarray:
    """The policy's exact distribution over the 16 letters after the prompt "a"."""
    with torch.no_grad():
        return torch.softmax(model(encode("a")).logits[0, -1, :16].double(), 0).numpy()


def test_a_round_gains_what_the_law_of_best_of_n_predicts():
    """400 prompts, best of 8, one letter each. The reward of letter k is the normal quantile of a rank, so that gains
    are in standard deviations.

    Selection: the winners' mean is the mean of the exact best-of-8 law, within five standard errors. Fine-tuning: the
    cross-entropy of the winners is least at their own frequencies, so the new policy's mean reward is theirs: that
    of the law, within the same error and that of the 8 * 400 samples it is measured on.
    """
    model, n, prompts = tiny_model(1), 8, [user("a")] * 400
    ranks = np.random.default_rng(3).permutation(16)
    values = np.array([NormalDist().inv_cdf((rank + 0.5) / 16) for rank in ranks])
    base = next_letter_odds(model)
    law = best_of_n_law(base, values, n)
    predicted = float(law @ values)
    error = 5 * math.sqrt(float(law @ (values - predicted) ** 2) / len(prompts))

    def fine_tune(conversations):
        letters = torch.tensor([CHARACTERS.index(each[-1]["content"]) for each in conversations])
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(150):
            optimizer.zero_grad()
            logits = model(encode("a")).logits[0, -1:, :16]
            torch.nn.functional.cross_entropy(logits.expand(len(letters), -1), letters).backward()
            optimizer.step()

    def reward(conversation):
        return float(values[CHARACTERS.index(conversation[-1]["content"])])

    first, second = rejection_sampling_round(prompts, sampler(model, 1), reward, fine_tune, n, rounds=2)
    spread = 5 * math.sqrt(float(base @ values**2) / (n * len(prompts)))
    assert abs(first.sampled_reward - float(base @ values)) <= spread
    assert abs(first.selected_reward - predicted) <= error
    assert abs(second.sampled_reward - predicted) <= error * (1 + 1 / math.sqrt(n))
    assert second.selected_reward >= second.sampled_reward > first.sampled_reward + 0.5


def test_normal_rewards_gain_the_expected_maximum():
    """With the letter's interval of the policy's distribution function, and a uniform place in it, a reward is exactly
    N(0, 1): the winners of 500 prompts have mean E[max of 4] within five standard errors (Var <= 1)."""
    model = tiny_model(2)
    odds = next_letter_odds(model)
    below, place = np.cumsum(odds) - odds, np.random.default_rng(0)

    def reward(conversation):
        letter = CHARACTERS.index(conversation[-1]["content"])
        return NormalDist().inv_cdf(below[letter] + odds[letter] * place.uniform(1e-12, 1))

    done = Round(tuple(rejection_sample([user("a")] * 500, sampler(model, 1), reward, n=4)))
    assert abs(done.selected_reward - expected_max_normal(4)) <= 5 / math.sqrt(500)
    assert abs(done.sampled_reward) <= 5 / math.sqrt(2000)
