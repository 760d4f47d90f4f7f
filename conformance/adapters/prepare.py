"""The rows that a trainer's own preprocessing makes of conversations, as its users run it: for `audit --prepared`.

    ENV/bin/python conformance/adapters/prepare.py TRAINER DATA.jsonl MODEL_FOLDER OUT_FOLDER [KEY=VALUE …]

Runs in the trainer's environment and imports nothing of sftspec. DATA holds {"messages": […]} on each line, and
MODEL_FOLDER a config.json and a tokenizer; no weights are read. Prints the place to give to --prepared. KEY=VALUE are
settings of the trainer's own configuration, such as sequence_len=2048.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Setting = dict[str, Any]


def _run(module: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", module, *arguments], check=True)


def axolotl(data: Path, model: Path, out: Path, setting: Setting) -> Path:
    """`axolotl preprocess`, with the tokenizer's own chat template."""
    import yaml

    dataset = {"path": str(data), "ds_type": "json", "type": "chat_template", "field_messages": "messages"}
    config = {
        "base_model": str(model),
        "chat_template": "tokenizer_default",
        "datasets": [dataset],
        "dataset_prepared_path": str(out / "prepared"),
        "dataset_num_proc": 1,
        "output_dir": str(out / "model"),
        "sequence_len": 8192,
        "val_set_size": 0,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "num_epochs": 1,
        "learning_rate": 1e-5,
        "optimizer": "adamw_torch",
        "bf16": False,
    }
    path = out / "axolotl.yaml"
    path.write_text(yaml.safe_dump(config | setting), encoding="utf-8")
    _run("axolotl.cli.preprocess", str(path))
    (found,) = {info.parent for info in (out / "prepared").rglob("dataset_info.json")}
    return found


def llamafactory(data: Path, model: Path, out: Path, setting: Setting) -> Path:
    """`llamafactory-cli train` with `tokenized_path`, which saves the rows and ends."""
    form = {
        "file_name": str(data),
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    }
    (out / "dataset_info.json").write_text(json.dumps({"corpus": form}), encoding="utf-8")
    config = {
        "stage": "sft",
        "do_train": True,
        "model_name_or_path": str(model),
        "dataset_dir": str(out),
        "dataset": "corpus",
        "template": "qwen",
        "cutoff_len": 8192,
        "finetuning_type": "full",
        "output_dir": str(out / "model"),
        "tokenized_path": str(out / "rows"),
        "cache_dir": str(out / "cache"),
        "overwrite_cache": True,
    }
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    # What its run_sft does before it loads the model's weights, which this model has none of.
    model_args, data_args, training_args, _, _ = get_train_args(config | setting)
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    get_dataset(template, model_args, data_args, training_args, stage="sft", **loaded)
    return out / "rows" / "train"


def ms_swift(data: Path, model: Path, out: Path, setting: Setting) -> Path:
    """`swift export --to_cached_dataset true`, whose template encodes each row as in training."""
    from swift.pipelines.export.cached_dataset import ExportCachedDataset

    config = {
        "model": str(model),
        "model_type": "qwen2",
        "template": "qwen2_5",
        "dataset": str(data),
        "load_from_cache_file": False,
        "dataset_num_proc": 1,
        "split_dataset_ratio": 0,
        "max_length": 8192,
        "to_cached_dataset": True,
        "output_dir": str(out / "rows"),
    }
    words = ((f"--{key}", str(value).lower() if isinstance(value, bool) else str(value))
             for key, value in (config | setting).items())  # fmt: skip
    export = ExportCachedDataset([word for pair in words for word in pair])
    rows, _ = export._prepare_dataset()
    encoded = (export.template.encode(dict(row)) for row in rows)
    columns = ("input_ids", "labels", "loss_scale")
    return _written(out, ({key: row[key] for key in columns if row.get(key) is not None} for row in encoded))


def torchtune(data: Path, model: Path, out: Path, setting: Setting) -> Path:
    """`torchtune.datasets.chat_dataset`, with its Qwen2.5 tokenizer, row by row as its recipes read it."""
    from torchtune.datasets import chat_dataset
    from torchtune.models.qwen2_5 import qwen2_5_tokenizer

    limit = setting.pop("max_seq_len", 8192)
    tokenizer = qwen2_5_tokenizer(str(model / "vocab.json"), str(model / "merges.txt"), max_seq_len=limit)
    rows = chat_dataset(
        tokenizer,
        source="json",
        data_files=str(data),
        split="train",
        conversation_column="messages",
        conversation_style="openai",
        cache_dir=str(out / "cache"),
        **setting,
    )
    names = {"tokens": "input_ids", "labels": "labels", "input_pos": "position_ids", "seq_lens": "seq_lengths"}
    read = (rows[number] for number in range(len(rows)))
    return _written(
        out, ({name: [int(value) for value in row[key]] for key, name in names.items() if key in row} for row in read)
    )


def _written(out: Path, rows: Iterable[dict]) -> Path:
    path = out / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


TRAINERS: dict[str, Callable[[Path, Path, Path, Setting], Path]] = {
    "axolotl": axolotl, "llamafactory": llamafactory, "ms-swift": ms_swift, "torchtune": torchtune,
}  # fmt: skip


def main() -> None:
    if len(sys.argv) < 5 or sys.argv[1] not in TRAINERS:
        sys.exit(f"prepare.py {{{','.join(TRAINERS)}}} DATA.jsonl MODEL_FOLDER OUT_FOLDER [KEY=VALUE …]")
    sys.path.remove(str(Path(__file__).parent))  # where a file is called as a library is, trl.py
    data, model, out = (Path(text).absolute() for text in sys.argv[2:5])
    out.mkdir(parents=True, exist_ok=True)
    setting = {}
    for word in sys.argv[5:]:
        key, _, value = word.partition("=")
        try:
            setting[key] = json.loads(value)
        except ValueError:
            setting[key] = value
    print(TRAINERS[sys.argv[1]](data, model, out, setting))


if __name__ == "__main__":
    main()
