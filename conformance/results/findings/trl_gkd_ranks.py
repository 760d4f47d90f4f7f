"""TRL 1.16.0: with GKDTrainer on several ranks the gradient is divided by their number once too often.

Run in an environment with TRL 1.16.0. Two conversations that are alike, in one process and on two ranks (gloo): prints
the norms of both gradients; exits 1 if they differ.
"""

import os
import subprocess
import sys
import tempfile


def norm():
    """The norm of the gradient of one step over two conversations, on the dataset alone (lmbda=0)."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    import torch
    from datasets import Dataset
    from newline_tokenizer import make
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    tokenizer = make()

    def model(seed):
        torch.manual_seed(seed)
        sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes))

    talk = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "one two three"}]
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    arguments = GKDConfig(
        tempfile.mkdtemp(), per_device_train_batch_size=2 // ranks, max_steps=1, lmbda=0.0, max_length=64,
        use_cpu=True, bf16=False, report_to=[], logging_steps=1, max_grad_norm=1e9, save_strategy="no",
        disable_tqdm=True, gradient_checkpointing=False,
    )  # fmt: skip
    rows = Dataset.from_list([{"messages": talk}] * 2)
    trainer = GKDTrainer(model(0), model(1), args=arguments, train_dataset=rows, processing_class=tokenizer)
    trainer.train()
    return next(item["grad_norm"] for item in trainer.state.log_history if "grad_norm" in item)


def started(ranks):
    """The norm that rank 0 of so many processes tells."""
    shared = {**os.environ, "WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **shared} for rank in range(ranks)]
    called = [sys.executable, __file__, "--rank"]
    runs = [subprocess.Popen(called, env=place, stdout=subprocess.PIPE, text=True) for place in places]
    told = [run.communicate()[0] for run in runs]
    return float(next(line for line in told[0].splitlines() if line.startswith("norm ")).split()[1])


if __name__ == "__main__":
    if "--rank" in sys.argv:
        print("norm", norm())
        sys.exit()
    one, two = started(1), started(2)
    print(f"one process: {one:.5f}; two ranks: {two:.5f}, {two / one:.2f} times as much")
    sys.exit(abs(two / one - 1) > 0.01)
