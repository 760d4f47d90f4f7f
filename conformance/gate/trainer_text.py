"""The adapter of a `Trainer` or an `SFTTrainer`: one around the job's model, with the repository's options.

The script that makes it is not run: options that are literals are copied, what a job decides is the job's, and what
cannot be read is marked.
"""

from __future__ import annotations

from pathlib import Path

from sftspec.conformance.gate.found import Found

# Keyword arguments that the job decides, and those that are of no use in a trial.
_DECIDED = (
    "model args train_dataset eval_dataset processing_class tokenizer max_length max_seq_length output_dir"
    " per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps num_train_epochs max_steps"
    " learning_rate lr_scheduler_type lr_scheduler_kwargs warmup_steps warmup_ratio optim weight_decay max_grad_norm"
    " seed data_seed logging_steps logging_strategy logging_first_step disable_tqdm report_to run_name save_strategy"
    " save_steps save_total_limit eval_strategy eval_steps evaluation_strategy bf16 fp16 use_cpu push_to_hub"
    " hub_model_id load_best_model_at_end overwrite_output_dir do_train do_eval dataloader_num_workers"
    " dataloader_pin_memory ddp_find_unused_parameters deepspeed fsdp fsdp_config logging_dir log_level"
    " metric_for_best_model greater_is_better callbacks compute_metrics dataset_text_field tf32 torch_compile"
)
DECIDED = frozenset(_DECIDED.split())


def mark(what: str) -> str:
    return 'fill_in("' + what.replace("\\", "").replace('"', "'") + '")'


def module_of(found: Found, root: Path) -> str:
    return ".".join(found.file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def policy_of(found: Found) -> str:
    """Which turns are trained, where the options say it."""
    if found.kind == "trl":
        if {"prompt", "completion"} <= found.texts and "messages" not in found.texts:
            return "last"
        return "all" if found.options.get(("config", "assistant_only_loss")) == "True" else "every-token"
    if found.kind == "transformers" and collator_of(found)[1]:
        return "every-token"
    return "last" if found.last else "all"


def collator_of(found: Found) -> tuple[str, bool]:
    """The collator with the job's tokenizer in it, and whether it trains every token."""
    said = found.open.get(("trainer", "data_collator"), "")
    if said.split("(")[0].endswith("DataCollatorForLanguageModeling"):
        return "transformers.DataCollatorForLanguageModeling(job.tokenizer, mlm=False)", True
    for name in ("DataCollatorForSeq2Seq", "DataCollatorWithFlattening"):
        if said.split("(")[0].endswith(name):
            return f"transformers.{name}({'job.tokenizer, padding=True' if 'Seq2Seq' in name else ''})", False
    if said:
        return mark(f"the data collator, {said[:80]}, with job.tokenizer"), False
    return "transformers.DataCollatorForSeq2Seq(job.tokenizer, padding=True)", False


TRAIN = """\
    def train(self, job):
        from sftspec.conformance.adapters.transformers_trainer import run_trainer

        run_trainer(self.build(job), job, lambda: self.build(job))

    def build(self, job):
        import {library}
        from datasets import Dataset
{imports}        from sftspec.conformance.adapters.transformers_trainer import training_arguments

        options = {{
            **training_arguments(job),  # what the job asks for
{config}        }}
        return {trainer}(
            model=job.model,
            args={library}.{arguments}(**options),
            processing_class=job.tokenizer,
{options}        )
"""

ACCEPTS = {  # what TRL, or the function that makes the rows, refuses with an error is no example of the job
    "all": """\
    def accepts(self, messages):
        return any(message["role"] == "assistant" for message in messages)

""",
    "last": """\
    def accepts(self, messages):
        return len(messages) > 1 and messages[-1]["role"] == "assistant"

""",
}

ENCODE = """\

    def encode(self, job, messages):
        {mark}
        # for example, if that is how yours does it (what it refuses with an error, accepts() refuses before):
        out = job.tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        ids, marks = out["input_ids"][: job.max_length], out["assistant_masks"][: job.max_length]
        return {{"input_ids": ids, "labels": [token if on else -100 for token, on in zip(ids, marks)]}}
"""


def trainer_body(found: Found, root: Path) -> str:
    """The repository's Trainer around the job's model: its options stay, what a job decides is the job's."""
    is_trl = found.kind == "trl"
    library, arguments = ("trl", "SFTConfig") if is_trl else ("transformers", "TrainingArguments")
    imports = [f"from {module_of(found, root)} import {found.own}"] if found.own else []
    rows = "conversations_of(job)" if is_trl else "[self.encode(job, list(item)) for item in job.conversations]"
    parts = {
        "config": [("max_length", "job.max_length")] if is_trl else [],
        "trainer": [("train_dataset", f"Dataset.from_list({rows})")],
    }
    if not is_trl:
        parts["trainer"].append(("data_collator", collator_of(found)[0]))
    for (part, name), source in found.options.items():
        if name not in DECIDED and name != "**":
            parts[part].append((name, source))
    for (part, name), source in found.open.items():
        if name in DECIDED or name == "**" or name in dict(parts[part]):
            continue
        if source.startswith("LoraConfig("):
            imports.append("from peft import LoraConfig")
            parts[part].append((name, source))
        else:
            parts[part].append((name, mark(f"{name}, which is {source[:60]} in {found.file.name}")))
    what = f"how {found.file.name} makes input_ids and labels, cut at job.max_length; then take this line out"
    text = TRAIN.format(
        library=library,
        arguments=arguments,
        trainer=found.own or f"{library}.{'SFTTrainer' if is_trl else 'Trainer'}",
        imports="".join(f"        {line}\n" for line in imports),
        config="".join(f'            "{name}": {value},\n' for name, value in parts["config"]),
        options="".join(f"            {name}={value},\n" for name, value in parts["trainer"]),
    )
    if is_trl:
        return ACCEPTS.get(policy_of(found), "") + text
    accepts = ACCEPTS["last"] if policy_of(found) == "last" else ""
    return accepts + text + ENCODE.format(mark=mark(what))
