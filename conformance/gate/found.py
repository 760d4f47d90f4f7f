"""How a repository trains, read off its syntax: nothing of it is imported or run.

A place that trains is a call of TRL's `SFTTrainer`, of transformers' `Trainer` (or of a class of the repository that
inherits from one), or a loop with `backward` and an optimizer's `step`. What it can do is what its file calls.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SKIPPED = {"node_modules", "site-packages", "build", "dist", "tests", "test", "docs", "__pycache__", "venv", "env"}
LARGEST = 2**20  # bytes: a longer file was written by a program
TRAINERS = {"SFTTrainer": "trl", "Trainer": "transformers", "Seq2SeqTrainer": "transformers"}
CONFIGS = {"SFTConfig", "TrainingArguments", "Seq2SeqTrainingArguments"}

# claim: what its code calls or names
SIGNS = {
    "accumulation": ("accum",),
    "clipping": ("clip_grad", "grad_clip", "clip_norm", "max_grad_norm"),
    "adamw": ("AdamW", "adamw"),
    "truncation": ("truncat", "max_length", "max_len", "max_seq", "seq_len", "block_size"),
    "packing": ("cu_seqlens", "packing", "packed", "DataCollatorWithFlattening"),
    "chat-template": ("apply_chat_template",),
}
NOTES = {
    "LoRA": ("get_peft_model", "LoraConfig", "peft_config"),
    "autocast": ("autocast", "bf16", "fp16"),
    "a distributed launch": ("init_process_group", "DistributedDataParallel", "FSDP", "fully_shard"),
}


@dataclass(frozen=True)
class Parameter:
    name: str
    optional: bool = False
    used: tuple[str, ...] = ()  # the attributes that are read off it, where it is a bundle such as args
    steps: bool = False  # its step() is called: an optimizer, not the name of one


@dataclass(frozen=True)
class Flag:
    """An option of a command line: "--batch-size", its name "batch_size"."""

    option: str
    name: str
    required: bool = False


@dataclass
class Found:
    """A place that trains.

    kind      "trl", "transformers" or "loop"
    owner     the function, or the class with the method, that trains; "" where it is the script itself
    method    of the class
    made      parameters of the class; given: of the function or method
    options   keyword arguments of the config and of the trainer that are literals: (config or trainer, name) to source
    open      those that are not: what only the user knows
    claims    claim to the line that shows it; notes: the same, of what is worth saying
    own       the repository's own subclass of the trainer
    flags     the options of its command line that take a value
    adamw     the name under which it makes AdamW itself, such as "torch.optim.AdamW"; "" if it does not
    clips     the name under which it clips to a norm that it fixes; "" if it does not
    schedule  the name under which it makes a schedule of the learning rate; "" if it does not
    last      it takes all messages but the last for the prompt: messages[:-1]
    texts     the string literals of the file: how it names the columns of its data
    """

    file: Path
    line: int
    kind: str
    owner: str = ""
    method: str = ""
    made: list[Parameter] = field(default_factory=list)
    given: list[Parameter] = field(default_factory=list)
    options: dict[tuple[str, str], str] = field(default_factory=dict)
    open: dict[tuple[str, str], str] = field(default_factory=dict)
    claims: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    own: str = ""
    flags: list[Flag] = field(default_factory=list)
    adamw: str = ""
    clips: str = ""
    schedule: str = ""
    last: bool = False
    texts: frozenset[str] = frozenset()

    @property
    def place(self) -> str:
        return f"{self.file}:{self.owner}" if self.owner else str(self.file)


def python_files(root: Path) -> Iterator[Path]:
    """The Python files of a folder that a person wrote, in order."""
    if root.is_file():
        yield root
        return
    for path in sorted(root.iterdir()):
        if path.is_symlink() or path.name.startswith("."):
            continue
        if path.is_dir() and path.name not in SKIPPED and not (path / "pyvenv.cfg").exists():
            yield from python_files(path)
        elif path.suffix == ".py" and path.stem != "sftspec_adapter" and path.stat().st_size <= LARGEST:
            yield path


def found_in(path: Path) -> list[Found]:
    """The places of a file that train. Raises SyntaxError, ValueError or OSError where it cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its string escapes
        tree = ast.parse(path.read_bytes())
    owners = dict(scopes(tree))
    places: dict[tuple[str, str, str], Found] = {}
    for node, (owner, method) in owners.items():
        kind, own = kind_of(node, tree)
        if kind and not (own and owner == own):
            item = places.setdefault((kind, owner, method), Found(path, node.lineno, kind, owner, method, own=own))
            if isinstance(node, ast.Call):
                read_options(item, node, "trainer", tree)
    loops = [item for item in places.values() if item.kind == "loop"]
    if len(places) > len(loops):  # a loop beside a Trainer is its evaluation, or an older one
        places = {key: item for key, item in places.items() if item.kind != "loop"}
    for item in places.values():
        read_definition(item, tree)
        read_file(item, tree)
        read_fixed(item, tree)
    return list(places.values())


def scopes(tree: ast.Module) -> Iterator[tuple[ast.stmt | ast.expr, tuple[str, str]]]:
    """Every loop and call, with the function, or the class and its method, that it stands in."""

    def walk(node: ast.AST, owner: str, method: str) -> Iterator:
        for child in ast.iter_child_nodes(node):
            here = owner, method
            if isinstance(child, ast.ClassDef) and not owner:
                here = child.name, ""
            elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                if not owner:
                    here = child.name, ""
                elif isinstance(node, ast.ClassDef):
                    here = owner, child.name
            if isinstance(child, (ast.For, ast.While, ast.Call)):
                yield child, here
            yield from walk(child, *here)

    return walk(tree, "", "")


def kind_of(node: ast.AST, tree: ast.Module) -> tuple[str, str]:
    """What trains at a node, and the repository's own class for it: ("", "") if nothing does."""
    if isinstance(node, ast.Call):
        name = last_name(node.func)
        own = {item.name: item for item in ast.walk(tree) if isinstance(item, ast.ClassDef)}
        if name in own:
            kinds = [TRAINERS[base] for base in map(last_name, own[name].bases) if base in TRAINERS]
            return (kinds[0], name) if kinds else ("", "")
        return TRAINERS.get(renamed(tree).get(name, name), ""), ""
    if not isinstance(node, (ast.For, ast.While)):
        return "", ""
    called = [item.func for item in ast.walk(node) if isinstance(item, ast.Call)]
    methods = {item.attr for item in called if isinstance(item, ast.Attribute)}
    return ("loop", "") if {"backward", "step"} <= methods else ("", "")


def renamed(tree: ast.Module) -> dict[str, str]:
    """What `import … as` gave another name."""
    imports = [item for item in ast.walk(tree) if isinstance(item, ast.ImportFrom)]
    return {alias.asname: alias.name for item in imports for alias in item.names if alias.asname}


def last_name(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def read_options(item: Found, call: ast.Call, part: str, tree: ast.Module) -> None:
    """The keyword arguments of a call; a name stands for what it was assigned, where it was once."""
    assigned: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            assigned.setdefault(node.targets[0].id, []).append(node.value)
    for keyword in call.keywords:
        values = assigned.get(last_name(keyword.value), []) if isinstance(keyword.value, ast.Name) else []
        value = values[0] if len(values) == 1 else keyword.value
        try:
            ast.literal_eval(value)
            item.options[part, keyword.arg or "**"] = ast.unparse(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            item.open[part, keyword.arg or "**"] = ast.unparse(value)


def read_definition(item: Found, tree: ast.Module) -> None:
    """The parameters of the function, or of the class and its method."""
    for node in tree.body:
        if getattr(node, "name", "") != item.owner or not item.owner:
            continue
        if isinstance(node, ast.ClassDef):
            methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
            item.made = parameters(methods["__init__"])[1:] if "__init__" in methods else []
            item.given = parameters(methods[item.method])[1:] if item.method in methods else []
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            item.given = parameters(node)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[Parameter]:
    given = function.args
    places = [*given.posonlyargs, *given.args]
    optional = {item.arg for item in places[len(places) - len(given.defaults) :]}
    optional |= {item.arg for item, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default}
    read: dict[str, list[str]] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            read.setdefault(node.value.id, []).append(node.attr)
    return [
        Parameter(
            item.arg,
            item.arg in optional,
            tuple(dict.fromkeys(read.get(item.arg, ()))),
            "step" in read.get(item.arg, ()),
        )
        for item in (*places, *given.kwonlyargs)
    ]


def read_file(item: Found, tree: ast.Module) -> None:
    """Claims, notes, column names and the options of the config, off the whole file."""
    named: list[tuple[str, int]] = []
    texts = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and renamed(tree).get(last_name(node.func), last_name(node.func)) in CONFIGS:
            read_options(item, node, "config", tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.add(node.value)
        item.last |= isinstance(node, ast.Subscript) and ast.unparse(node).endswith("messages[:-1]")
        for name in (getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "arg", "")):
            if isinstance(name, str) and name:
                named.append((name, getattr(node, "lineno", item.line)))
    for table, signs in ((item.claims, SIGNS), (item.notes, NOTES)):
        for said, words in signs.items():
            lines = [line for name, line in named if any(word in name for word in words)]
            if lines:
                table[said] = min(lines)
    item.texts = frozenset(texts)


def read_fixed(item: Found, tree: ast.Module) -> None:
    """The options of the command line, and what the loop fixes although a job decides it."""
    # A function finds what was imported in its module; a script that is run imports it then.
    imports = {
        alias.asname or alias.name: f"{item.file.stem}.{alias.asname or alias.name}"
        if item.owner
        else f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = last_name(node.func)
        if name == "add_argument":
            item.flags += flags(node)
        here = imports.get(name, "") if isinstance(node.func, ast.Name) else ""
        if renamed(tree).get(name, name) == "AdamW":
            item.adamw = here or "torch.optim.AdamW"
        if re.fullmatch(r"get_(\w+_)?schedule(r|_\w+)?|\w+LR", name):
            item.schedule = here or f"torch.optim.lr_scheduler.{name}"
        if name == "clip_grad_norm_" and any(isinstance(value, ast.Constant) for value in limits_of(node)):
            item.clips = here or "torch.nn.utils.clip_grad_norm_"


def limits_of(call: ast.Call) -> list[ast.expr]:
    return [*call.args[1:2], *(item.value for item in call.keywords if item.arg == "max_norm")]


def flags(call: ast.Call) -> list[Flag]:
    """The option that a call of add_argument adds, if it takes a value."""
    texts = [item.value for item in call.args if isinstance(item, ast.Constant) and isinstance(item.value, str)]
    given = {item.arg: item.value for item in call.keywords}
    option = next((text for text in texts if text.startswith("--")), "")
    if not option or "action" in given:
        return []
    required = given.get("required")
    return [Flag(option, option[2:].replace("-", "_"), isinstance(required, ast.Constant) and bool(required.value))]
