"""The reference pipeline as a user meets it: a JSONL file, a real model, errors that say what to do, ranks,
resuming.
"""

from __future__ import annotations

import json

import pytest
import torch

from sftspec import Job, Pipeline
from sftspec.collation import collate
from sftspec.conformance.trial.corpora import Writer, unequal_conversations
from sftspec.conformance.witness.model import make_model, make_tokenizer
from sftspec.masking import encode
from sftspec.step import sft_step
from sftspec.trainer import NoExampleError

TALKS = unequal_conversations(Writer(11))


def job(**settings) -> Job:
    settings.setdefault("conversations", TALKS)
    return Job(model=make_model(), tokenizer=make_tokenizer(), **settings)


def parameters(model) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def same_update(one: torch.Tensor, other: torch.Tensor, start: torch.Tensor) -> bool:
    """Equal within rounding: 64 roundings of the update (BOUND-SELF), and one of each parameter on both
    sides.
    """
    bound = 2.0**-24 * (64 * float((other - start).norm()) + 2 * float(start.norm()))
    return float((one - other).norm()) <= bound


def test_it_trains_a_model_on_a_jsonl_file(tmp_path):
    path = tmp_path / "talks.jsonl"
    talk = [{"role": "user", "content": "Ping?"}, {"role": "assistant", "content": "Pong."}]
    path.write_text(json.dumps({"messages": talk}) + "\n")
    task = Job(model=make_model(), tokenizer=make_tokenizer(), path=path, epochs=60, learning_rate=0.3)
    Pipeline().train(task)
    losses = task.reported["losses"]
    assert len(losses) == 60 and losses[-1] < 0.05 < losses[0]
    prompt = encode(talk[:1], tokenizer=task.tokenizer, add_generation_prompt=True).input_ids
    written = task.model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=292)
    assert task.tokenizer.decode(written[0, len(prompt) :]) == "Pong.<|im_end|>"


@pytest.mark.parametrize("packing", [False, True])
def test_any_cut_into_micro_batches_and_ranks_is_the_same_step(packing):
    ends = []
    for batch_size, accumulation, world_size in ((64, 1, 1), (1, 64, 1), (3, 5, 4)):
        task = job(batch_size=batch_size, accumulation=accumulation, world_size=world_size,
                   packing=packing, max_length=256, learning_rate=0.1)  # fmt: skip
        Pipeline().train(task)
        ends.append(parameters(task.model))
    for end in ends[1:]:
        assert same_update(end, ends[0], parameters(make_model()))


def test_packed_and_padded_runs_end_with_the_same_model():
    padded, packed = job(batch_size=64), job(batch_size=64, packing=True, max_length=4096)
    for task in (padded, packed):
        Pipeline().train(task)
    assert same_update(parameters(packed.model), parameters(padded.model), parameters(make_model()))


def test_what_is_lost_is_counted():
    task = job(max_length=30)
    Pipeline().train(task)
    whole = [encode(talk, tokenizer=task.tokenizer) for talk in TALKS]
    assert task.reported["tokens_truncated"] == sum(max(0, len(one) - 30) for one in whole)
    assert task.reported["examples_dropped"] == sum(all(label == -100 for label in one.labels[1:30]) for one in whole)


def test_an_example_without_a_target_raises_if_so_chosen():
    with pytest.raises(NoExampleError, match="conversation 0 has no target"):
        Pipeline(on_no_target="raise").train(job())


def test_a_corpus_without_any_target_is_refused():
    with pytest.raises(NoExampleError, match="nothing to train on"):
        Pipeline().train(job(conversations=TALKS[:1]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conversations": []}, "nothing to train on"),
        ({"packing": True}, "max_length"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_an_impossible_job_says_what_is_missing(settings, message):
    with pytest.raises(ValueError, match=message):
        job(**settings)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(ValueError, match="unknown optimizer 'adamax'; known: sgd, adamw"):
        Pipeline().train(job(optimizer="adamax"))


def test_evaluation_equals_the_loss_of_a_step_at_rate_zero():
    task = job(learning_rate=0.0, batch_size=64)
    Pipeline().train(task)
    examples = [encode(talk, tokenizer=task.tokenizer) for talk in TALKS]
    batches = [collate(examples[start : start + 4], pad_token_id=0) for start in range(0, len(examples), 4)]
    value = Pipeline().evaluate(task.model, batches)
    assert abs(value - task.reported["losses"][0]) <= 64 * 2.0**-24 * value


def _rank_main(rank: int, world: int, store: str, results: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    tokenizer, model = make_tokenizer(), make_model()
    examples = [encode(talk, tokenizer=tokenizer) for talk in TALKS]
    # The first example has no target: rank 0's first micro-batch is empty.
    mine = examples[rank::world]
    batches = [collate([example], pad_token_id=tokenizer.pad_token_id) for example in mine]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    report = sft_step(model, batches, optimizer, max_grad_norm=0.5, group=torch.distributed.group.WORLD)
    torch.save(
        {"parameters": parameters(model), "loss": report.loss, "targets": report.num_targets}, f"{results}.{rank}"
    )
    torch.distributed.destroy_process_group()


@pytest.mark.long
def test_two_processes_make_the_step_of_one(tmp_path):
    """Real ranks over gloo, with unequal target counts, against one process."""
    torch.multiprocessing.spawn(_rank_main, (2, str(tmp_path / "store"), str(tmp_path / "result")), nprocs=2)
    ranks = [torch.load(f"{tmp_path}/result.{rank}") for rank in range(2)]
    tokenizer, model = make_tokenizer(), make_model()
    examples = [encode(talk, tokenizer=tokenizer) for talk in TALKS]
    start = parameters(model)
    report = sft_step(model, [collate(examples, pad_token_id=tokenizer.pad_token_id)],
                      torch.optim.SGD(model.parameters(), lr=0.1), max_grad_norm=0.5)  # fmt: skip
    for rank in ranks:
        assert rank["targets"] == report.num_targets
        assert abs(rank["loss"] - report.loss) <= 64 * 2.0**-24 * report.loss
        assert same_update(rank["parameters"], parameters(model), start)
    assert torch.equal(ranks[0]["parameters"], ranks[1]["parameters"])
