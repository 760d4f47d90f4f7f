"""Ways to spoil a recording: what its JSON says, and, in `spoilt_files`, its tensors and files."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sftspec.tests.benchmarks.spoilt_files import (
    ESCAPE,
    ODD,
    replace,
    spoil_bytes,
    spoil_files,
    spoil_folder,
    spoil_header,
    spoil_pickle,
    spoil_values,
    text_of,
)

NUDGES = (-1, 1, 1000, 0.5, 2**31, -0.25)
# What a hub's or a kernel's loader would act on, were it passed on.
CONFIG = {
    "auto_map": {"AutoModelForCausalLM": "evil--modeling.Evil"}, "_attn_implementation": "kernels-community/evil",
    "attn_implementation": "flash_attention_2", "_name_or_path": "/etc",
    "quantization_config": {"quant_method": "gptq"}, "torch_dtype": "os.system",
    "architectures": ["BertForMaskedLM"], "hidden_act": "__import__('os')",
    "vocab_size": 2**40, "num_hidden_layers": 10**6, "hidden_size": 2**31, "rope_scaling": {"rope_type": "x" * 9999},
    "rope_parameters": None, "pad_token_id": 10**9, "tie_word_embeddings": True, "trust_remote_code": True,
}  # fmt: skip
CLASSES = ("GPT2LMHeadModel", "LlamaForCausalLM", "BertForMaskedLM", "AutoModel", "os.system", "../x", "", ESCAPE)
PIECES = (
    "NaN", "Infinity", "-Infinity", "1e999", "[" * 5000, "{" * 200, '{"a":' * 3000, '"', ",", "]", "}", "\\u0000",
    '{"format": 1, "format": 1}', '"format": 1, ', "1" * 5000, "0x10", "'", "\ufeff", ESCAPE, "null",
)  # fmt: skip


def places(value: Any, here: tuple = ()) -> list[tuple]:
    """Places in a JSON value; of a long list a few."""
    found = [here] if here else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += places(item, (*here, key))
    if isinstance(value, list):
        for place in sorted({0, 1, len(value) // 2, len(value) - 1} & set(range(len(value)))):
            found += places(value[place], (*here, place))
    return found


def at(value: Any, place: tuple) -> Any:
    for step in place:
        value = value[step]
    return value


def spoil_json(chance: random.Random, path: Path) -> str:
    value = json.loads(path.read_text(encoding="utf-8"))
    place = chance.choice(places(value))
    how = spoil_place(chance, at(value, place[:-1]), place[-1])
    replace(path, text_of(value))
    return f"{how} {'.'.join(map(str, place))[:60]}"


def spoil_place(chance: random.Random, holder: Any, key: Any) -> str:
    """Change what a key or an index of a holder has."""
    old = holder[key]
    how = chance.choice(("replace", "replace", "drop", "double", "nudge", "shuffle", "truncate"))
    if how == "drop":
        del holder[key]
    elif how == "double" and isinstance(holder, list):
        holder.insert(key, old)
    elif how == "nudge" and isinstance(old, (int, float)) and not isinstance(old, bool):
        holder[key] = old + chance.choice(NUDGES)
    elif how == "shuffle" and isinstance(old, list):
        chance.shuffle(old)
    elif how == "truncate" and isinstance(old, (list, str)):
        holder[key] = old[: chance.randrange(len(old) + 1)]
    else:
        how, holder[key] = "replace", chance.choice(ODD)
    return how


def spoil_column(chance: random.Random, path: Path) -> str:
    """A whole column of the ledger, or what another one has in its place: what a forger would begin with."""
    value = json.loads(path.read_text(encoding="utf-8"))
    rows = value["rows"]
    name, other = chance.choice(sorted(rows)), chance.choice(sorted(rows))
    rows[name] = chance.choice((
        list(rows[other]), [chance.choice(ODD)] * len(rows[name]), rows[name][::-1], rows[name][1:] + rows[name][:1],
    ))  # fmt: skip
    replace(path, text_of(value))
    return f"column {name} of {other}"


def spoil_config(chance: random.Random, path: Path) -> str:
    """Another class of model, or a key of its configuration that a loader reads."""
    value = json.loads(path.read_text(encoding="utf-8"))
    model = value["job"]["model"]
    if chance.random() < 0.3:
        model["class"] = chance.choice(CLASSES)
        said = f"class {model['class'][:20]!r}"
    else:
        key = chance.choice(sorted(CONFIG))
        model["config"][key] = CONFIG[key]
        said = f"config {key}"
    replace(path, text_of(value))
    return said


def spoil_words(chance: random.Random, path: Path) -> str:
    """Control sequences in a text, or in the name of a key."""
    value = json.loads(path.read_text(encoding="utf-8"))
    texts = [place for place in places(value) if isinstance(at(value, place), str)]
    place = chance.choice(texts)
    holder = at(value, place[:-1])
    if isinstance(place[-1], str) and chance.random() < 0.2:
        holder[ESCAPE + place[-1]] = holder.pop(place[-1])
    else:
        holder[place[-1]] = chance.choice((ESCAPE, at(value, place) + ESCAPE))
    replace(path, text_of(value))
    return f"control sequence {'.'.join(map(str, place))[:60]}"


def spoil_text(chance: random.Random, path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    here = chance.randrange(len(text))
    piece = chance.choice(PIECES)
    replace(path, text[:here] + piece + text[here + chance.choice((0, 1, 5)) :])
    return f"text {piece[:12]!r}"


def spoil_depth(chance: random.Random, path: Path) -> str:
    """A value that is nested too deeply, and still JSON."""
    value = json.loads(path.read_text(encoding="utf-8"))
    place = chance.choice(places(value))
    at(value, place[:-1])[place[-1]] = "@deep"
    depth = chance.choice((50, 500, 900, 5000, 100_000))
    left, right = chance.choice((("[", "]"), ('{"a":', "}")))
    replace(path, text_of(value).replace('"@deep"', left * depth + "1" + right * depth))
    return f"depth {depth}"


def spoil_encoding(chance: random.Random, path: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    how = chance.choice(("utf-16", "utf-8-sig", "utf-32", "cp037"))
    replace(path, text.encode(how, errors="replace"))
    return f"encoding {how}"


def spoil_trial(chance: random.Random, path: Path) -> str:
    record = json.loads(path.read_text(encoding="utf-8"))
    runs = record["runs"]
    record["runs"] = chance.choice((
        [], runs * 2, [f"../{path.parent.name}/{runs[0]}"], ["/etc"], [".."], [""], [None], runs[0],
        [runs[0] + "/.."], 3, [runs[0].upper()], [runs[0] + "\n"], [ESCAPE], [f"{runs[0]}/twin"], [*runs, "01-plain"],
        [[runs[0]]], {runs[0]: 1}, ["00-" + "x" * 5000],
    ))  # fmt: skip
    replace(path, text_of(record))
    return f"runs {str(record['runs'])[:40]!r}"


Way = Callable[[random.Random, Path], str]
JSON_WAYS: tuple[Way, ...] = (spoil_json,) * 6 + (spoil_words, spoil_words, spoil_text, spoil_depth, spoil_encoding)
RUN_WAYS: tuple[Way, ...] = (*JSON_WAYS, spoil_column, spoil_column, spoil_config, spoil_folder)
TENSOR_WAYS: tuple[Way, ...] = (spoil_header, spoil_header, spoil_header, spoil_values, spoil_values, spoil_bytes)
ANY_WAYS: tuple[Way, ...] = (spoil_bytes, spoil_files, spoil_files, spoil_pickle)


def ways_for(chance: random.Random, path: Path) -> tuple[Way, ...]:
    if chance.random() < 0.15:
        return ANY_WAYS
    if path.name == "trial.json":
        return (*JSON_WAYS, spoil_trial, spoil_trial)
    if path.name == "run.json":
        return RUN_WAYS
    return TENSOR_WAYS if path.name == "tensors.safetensors" else ANY_WAYS


WEIGHTS = {"run.json": 12, "trial.json": 5, "tensors.safetensors": 4}


def is_plain(path: Path) -> bool:
    """Is it a file that can be spoilt again? One that was made huge is not read."""
    return path.is_file() and not path.is_symlink() and path.stat().st_size < 60 * 2**20


def spoil(chance: random.Random, folder: Path) -> str:
    """Spoil a recording in one to three places. Returns what was done."""
    done: list[str] = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        files = sorted(item for item in folder.rglob("*") if is_plain(item))
        if not files:
            break
        path = chance.choices(files, [WEIGHTS.get(item.name, 1) for item in files])[0]
        way = chance.choice(ways_for(chance, path))
        try:
            done.append(f"{path.name} {way(chance, path)}")
        except Exception:
            break  # it is spoilt too much to be spoilt again
    return "; ".join(done)
