"""What people write beside role and content, under the names that their trainers gave it.

Rule of this file: a field is read where its meaning is public and clear (the tables below name the source), refused
where it carries text, pictures or a mask that nobody here can read, and else remarked. Nothing is dropped in silence.
A field that is null says nothing: Arrow puts nulls wherever another row has the key.

    train          sftspec, axolotl        docs/dataset-formats/conversation: message_field_training
    training       axolotl                 the name in the example there
    weight         OpenAI, Mistral         0 or 1 on an assistant's message (fine-tuning guides); of a record any factor
                   Fireworks               of its loss (docs/fine-tuning/weighted-training)
    loss_scale     ms-swift 4              a factor beside loss, on an assistant's message (loss_scale/base.py)
    loss           ms-swift                docs/Customization/Custom-dataset: "loss": false on an assistant's message
    loss_mask      verl                    multi-turn SFT (verl#5472)
    trainable      tinker-cookbook         TrainOnWhat.CUSTOMIZED
    masked         torchtune               data.Message(masked=True): not trained
    reasoning_content  DeepSeek, Qwen, vLLM; reasoning: OpenRouter, vLLM; thinking: gpt-oss, transformers, Ollama
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import accumulate, pairwise
from typing import Any

Refuse = Callable[[str], Exception]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Of a message or a record: does 1 mean that it is trained?
FLAGS = {
    "train": True, "training": True, "trainable": True, "weight": True, "loss": True, "loss_mask": True,
    "loss_weight": True, "loss_scale": True, "sample_weight": True, "masked": False,
}  # fmt: skip
WEIGHTS = frozenset({"weight", "loss_weight", "loss_scale", "sample_weight"})  # these may be fractions
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
SPANS = ("train_detail", "training_detail", "weight_spans")  # parts of a content (weights.py)
OTHER_THOUGHTS = (
    "thought", "thoughts", "reasoning_text", "reasoning_details", "thinking_blocks", "reasoning_trace",
    "chain_of_thought", "cot", "think",
)  # fmt: skip
SYSTEMS = ("system", "system_prompt", "system_message", "system_instruction", "systemInstruction", "systemPrompt")
TOOLS = ("tools", "functions")
MEDIA = _words(
    "image images image_url image_path video videos audio audios documents media pixel_values attachments input_audio"
)
# They change what is rendered, and have to stand in chat_template_kwargs to be read.
ARGUMENTS = ("enable_thinking", "thinking", "reasoning_effort", "thinking_budget", "tool_choice")
OTHER_ROLES = {
    "developer": "system (OpenAI's newer name for it)",
    "function": "tool (OpenAI's older name for it)",
    "ipython": "tool (Llama 3.1's templates write ipython for it)",
    "tool_response": "tool", "observation": "tool", "function_call": "assistant, with tool_calls",
    "tool_call": "assistant, with tool_calls", "model": "assistant", "bot": "assistant", "gpt": "assistant",
    "human": "user", "ai": "assistant", "prompter": "user",
}  # fmt: skip
# Of a record: no training text, and not worth a word.
METADATA = _words(
    "id idx index uuid uid source source_id split category subcategory dataset dataset_name language lang langs tag"
    " tags score scores created created_at date timestamp model model_name generator license url hash conversation_id"
    " conversation_hash conv_id message_id prompt_id thread_id session_id user_id turn turns num_turns difficulty topic"
    " task task_id task_type domain type title name meta metadata extra_info version origin annotator quality toxic"
    " redacted country state hashed_ip header openai_moderation detoxify_moderation __index_level_0__ key"
)
# Of a message: for an application or for the template, and no text of the conversation.
MESSAGE_METADATA = _words(
    "id tool_call_id timestamp created created_at date uuid message_id parent_id conversation_id model lang"
    " language index idx turn turn_id source annotations logprobs usage finish_reason stop_reason metadata meta score"
    " cache_control type is_error status"
)
OWN = frozenset({"role", "content", "train", "tool_calls", "reasoning_content", "weight", "weight_spans"})
FLAG_WORDS = _words(
    "loss train trained trainable training mask masked masks masking weight weights supervise supervised learn"
    " learnable backprop ignore ignored"
)


def is_void(value: Any) -> bool:
    """It says nothing: null, or an empty text or list.

    >>> is_void([]), is_void(0)
    (True, False)
    """
    return value is None or (isinstance(value, (str, list, tuple, dict)) and not value)


def read_weight(fields: Mapping[str, Any], refuse: Refuse) -> float | None:
    """What its targets weigh, as its flags say together: 0 not trained, 1 trained; None where it has none.

    Raises what `refuse` makes, of a weight that is no factor of a loss, and of flags that contradict each other.

    >>> read_weight({"role": "assistant", "loss": True, "loss_scale": 0.5}, ValueError)
    0.5
    >>> read_weight({"masked": True}, ValueError)
    0.0
    """
    said: dict[str, float] = {}
    for key, value in fields.items():
        if is_void(value):
            continue
        if key not in FLAGS:
            words = re.split(r"[_\W]+", key) if isinstance(key, str) and key not in SPANS else []
            is_switch = bool(FLAG_WORDS & set(words[-1:])) and value in (0, 1)  # a train_index may be 1
            if FLAG_WORDS & set(words) and (isinstance(value, (bool, list, float)) or is_switch):
                raise refuse(f"{key} looks like a flag of training that is not known here; write train: true or false")
            continue
        if not isinstance(value, (bool, int, float)):
            alternative = "" if key == "train" else ", or train instead of it"
            raise refuse(f"{key} is {value!r:.60}; write true or false{alternative}")
        if key in WEIGHTS and not 0 <= value < float("inf"):
            raise refuse(f"{key} is {value}; a weight of a loss is a finite number, 0 or more")
        if key not in WEIGHTS and value not in (0, 1):
            raise refuse(f"{key} is {value}; write 0 or 1, or a fraction as weight")
        said[key] = float(value) if FLAGS[key] else float(not value)
    # A switch that is on leaves the weight as it is; nothing else may differ.
    weights = {key: value for key, value in said.items() if key in WEIGHTS or not value} or said
    if len(set(weights.values())) > 1 or (0.0 in weights.values() and len(set(said.values())) > 1):
        raise refuse(f"{' and '.join(said)} contradict each other; keep one")
    return next(iter(weights.values()), None)


def read_thoughts(message: Mapping[str, Any], refuse: Refuse) -> str | None:
    """What an assistant thought before it spoke, under whichever name.

    >>> read_thoughts({"role": "assistant", "content": "2", "thinking": "easy"}, ValueError)
    'easy'
    """
    found = {key: message[key] for key in THOUGHTS if message.get(key) is not None}
    for key, value in found.items():
        if not isinstance(value, str):
            raise refuse(f"{key} is {value!r:.60}, not a string")
    texts = {key: text for key, text in found.items() if text}
    if len(set(texts.values())) > 1:
        raise refuse(f"{' and '.join(texts)} say different things; keep one, as reasoning_content")
    others = [key for key in OTHER_THOUGHTS if not is_void(message.get(key))]
    if others and not (texts and others == ["reasoning_details"]):
        raise refuse(f"{others[0]} is not read; write the thought as reasoning_content")
    if texts and message.get("role") != "assistant":
        raise refuse(f"{next(iter(texts))} in a message from {message.get('role')}; only an assistant thinks")
    return next(iter(texts.values()), "" if found else None)


def refuse_media(fields: Mapping[str, Any], refuse: Refuse) -> None:
    """What carries pictures, sound or documents is no text, and its tokens are not known here.

    >>> refuse_media({"images": ["a.png"]}, ValueError)
    Traceback (most recent call last):
        ...
    ValueError: images: only text can be trained on here; remove the record, or audit its text without them
    """
    for key in MEDIA & fields.keys():
        if not is_void(fields[key]):
            raise refuse(f"{key}: only text can be trained on here; remove the record, or audit its text without them")


def unread(fields: Mapping[str, Any], read: Iterable[str]) -> list[str]:
    """Fields that nothing here reads, where they say anything.

    >>> unread({"content": "Hi", "mood": "good", "is_target": False, "turn": 3}, {"content"})
    ['mood', 'is_target']
    """
    known = {*read, *FLAGS, *THOUGHTS, *SPANS}
    says = ((key, carries_text(value) or isinstance(value, bool)) for key, value in fields.items() if key not in known)
    return [str(key) for key, says_anything in says if says_anything]


def carries_text(value: Any) -> bool:
    """A text, or what may hold one, that is not empty.

    >>> carries_text("Hi"), carries_text(7)
    (True, False)
    """
    return isinstance(value, (str, list, tuple, dict)) and not is_void(value)


def read_parts(parts: Iterable[Any], refuse: Refuse) -> tuple[str, str | None, list | None]:
    """(text, thought or None, spans or None) of a content that is a list of parts.

    Text: OpenAI {"type": "text", "text"}, Responses "input_text" and "output_text", Bedrock and Gemini {"text"}.
    Thoughts: Anthropic {"type": "thinking", "thinking": str}, Mistral the same with a list of text parts.
    Spans: [[begin, end, weight], …] where a part of text has a flag (axolotl: train or weight of a content part).

    >>> read_parts([{"type": "thinking", "thinking": "easy"}, {"type": "text", "text": "2"}], ValueError)
    ('2', 'easy', None)
    >>> read_parts([{"text": "2", "train": False}, {"text": "3"}], ValueError)
    ('23', None, [[0, 1, 0.0], [1, 2, 1.0]])
    """
    texts: list[str] = []
    weights: list[float | None] = []
    thoughts: list[str] = []
    for number, part in enumerate(parts):
        fields = {k: v for k, v in part.items() if v is not None} if isinstance(part, Mapping) else {}
        kind = fields.get("type", "text")
        thought = fields.get("thinking")
        if kind == "thinking" and isinstance(thought, list):
            thought = read_parts(thought, refuse)[0]
        if kind in ("text", "input_text", "output_text") and isinstance(fields.get("text"), str):
            texts.append(fields["text"])
            weights.append(read_weight(fields, partial(_in_part, refuse, number)))
        elif kind == "thinking" and isinstance(thought, str) and not texts and not FLAGS.keys() & fields.keys():
            thoughts.append(thought)
        else:
            what = 'only {"type": "text", "text": …} can be trained on here'
            hint = {
                "tool_use": "; write it into tool_calls",
                "tool_result": "; write it as a message from tool",
                "thinking": "; write the thought before the text, or into reasoning_content",
            }.get(kind if isinstance(kind, str) else "", "")
            raise refuse(f"content part {number}: {what}, found {part!r:.80}{hint}")
    ends = [0, *accumulate(map(len, texts))]
    spans = [[begin, end, 1.0 if weight is None else weight]
             for (begin, end), weight in zip(pairwise(ends), weights, strict=True) if begin < end]  # fmt: skip
    if spans and not any(weight for _, _, weight in spans):
        raise refuse("every part of the content weighs 0; write train: false for the message")
    has_flags = any(weight is not None for weight in weights)
    return "".join(texts), "".join(thoughts) if thoughts else None, spans if has_flags else None


def _in_part(refuse: Refuse, number: int, said: str) -> Exception:
    return refuse(f"content part {number}: {said}")


def count_nulls(value: Any) -> int:
    """Nulls inside a value of JSON.

    >>> count_nulls({"a": None, "b": [None, 1]})
    2
    """
    if value is None:
        return 1
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    return sum(map(count_nulls, inner))


def without_nulls(value: Any) -> Any:
    """The value without the keys whose value is null, at any depth (TRL's remove_none_values, trl#5307).

    >>> without_nulls({"a": None, "b": [1, {"c": None}]})
    {'b': [1, {}]}
    """
    if isinstance(value, Mapping):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [without_nulls(item) for item in value]
    return value
