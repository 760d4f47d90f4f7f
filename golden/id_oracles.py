"""Oracles that make ids: Meta's and Qwen's own code, LLaMA-Factory, renderers.

Rule of this file: as in oracles.py, nothing here knows what a template looks like. Targets are counted: an answer's are
the ids after its prompt, up to the end of the conversation that stops with it.
"""

from __future__ import annotations

import importlib
import sys
import types
import unicodedata
from functools import cached_property
from typing import Any

from sftspec.golden.oracles import PROBE, Inexpressible, Oracle, Output, Rejected, common_prefix, two_openings
from sftspec.golden.sources import Copies, load_module, one_function


class MetaLlama2(Oracle):
    """meta-llama/llama: Llama.chat_completion, with Meta's SentencePiece model."""

    special_tokens, tokenization = "literal", "whole"

    def __init__(self, copies: Copies, version: str):
        self.name, self.version = "meta-llama/llama generation.py Llama.chat_completion", version
        nothing = types.SimpleNamespace(__getattr__=lambda name: None)
        for name in (
            "fairscale",
            "fairscale.nn",
            "fairscale.nn.model_parallel",
            "fairscale.nn.model_parallel.initialize",
        ):
            module = types.ModuleType(name)
            for function in ("get_model_parallel_rank", "initialize_model_parallel", "model_parallel_is_initialized"):
                setattr(module, function, None)
            sys.modules.setdefault(name, module)
        model = types.ModuleType("llama.model")
        for name in ("ModelArgs", "Transformer"):
            setattr(model, name, nothing)  # the network is not run
        package = types.ModuleType("llama")
        package.__path__ = [str(copies / "llama" / "llama")]
        sys.modules.update({"llama": package, "llama.model": model})
        self.module = importlib.import_module("llama.generation")
        self.tokenizer = importlib.import_module("llama.tokenizer").Tokenizer(str(copies / "llama2.model"))

    def _prompt(self, messages: list[dict]) -> tuple[str, list[int]]:
        texts: list[str] = []
        prompts: list[list[int]] = []
        encode = self.tokenizer.encode

        def note(text: str, bos: bool, eos: bool) -> list[int]:
            texts.append("<s>" * bos + text + "</s>" * eos)
            return encode(text, bos, eos)

        def generate(prompt_tokens: list[list[int]], **options: Any) -> tuple[list, list]:
            prompts.extend(prompt_tokens)
            return [[] for _ in prompt_tokens], []

        noting = types.SimpleNamespace(encode=note, decode=self.tokenizer.decode)
        length = types.SimpleNamespace(params=types.SimpleNamespace(max_seq_len=1))
        fake = types.SimpleNamespace(tokenizer=noting, generate=generate, model=length)
        try:
            self.module.Llama.chat_completion(fake, [messages])
        except (AssertionError, IndexError) as error:
            raise Rejected(str(error) or "there is no user's message after the system message") from None
        return "".join(texts), prompts[0]

    def run(self, messages: list[dict], generation_prompt: bool = False, tools: list | None = None) -> Output:
        if messages[-1]["role"] == "user":
            return Output(*self._prompt(messages))
        if generation_prompt or messages[-1]["role"] != "assistant":
            raise Rejected("the last message must be from the user")
        probe = [{"role": "user", "content": PROBE}]
        (text, ids), (tail, tail_ids) = self._prompt(messages + probe), self._prompt(probe)
        return Output(text[: -len(tail)], ids[: -len(tail_ids)])

    def targets(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> list[list[int]] | None:
        return _ranges_by_prompts(self, messages, generation_prompt)


class MetaLlama3(Oracle):
    """meta-llama/llama3: ChatFormat, with Meta's tokenizer.model."""

    special_tokens, tokenization = "literal", "segmented"

    def __init__(self, copies: Copies, version: str):
        self.name, self.version = "meta-llama/llama3 tokenizer.py ChatFormat", version
        module = load_module(copies / "llama3" / "llama" / "tokenizer.py", "meta_llama3_tokenizer")
        self.tokenizer = module.Tokenizer(str(copies / "llama_models" / "models" / "llama3" / "tokenizer.model"))
        self.format = module.ChatFormat(self.tokenizer)

    def prompt(self, messages: list[dict], tools: list | None) -> list[int]:
        return self.format.encode_dialog_prompt(messages)

    @cached_property
    def _stub(self) -> int:
        """Number of tokens of the generation prompt, which is always there."""
        return len(self.format.encode_header({"role": "assistant", "content": ""}))

    def run(self, messages: list[dict], generation_prompt: bool = False, tools: list | None = None) -> Output:
        if tools or (isinstance(self, LlamaModels) is False and any(m.get("tool_calls") for m in messages)):
            raise Inexpressible("tools")
        ids = self.prompt(messages, tools)
        ids = ids if generation_prompt else ids[: -self._stub]
        return Output(self.tokenizer.decode(ids), ids)

    def targets(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> list[list[int]] | None:
        return _ranges_by_prompts(self, messages, generation_prompt)


class LlamaModels(MetaLlama3):
    """meta-llama/llama-models: the newer ChatFormat, from its package."""

    def __init__(self, copies: Copies, version: str):
        self.name, self.version = "llama-models models/llama3/chat_format.py ChatFormat", version
        sys.path.insert(0, str(copies / "llama_models"))
        self.tokenizer = importlib.import_module("models.llama3.tokenizer").Tokenizer.get_instance()
        self.format = importlib.import_module("models.llama3.chat_format").ChatFormat(self.tokenizer)
        self.datatypes = importlib.import_module("models.datatypes")

    @cached_property
    def _stub(self) -> int:
        return len(self.format._encode_header("assistant"))

    def prompt(self, messages: list[dict], tools: list | None) -> list[int]:
        raw = []
        for message in messages:
            calls = [
                self.datatypes.ToolCall(
                    call_id="", tool_name=call["function"]["name"], arguments=call["function"]["arguments"]
                )
                for call in message.get("tool_calls", ())
            ]
            raw.append(self.datatypes.RawMessage(role=message["role"], content=message["content"], tool_calls=calls))
        return self.format.encode_dialog_prompt(raw).tokens


class QwenMakeContext(Oracle):
    """QwenLM/Qwen: make_context, with the tiktoken ranks of the dashscope package."""

    special_tokens, tokenization = "literal", "segmented"
    PATTERN = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
        r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )

    def __init__(self, copies: Copies, version: str):
        import tiktoken
        from tiktoken.load import load_tiktoken_bpe

        self.name, self.version = "QwenLM/Qwen examples/vllm_wrapper.py make_context", version
        source = (copies / "Qwen" / "examples" / "vllm_wrapper.py").read_text(encoding="utf-8")
        names = {"List": list, "Tuple": tuple, "PreTrainedTokenizer": object}
        self.make_context = one_function(source, "make_context", names)
        ranks = load_tiktoken_bpe(str(copies / "qwen.tiktoken"))
        coder = tiktoken.Encoding("qwen", pat_str=self.PATTERN, mergeable_ranks=ranks, special_tokens={})

        def encode(text: str, **options: Any) -> list[int]:
            return coder.encode_ordinary(unicodedata.normalize("NFC", text))  # as QWenTokenizer.tokenize does

        self.tokenizer = types.SimpleNamespace(encode=encode, im_start_id=151644, im_end_id=151645)

    def _context(self, messages: list[dict], query: str) -> tuple[str, list[int]]:
        rest = list(messages)
        system = rest.pop(0)["content"] if rest and rest[0]["role"] == "system" else ""
        if any(message["role"] != ("user", "assistant")[index % 2] for index, message in enumerate(rest)):
            raise Inexpressible("only user and assistant in turn")
        history = [(rest[i]["content"], rest[i + 1]["content"]) for i in range(0, len(rest), 2)]
        return self.make_context(self.tokenizer, query, history, system, max_window_size=10**9)

    def run(self, messages: list[dict], generation_prompt: bool = False, tools: list | None = None) -> Output:
        if tools:
            raise Inexpressible("tools")
        if messages[-1]["role"] == "user":
            text, ids = self._context(messages[:-1], messages[-1]["content"])
            stub = len("<|im_start|>assistant\n"), 3
            return Output(text, ids) if generation_prompt else Output(text[: -stub[0]], ids[: -stub[1]])
        if generation_prompt:
            raise Inexpressible("make_context ends with a question")
        (text, ids), (alone, alone_ids) = self._context(messages, PROBE), self._context([], PROBE)
        bare = len("<|im_start|>system\n<|im_end|>\n"), 5  # what stands before the question when it is alone
        return Output(text[: bare[0] - len(alone)], ids[: bare[1] - len(alone_ids)])

    def targets(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> list[list[int]] | None:
        return _ranges_by_prompts(self, messages, generation_prompt, after=1)


class RenderersOracle(Oracle):
    """Prime Intellect's renderers: ids, and which of them a model samples."""

    def __init__(self, renderer: Any, name: str, version: str):
        self.renderer, self.name, self.version = renderer, name, version

    def _render(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> Any:
        try:
            return self.renderer.render(messages, tools=tools, add_generation_prompt=generation_prompt)
        except (ValueError, TypeError, KeyError) as error:
            raise Rejected(str(error)) from None

    def run(self, messages: list[dict], generation_prompt: bool = False, tools: list | None = None) -> Output:
        return Output(None, self._render(messages, generation_prompt, tools).token_ids)

    def marked(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> list[int] | None:
        mask = self._render(messages, generation_prompt, tools).sampled_mask
        return [index for index, sampled in enumerate(mask) if sampled]


class LlamaFactoryOracle(Oracle):
    """hiyouga/LLaMA-Factory: ids by (prompt, answer) segments."""

    tokenization = "segmented"

    def __init__(self, copies: Copies, template: str, tokenizer: Any, version: str):
        self.name, self.version = f"hiyouga/LLaMA-Factory template.py {template}", version
        self.template, self.tokenizer = _llama_factory(copies).TEMPLATES[template], tokenizer

    def run(self, messages: list[dict], generation_prompt: bool = False, tools: list | None = None) -> Output:
        if tools or any(message.get("tool_calls") for message in messages):
            raise Inexpressible("tools")
        rest = list(messages)
        system = rest.pop(0)["content"] if rest[0]["role"] == "system" else None
        if any(message["role"] != ("user", "assistant")[index % 2] for index, message in enumerate(rest)) or not rest:
            raise Inexpressible("only user and assistant in turn")
        if (rest[-1]["role"] == "user") != generation_prompt:
            raise Inexpressible("a user's turn always ends with the generation prompt")
        ids = [token for part in self.template._encode(self.tokenizer, rest, system, None) for token in part]
        return Output(None, ids)

    def marked(self, messages: list[dict], generation_prompt: bool, tools: list | None) -> list[int] | None:
        rest = list(messages)
        system = rest.pop(0)["content"] if rest[0]["role"] == "system" else None
        parts = self.template._encode(self.tokenizer, rest, system, None)
        answers = [number % 2 == 1 for number, part in enumerate(parts) for _ in part]
        return [index for index, trained in enumerate(answers) if trained]


def _ids(oracle: Oracle, messages: list[dict], generation_prompt: bool = False) -> list[int]:
    """What an oracle of this file makes of the messages: it always makes ids."""
    ids = oracle.run(messages, generation_prompt).ids
    assert ids is not None
    return ids


def _ranges_by_prompts(
    oracle: Oracle, messages: list[dict], generation_prompt: bool, after: int = 0
) -> list[list[int]] | None:
    """An answer's targets are the ids after its prompt, up to the end of the conversation that stops with it."""
    ids, ranges = _ids(oracle, messages, generation_prompt), []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            if index == 0:
                prompt = common_prefix(*(_ids(oracle, first) for first in two_openings(messages)))
            else:
                prompt = _ids(oracle, messages[:index], generation_prompt=True)
            answered = _ids(oracle, messages[: index + 1])
            if ids[: len(prompt)] != prompt or ids[: len(answered)] != answered:
                return None
            ranges.append([len(prompt), len(answered) - after])
    return ranges


def _llama_factory(copies: Copies) -> types.ModuleType:
    sys.modules.setdefault("torchaudio", types.ModuleType("torchaudio"))
    sys.path.insert(0, str(copies / "LLaMA-Factory" / "src"))
    return importlib.import_module("llamafactory.data.template")
