"""Make the goldens: `python -m sftspec.golden.generate COPIES [variant …]`.

Rule of this file: a case is what a source oracle answered, with what a second one said about it. Where the two differ
the case stands as the source has it and the difference is written down. A conversation that the source refuses is a
case too: it has to be refused.

COPIES is a folder with what the oracles are run from (Python packages unzipped, repositories as a work tree):

    llama/                 github.com/meta-llama/llama            689c7f26
    llama3/                github.com/meta-llama/llama3           a0940f9c
    llama_models/          llama-models 0.3.0, PyPI
    llama2.model           github.com/karpathy/llama2.c, tokenizer.model (Meta's file, sha256 9e556afd…)
    Qwen/                  github.com/QwenLM/Qwen                 2df8e8ac
    qwen.tiktoken          dashscope 2.0.2, PyPI, resources/qwen.tiktoken
    transformers-4.38.2/   PyPI
    FastChat/              github.com/lm-sys/FastChat             0e6d3e4b
    LLaMA-Factory/         github.com/hiyouga/LLaMA-Factory       ff6d4d12
    axolotl/               github.com/axolotl-ai-cloud/axolotl    067b021c

and installed beside the project: trl 1.16.0 (its chat_templates), tiktoken, sentencepiece, renderers 0.1.12.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftspec.golden import conversations as talks
from sftspec.golden import id_oracles, oracles
from sftspec.golden.oracles import Inexpressible, JinjaOracle, Oracle, Rejected
from sftspec.golden.sources import Copies, returned_string
from sftspec.golden.vocabularies import load_vocabulary

CASES = Path(__file__).with_name("cases")

# Here the source loses text and says nothing. That is no variant: text is never dropped silently.
LOSSY = {("llama2/hf", "system_only"), ("llama3.1/hf", "call_with_text")}


@dataclass(frozen=True)
class Family:
    """A variant, the oracle that defines it, those that confirm it, and the conversations that it is asked for."""

    variant: str
    vocabulary: str
    source: Oracle
    seconds: tuple[Oracle, ...]
    groups: tuple[dict, ...]


def families(copies: Copies) -> Iterator[Callable[[], Family]]:
    """Built one by one: an oracle's import is slow."""
    everything = (talks.COMPLETE, talks.ORDER, talks.PROMPTS)
    tools = (*everything, talks.TOOLS)

    def hf(name: str) -> Any:
        from transformers import PreTrainedTokenizerFast

        special = {
            "qwen": {"eos_token": "<|im_end|>"},
            "llama2": {"bos_token": "<s>", "eos_token": "</s>"},
            "llama3": {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        }[name]
        return PreTrainedTokenizerFast(tokenizer_object=load_vocabulary(name), **special)

    def base_chatml() -> JinjaOracle:
        file = copies / "transformers-4.38.2" / "transformers" / "tokenization_utils_base.py"
        source = _template_of(file, "PreTrainedTokenizerBase")
        return JinjaOracle("transformers tokenization_utils_base.py default_chat_template", "4.38.2", source,
                           load_vocabulary("qwen"), "", "<|im_end|>", "<|im_end|>")  # fmt: skip

    def trl(name: str, vocabulary: str, bos: str, end: str) -> JinjaOracle:
        return JinjaOracle(
            f"trl chat_templates/{name}.jinja", "1.16.0", _trl(name), load_vocabulary(vocabulary), bos, end, end
        )

    def axolotl(name: str, vocabulary: str, bos: str, end: str) -> JinjaOracle:
        file = copies / "axolotl" / "src" / "axolotl" / "utils" / "chat_templates" / "templates" / f"{name}.jinja"
        return JinjaOracle(f"axolotl-ai-cloud/axolotl {name}.jinja", "067b021c", file.read_text(encoding="utf-8"),
                           load_vocabulary(vocabulary), bos, end, end)  # fmt: skip

    def factory(template: str, vocabulary: str) -> Oracle:
        return id_oracles.LlamaFactoryOracle(copies, template, hf(vocabulary), "ff6d4d12")

    def fastchat(template: str, bos: str, end: str) -> Oracle:
        return oracles.FastChatOracle(copies, template, bos, end, "0e6d3e4b")

    def renderers(module: str, cls: str, vocabulary: str) -> Oracle:
        import importlib

        tokenizer = hf(vocabulary)
        renderer = getattr(importlib.import_module(f"renderers.{module}"), cls)(_Named30(tokenizer))
        return id_oracles.RenderersOracle(renderer, f"renderers {module}.py {cls}", "0.1.12")

    fast_qwen = fastchat("qwen-7b-chat", "", "<|im_end|>")
    im_end, eot, bos3 = "<|im_end|>", "<|eot_id|>", "<|begin_of_text|>"
    yield lambda: Family("chatml/openai", "qwen", base_chatml(),
                         (axolotl("chatml", "qwen", "", im_end), factory("chatml", "qwen")), everything)  # fmt: skip
    yield lambda: Family("chatml/qwen1", "qwen", id_oracles.QwenMakeContext(copies, "2df8e8ac"),
                         (_WithEmptySystem(base_chatml()),), everything)  # fmt: skip
    yield lambda: Family("chatml/qwen2", "qwen", _WithDefaultSystem(base_chatml(), fast_qwen),
                         (fast_qwen, _WithDefaultSystem(axolotl("chatml", "qwen", "", im_end), fast_qwen)),
                         everything)  # fmt: skip
    yield lambda: Family("chatml/qwen2.5", "qwen", trl("qwen2_5", "qwen", "", im_end),
                         (trl("qwen2_5_training", "qwen", "", im_end), axolotl("qwen_25", "qwen", "", im_end),
                          factory("qwen", "qwen")), tools)  # fmt: skip
    yield lambda: Family("chatml/qwen3", "qwen", trl("qwen3", "qwen", "", im_end),
                         (renderers("qwen3", "Qwen3Renderer", "qwen"), trl("qwen3_training", "qwen", "", im_end),
                          axolotl("qwen3", "qwen", "", im_end)),
                         (*tools, talks.REASONING))  # fmt: skip
    yield lambda: Family("llama2/meta", "llama2", id_oracles.MetaLlama2(copies, "689c7f26"),
                         (_llama2_hf(copies), factory("llama2", "llama2")), everything)  # fmt: skip
    yield lambda: Family("llama2/hf", "llama2", _llama2_hf(copies),
                         (id_oracles.MetaLlama2(copies, "689c7f26"), factory("llama2", "llama2")),
                         everything)  # fmt: skip
    yield lambda: Family("llama3/meta", "llama3", id_oracles.MetaLlama3(copies, "a0940f9c"),
                         (trl("llama3", "llama3", bos3, eot),), everything)  # fmt: skip
    yield lambda: Family("llama3/hf", "llama3", trl("llama3", "llama3", bos3, eot),
                         (trl("llama3_training", "llama3", bos3, eot), axolotl("llama3", "llama3", bos3, eot),
                          fastchat("llama-3", "", eot)), everything)  # fmt: skip
    yield lambda: Family("llama3/llama-models", "llama3", id_oracles.LlamaModels(copies, "0.3.0"),
                         (factory("llama3", "llama3"), id_oracles.MetaLlama3(copies, "a0940f9c")),
                         everything)  # fmt: skip
    yield lambda: Family("llama3.1/hf", "llama3", trl("llama3_1", "llama3", bos3, eot),
                         (renderers("llama_3", "Llama3Renderer", "llama3"),), tools)  # fmt: skip


class _Named30:
    """A Llama-3 tokenizer under the names of 3.1, which renderers asks for; all else is the tokenizer's."""

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return 128008 if token == "<|eom_id|>" else self._tokenizer.convert_tokens_to_ids(token)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._tokenizer(*args, **options)


class _WithSystem(Oracle):
    """An oracle that is given the system message which another one says is the default."""

    def __init__(self, inner: JinjaOracle, system: str, version: str):
        self.inner, self.system = inner, system
        self.name, self.version = f"{inner.name}, with the system prompt of {version}", inner.version

    def _whole(self, messages: list[dict]) -> list[dict]:
        default = [] if messages[0]["role"] == "system" else [{"role": "system", "content": self.system}]
        return default + messages

    def run(self, messages: list[dict], generation_prompt: bool = False, tools: list | None = None) -> Any:
        return self.inner.run(self._whole(messages), generation_prompt, tools)

    def targets(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> Any:
        return self.inner.targets(self._whole(messages), generation_prompt, tools)


def _WithEmptySystem(inner: JinjaOracle) -> Oracle:
    return _WithSystem(inner, "", "QwenLM/Qwen make_context (default of its argument)")


def _WithDefaultSystem(inner: JinjaOracle, fastchat: Any) -> Oracle:
    system = fastchat.module.get_conv_template(fastchat.template).system_message
    return _WithSystem(inner, system, f"{fastchat.name} ({fastchat.version})")


def _llama2_hf(copies: Copies) -> JinjaOracle:
    file = copies / "transformers-4.38.2" / "transformers" / "models" / "llama" / "tokenization_llama.py"
    source = _template_of(file, "LlamaTokenizer", DEFAULT_SYSTEM_PROMPT="")
    return JinjaOracle("transformers tokenization_llama.py default_chat_template", "4.38.2", source,
                       load_vocabulary("llama2"), "<s>", "</s>", "</s>", user_ends_with_eot=False)  # fmt: skip


def _template_of(file: Path, cls: str, **names: Any) -> str:
    import types

    quiet = types.SimpleNamespace(warning_once=lambda *args: None)
    source = file.read_text(encoding="utf-8")
    return returned_string(source, cls, "default_chat_template", {"logger": quiet, **names})


def _trl(name: str) -> str:
    import trl

    return (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")


def cases(family: Family) -> Iterator[dict]:
    """All cases of a variant: every conversation that its source can be asked."""
    for group in family.groups:
        for name, messages in group.items():
            tools = [talks.WEATHER] if group is talks.TOOLS else None
            try:
                yield _case(family, name, messages, group is talks.PROMPTS, tools)
            except Inexpressible:
                continue


def _case(family: Family, name: str, messages: list[dict], prompt: bool, tools: list | None) -> dict:
    source = family.source
    case: dict[str, Any] = {
        "id": f"{family.variant}/{name}",
        "template": family.variant,
        "vocabulary": family.vocabulary,
        "special_tokens": source.special_tokens,
        "tokenization": source.tokenization,
        "add_generation_prompt": prompt,
        "messages": messages,
        "tools": tools,
        "text": None,
        "input_ids": None,
        "trained": None,
        "rejected": None,
        "source": {"name": source.name, "version": source.version},
        "second": [],
        "disagreements": [],
    }
    try:
        output = source.run(messages, prompt, tools)
    except Rejected as error:
        return case | {"rejected": str(error)}
    if (family.variant, name) in LOSSY:
        return case | {"rejected": "the source drops a message's text without a word; this must be refused"}
    case |= {"text": output.text, "input_ids": output.ids, "trained": source.targets(messages, prompt, tools)}
    for second in family.seconds:
        _confirm(case, second)
    return case


def _confirm(case: dict, second: Oracle) -> None:
    """Ask another oracle, and write down where it differs."""
    verdict = {"name": second.name, "version": second.version, "text": "equal", "input_ids": "equal", "trained": "none"}
    question = case["messages"], case["add_generation_prompt"], case["tools"]
    try:
        output = second.run(*question)
    except Inexpressible:
        return
    except Rejected as error:
        case["second"].append(verdict | {"text": "refused", "input_ids": "refused"})
        case["disagreements"].append({"by": second.name, "on": "text", "what": f"refuses: {error}"[:200]})
        return
    for key, theirs in (("text", output.text), ("input_ids", output.ids)):
        if theirs is None:
            verdict[key] = "none"
        elif theirs != case[key]:
            verdict[key] = "differs"
            case["disagreements"].append(
                {"by": second.name, "on": key, "what": oracles.first_difference(case[key], theirs)}
            )
    marked = second.marked(*question) if verdict["input_ids"] == "equal" else None
    if marked is not None and case["trained"] is not None:
        ours = [index for start, stop in case["trained"] for index in range(start, stop)]
        verdict["trained"] = "equal" if marked == ours else "differs"
        if marked != ours:
            more, less = sorted(set(marked) - set(ours)), sorted(set(ours) - set(marked))
            what = f"trains also {more}, not {less}"[:200]
            case["disagreements"].append({"by": second.name, "on": "trained", "what": what})
    case["second"].append(verdict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("copies", type=Path)
    parser.add_argument("variants", nargs="*")
    arguments = parser.parse_args()
    for build in families(Copies(arguments.copies)):
        family = build()
        if arguments.variants and family.variant not in arguments.variants:
            continue
        made = list(cases(family))
        path = CASES / f"{family.variant.replace('/', '-')}.json"
        path.write_text(_dump(made), encoding="utf-8")
        confirmed = sum(any("equal" in (s["text"], s["input_ids"]) for s in case["second"]) for case in made)
        print(
            f"{path.name}: {len(made)} cases, {confirmed} confirmed, {sum(bool(c['rejected']) for c in made)} rejected"
        )


def _dump(made: list[dict]) -> str:
    """One case a line: readable in a diff."""
    return "[\n" + ",\n".join(json.dumps(case, ensure_ascii=True) for case in made) + "\n]\n"


if __name__ == "__main__":
    main()
