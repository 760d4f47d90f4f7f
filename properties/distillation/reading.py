"""Distillation: how the teacher is asked: in eval mode, without a graph, and left as it was.

The function under test is read(teacher, **inputs), which returns the teacher's logits.
"""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import torch
from hypothesis import strategies as st

from sftspec.properties import must

INPUTS = torch.arange(1.0, 13.0).reshape(3, 4)


class Dropped(torch.nn.Module):
    """A model whose forward pass shows whether dropout was on and whether a graph was built, and with what else beside
    its inputs it was asked.

    Attention drops by the function, which asks its own module's mode; the rest by a module, as deep as in a layer.
    """

    def __init__(self, dropout: float):
        super().__init__()
        self.head = torch.nn.Linear(4, 5)
        torch.nn.init.constant_(self.head.weight, 0.5)
        deep = torch.nn.Sequential(torch.nn.Sequential(torch.nn.Dropout(dropout)))
        self.rate, self.layers = dropout, torch.nn.Sequential(deep)

    def forward(self, inputs: torch.Tensor, **beside: torch.Tensor) -> SimpleNamespace:
        self.beside = beside
        kept = torch.nn.functional.dropout(inputs, self.rate, self.training)
        return SimpleNamespace(logits=self.layers(self.head(kept)))


teachers = {
    "given": {"dropout": st.sampled_from([0.25, 0.5]), "training": st.booleans(), "frozen_part": st.booleans()},
    "examples": [{"dropout": 0.5, "training": True, "frozen_part": True}],
}


def teacher_of(dropout: float, training: bool, frozen_part: bool) -> Dropped:
    """A teacher whose layers may be frozen in eval mode while the whole is in training mode, and whose bias wants no
    gradient then."""
    teacher = Dropped(dropout).train(training)
    teacher.layers.train(training and not frozen_part)
    teacher.head.bias.requires_grad_(not frozen_part)
    return teacher


def state_of(model: torch.nn.Module) -> tuple[list[bool], list[bool]]:
    """(every module's mode, whether each parameter wants a gradient)."""
    return [part.training for part in model.modules()], [item.requires_grad for item in model.parameters()]


@must(seam="frozen_logits", laws="KD-NOTEACH", floor=5, **teachers)
def the_teacher_is_read_with_dropout_off(read, **kind):
    """The teacher's logits are those of its eval mode, at every call.

    Dropout on, be it deep inside, gives another target at each call (TaCL#11).
    """
    teacher = teacher_of(**kind)
    for _ in range(2):
        logits = read(teacher, inputs=INPUTS)
        yield kind, torch.equal(logits, teacher.head(INPUTS)), f"other logits: {logits.tolist()}"


@must(seam="frozen_logits", laws="KD-NOTEACH", floor=5, **teachers)
def the_logits_of_the_teacher_carry_no_graph(read, **kind):
    """No gradient can reach the teacher through its logits: they carry no graph."""
    yield kind, not read(teacher_of(**kind), inputs=INPUTS).requires_grad, "the logits carry a graph"


@must(seam="frozen_logits", laws="KD-NOTEACH", floor=5, **teachers)
def the_teacher_reads_the_inputs_that_are_given(read, **kind):
    """The logits are of the inputs that are given: not those that were kept of others of the same shape."""
    teacher = teacher_of(**kind)
    read(teacher, inputs=INPUTS)
    yield kind, torch.equal(read(teacher, inputs=INPUTS + 1), teacher.head(INPUTS + 1)), "logits of other inputs"


@must(seam="frozen_logits", laws="KD-NOTEACH", floor=5, **teachers)
def the_teacher_is_given_masks_and_positions(read, **kind):
    """The teacher is given whatever stands beside the inputs: attention mask, positions, segments.

    Logits of a pass that got no attention mask, or no positions, are of another context.
    """
    teacher = teacher_of(**kind)
    beside = {name: row < INPUTS for row, name in enumerate(("attention_mask", "position_ids", "segment_ids"))}
    read(teacher, inputs=INPUTS, **beside)
    lost = [name for name, value in beside.items() if not torch.equal(teacher.beside.get(name, INPUTS), value)]
    yield kind, not lost, f"the teacher was asked without {lost}"


@must(seam="frozen_logits", laws="KD-NOTEACH", floor=5, **teachers)
def the_teacher_is_left_in_its_modes(read, **kind):
    """After the teacher was read, every module's mode, and which parameters want a gradient, are as before.

    eval() on a module shared with the student switches the student's dropout off; train() afterwards wakes parts that
    were meant to stay frozen; a parameter that is shared and frozen for good is no longer trained.
    """
    teacher = teacher_of(**kind)
    before = state_of(teacher)
    read(teacher, inputs=INPUTS)
    yield kind, state_of(teacher) == before, f"before {before}, after {state_of(teacher)}"


@must(seam="frozen_logits", laws="KD-NOTEACH", floor=5, **teachers)
def the_teacher_is_left_in_its_modes_by_an_error(read, **kind):
    """Where the teacher's pass raises, every module's mode, and which parameters want a gradient, are as before."""
    teacher = teacher_of(**kind)
    before = state_of(teacher)
    with contextlib.suppress(Exception):
        read(teacher, inputs=INPUTS[:, :3])
    torch.set_grad_enabled(True)  # whatever was left behind, for the properties that follow
    yield kind, state_of(teacher) == before, f"a pass that raised: before {before}, after {state_of(teacher)}"


@must(seam="frozen_logits", laws="KD-NOTEACH", floor=5, **teachers)
def reading_the_teacher_leaves_the_process_as_it_is(read, **kind):
    """Reading the teacher leaves the random state, and whether gradients are on, as they were."""
    teacher, state = teacher_of(**kind), torch.get_rng_state()
    read(teacher, inputs=INPUTS)
    enabled, drawn = torch.is_grad_enabled(), not torch.equal(torch.get_rng_state(), state)
    torch.set_grad_enabled(True)  # whatever was left behind, for the properties that follow
    yield kind, enabled and not drawn, f"gradients are on: {enabled}; random numbers were drawn: {drawn}"
