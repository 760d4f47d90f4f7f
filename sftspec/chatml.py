"""ChatML and what the Qwen models made of it.

    <|im_start|>role\\ncontent<|im_end|>\\n

Rule of this file: contents are never trimmed and every turn, also the last, is followed by a newline that is no target.
The variants differ in the system prompt that they add, in tools, and in what they do to thoughts.

    chatml/openai   no default system prompt       openai/openai-python chatml.md (2023); transformers 4.38 base class
    chatml/qwen1    always a system block          QwenLM/Qwen make_context (ids by segment, contents literal)
    chatml/qwen2    "You are a helpful assistant." Qwen2-Instruct tokenizer_config.json; QwenLM/Qwen recipes/…/vllm
    chatml/qwen2.5  "You are Qwen, …", tools       Qwen2.5-Instruct tokenizer_config.json (copy in trl and llama.cpp)
    chatml/qwen3    no default, tools, <think>     Qwen3 tokenizer_config.json (copy in trl and llama.cpp)
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from sftspec.spans import Piece, TemplateError

QWEN2_SYSTEM = "You are a helpful assistant."
QWEN25_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."

TOOLS_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TOOLS_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


def turn(index: int, role: str, content: str, kind: str = "content") -> Iterator[Piece]:
    """One turn of ChatML.

    >>> [kind for kind, _, _ in turn(0, "user", "Hi")]
    ['header', 'content', 'end_of_turn', 'separator']
    """
    yield "header", index, f"<|im_start|>{role}\n"
    yield kind, index, content
    yield "end_of_turn", index, "<|im_end|>"
    yield "separator", index, "\n"


def generation_prompt(thoughts: str = "") -> Iterator[Piece]:
    """The header of the assistant's turn that the model is to write, and the thoughts that it is given.

    >>> [(kind, message) for kind, message, _ in generation_prompt()]
    [('generation_prompt', -1)]
    """
    yield "generation_prompt", -1, "<|im_start|>assistant\n" + thoughts


def openai(messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
    """ChatML as OpenAI published it: any role in any order, nothing added.

    >>> print("".join(text for _, _, text in openai([{"role": "user", "content": "Hi"}], True)), end="")
    <|im_start|>user
    Hi<|im_end|>
    <|im_start|>assistant
    """
    for index, message in enumerate(messages):
        yield "header", index, f"<|im_start|>{message['role']}\n"
        yield "content", index, message["content"]
        yield "end_of_turn", index, "<|im_end|>"
        yield "separator", index, "\n"
    if add_generation_prompt:
        yield from generation_prompt()


def qwen1(messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
    """QwenLM/Qwen: the system block is there even when nobody wrote one, and then it is empty.

    >>> [text for kind, _, text in qwen1([{"role": "user", "content": "Hi"}], False) if kind == "preamble"]
    ['']
    """
    if messages[0]["role"] != "system":
        yield from turn(-1, "system", "", kind="preamble")
    for index, message in enumerate(messages):
        if message["role"] == "tool" or (message["role"] == "system" and index):
            raise TemplateError(
                f"message {index}: chatml/qwen1 knows one system message, at the start, and no {message['role']} "
                "message after it; use chatml/openai, or move the text"
            )
        yield from turn(index, message["role"], message["content"])
    if add_generation_prompt:
        yield from generation_prompt()


def qwen2(messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
    """Qwen2: a default system prompt where the first message is none; an empty one stays empty.

    >>> [text for kind, _, text in qwen2([{"role": "user", "content": "Hi"}], False) if kind == "preamble"]
    ['You are a helpful assistant.']
    """
    if messages[0]["role"] != "system":
        yield from turn(-1, "system", QWEN2_SYSTEM, kind="preamble")
    yield from openai(messages, add_generation_prompt)


def qwen25(messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
    """Qwen2.5: another default system prompt; tools are listed in the system turn, results come as a user's turn.

    >>> [text for kind, _, text in qwen25([{"role": "user", "content": "Hi"}], False) if kind == "preamble"]
    ['You are Qwen, created by Alibaba Cloud. You are a helpful assistant.']
    """
    yield from _system(messages, QWEN25_SYSTEM, before_tools="\n\n")
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            yield from _tool_response(messages, index)
        elif message["role"] == "assistant":
            yield "header", index, "<|im_start|>assistant\n"
            yield "content", index, message["content"] or ""
            yield from _tool_calls(index, message, quotes_strings=True)
            yield "end_of_turn", index, "<|im_end|>"
            yield "separator", index, "\n"
        elif index or message["role"] != "system":
            yield from turn(index, message["role"], message["content"])
    if add_generation_prompt:
        yield from generation_prompt()


def qwen3(messages: list[dict], add_generation_prompt: bool, empty_thoughts: str = "") -> Iterator[Piece]:
    """Qwen3: thoughts are kept after the last question only, and there the last turn has a think block, empty or not.

    The history is rewritten when a question is added, so this template is not prefix-preserving
    (tinker-cookbook#142, trl#6361, verl#6854).

    >>> answer = {"role": "assistant", "content": "2", "reasoning_content": "easy"}
    >>> talk = [{"role": "user", "content": "1 + 1"}, answer]
    >>> [text for kind, _, text in qwen3(talk, False) if kind == "reasoning"]
    ['easy']
    >>> [text for kind, _, text in qwen3([*talk, *talk], False) if kind == "reasoning"]  # of the last question alone
    ['easy']
    """
    question = _last_question(messages)
    yield from _system(messages, None, before_tools="\n\n")
    for index, message in enumerate(messages):
        if message["role"] == "tool":
            yield from _tool_response(messages, index)
        elif message["role"] == "assistant":
            thoughts, content = split_thoughts(message)
            yield "header", index, "<|im_start|>assistant\n"
            if index > question and (index == len(messages) - 1 or thoughts):
                if empty_thoughts and not thoughts.strip("\n"):
                    yield "header", index, empty_thoughts
                else:
                    yield "generated", index, "<think>\n"
                    yield "reasoning", index, thoughts.strip("\n")
                    yield "generated", index, "\n</think>\n\n"
                yield "content", index, content.lstrip("\n")
            else:
                yield "content", index, content
            yield from _tool_calls(index, {**message, "content": content}, quotes_strings=False)
            yield "end_of_turn", index, "<|im_end|>"
            yield "separator", index, "\n"
        elif index or message["role"] != "system":
            yield from turn(index, message["role"], message["content"])
    if add_generation_prompt:
        yield from generation_prompt(empty_thoughts)


def qwen3_nothink(messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
    """Qwen3 with enable_thinking=False: the empty think block is given to the model, so it is no target.

    Training and inference have to agree on it (tinker-cookbook#176).

    >>> talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    >>> [kind for kind, message, _ in qwen3_nothink(talk, False) if message == 1]
    ['header', 'header', 'content', 'end_of_turn', 'separator']
    """
    yield from qwen3(messages, add_generation_prompt, empty_thoughts="<think>\n\n</think>\n\n")


def split_thoughts(message: dict) -> tuple[str, str]:
    """(reasoning, content) of an assistant's message, as the template of Qwen3 takes them apart.

    >>> split_thoughts({"content": "<think>easy</think>2"})
    ('easy', '2')
    """
    content = message["content"] or ""
    if isinstance(message.get("reasoning_content"), str):
        return message["reasoning_content"], content
    if "</think>" not in content:
        return "", content
    before, after = content.split("</think>")[0], content.split("</think>")[-1]
    return before.rstrip("\n").split("<think>")[-1].lstrip("\n"), after.lstrip("\n")


def _last_question(messages: list[dict]) -> int:
    """Index of the last user's message that is no tool result (the last message, if there is none)."""
    for index in range(len(messages) - 1, -1, -1):
        content = messages[index]["content"]
        is_result = content and content.startswith("<tool_response>") and content.endswith("</tool_response>")
        if messages[index]["role"] == "user" and not is_result:
            return index
    return len(messages) - 1


def _system(messages: list[dict], default: str | None, before_tools: str) -> Iterator[Piece]:
    """The system turn: the message if the first is one, else the default, and the tools."""
    tools = getattr(messages, "tools", None)
    has_message = messages[0]["role"] == "system"
    if not (tools or has_message or default is not None):
        return
    index = 0 if has_message else -1
    yield "header", index, "<|im_start|>system\n"
    if has_message:
        yield "content", index, messages[0]["content"]
    elif default is not None:
        yield "preamble", index, default
    if tools:
        yield "preamble", index, (before_tools if has_message or default is not None else "") + TOOLS_BEFORE
        for tool in tools:
            yield "tools", index, "\n" + json.dumps(tool, ensure_ascii=False)
        yield "preamble", index, TOOLS_AFTER
    yield "end_of_turn", index, "<|im_end|>"
    yield "separator", index, "\n"


def _tool_calls(index: int, message: dict, quotes_strings: bool) -> Iterator[Piece]:
    for number, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or call
        arguments = function["arguments"]
        if isinstance(arguments, str) and quotes_strings:
            raise TemplateError(
                f"message {index}: chatml/qwen2.5 would quote the arguments of {function['name']!r} a second time; "
                "give them as an object, not as a string"
            )
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        yield "generated", index, ("\n" if message["content"] or number else "") + "<tool_call>\n"
        yield "tool_call", index, f'{{"name": "{function["name"]}", "arguments": {arguments}}}'
        yield "generated", index, "\n</tool_call>"


def _tool_response(messages: list[dict], index: int) -> Iterator[Piece]:
    """Results of tools are one user's turn, however many follow each other."""
    first = index == 0 or messages[index - 1]["role"] != "tool"
    last = index + 1 == len(messages) or messages[index + 1]["role"] != "tool"
    yield "header", index, ("<|im_start|>user" if first else "") + "\n<tool_response>\n"
    yield "content", index, messages[index]["content"]
    yield "end_of_turn", index, "\n</tool_response>" + ("<|im_end|>" if last else "")
    if last:
        yield "separator", index, "\n"
