"""The adapter of a script that reads its command line: it is run as its user runs it, with what the job asks for.

The model and the data are handed over as a folder and a file. What the script fixes and a job decides (the optimizer,
the schedule, the norm to clip to) is the job's for the time of the trial, by a context that stands in the adapter.
"""

from __future__ import annotations

from pathlib import Path

from sftspec.conformance.gate.found import Flag, Found
from sftspec.conformance.gate.trainer_text import mark, module_of

FOLDER = "folder"
# What an option of the command line is called, and what it is given.
NAMES = {
    FOLDER: "model model_name model_path model_name_or_path checkpoint model_dir base_model pretrained tokenizer"
    " tokenizer_name tokenizer_path",
    "data_file(job)": "data dataset data_path data_file train_file train_path train_data dataset_path dataset_name"
    " input train",
    "job.workdir": "output output_dir out out_dir save_dir save_path workdir ckpt_dir",
    "job.batch_size": "batch_size micro_batch_size per_device_batch_size per_device_train_batch_size bs bsz"
    " train_batch_size",
    "job.accumulation": "accumulation accum accum_steps accumulation_steps grad_accum grad_accum_steps"
    " gradient_accumulation gradient_accumulation_steps",
    "job.learning_rate": "lr learning_rate",
    "job.epochs": "epochs num_epochs n_epochs num_train_epochs",
    "job.max_length or 10**6": "max_length max_len max_seq_len max_seq_length max_tokens seq_len seq_length block_size",
    "job.weight_decay": "weight_decay wd",
    "job.max_grad_norm or 1e9": "max_grad_norm grad_clip clip clip_norm max_norm",
    "job.seed": "seed",
    "job.optimizer": "optimizer optim",
    '"cpu"': "device",
}
VALUES = {name: value for value, names in NAMES.items() for name in names.split()}

DECIDED = '''\
@contextlib.contextmanager
def decided_by(job):
    """What {file} fixes is the job's, for the time of a trial."""
    import torch

{made}    with contextlib.ExitStack() as replaced:
{replaced}        yield


'''
SGD = """\
    class AsAsked(torch.optim.SGD):
        def __init__(self, parameters, lr=1e-3, weight_decay=0.0, **other):
            super().__init__(parameters, lr=lr, weight_decay=weight_decay)

"""
CONSTANT = """\
    def constant(optimizer, *how, **more):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

"""
CLIP = """\
    clip, limit = torch.nn.utils.clip_grad_norm_, job.max_grad_norm or float("inf")

"""


def is_script(found: Found) -> bool:
    """Does it take everything that a job decides from its command line?"""
    return found.kind == "loop" and bool(found.flags) and not found.given and not found.method


def fixes(found: Found) -> bool:
    """Does a loop fix what a job decides?"""
    return bool(found.adamw or found.schedule or found.clips)


def decided_text(found: Found) -> str:
    """The context in which the job decides what the loop fixes; "" where it fixes nothing."""
    if not fixes(found):
        return ""
    made = SGD * bool(found.adamw) + CONSTANT * bool(found.schedule) + CLIP * bool(found.clips)
    replaced = ""
    if found.adamw:
        replaced += f'''\
        if job.optimizer == "sgd":  # {found.file.name} makes AdamW, and most jobs ask for plain SGD
            replaced.enter_context(mock.patch("{found.adamw}", AsAsked))
'''
    if found.schedule:
        replaced += f'''\
        replaced.enter_context(mock.patch("{found.schedule}", constant))  # a job's rate is one number
'''
    if found.clips:
        replaced += f'''\
        as_asked = lambda parameters, max_norm, **other: clip(parameters, limit, **other)  # not to its own limit
        replaced.enter_context(mock.patch("{found.clips}", as_asked))
'''
    return DECIDED.format(file=found.file.name, made=made, replaced=replaced)


def script_body(found: Found, root: Path) -> str:
    """The method that runs the script on a job."""
    module = module_of(found, root)
    lines = ["    def train(self, job):"]
    if found.owner:
        lines += [f"        from {module} import {found.owner}", ""]
    values = [(flag, value_of(flag, found)) for flag in found.flags]
    given = [(flag, value) for flag, value in values if value]
    if any(value == FOLDER for _, value in given):
        lines.append("        folder = job.save_model()")
        lines.append("        job.listen_to(type(job.model))  # the script loads it from there")
    lines.append(f'        words = ["{found.file.name}"]')
    lines += [f'        words += ["{flag.option}", str({value})]' for flag, value in given]
    fixed = "decided_by(job), " if fixes(found) else ""
    lines.append(f'        with {fixed}mock.patch("sys.argv", words):')
    file = found.file.relative_to(root).as_posix()
    run = f"{found.owner}()" if found.owner else f'runpy.run_path("{file}", run_name="__main__")'
    lines.append(f"            {run}")
    lines.append('        # To have its log judged: claim "log", and job.report(losses=[the mean loss of each step]).')
    return "\n".join(lines) + "\n"


def value_of(flag: Flag, found: Found) -> str:
    """What an option is given; "" for one that keeps its default."""
    value = VALUES.get(flag.name.lower(), "")
    if value or not flag.required:
        return value
    return mark(f"{flag.option}, which {found.file.name} asks for")
