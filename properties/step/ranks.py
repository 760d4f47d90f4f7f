"""Several processes, each a rank: they share every step, and hold one model.

Read of runs that were made by as many processes (`--processes`). That the denominator is counted, and the gradient
summed, over all of them is what `gradient` asks of every step.
"""

from __future__ import annotations

from sftspec.properties import must, should


@must(laws=("ST-REPLICA",), claim="processes", floor=5)
def every_rank_holds_the_same_parameters(run):
    """After each optimizer step, wherever two ranks hold the same parameter, they hold the same bits.

    Gradients that are never reduced, or only those of the last micro-batch; a rate, a decay, a clip or new weights of
    each rank's own (pytorch#112152): as many models as there are ranks, of which one is saved.
    """
    for step in run.steps if not run.error else ():
        for rank in range(1, run.processes):
            names = [name for other, name in step.apart if other == rank]
            note = f"step {step.index}: rank {rank} holds another {', '.join(names[:3])}"
            yield step, not names, note, len(names)


@should(laws=("ST-REPLICA",), claim="processes", floor=2)
def ranks_draw_dropout_of_their_own(run):
    """Where the model has dropout, no two ranks begin a call that is trained with one random state.

    One seed set on every rank drops the same units of all their examples (accelerate#114): the gradient varies more
    than that of as many examples on one rank.
    """
    if not run.dropout:
        return
    seen: dict[str, int] = {}
    for forward in run.forwards:
        if forward.trained:
            other = seen.setdefault(forward.random, forward.rank)
            note = f"call {forward.index} of rank {forward.rank} draws what rank {other} drew"
            yield run, other == forward.rank, note


@should(laws=("ST-EPOCH",), claim="processes", floor=5)
def no_example_fills_up_the_last_batches(run):
    """In no epoch is an example seen again so that all ranks get equally many.

    `DistributedSampler` and accelerate's `even_batches` do so by default (accelerate#212): those examples weigh twice.
    The alternative is a last step in which some ranks have less, or nothing; not to leave the rest out.
    """
    if run.error:
        return
    for number, piece in enumerate(run.pieces):
        if run.begins(piece):
            weighs = number in run.fillers and not run.is_dummy(piece)
            yield piece, not weighs, "seen a second time in its epoch, in the last step"
