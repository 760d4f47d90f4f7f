"""Adapters of trainers that people use, each on the trainer's real entry point, each with an environment of its own.

NAME.lock beside an adapter pins its environment: `sftspec env create NAME` makes it, `sftspec check NAME` runs there.
"""

from __future__ import annotations

# Name of trainer and environment: (module and class of the adapter, modules that have to be installed, distribution).
FIELD: dict[str, tuple[str, tuple[str, ...], str]] = {
    "torchtune": ("field.torchtune:Torchtune", ("torchtune", "torchao", "torchdata"), "torchtune"),
    "llamafactory": ("field.llamafactory:LLaMAFactory", ("llamafactory",), "llamafactory"),
    "accelerate": ("field.accelerate:Accelerate", ("accelerate", "transformers"), "accelerate"),
    "trl-0.19.1": ("trl:TRL", ("trl", "accelerate", "datasets"), "trl"),
    "trl-0.25.1": ("trl:TRL", ("trl", "accelerate", "datasets"), "trl"),
    "ms-swift": ("field.ms_swift:MsSwift", ("swift",), "ms-swift"),
    "fms-hf-tuning": ("field.fms_hf_tuning:FmsHfTuning", ("tuning", "trl"), "fms-hf-tuning"),
    "unsloth": ("field.unsloth:Unsloth", ("unsloth",), "unsloth"),
    "axolotl": ("field.axolotl:Axolotl", ("axolotl",), "axolotl"),
    "mlx-lm": ("field.mlx_lm:MlxLm", ("mlx_lm",), "mlx-lm"),
    "tunix": ("field.tunix:Tunix", ("tunix",), "google-tunix"),
    "litgpt": ("field.litgpt:LitGPT", ("litgpt",), "litgpt"),
    # Parts of trainers, in a plain loop:
    "instructlab-training": (
        "field.instructlab_training:InstructLabTraining",
        ("instructlab",),
        "instructlab-training",
    ),
    "nemo-automodel": ("field.nemo_automodel:NemoAutomodel", ("nemo_automodel",), "nemo-automodel"),
    "verl": ("field.verl:Verl", ("verl",), "verl"),
    "renderers": ("field.renderers:Renderers", ("renderers",), "renderers"),
    "tinker-cookbook": ("field.renderers:TinkerCookbook", ("tinker_cookbook",), "tinker-cookbook"),
    "liger-kernel": ("field.fused_losses:LigerKernel", ("liger_kernel", "triton"), "liger-kernel"),
    "cut-cross-entropy": ("field.fused_losses:CutCrossEntropy", ("cut_cross_entropy",), "cut-cross-entropy"),
}

_PLACES = {place.partition(":")[0] for place, *_ in FIELD.values()} | {"field.logs", "field.plain_loop"}
MODULES = (__name__, *(f"{__name__.rpartition('.')[0]}.{place}" for place in sorted(_PLACES) if place != "trl"))
