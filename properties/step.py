"""The step: every target of an optimizer step weighs the same, and the optimizer gets exactly that gradient.

What counts is not what the loss function returned but what the optimizer was given: scaling after backward, averaging
over ranks, clipping and stale gradients all happen in between. So these properties read the weight of each target in
the gradient with which the optimizer stepped. Plain SGD without clipping shows constant factors; AdamW and active
clipping hide them (trap H5).

These properties read a run. The loss, the clip and the step as functions: step_parts.
"""

from __future__ import annotations

import math

from sftspec.properties import must, should


def roundoff(run) -> float:
    return run.oracle.roundoff


def weight_bound(run) -> float:
    """Relative error of a recovered weight by rounding alone, the same as for gradients (properties/README.md)."""
    return run.oracle.slack


def weight_of(run, step) -> float:
    """Sum of the weights of a step's targets."""
    return sum(row.weight for row in run.rows if row.step == step.index and row.target is not None)


def norm_of(step) -> float:
    """Norm of the gradient that the optimizer got, over all parameters together."""
    return math.sqrt(math.fsum(float(gradient.double().square().sum()) for gradient in step.gradients.values()))


@must(laws=("ST-CE", "ST-GRAD", "ST-ROWSUM", "ST-UPCAST"), floor=200)
def the_loss_is_cross_entropy(run):
    """At every target the gradient is that of cross-entropy: w (softmax(z) - onehot(y)).

    Label smoothing that nobody asked for, logits scaled or capped, a loss reduced in bfloat16 (Modalities#464), a fused
    kernel that is wrong in one branch (Liger-Kernel#968): seen in the gradient, not in the loss.
    """
    for row in run.rows:
        if row.target is not None:
            holds = None if row.fit == "ambiguous" else row.fit == "cross-entropy"
            yield row, holds, f"the gradient is that of {row.fit}", row.weight * run.targets_of_step[row.step]


@must(laws=("ST-ACC", "ST-CE", "ST-DUP", "MK-WEIGHT"), floor=200, needs=("step/the-loss-is-cross-entropy",))
def every_target_of_a_step_weighs_the_same(run):
    """All targets of one optimizer step have the same weight, over micro-batches, rows and ranks.

    A mean of micro-batch means weighs a token in a short micro-batch more (transformers#34191, torchtune#1875;
    relative gradient error 1.3 at counts of 1 to 32); so does a denominator per rank (transformers#34242).
    """
    targets: dict[int, list] = {}
    for row in run.rows:
        if row.target is not None:
            targets.setdefault(row.step, []).append(row)
    for rows in targets.values():
        middle = sorted(row.weight for row in rows)[len(rows) // 2]
        for row in rows:
            ratio = row.weight / middle if middle else math.inf
            yield (
                row,
                abs(ratio - 1) <= 2 * weight_bound(run),
                f"weighs {ratio:.4g} times the median target of its step",
                abs(ratio - 1),
            )


@must(laws=("ST-ACC", "ST-DP", "ST-CE", "MK-COUNT", "PK-LOSSGRAD"), floor=5, needs=("step/the-loss-is-cross-entropy",))
def the_denominator_is_the_number_of_targets(run):
    """The weights of a step sum to 1: the denominator is the number of its targets, counted once over everything.

    Not divided by the accumulation steps at all (nanoGPT#206), twice (transformers#35207, LLaMA-Factory#7443), by all
    positions, by rows, by targets counted before the shift, per rank (transformers#34373), by segments twice
    (unsloth-zoo#1066). AdamW hides it; the learning rate is silently another one.
    """
    if run.job.max_grad_norm is not None:
        return
    for step in run.steps:
        count = run.targets_of_step[step.index]
        if count:
            total, labels = weight_of(run, step), run.labels_of_step[step.index]
            yield (
                step,
                min(abs(total - 1), abs(total * labels / count - 1)) <= weight_bound(run),
                f"step {step.index}: {count} targets, weights sum to {total:.6g} instead of 1",
                total,
            )


@should(laws=("MK-COUNT",), floor=5, needs=("step/the-loss-is-cross-entropy",))
def first_tokens_are_not_counted(run):
    """The denominator does not count a label on the first token of a row, which no logits precede.

    Counted before the shift it is too large by one for each such row, so it depends on how rows were cut. transformers
    5.23.0 counts after the shift for classes named ...ForCausalLM and before it for others, GPT2LMHeadModel among them.
    """
    if run.job.max_grad_norm is not None:
        return
    for step in run.steps:
        count, labels = run.targets_of_step[step.index], run.labels_of_step[step.index]
        if count and labels > count:
            total = weight_of(run, step)
            yield (
                step,
                abs(total * labels / count - 1) > weight_bound(run),
                (f"step {step.index}: {count} targets are divided by {labels}, the number of labels before the shift"),
            )


@must(laws=("ST-ZERO_GRAD", "ST-ACC", "ST-CLIPORDER"), floor=5)
def the_gradient_is_that_of_the_step(run):
    """What the optimizer gets is explained by the positions of its own step, and by nothing else.

    A gradient left from the step before, or a micro-batch erased by zero_grad in the inner loop (llm.c#548,
    torchforge#71), a second path to the loss: what is not explained is the residual.
    """
    for step in run.steps:
        if run.targets_of_step[step.index]:
            note = f"{step.residual:.2e} of the head's gradient is unexplained"
            yield step, step.residual <= weight_bound(run), note, step.residual


@must(
    laws=("PK-LOSSGRAD", "ST-ACC", "ST-GRADCHECK"),
    floor=5,
    costly=True,
    needs=("step/the-loss-is-cross-entropy", "packing/hidden-states-equal-those-alone"),
)
def every_parameter_gets_its_gradient(run):
    """The gradient of every parameter equals that of the same targets, each example alone, in float64.

    Layers under no_grad, frozen by mistake or cut off by checkpointing (transformers#26221) do not show at the head.
    Bound: properties/README.md, four times the error of the same computation in the run's dtype, plus 64 roundings.
    """
    for step, name, error, bound in run.oracle.compare_gradients():
        note = f"step {step.index}, {name}: relative error {error:.2e}, {bound:.2e} is rounding"
        yield step, error <= bound, note, error


@must(
    laws=("ST-CLIP", "ST-CLIPDIR", "ST-CLIPHOM", "ST-CLIPORDER"),
    claim="clipping",
    floor=1,
    needs=("packing/hidden-states-equal-those-alone",),
)
def clipping_is_by_the_norm_of_the_whole_gradient(run):
    """A gradient over max_grad_norm is scaled to that norm, all parameters by one factor, once per optimizer step.

    Clipped per tensor, by value, per micro-batch (accelerate#999), before unscaling (Pytorch-UNet#470), by a local norm
    on a shard (pytorch#72548). Pascanu et al. 2013, arXiv:1211.5063, algorithm 1. Torch adds 1e-6 to the norm.
    """
    limit = run.job.max_grad_norm
    if limit is None:
        return
    for step, factor, norm, spread, rounding in run.oracle.clip_factors():
        if norm > limit:
            expected = limit / norm
            bound = 1e-6 / norm + rounding
            close = abs(factor / expected - 1) <= bound and spread <= bound
            length = norm_of(step)
            exact = abs(length / limit - 1) <= 1e-6 / norm + weight_bound(run)
            yield (
                step,
                close and exact,
                f"step {step.index}: norm {norm:.4g}, expected factor {expected:.6g}, saw {factor:.6g} "
                f"(spread over parameters {spread:.1e}), and the norm {length:.6g} after it",
                factor / expected,
            )


@must(laws=("ST-CLIPNOOP", "ST-CLIPIDEM"), claim="clipping", floor=1, needs=("step/the-loss-is-cross-entropy",))
def a_gradient_below_the_limit_is_not_scaled(run):
    """Clipping leaves a gradient at or below max_grad_norm as it is: the weights still sum to 1.

    Normalising always makes every step equally long, whatever the loss.
    """
    limit = run.job.max_grad_norm
    if limit is None:
        return
    for step, factor, norm, *_ in run.oracle.clip_factors():
        if norm and norm <= limit:
            yield (
                step,
                abs(factor - 1) <= weight_bound(run),
                f"step {step.index}: norm {norm:.4g} scaled by {factor:.6g}",
                factor,
            )


@must(laws=("ST-SGD", "ST-ZEROLR"), floor=5)
def sgd_subtracts_rate_times_gradient(run):
    """SGD writes p - lr g, with the learning rate of the job, and nothing more.

    A rate applied twice, decay that nobody asked for, a scheduler stepped per micro-batch (accelerate#963).
    """
    if run.job.optimizer != "sgd":
        return
    for step, name, error, bound, share in run.oracle.sgd_errors():
        yield step, error <= bound, f"step {step.index}, {name}: off by {error:.2e}, {bound:.2e} is rounding", share


@must(laws=("ST-ADAMW",), claim="adamw", floor=2)
def adamw_decays_and_corrects(run):
    """AdamW: p(1 - lr wd), then minus lr m/(sqrt(v) + eps), both moments corrected for their start.

    Decay put into the gradient, eps inside the root, no correction (the first steps ten times too short). Loshchilov
    and Hutter 2019, arXiv:1711.05101, algorithm 2. Norms and biases may be exempt from the decay (transformers#35927).
    """
    if run.job.optimizer != "adamw" or run.job.resume_at is not None:
        return
    for step, name, error, bound, share in run.oracle.adamw_errors():
        yield step, error <= bound, f"step {step.index}, {name}: off by {error:.2e}, {bound:.2e} is rounding", share


@must(laws=("ST-SGD",), floor=5)
def the_learning_rate_is_the_jobs(run):
    """Every optimizer step is made at the learning rate that was asked for (the jobs ask for a constant one)."""
    for step in run.steps:
        rate, found = run.job.learning_rate, step.learning_rate
        holds = math.isclose(found, rate, rel_tol=1e-12)
        yield step, holds, f"step {step.index}: lr {found}", found / rate if rate else math.inf


@must(laws=("ST-ZEROLR",), floor=1)
def rate_zero_changes_nothing(run):
    """With learning rate 0 and no decay every parameter stays bitwise as it was."""
    if run.job.learning_rate == 0 and run.steps:
        for name, before in run.steps[0].before.items():
            yield run, bool((before == run.final[name]).all()), f"{name} changed at learning rate 0"


@must(laws=("ST-SGD", "ST-ADAMW"), floor=5)
def parameters_change_in_the_step_alone(run):
    """Before the first optimizer step, and between steps, no parameter changes by a single bit.

    Weights rounded to 16 bits as they are loaded or after each step, a row of the pad token set to zero, embeddings
    resized, an average written back, a head tied again.
    """
    if not run.steps:
        return
    yield run, *_same(run.initial, run.steps[0].before, "before the first step")
    states = [*[step.before for step in run.steps[1:]], run.final]
    for step, state in zip(run.steps, states, strict=False):
        yield step, *_same(step.after, state, f"after step {step.index}, before the next")


def _same(before, after, when: str) -> tuple[bool, str]:
    """Are these the same parameters, bit for bit? And a note of what is not."""
    changed = [
        name
        for name in sorted(before.keys() | after.keys())
        if name not in before
        or name not in after
        or before[name].shape != after[name].shape
        or not bool((before[name] == after[name]).all())
    ]
    return not changed, f"{when}: {', '.join(changed[:3])} changed"


@must(laws=("ST-RESUME",), claim="resume", floor=1)
def resuming_equals_not_stopping(run):
    """Saved, lost and loaded again, a run ends with bitwise the parameters of the run that went on.

    The data starts over (transformers#8878, accelerate#4071), the schedule or the optimizer restarts (Lightning#4655),
    the random state is lost and dropout draws another mask.
    """
    if run.job.resume_at is not None and run.twin is not None:
        saved = run.job.reported.get("bytes_in_workdir", 0)
        yield run, saved > 0, "nothing was saved in the job's workdir, so nothing was resumed"
        for name, value in run.final.items():
            yield run, bool((value == run.twin.final[name]).all()), f"{name} differs from the uninterrupted run"


@must(floor=2)
def dropout_is_on_and_drawn_anew(run):
    """Where the model has dropout, every call that is trained draws it, and no two begin with one random state.

    A model left in evaluation mode trains without the dropout that it was given; a seed set before each micro-batch, or
    alike on each rank, draws one mask over and over (accelerate#114).
    """
    if not run.dropout:
        return
    seen: set[str] = set()
    for forward in run.forwards:
        if forward.trained:
            yield run, forward.drew, f"call {forward.index} drew no random number"
            yield run, forward.random not in seen, f"call {forward.index} draws what an earlier one drew"
            seen.add(forward.random)


@must(laws=("ST-DET", "PK-DET"), floor=1)
def the_same_job_gives_the_same_model(run):
    """The same job and seed end with bitwise the same parameters.

    Unseeded order, sets in the data path: then no other comparison means anything.
    """
    if run.job.resume_at is None and run.twin is not None and run.twin.job.seed == run.job.seed:
        for name, value in run.final.items():
            yield run, bool((value == run.twin.final[name]).all()), f"{name} differs between two equal runs"


@should(laws=("ST-EPOCH", "ST-DET"), floor=1)
def epochs_differ_in_order(run):
    """The second epoch does not repeat the order of the first (trl#2030, torchtitan#2556).

    Read where at least seven units are shuffled, examples or packs: by chance they repeat once in 5,040 runs.
    """
    if run.job.epochs < 2 or run.error:
        return
    packs = [tuple(row.example for row in line) for line in run.lines.values()]
    units = packs if run.job.packing else [piece.example for piece in run.pieces]
    half = len(units) // 2
    if half >= 7:
        yield run, units[:half] != units[half:], "both epochs have the same order"


@should(laws=("ST-DET",))
def another_seed_gives_another_order(run):
    """With another seed the first epoch has another order, unless it has that of the file.

    A seed that is not passed on makes every repetition of an experiment the same one. Read as above, of examples.
    """
    if run.twin is None or run.twin.job.seed == run.job.seed or run.job.packing or run.error or run.twin.error:
        return
    first, second = ([piece.example for piece in one.pieces] for one in (run, run.twin))
    half = len(first) // run.job.epochs
    if half >= 7 and first[:half] != sorted(first[:half]):
        yield run, first[:half] != second[:half], f"seeds {run.job.seed} and {run.twin.job.seed} give the same order"


@must(laws=("ST-REPORT",), claim="log", floor=3)
def the_reported_loss_is_the_mean_over_targets(run):
    """The loss that is reported for a step is the mean over its targets.

    Logged times or divided by the accumulation steps, per micro-batch, over other positions than the loss
    (transformers#34191, #35527, trl#5620, verl#102).
    """
    losses = run.job.reported.get("losses", [])
    # A step that was skipped for want of targets may be reported (as nan) or not.
    stepped = run.steps if len(losses) == len(run.steps) else [s for s in run.steps if run.targets_of_step[s.index]]
    losses = losses if len(losses) == len(stepped) else [loss for loss in losses if not math.isnan(loss)]
    yield run, len(losses) == len(stepped), f"{len(stepped)} optimizer steps, {len(losses)} losses reported"
    for step, loss in zip(stepped, losses, strict=False):
        rows = [row for row in run.rows if row.step == step.index and row.target is not None]
        if rows:
            total = sum(row.nll for row in rows)
            mean, of_labels = total / len(rows), total / run.labels_of_step[step.index]
            if roundoff(run) > 1e-4:  # logits in 16 bits, reduced in float32
                bound = 2 * roundoff(run) * run.oracle.largest_logit(step) + 128 * 2**-24 * (1 + mean)
            else:
                bound = 128 * roundoff(run) * (1 + mean)
            close = min(abs(loss - mean), abs(loss - of_labels)) <= bound
            yield step, close, f"step {step.index}: mean {mean:.6g}, reported {loss:.6g}", loss / mean


@must(laws=("ST-REPORT", "ST-CLIP"), claim="log", needs=("step/the-loss-is-cross-entropy",))
def the_reported_norm_is_that_before_clipping(run):
    """A gradient norm that is reported is that of the whole gradient of the step, before it was clipped.

    After clipping it is the limit, whatever happens; of a shard, or of one parameter, it hides what explodes
    (pytorch#72548). Read where norms are reported: what the optimizer got over the factor of the clip, which is the sum
    of the weights.
    """
    norms = run.job.reported.get("grad_norms", [])
    stepped = [step for step in run.steps if run.targets_of_step[step.index]]
    norms = norms if len(norms) == len(run.steps) else [norm for norm in norms if norm]
    for step, reported in zip(run.steps if len(norms) == len(run.steps) else stepped, norms, strict=False):
        if run.targets_of_step[step.index]:
            norm = norm_of(step)
            if run.job.max_grad_norm is not None:
                norm /= weight_of(run, step)
            close = abs(reported - norm) <= weight_bound(run) * norm
            yield step, close, f"step {step.index}: norm {norm:.6g}, reported {reported:.6g}"


def epochs_after(run) -> dict[int, tuple[int, int]]:
    """For each step, how often every example was begun when it ended, and how often some example was."""
    times = dict.fromkeys((piece.example for piece in run.pieces), 0)
    begun: dict[int, list[int]] = {step.index: [] for step in run.steps}
    for piece in run.pieces:
        if piece.start == 0:
            begun.setdefault(piece.rows[0].step, []).append(piece.example)
    after = {}
    for index, examples in begun.items():
        for example in examples:
            times[example] += 1
        passes = [divmod(count, run.copies.get(example, 1)) for example, count in times.items()]
        after[index] = min((whole for whole, _ in passes), default=0), max((n + bool(m) for n, m in passes), default=0)
    return after


@must(laws=("ST-EPOCH",), floor=5)
def steps_hold_the_examples_asked_for(run):
    """An optimizer step holds batch_size times accumulation times ranks examples (packed: rows) of one epoch; the last
    of an epoch may hold fewer.

    A setting that is ignored in silence is another batch size, and with it another learning rate. Packs that were
    flattened into one row, or were never made, are not read.
    """
    lines = {(piece.rows[0].forward, piece.rows[0].row) for piece in run.pieces}
    if run.error or (run.job.packing and len(lines) == len(run.pieces)):
        return
    size = run.job.batch_size * run.job.accumulation * run.job.world_size
    held: dict[int, dict[tuple, int]] = {step.index: {} for step in run.steps}
    for piece in run.pieces:
        first = piece.rows[0]
        begun = held.setdefault(first.step, {})
        place = (first.forward, first.row, -1 if run.job.packing else piece.example)
        begun[place] = begun.get(place, 0) + (piece.start == 0)
    if run.job.packing and any(
        len(run.forwards[forward].input_ids) == 1 and sum(row.example >= 0 for row in rows) > run.job.max_length
        for (forward, _), rows in run.lines.items()
    ):
        return
    what, finished = "rows" if run.job.packing else "examples", 0
    for index, (least, most) in epochs_after(run).items():
        times = held[index].values()
        ends, count = least == most, len(times) if run.job.packing else sum(max(1, begun) for begun in times)
        # An epoch that is over within a step, and not with it, goes on into the next.
        whole = (count == size or (count < size and ends)) and least - finished <= ends
        yield run, whole, f"step {index} holds {count} {what}, {size} of one epoch were asked for", count / size
        finished = least


@must(laws=("ST-EPOCH",), claim="accumulation", floor=3)
def accumulation_makes_the_steps_asked_for(run):
    """An epoch of m micro-batches makes ceil(m / accumulation) optimizer steps; the last may be smaller.

    A partial window is lost, stepped never, or scaled as if it were full (ms-swift#10084).
    """
    if run.job.accumulation == 1 or run.error or run.job.world_size > 1:
        return
    window, after = run.job.accumulation, epochs_after(run)
    counts: dict[int, int] = {step.index: 0 for step in run.steps}
    for forward in (forward for forward in run.forwards if forward.trained):
        counts[forward.step] = counts.get(forward.step, 0) + 1
    for number, step in enumerate(run.steps):
        least, most = after[step.index]
        last = number + 1 == len(run.steps) or least == most
        full = counts[step.index] == window or (last and counts[step.index] <= window)
        note = f"step {step.index} has {counts[step.index]} micro-batches of {window}"
        yield step, full, note, counts[step.index] / window
