"""The bugs that are put on trial again, in the order of their packages.

Every one was read in the source of both releases. What stands beside a release in `shared` is of its time: the newest
version with which both run.
"""

from __future__ import annotations

from sftspec.conformance.timemachine.case import Case, Release

# What datasets and accelerate need, whatever the release.
COMMON = (
    "datasets==3.6.0", "dill==0.3.8", "multiprocess==0.70.16", "xxhash==3.6.0", "pandas==2.3.3", "pyarrow==21.0.0",
    "python-dateutil==2.9.0.post0", "pytz==2025.2", "tzdata==2025.2", "six==1.17.0", "aiohttp==3.13.2",
    "aiohappyeyeballs==2.6.1", "aiosignal==1.4.0", "frozenlist==1.8.0", "multidict==6.7.0", "yarl==1.22.0",
    "propcache==0.4.1", "attrs==25.4.0", "idna==3.11", "requests==2.32.5", "certifi==2025.10.5",
    "charset-normalizer==3.4.4", "urllib3==2.5.0", "psutil==7.1.3", "rich==14.2.0", "markdown-it-py==4.0.0",
    "mdurl==0.1.2", "pygments==2.19.2", "numpy==2.3.5", "pyyaml==6.0.3", "packaging==25.0", "tqdm==4.67.1",
    "regex==2025.11.3", "safetensors==0.6.2",
)  # fmt: skip
TOKENIZERS_20 = ("tokenizers==0.20.3", "huggingface-hub==0.26.5", "accelerate==1.0.1")
TOKENIZERS_21 = ("tokenizers==0.21.4", "huggingface-hub==0.34.4", "accelerate==1.6.0")
TRANSFORMERS_4_45 = ("transformers==4.45.2", *TOKENIZERS_20)
TRANSFORMERS_4_52 = ("transformers==4.52.4", *TOKENIZERS_21)
TRANSFORMERS_4_55 = ("transformers==4.55.4", *TOKENIZERS_21)
TRANSFORMERS_5_2 = (
    "transformers==5.2.0", "tokenizers==0.22.1", "huggingface-hub==1.3.2", "accelerate==1.12.0", "httpx==0.28.1",
    "httpcore==1.0.9", "h11==0.16.0", "anyio==4.11.0", "sniffio==1.3.1", "typer-slim==0.20.0", "click==8.3.0",
    "shellingham==1.5.4", "hf-xet==1.2.0", "datasets==4.4.1",
)  # fmt: skip
PEFT = ("peft==0.12.0", "trl==0.9.6")  # imported by LLaMA-Factory, not used
PILLOW = ("pillow==12.0.0",)
TORCHTUNE = ("omegaconf==2.3.0", "antlr4-python3-runtime==4.9.3", "sentencepiece==0.2.1", "tiktoken==0.12.0",
             "blobfile==3.1.0", "pillow==12.0.0", "torchao==0.6.1", "lxml==6.0.2",
             "pycryptodomex==3.23.0")  # fmt: skip
TINKER = (
    "tinker==0.16.0", "pydantic==2.12.4", "pydantic-core==2.41.5", "annotated-types==0.7.0",
    "typing-inspection==0.4.2", "anyio==4.11.0", "sniffio==1.3.1", "distro==1.9.0", "httpx==0.28.1", "httpcore==1.0.9",
    "h11==0.16.0", "h2==4.3.0", "hpack==4.1.0", "hyperframe==6.1.0", "click==8.3.0", "pillow==12.0.0",
    "certifi==2025.10.5", "idna==3.11",
)  # fmt: skip
TRITON = ("triton==3.5.1",)
LIGER = ("liger-kernel==0.6.2", *TRITON)


def transformers(version: str, *beside: str) -> Release:
    return Release((f"transformers=={version}", *beside))


def trl(version: str, **settings: str) -> Release:
    return Release((f"trl=={version}",), settings)


CASES = (
    Case(
        "transformers-mean-of-means",
        "Each micro-batch's loss is a mean over its own targets, and the step averages these means.",
        "huggingface/transformers#34191",
        "step/every-target-of-a-step-weighs-the-same",
        "hugging_face.py:OldTrainer",
        broken=transformers("4.45.2"),
        fixed=transformers("4.46.1"),
        shared=(TOKENIZERS_20, COMMON),
        scenarios=("accumulation",),
    ),
    Case(
        "transformers-accumulation-lost-again",
        "The two branches of training_step are swapped: a model that takes num_items_in_batch is not given it, and the "
        "loss is not divided by the accumulation steps either.",
        "huggingface/transformers#35438",
        "step/the-denominator-is-the-number-of-targets",
        "hugging_face.py:OldTrainer",
        broken=transformers("4.48.0"),
        fixed=transformers("4.48.1"),
        shared=(TOKENIZERS_21, COMMON),
        scenarios=("accumulation", "AdamW, two epochs", "bfloat16, AdamW"),
    ),
    Case(
        "transformers-flattened-without-mask",
        "DataCollatorWithFlattening joins the rows of a batch, and attention other than flash's does not look at "
        "position_ids: each example sees those before it. Since 4.53 it looks at them where no cache is made, and "
        "since 5.0 the Trainer makes none.",
        "huggingface/trl#2834",
        "packing/examples-do-not-see-each-other",
        "hugging_face.py:OldTrainer",
        broken=transformers("4.53.3", *TOKENIZERS_21),
        fixed=Release(TRANSFORMERS_5_2),
        shared=(COMMON,),
        scenarios=("plain",),
        settings={"collator": "flattening"},
    ),
    Case(
        "trl-text-without-eos",
        "A row of plain text is tokenized as it is, and no end-of-sequence token is appended to it.",
        "huggingface/trl#3091",
        "template/the-model-sees-the-published-tokens",
        "trl_sft.py:OldSFT",
        broken=trl("0.15.2"),
        fixed=trl("0.16.0"),
        shared=(TRANSFORMERS_4_52, COMMON),
        scenarios=("goldens of llama3/hf",),
        settings={"dataset": "text"},
    ),
    Case(
        "trl-eos-after-the-template",
        "Every tokenized row is made to end in the end-of-sequence token: a conversation whose template ends in a "
        "newline gets a second end-of-turn after it.",
        "huggingface/trl#3328",
        "template/the-model-sees-the-published-tokens",
        "trl_sft.py:OldSFT",
        broken=trl("0.16.1"),
        fixed=trl("0.17.0"),
        shared=(TRANSFORMERS_4_52, COMMON),
        scenarios=("goldens of chatml/qwen2.5",),
    ),
    Case(
        "trl-double-bos",
        "A rendered conversation, BOS and all, is tokenized with special tokens added: the row begins with two BOS.",
        "huggingface/trl#3328",
        "template/the-model-sees-the-published-tokens",
        "trl_sft.py:OldSFT",
        broken=trl("0.16.1"),
        fixed=trl("0.17.0"),
        shared=(TRANSFORMERS_4_52, COMMON),
        scenarios=("goldens of llama3/hf",),
    ),
    Case(
        "trl-prompt-trained",
        "Prompt and completion are joined and tokenized as one text, and every token of the prompt is trained, where "
        "users expected the completion alone, as 0.17 trains it.",
        "huggingface/trl#1507",
        "masking/nothing-else-is-trained",
        "trl_sft.py:OldSFT",
        broken=trl("0.16.1"),
        fixed=trl("0.17.0"),
        shared=(TRANSFORMERS_4_52, COMMON),
        scenarios=("plain",),
        settings={"dataset": "prompt-completion"},
    ),
    Case(
        "trl-packed-examples-see-each-other",
        "Examples are joined and cut into rows under one causal mask.",
        "huggingface/trl#1230",
        "packing/examples-do-not-see-each-other",
        "trl_sft.py:OldSFT",
        broken=trl("0.17.0"),
        fixed=trl("0.23.1"),
        shared=(TRANSFORMERS_4_55, COMMON),
        scenarios=("packed",),
        settings={"packing": "true"},
    ),
    Case(
        "trl-padding-free-without-flash",
        "Packed rows are told apart by position_ids, which the collator makes for flash attention alone: with another "
        "the row has a mask of ones, and its examples see each other.",
        "huggingface/trl#2834",
        "packing/examples-do-not-see-each-other",
        "trl_sft.py:OldSFT",
        broken=trl("0.22.2"),
        fixed=trl("0.23.1"),
        shared=(TRANSFORMERS_4_55, COMMON),
        scenarios=("packed",),
        settings={"packing": "true"},
    ),
    Case(
        "trl-assistant-mask-lost-with-liger",
        "For Liger the dataset is reduced to the columns that are needed, and assistant_masks is not among them: every "
        "token is trained.",
        "huggingface/trl#3781",
        "masking/nothing-else-is-trained",
        "trl_sft.py:OldSFT",
        broken=trl("0.21.0"),
        fixed=trl("0.22.2"),
        shared=(TRANSFORMERS_4_55, LIGER, COMMON),
        scenarios=("plain",),
        settings={"assistant_only": "true", "liger": "true"},
    ),
    Case(
        "llamafactory-packed-examples-see-each-other",
        "Packed rows have an attention mask of ones: each example attends to those before it. 0.8.3 has neat_packing, "
        "which numbers the examples and makes a block-diagonal mask of that.",
        "hiyouga/LLaMA-Factory#4224",
        "packing/examples-do-not-see-each-other",
        "llamafactory_packing.py:Packing",
        broken=Release(("llamafactory==0.8.2",)),
        fixed=Release(("llamafactory==0.8.3",)),
        shared=(TRANSFORMERS_4_45, PEFT, COMMON),
        scenarios=("packed",),
        real="its dataset processor and collator, in a plain loop",
    ),
    Case(
        "llamafactory-positions-run-on",
        "neat_packing separates the examples by a mask, and gives no position_ids: they count on over the whole row.",
        "hiyouga/LLaMA-Factory#7318",
        "packing/positions-restart-with-each-example",
        "llamafactory_packing.py:Packing",
        broken=Release(("llamafactory==0.9.1",)),
        fixed=Release(("llamafactory==0.9.3",)),
        shared=(TRANSFORMERS_4_45, PEFT, PILLOW, COMMON),
        scenarios=("packed",),
        real="its dataset processor and collator, in a plain loop",
    ),
    Case(
        "torchtune-mean-of-means",
        "Each micro-batch's mean is divided by the accumulation steps, whatever number of targets it has.",
        "pytorch/torchtune#1875",
        "step/every-target-of-a-step-weighs-the-same",
        "torchtune_recipe.py:Recipe",
        broken=Release(("torchtune==0.3.1",)),
        fixed=Release(("torchtune==0.4.0",)),
        shared=(TRANSFORMERS_4_45, TORCHTUNE, COMMON),
        scenarios=("accumulation",),
        real="the training loop of its recipe for one device",
    ),
    Case(
        "trl-header-trained",
        "The prompt whose length tells where the completion begins is rendered without the generation prompt: the "
        "header of the answer is trained.",
        "huggingface/trl#4147",
        "masking/nothing-else-is-trained",
        "trl_sft.py:OldSFT",
        broken=trl("0.23.1"),
        fixed=trl("0.24.0"),
        shared=(TRANSFORMERS_4_55, COMMON),
        scenarios=("plain",),
        settings={"dataset": "prompt-completion"},
    ),
    Case(
        "trl-prompt-of-two-tokens",
        "With transformers 5 the rendered prompt is a dict of two entries, and its length is taken for the prompt's: "
        "every token after the second is trained.",
        "huggingface/trl#4880",
        "masking/nothing-else-is-trained",
        "trl_sft.py:OldSFT",
        broken=trl("0.26.2"),
        fixed=trl("0.27.2"),
        shared=(TRANSFORMERS_5_2, COMMON),
        scenarios=("plain",),
        settings={"dataset": "prompt-completion"},
    ),
    Case(
        "trl-jsd-swapped",
        "The mixture weighs the student by beta and the teacher by 1 - beta, and the two divergences the other way "
        "round.",
        "huggingface/trl#3043",
        "distillation/the-mixture-weighs-the-teacher-by-beta",
        "trl_functions.py:Jsd",
        broken=trl("0.15.2"),
        fixed=trl("0.16.0"),
        shared=(TRANSFORMERS_4_52, COMMON),
        real="GKDTrainer.generalized_jsd_loss",
        inside=True,
    ),
    Case(
        "trl-jsd-batchmean",
        "Without labels, the sum over rows and vocabulary is divided by the size of the vocabulary, too.",
        "huggingface/trl#4105",
        "distillation/the-mixture-weighs-the-teacher-by-beta",
        "trl_functions.py:JsdBatchmean",
        broken=trl("0.23.1"),
        fixed=trl("0.24.0"),
        shared=(TRANSFORMERS_4_55, COMMON),
        real="GKDTrainer.generalized_jsd_loss",
        inside=True,
    ),
    Case(
        "trl-bfd-segment-tree",
        "The segment tree of best-fit decreasing has a leaf for each length, and is read as if their number were a "
        "power of two: packs with room are not found.",
        "huggingface/trl#3887",
        "packing/packs-are-more-than-half-full",
        "trl_functions.py:BestFit",
        broken=trl("0.21.0"),
        fixed=trl("0.22.2"),
        real='pack_dataset(strategy="bfd")',
        inside=True,
    ),
    Case(
        "tinker-no-think-prompt",
        "With thinking switched off, the prompt at inference ends in an empty thought, and a trained answer has none.",
        "thinking-machines-lab/tinker-cookbook#176",
        "template/the-prompt-at-inference-opens-the-trained-tokens",
        "tinker_renderers.py:without_thinking",
        broken=Release(("tinker-cookbook==0.1.0",)),
        fixed=Release(("tinker-cookbook==0.2.0",)),
        shared=(TINKER,),
        real="its renderer for Qwen3",
        inside=True,
    ),
    Case(
        "liger-per-token-gradient",
        "With a loss for each token, every token's gradient is multiplied by the first token's upstream gradient: zero "
        "if that token is masked.",
        "linkedin/Liger-Kernel#678",
        "masking/everything-chosen-is-trained",
        "liger_loss.py:PerToken",
        broken=Release(("liger-kernel==0.5.8",)),
        fixed=Release(("liger-kernel==0.5.10",)),
        shared=(TRANSFORMERS_4_52, TRITON, COMMON),
        scenarios=("plain",),
        real="LigerCrossEntropyLoss, in a plain loop",
    ),
    Case(
        "liger-fused-per-token-gradient",
        "The fused loss sums the head's gradient before the upstream gradient of each token is known, and multiplies "
        "all by that of the first.",
        "linkedin/Liger-Kernel#1298",
        "masking/everything-chosen-is-trained",
        "liger_loss.py:FusedPerToken",
        broken=Release(("liger-kernel==0.8.0",)),
        fixed=Release(("liger-kernel==0.8.2",)),
        shared=(TRANSFORMERS_4_52, TRITON, COMMON),
        scenarios=("plain",),
        real="LigerFusedLinearCrossEntropyLoss, in a plain loop",
    ),
)
