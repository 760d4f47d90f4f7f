"""The adapter of a place that trains: what its syntax says is filled in, and what only its user knows is marked.

A marked place is a call of `fill_in`: the adapter can be imported with all of them open, and a trial stops at the first
one with what has to stand there.
"""

from __future__ import annotations

import json
from pathlib import Path

from sftspec.conformance.gate.found import Found, Parameter
from sftspec.conformance.gate.script_text import decided_text, fixes, is_script, script_body
from sftspec.conformance.gate.trainer_text import mark, module_of, policy_of, trainer_body

# What a parameter is called, and what it is given.
NAMES = {
    "job.model": "model net lm",
    "job.tokenizer": "tokenizer tok processing_class",
    "job.batch_size": "batch_size micro_batch_size per_device_batch_size per_device_train_batch_size"
    " train_batch_size bs",
    "job.accumulation": "accumulation accum accum_steps accumulation_steps grad_accum grad_accum_steps"
    " gradient_accumulation gradient_accumulation_steps",
    "job.learning_rate": "lr learning_rate",
    "job.epochs": "epochs num_epochs n_epochs num_train_epochs",
    "job.max_length": "max_length max_len max_seq_len max_seq_length max_tokens seq_len seq_length block_size",
    "job.weight_decay": "weight_decay wd",
    "job.max_grad_norm": "max_grad_norm grad_clip clip clip_norm max_norm",
    "job.seed": "seed",
    "job.packing": "packing pack",
    "job.model.device": "device",
    "str(job.workdir)": "output_dir out_dir save_dir out output workdir",
    "optimizer_of(job)": "optimizer optim opt",
    "conversations_of(job)": "conversations dialogs dialogues chats messages data dataset train_data train_dataset"
    " examples samples rows records",
    "data_file(job)": "data_path data_file train_file train_path dataset_path",
    "str(job.save_model())": "model_name model_path model_name_or_path checkpoint model_dir base_model",
}
VALUES = {name: value for value, names in NAMES.items() for name in names.split()}
BUNDLES = ("args", "cfg", "config", "opts", "opt", "hparams", "hp", "params", "settings")
NEEDED = {"job.learning_rate": "the learning rate", "job.batch_size": "the batch size", "job.epochs": "the epochs"}
HEAD = '''\
"""sftspec puts this repository's training on trial through this class: sftspec check sftspec_adapter.py

Written by `sftspec init` from {place}.
{marked}"""
'''
MARKED = "Each call of fill_in is a place that only you can fill: put a value there.\n"
FILL_IN = """\
def fill_in(what):
    raise NotImplementedError("sftspec_adapter.py has a place to fill in: " + what)


"""

HELPERS = {
    "conversations_of": '''\
def conversations_of(job):
    """The conversations as this repository's data has them{sure}."""
    return [{record} for messages in job.conversations]


''',
    "data_file": '''\
def data_file(job):
    """The conversations as a file of JSON Lines."""
    path = job.workdir / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\\n" for record in conversations_of(job)))
    return str(path)


''',
    "optimizer_of": """\
def optimizer_of(job):
    import torch

    make = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[job.optimizer]
    return make(job.model.parameters(), lr=job.learning_rate, weight_decay=job.weight_decay)


""",
}


def adapter_text(found: Found, root: Path, name: str, version: str) -> str:
    """The text of the adapter, to be written into `root`, from which the file of the place is imported."""
    body = body_of(found, root)
    helpers = "".join(helper(key, found) for key in wanted(body))
    marked = "fill_in(" in body
    head = HEAD.format(place=f"{place_of(found, root)}, line {found.line}", marked=MARKED if marked else "")
    decided = decided_text(found) if found.kind == "loop" and "decided_by(job)" in body else ""
    needed = {"contextlib": decided, "json": helpers, "runpy": body}
    imports = [f"import {name}\n" for name, text in needed.items() if f"{name}." in text]
    imports += ["from unittest import mock\n"] * ("mock." in decided + body)
    head += "".join(["\n" * bool(imports), *imports, "\n\n", FILL_IN if marked else ""]) + decided
    claims = ["padding", *found.claims]
    if found.kind != "loop":
        claims = [*dict.fromkeys([*claims, "accumulation", "clipping", "adamw", "frozen", "log"])]
    packs = "packing" in claims and found.kind != "loop"
    if packs:  # a Trainer of transformers or TRL packs each row, or none
        claims = [item for item in claims if item not in ("padding", "truncation")]
    lines = [f"class Adapter:\n    name, version = {json.dumps(name)}, {json.dumps(version)}\n    claims = {{\n"]
    for claim in claims:
        seen = f"{found.file.name}:{found.claims[claim]}" if claim in found.claims else "by itself"
        lines.append(f"        {claim!r},  # {seen}\n".replace("'", '"'))
    lines.append("    }  # what it cannot do, take away; what else it can: conformance/README.md of sftspec\n")
    lines += [f"    # {note}: {found.file.name}:{line}\n" for note, line in found.notes.items()]
    policy = policy_of(found)
    if policy != "all":
        lines.append(f"    policy = {policy!r}  # which turns are trained\n".replace("'", '"'))
    return head + helpers + "".join(lines) + "\n" + body


def body_of(found: Found, root: Path) -> str:
    if found.kind != "loop":
        return trainer_body(found, root)
    return script_body(found, root) if is_script(found) else loop_body(found, root)


def wanted(body: str) -> list[str]:
    keys = [key for key in ("conversations_of", "data_file", "optimizer_of") if f"{key}(" in body]
    return ["conversations_of", *keys] if keys[:1] == ["data_file"] else keys


def helper(key: str, found: Found) -> str:
    record, sure = record_of(found)
    return HELPERS[key].replace("{record}", record).replace("{sure}", sure)


def record_of(found: Found) -> tuple[str, str]:
    """How a conversation stands in the data, by the column names that the file speaks of."""
    for column in ("messages", "conversation", "dialogue"):
        if column in found.texts:
            return f'{{"{column}": list(messages)}}', f' ("{column}" in {found.file.name})'
    if {"prompt", "completion"} <= found.texts:
        return '{"prompt": list(messages)[:-1], "completion": list(messages)[-1:]}', " (prompt and completion)"
    if {"conversations", "from", "value"} <= found.texts:
        turn = (
            '{"from": {"user": "human", "assistant": "gpt"}.get(turn["role"], turn["role"]), "value": turn["content"]}'
        )
        return f'{{"conversations": [{turn} for turn in messages]}}', " (ShareGPT)"
    if found.kind == "trl":
        return '{"messages": list(messages)}', " (change it if yours has other columns)"
    return "list(messages)", " (change it if yours are other)"


def place_of(found: Found, root: Path) -> str:
    return found.file.relative_to(root).as_posix()


def value_of(item: Parameter, found: Found) -> str:
    """What a parameter is given; "" for one that keeps its default."""
    value = VALUES.get(item.name.lstrip("_").lower(), "")
    if value == "optimizer_of(job)" and not item.steps:
        return "job.optimizer"
    if item.name in BUNDLES and item.used and not item.steps:
        return bundle(item, found)
    if value or item.optional:
        return value
    batches = ", in batches of job.batch_size" if "loader" in item.name or "batch" in item.name else ""
    return mark(f"{item.name}, which {found.owner} takes ({found.file.name}:{found.line}){batches}")


def bundle(item: Parameter, found: Found) -> str:
    """An object with the attributes that the function reads."""
    fields = {name: value_of(Parameter(name), found) for name in item.used}
    return "SimpleNamespace(" + ", ".join(f"{name}={value}" for name, value in fields.items()) + ")"


def arguments(items: list[Parameter], found: Found) -> str:
    given = [(item.name, value_of(item, found)) for item in items]
    lines = [f"            {name}={value},\n" for name, value in given if value]
    return "(\n" + "".join(lines) + "        )" if lines else "()"


def loop_body(found: Found, root: Path) -> str:
    place = place_of(found, root)
    if not found.owner:
        what = (
            f"{place} trains as a script: put its loop into a function train(model, tokenizer, conversations, …) of it"
        )
        return f"    def train(self, job):\n        {mark(what + ' and run sftspec init --force again')}\n"
    lines = [f"        from {module_of(found, root)} import {found.owner}\n\n"]
    call = found.owner + arguments(found.made if found.method else found.given, found)
    if found.method:
        call = f"{call}.{found.method}{arguments(found.given, found)}"
    if "SimpleNamespace" in call:
        lines.insert(0, "        from types import SimpleNamespace\n\n")
    every = f"{call}"
    if "fill_in(" in every:
        every += "job.batch_size"  # it may be a loader that makes the batches
    missing = [
        said
        for value, said in NEEDED.items()
        if value not in every and not (value == "job.learning_rate" and "optimizer_of(job)" in every)
    ]
    if missing:
        what = (
            f"{found.owner} takes no parameter for {', '.join(missing)}: give it one and pass job's, then take this out"
        )
        lines.append(f"        {mark(what)}\n")
    if "job.save_model()" in every:
        lines.append("        job.listen_to(type(job.model))  # it is loaded from there\n")
    if fixes(found):
        lines.append("        with decided_by(job):\n")
        call = call.replace("\n", "\n    ")
        lines.append(f"            {call}\n")
    else:
        lines.append(f"        {call}\n")
    lines.append(
        '        # To have its log judged: claim "log", and job.report(losses=[the mean loss of each step]).\n'
    )
    return "    def train(self, job):\n" + "".join(lines)
