"""Numbers of published pipelines, each with its source; and sentences that are often said and are not so.

A table, and no code that reads it but a printer: `sftspec break --facts`. A number is here only if it stands in the
source named; what nobody could trace is listed as a correction, not as a fact.
"""

from __future__ import annotations

import textwrap
from typing import NamedTuple


class Fact(NamedTuple):
    """What is said of a pipeline, and where it stands."""

    subject: str
    value: str
    source: str


class Correction(NamedTuple):
    """A sentence that is often said, and what is true."""

    said: str
    true: str


FACTS = (
    Fact("InstructGPT, SFT", "12,725 training prompts: 11,295 of labelers and 1,430 of customers ('about 13k')",
         "arXiv:2203.02155 section 3.2, table 6"),
    Fact("InstructGPT, SFT recipe", "16 epochs, cosine decay, residual dropout 0.2; overfits the validation loss after"
         " one epoch while preference still improves", "arXiv:2203.02155 section 3.5"),
    Fact("InstructGPT, reward model", "33,207 training prompts, each with 4 to 9 ranked outputs: 6 to 36 pairs a"
         " prompt, so between 0.2 and 1.2 million comparisons", "arXiv:2203.02155 sections 3.2, 3.5, table 6"),
    Fact("InstructGPT, PPO", "31,144 prompts, from the API alone", "arXiv:2203.02155 table 6"),
    Fact("Llama-2-Chat, SFT", "27,540 annotations; 2 epochs, rate 2e-5 with cosine decay, weight decay 0.1, batch 64,"
         " sequences of 4,096 filled with several examples; loss on the answers only", "arXiv:2307.09288 section 3.1"),
    Fact("Llama-2, reward models", "two (helpfulness, safety); 1,418,091 comparisons of its own, 2,919,326 with open"
         " data", "arXiv:2307.09288 section 3.2, table 6"),
    Fact("LIMA", "1,000 prompts with answers, about 750,000 tokens, 65B; an end-of-turn token of its own after each"
         " utterance; 50 development and 300 test prompts", "arXiv:2305.11206"),
    Fact("Alpaca", "52,002 instances by text-davinci-003 (Self-Instruct), under 500 dollars; about 40 % have an input",
         "stanford_alpaca, datasheet.md"),
    Fact("Dolly 2.0", "databricks-dolly-15k: over 15,000 pairs by over 5,000 employees, March and April 2023, CC BY-SA"
         " 3.0; base pythia-12b", "databricks.com, blog of 2023-04-12"),
    Fact("Orca", "packing to 2,048 tokens, 2.7 examples a sequence; loss on the teacher's tokens only",
         "notes on arXiv:2306.02707 (secondary)"),
    Fact("Orca 2", "about 817,000 new instances; prompt erasing: the student is not shown the system prompt of the"
         " teacher; FLAN-v2, then 5M of ChatGPT, then 1M of GPT-4 with the 817,000", "arXiv:2311.11045 section 4"),
    Fact("Tülu 3", "939,344 SFT prompts out of 23.3 million; 2 epochs", "arXiv:2411.15124, dataset card"),
    Fact("Packing, BERT", "up to 50 % of the tokens are padding, twice the throughput in phase 2", "arXiv:2107.02027"),
    Fact("Packing, SFT", "up to twice the throughput, 20 % less peak memory on FLAN, less on OrcaMath",
         "arXiv:2407.09105"),
    Fact("Over-optimisation", "best-of-n: R(d) = d (alpha - beta d); RL: R(d) = d (alpha - beta log d); d = sqrt(KL)",
         "arXiv:2210.10760"),
    Fact("Best-of-n", "KL <= ln n - (n-1)/n; win rate <= n/(n+1)", "arXiv:2401.01879, theorem 3.1"),
    Fact("Accumulation", "a mean of the means of micro-batches in most trainers until October 2024, and scaling bugs"
         " after the fix", "transformers#34191, #35527, trl#2175, torchtune#1878, unsloth-zoo#1023"),
)  # fmt: skip

CORRECTIONS = (
    Correction("InstructGPT's reward model saw 33K comparisons.",
               "33K prompts, of 4 to 9 ranked outputs each; the comparisons are 0.2 to 1.2 million."),
    Correction("The best of N gains about sqrt(log N) standard deviations.",
               "sqrt(2 ln N) is the limit, from above and slowly: the truth is 0.62 of it at N = 4 and 0.87 at N = 1024"
               " (3.248; sqrt(ln N) gives 2.633). Use expected_max_normal, or Gumbel's expansion (3.278)."),
    Correction("T\u00b2 keeps the gradient's magnitude whatever T is.",
               "Only as T grows. At any T the gradient is T (p_student - p_teacher), at most half the distance of the"
               " centred logits."),
    Correction("Packing raises GPU utilisation by 30 to 50 %.",
               "No primary source says so. With a share r of padding the gain is 1/(1-r) - 1: 30 to 50 % of padding are"
               " 43 to 100 %, and it depends on the data."),
    Correction("Without a loss mask the model writes the user's turns.",
               "Only where generation goes on past the end-of-turn token, or that token is untrained; see"
               " `sftspec break no-loss-mask` and `end-of-turn-untrained`."),
    Correction("The KL of best-of-N is ln N - (N-1)/N.",
               "That is its upper bound, attained only where rewards never tie (never on a finite set of answers)."),
    Correction("Llama-2 packs with block-diagonal attention.",
               "It packs; the paper says nothing of masking across examples."),
    Correction("Phi-3 packs its SFT data.", "The report (arXiv:2404.14219) does not say so."),
)  # fmt: skip


def facts_as_text(width: int = 100) -> str:
    """Both tables as paragraphs of at most `width` columns."""
    lines = ["Numbers of published pipelines", ""]
    for fact in FACTS:
        lines += textwrap.wrap(f"{fact.subject}: {fact.value}. [{fact.source}]", width, subsequent_indent="    ")
    lines += ["", "Often said, and not so", ""]
    for said, true in CORRECTIONS:
        lines += [
            *textwrap.wrap(f'"{said}"', width),
            *textwrap.wrap(true, width - 4, initial_indent="    ", subsequent_indent="    "),
        ]
    return "\n".join(lines)
