"""Something is trained: gradients come back to the model, and reach what came to be trained."""

from __future__ import annotations

from sftspec.properties import must, should


@must(laws=("ST-GRAD",), final=True)
def gradients_reach_the_hidden_states(run):
    """A run that calls the model for training brings a gradient back to its last hidden states.

    Everything frozen by mistake (trl#3926), hidden states detached before the head, a backward pass never made:
    batches, losses and steps go on as if nothing were.
    """
    untrained = run.error.startswith("untrained: ")
    if run.rows or untrained:
        yield run, not untrained, run.error.removeprefix("untrained: ")


@should(laws=("ST-GRAD",), floor=5)
def what_came_trainable_is_trained(run):
    """Without adapters, every parameter that came trainable wants a gradient when the optimizer steps.

    A head or an embedding that the trainer freezes by its own choice may be meant. Frozen by mistake, it shows in no
    loss.
    """
    if run.adapters or run.unread:
        return
    for step in run.steps:
        frozen = sorted(set(step.frozen) - set(run.job.frozen))
        yield step, not frozen, f"step {step.index}: {', '.join(frozen[:3])} wants no gradient"
