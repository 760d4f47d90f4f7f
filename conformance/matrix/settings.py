"""Which settings of which trainer are put on trial, and which of them are wrong by choice.

A setting that is wrong by choice stands apart: who picks it has been told by the trainer what it does, or it exists to
show what a mistake looks like.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sftspec.conformance.adapters.field.packers_there import PACKERS


@dataclass(frozen=True)
class Setting:
    """Settings of a trainer as text, and why they are wrong by choice ("": they are to be right)."""

    asked: dict[str, str] = field(default_factory=dict)
    choice: str = ""


WRAPPED = "packs are cut wherever a row is full, and its documentation says so"
SPLIT = "an example longer than a row is split, and its documentation says so"
BY_PROBABILITY = "each target weighs by its own probability, which is what the loss is for"
SECOND_END = "a text gets an end-of-sequence token, also where its template wrote one"
LEAKS = "examples of a row see each other, and its documentation says so"

LEFT_OUT = "samples over max_length are left out, and its documentation says so"

SETTINGS: dict[str, tuple[Setting, ...]] = {
    "reference": (Setting(),),
    "transformers": (
        Setting(),
        Setting({"collator": "flattening"}),
        Setting({"collator": "language-modeling"}),
    ),
    "trl": (
        Setting(),
        Setting({"packing": "bfd"}),
        Setting({"packing": "bfd_split"}, SPLIT),
        Setting({"padding_free": "true"}),
        Setting({"packing": "wrapped"}, WRAPPED),
        Setting({"dataset": "prompt-completion"}),
        Setting({"assistant_only_loss": "false"}),
        Setting({"loss_type": "dft"}, BY_PROBABILITY),
        Setting({"peft": "lora"}),
        Setting({"peft": "rslora"}),
        Setting({"peft": "dora"}),
    ),
    "accelerate": (
        Setting(),
        Setting(
            {"loop": "quicktour"},
            "a mean of means, which the guide says is wrong for samples of several lengths",
        ),
    ),
    "litgpt": (Setting(), Setting({"mask_prompt": "false"})),
    "torchtune": (
        Setting(),
        Setting({"packed": "true"}),
        Setting({"train_on_input": "true"}),
        Setting({"packed": "true", "train_on_input": "true"}),
        Setting({"lora": "true"}),
        Setting({"optimizer_in_bwd": "true"}),
    ),
    "llamafactory": (
        Setting(),
        Setting({"neat_packing": "true"}),
        Setting({"neat_packing": "true", "train_on_prompt": "true"}),
        Setting({"packing": "true"}, LEAKS),
        Setting({"mask_history": "true"}),
        Setting({"train_on_prompt": "true"}),
        Setting({"finetuning_type": "lora"}),
        Setting({"formatting": "openai"}),
    ),
    "ms-swift": (
        Setting(),
        Setting({"loss_scale": "last_round"}),
        Setting({"loss_scale": "all"}),
        Setting({"truncation_strategy": "delete"}, LEFT_OUT),
        Setting({"truncation_strategy": "delete", "lazy_tokenize": "true"}, LEFT_OUT),
        Setting({"truncation_strategy": "left"}),
        Setting({"tuner_type": "lora"}),
        Setting({"runs_of_a_role": "true"}),
    ),
    "fms-hf-tuning": (Setting(), Setting({"handler": "input-output"})),
    "unsloth": (Setting(), Setting({"responses_only": "false"}, SECOND_END)),
    "axolotl": (Setting(), Setting({"sample_packing": "true"}), Setting({"train_on_inputs": "true"})),
    "tunix": (Setting(),),
    "mlx-lm": (Setting({"mask_prompt": "true"}), Setting()),
    "trl-0.19.1": (
        Setting(),
        Setting({"packing": "ffd"}),
        Setting({"packing": "ffd", "assistant_only_loss": "false"}),
        Setting({"dataset": "prompt-completion"}),
    ),
    "trl-0.25.1": (Setting(),),
    # Parts of trainers, in a plain loop:
    "instructlab-training": (Setting(),),
    "nemo-automodel": (Setting(), Setting({"mask_history": "true"})),
    "verl": (Setting(),),
    "renderers": (Setting(),),
    "tinker-cookbook": (Setting(),),
    "liger-kernel": (Setting(),),
    "cut-cross-entropy": (Setting(),),
    "packers": tuple(Setting({"of": name}) for name in PACKERS),
}


# What has no result, or none but of parts: the trainer, what of it, and why.
NOT_HERE = (
    ("verl", "its engines", "they ask CUDA for its memory: its dataset and its loss are on trial, in a plain loop"),
    ("instructlab-training", "its main", "it calls .cuda(): its data, its loader and its loss are on trial"),
    ("nemo-automodel", "its recipes", "they ask for CUDA: its dataset, its collator and its loss are on trial"),
    ("cut-cross-entropy", "its Triton kernels", "they ask for CUDA: its compiled way is on trial"),
    ("openrlhf", "all", "it imports flash_attn, which needs CUDA"),
    ("tinker-cookbook", "a trainer", "it has none: its renderer is on trial; training is a service"),
    (
        "tinker-cookbook",
        "contents with <think>",
        "its tags become tokens while other control strings stay text, which no convention here says",
    ),
    ("tunix", "accumulation", "a micro-batch of optax.MultiSteps would be heard as a step; a script shows it"),
    ("litgpt", "clipping", "its fine-tuning refuses train.max_norm"),
    ("axolotl", "0.21 and later", "they want Python 3.12"),
    (
        "axolotl, torchtune, tunix",
        "distillation",
        "the suite gives a teacher to TRL's trainers alone: scripts of FINDINGS show theirs",
    ),
    ("llamafactory", "cutoff_len", "no line of its own: each setting is asked for it where a job has a max_length"),
)


def settings_of(trainer: str) -> tuple[Setting, ...]:
    """The settings of a trainer; its defaults, where the table has none."""
    return SETTINGS.get(trainer, (Setting(),))
