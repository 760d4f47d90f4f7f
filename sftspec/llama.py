"""The Llama templates, from Meta's code and from Hugging Face's copies of it.

    Llama-2  <s>[INST] <<SYS>>\\nsystem\\n<</SYS>>\\n\\nuser [/INST] assistant </s><s>[INST] …
    Llama-3  <|begin_of_text|><|start_header_id|>role<|end_header_id|>\\n\\ncontent<|eot_id|>…

Rule of this file: Llama-2 opens every round with a BOS and writes a space on both sides of an answer, which are the
model's own tokens (29871 before </s>), therefore targets; Llama-3 has one BOS and a blank line after each header.
Trainers lose the inner BOS (axolotl#952), the spaces (FastChat#1997), the blank line (gorilla#430), and double the
first BOS by letting the tokenizer add one (OpenRLHF#393, trl#3328).

    llama2/meta          meta-llama/llama generation.py: strict order, SentencePiece per round, contents literal
    llama2/hf            transformers 4.38 default_chat_template (same text, control strings parsed)
    llama3/meta          meta-llama/llama3 ChatFormat: strips, contents literal, each part encoded by itself
    llama3/hf            the chat_template of Meta-Llama-3-Instruct: strips, parses
    llama3/llama-models  meta-llama/llama-models 0.3 ChatFormat: does not strip, tool becomes ipython
    llama3.1/hf          the chat_template of Llama-3.1-Instruct: a date block always, tools; date pinned to its default
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from sftspec.spans import Piece, TemplateError, strip_pieces

LLAMA31_DATES = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
TOOLS_INSTRUCTION = (
    "Given the following functions, please respond with a JSON for a function call "
    "with its proper arguments that best answers the given prompt.\n\n"
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
    "Do not use variables.\n\n"
)


def llama2_meta(messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
    """Llama-2 as Meta's chat_completion: system first, then user and assistant in turn, a prompt ends with a user.

    >>> talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    >>> print("".join(text for _, _, text in llama2_meta(talk, False)))
    <s>[INST] Hi [/INST] Yes </s>
    """
    dialog = list(enumerate(messages))[messages[0]["role"] == "system" :]
    expected = ("user", "assistant")
    for turn, (index, message) in enumerate(dialog):
        if message["role"] != expected[turn % 2]:
            raise TemplateError(
                f"message {index} is from {message['role']}, Llama-2 expects {expected[turn % 2]} there: "
                "an optional system message, then user and assistant in turn"
            )
    if add_generation_prompt and messages[-1]["role"] != "user":
        raise TemplateError(f"message {len(messages) - 1}: a prompt of llama2/meta has to end with the user's message")
    yield from _llama2(messages, dialog)


def llama2_hf(messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
    """Llama-2 as transformers' Jinja: the same text; a later system message may stand in an assistant's place.

    It has no generation prompt: the prompt ends with " [/INST]".

    >>> talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]
    >>> print("".join(text for _, _, text in llama2_hf(talk, False)))
    <s>[INST] Hi [/INST] Yes </s>
    """
    dialog = list(enumerate(messages))[messages[0]["role"] == "system" :]
    for turn, (index, message) in enumerate(dialog):
        if (message["role"] == "user") != (turn % 2 == 0) or message["role"] == "tool":
            raise TemplateError(
                f"message {index} is from {message['role']}: conversation roles must alternate "
                "user/assistant/user/assistant/…, after an optional system message"
            )
    yield from _llama2(messages, dialog)


def _llama2(messages: list[dict], dialog: list[tuple[int, dict]]) -> Iterator[Piece]:
    if not dialog:
        raise TemplateError("message 0: Llama-2 writes the system prompt into the user's message, and there is none")
    for index, message in dialog:
        if message["role"] == "user":
            yield "bos", index, "<s>"
            yield "header", index, "[INST] "
            yield from strip_pieces(_llama2_user(messages, index))
            yield "end_of_turn", index, " [/INST]"
        elif message["role"] == "system":
            yield "header", index, "<<SYS>>\n"
            yield "content", index, message["content"].strip()
            yield "end_of_turn", index, "\n<</SYS>>\n\n"
        else:
            # The model's first token is "▁answer" and its last but one "▁": both spaces are its own.
            yield "generated", index, " "
            yield "content", index, message["content"].strip()
            yield "generated", index, " "
            yield "end_of_turn", index, "</s>"


def _llama2_user(messages: list[dict], index: int) -> Iterator[Piece]:
    """The first user's message carries the system prompt, and is stripped together with it."""
    if index == 1 and messages[0]["role"] == "system":
        yield "header", 0, "<<SYS>>\n"
        yield "content", 0, messages[0]["content"]
        yield "header", 0, "\n<</SYS>>\n\n"
    yield "content", index, messages[index]["content"]


def llama3_turn(index: int, role: str, *body: Piece) -> Iterator[Piece]:
    """One turn of Llama-3.

    >>> [kind for kind, _, _ in llama3_turn(0, "user", ("content", 0, "Hi"))]
    ['header', 'content', 'end_of_turn']
    """
    yield "header", index, f"<|start_header_id|>{role}<|end_header_id|>\n\n"
    yield from body
    yield "end_of_turn", index, "<|eot_id|>"


def llama3_generation_prompt() -> Iterator[Piece]:
    """The header of the assistant's turn that the model is to write.

    >>> [(kind, message) for kind, message, _ in llama3_generation_prompt()]
    [('generation_prompt', -1)]
    """
    yield "generation_prompt", -1, "<|start_header_id|>assistant<|end_header_id|>\n\n"


def llama3(messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
    """Llama-3 of Meta and of Hugging Face: contents are stripped, any role in any order.

    >>> print("".join(text for _, _, text in llama3([{"role": "user", "content": " Hi "}], False)))
    <|begin_of_text|><|start_header_id|>user<|end_header_id|>
    <BLANKLINE>
    Hi<|eot_id|>
    """
    yield "bos", -1, "<|begin_of_text|>"
    for index, message in enumerate(messages):
        yield from llama3_turn(index, message["role"], ("content", index, message["content"].strip()))
    if add_generation_prompt:
        yield from llama3_generation_prompt()


def llama3_llama_models(messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
    """Llama-3 of the llama-models package: nothing is stripped, the role tool is called ipython.

    >>> print("".join(text for _, _, text in llama3_llama_models([{"role": "tool", "content": " 7 "}], False)))
    <|begin_of_text|><|start_header_id|>ipython<|end_header_id|>
    <BLANKLINE>
     7 <|eot_id|>
    """
    yield "bos", -1, "<|begin_of_text|>"
    for index, message in enumerate(messages):
        role = "ipython" if message["role"] == "tool" else message["role"]
        calls = [("tool_call", index, _llama_models_call(index, call)) for call in message.get("tool_calls") or ()]
        yield from llama3_turn(index, role, ("content", index, message["content"] or ""), *calls)
    if add_generation_prompt:
        yield from llama3_generation_prompt()


def llama31_hf(messages: list[dict], add_generation_prompt: bool) -> Iterator[Piece]:
    """Llama-3.1: a system turn with the dates always, tools in the first user's turn, results JSON-quoted.

    >>> [kind for kind, _, _ in llama31_hf([{"role": "user", "content": "Hi"}], False)]
    ['bos', 'header', 'preamble', 'end_of_turn', 'header', 'content', 'end_of_turn']
    """
    tools = getattr(messages, "tools", None)
    has_system = messages[0]["role"] == "system"
    yield "bos", -1, "<|begin_of_text|>"
    system = [("preamble", -1, ("Environment: ipython\n" if tools else "") + LLAMA31_DATES)]
    if has_system:
        system.append(("content", 0, messages[0]["content"].strip()))
    yield from llama3_turn(0 if has_system else -1, "system", *system)
    dialog = list(enumerate(messages))[has_system:]
    if tools:
        if not dialog or dialog[0][1]["role"] != "user":
            raise TemplateError("llama3.1/hf lists tools in the first user's message, and the first is not a user's")
        index, message = dialog.pop(0)
        definitions = [("tools", index, json.dumps(tool, ensure_ascii=False, indent=4) + "\n\n") for tool in tools]
        yield from llama3_turn(
            index,
            "user",
            ("preamble", index, TOOLS_INSTRUCTION),
            *definitions,
            ("content", index, message["content"].strip()),
        )
    for index, message in dialog:
        if message.get("tool_calls"):
            yield from llama3_turn(index, "assistant", ("tool_call", index, _llama31_call(index, message)))
        elif message["role"] == "tool":
            # A string is iterable in Jinja, so the template quotes it.
            yield from llama3_turn(
                index, "ipython", ("content", index, json.dumps(message["content"], ensure_ascii=False))
            )
        else:
            yield from llama3_turn(index, message["role"], ("content", index, message["content"].strip()))
    if add_generation_prompt:
        yield from llama3_generation_prompt()


def _llama31_call(index: int, message: dict) -> str:
    calls = message["tool_calls"]
    if len(calls) != 1:
        raise TemplateError(
            f"message {index}: llama3.1/hf writes one tool call a message, found {len(calls)}; split it"
        )
    if message["content"]:
        raise TemplateError(
            f"message {index}: llama3.1/hf would drop the content beside a tool call; remove or split it"
        )
    function = _function(index, calls[0])
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return f'{{"name": "{function["name"]}", "parameters": {arguments}}}'


def _llama_models_call(index: int, call: dict) -> str:
    function = _function(index, call)
    return json.dumps({"type": "function", "name": function["name"], "parameters": function["arguments"]})


def _function(index: int, call: dict) -> dict:
    function = call.get("function") or call
    if isinstance(function["arguments"], str):
        raise TemplateError(
            f"message {index}: Llama-3 would quote the arguments of {function['name']!r} as one string; "
            "give them as an object"
        )
    return function
