"""Dropout: drawn anew in every call, and the backward pass goes through what the forward pass drew.

The loss falls without dropout as well, or with one mask for all steps, or with two for one call: only the model that
comes of it is another one.
"""

from __future__ import annotations

from sftspec.properties import must


@must(floor=2)
def dropout_is_on_and_drawn_anew(run):
    """Where the model has dropout, every call that is trained draws it, and no two begin with one random state.

    A model left in evaluation mode trains without the dropout that it was given; a seed set before each micro-batch, or
    alike on each rank, draws one mask over and over (accelerate#114). Of ranks that are processes each is read by
    itself here: ranks-draw-dropout-of-their-own compares them.
    """
    if not run.dropout:
        return
    seen: set[tuple[int, str]] = set()
    for forward in run.forwards:
        if forward.trained:
            yield run, forward.drew, f"call {forward.index} drew no random number"
            drawn = (forward.rank if run.processes > 1 else 0, forward.random)
            yield run, drawn not in seen, f"call {forward.index} draws what an earlier one drew"
            seen.add(drawn)


@must(laws=("ST-GRADCHECK",), alone=True, floor=10, needs=("step/the-gradient-is-that-of-the-step",))
def dropout_is_the_same_on_the_way_back(run):
    """With dropout, the gradient of every parameter below the head is that of the calls as they were made.

    Activations that are computed again on the way back draw another mask, unless the random state is brought back
    (torch.utils.checkpoint, preserve_rng_state): the gradient is then that of no function. Read from the same calls,
    made again from the same random state, at the rates that the model came with and with everything kept in memory;
    clips and scales are divided out.
    """
    for step in run.steps:
        for name, again in step.again.items():
            expected, got = step.scale * again.double(), step.gradients.get(name)
            size = float(expected.norm())
            if size:
                error = 1.0 if got is None else float((got.double() - expected).norm()) / size
                yield (
                    step,
                    error <= 2 * run.oracle.slack,
                    f"step {step.index}, {name}: relative error {error:.2e}",
                    error,
                )
