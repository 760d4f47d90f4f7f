"""Mutants that differ in nothing, by module, with the proof: the changed lines, as source_mutation.py makes them."""

EQUIVALENT: dict[str, dict[str, tuple[str, ...]]] = {
    "masking": {
        "the list has one element: the last is the first": (")[ -1] # fmt: skip",),
        "no convention's kind is among WRITTEN_KINDS, and of disjoint sets both operators make the union": (
            "return WRITTEN_KINDS ^ {kind for kind, train in chosen.items() if train}",
        ),
        "render and tokenize_batch give one entry for each conversation, and starts and stops for each span": (
            "for kind, message in zip(rendered.kinds, rendered.messages, strict=False)",
            "for of_one, text, messages in zip(tokens, rendered, checked, strict=False)",
            "for is_trained, start, stop in zip(trained, tokens.starts.tolist(), tokens.stops.tolist(), strict=False):",
        ),
    },
    "packing": {
        'of "error", "truncate" and "drop", the only policies that come so far, no other compares so': (
            'if overlong >= "truncate":',
            'if overlong <= "drop":',
        ),
        "np.diff gives a count for each length": ("for length, left in zip(lengths, counts, strict=False):",),
        "bisect_left never exceeds the length of the list": ("if best != len(spaces):",),
        "numpy takes any negative size for the one that is unknown": (
            "return _expand(descending, np.array(moves).reshape(- 2, 4).T, packs)",
            "return _expand(descending, np.array(moves).reshape(~1, 4).T, packs)",
        ),
        "of integers those up to C/2 are those up to its floor": (
            'half = np.searchsorted(sizes, capacity / 2, side="right")',
        ),
    },
    "step": {
        "the rows are (N, V): their last axis is axis 1": tuple(
            f"losses = torch.logsumexp(rows, dim={a}) - rows.gather({b}, chosen[:, None]).squeeze({c})"
            for one in ("1", "+1")
            for a, b, c in ((one, -1, -1), (-1, one, -1), (-1, -1, one))
        ),
        "there is one object torch.float64": ("rows = rows if rows.dtype is torch.float64 else rows.float()",),
        "a sum of counts is never negative": ("if num_targets <= 0:",),
    },
}
