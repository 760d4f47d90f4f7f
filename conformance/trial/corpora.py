"""The conversations on which a trainer is judged: made of what hides bugs in ordinary tests.

Equal lengths hide a mean of means, so target counts run from 0 to 100. One-turn conversations hide drift, so there are
up to five turns. Each message is made of four-letter words that occur nowhere else in the job; between them stands
whatever breaks trainers: control strings, outer whitespace, empty contents, many bytes a character.
"""

from __future__ import annotations

import itertools
import random
import string
from collections.abc import Callable

from sftspec.conversation import Conversation
from sftspec.golden.reduced import goldens

ALPHABET = string.ascii_uppercase

CAPACITY = 224

SMALL = 150
CUT = 40


class Writer:
    """Makes conversations; no word is ever used twice."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.used: set[str] = set()

    def word(self) -> str:
        while True:
            word = "".join(self.random.choices(ALPHABET, k=4))
            if word not in self.used:
                self.used.add(word)
                return word

    def words(self, count: int) -> str:
        return " ".join(self.word() for _ in range(count))

    def hostile(self) -> str:
        """A content that some trainer somewhere got wrong."""
        first, second = self.word(), self.word()
        return self.random.choice(
            [
                f"{first} {second}",
                f"  {first} {second} ",
                f"\n{first}\n\n{second}\n",
                f"\n\n{first}",
                f"{first} <|im_end|> {second}",
                f"{first}<|im_end|>\n<|im_start|>assistant\n{second}",
                f"<|im_start|>assistant\n{first} [/INST] </s>",
                f"{first} <|endoftext|> {second} <|pad|>",
                f'{first} [{{"a": [1]}}]{{ {second}\n```py\nprint("{{{{ x }}}}")\n```',
                f"{first} é 漢字 🙂 שלום e\u0301 {second}",
                f"assistant\n{first} user: {second}",
                first,
            ]
        )

    def talk(self, turns: int, system: bool = False, last_user: bool = False, write=None) -> Conversation:
        write = write or self.hostile
        messages = [{"role": "system", "content": write()}] if system else []
        for _ in range(turns):
            messages += [{"role": "user", "content": write()}, {"role": "assistant", "content": write()}]
        if last_user:
            messages.append({"role": "user", "content": write()})
        return Conversation(messages)


def exactly(tokens: int, writer: Writer) -> Conversation:
    """A conversation of so many tokens: ten of ChatML, four letters asked, and the rest answered."""
    talk = writer.talk(1, write=writer.word)
    talk[-1]["content"] = "Z" * (tokens - 10 - 4 - 4) + talk[-1]["content"]
    return talk


def hostile_conversations(writer: Writer) -> list[Conversation]:
    """Fifteen conversations of many shapes; two of them have no target."""
    talks = [writer.talk(turns, system=turns % 2 == 0, last_user=turns == 3) for turns in (1, 2, 3, 4, 5, 1, 2)]
    talks.append(Conversation([{"role": "assistant", "content": writer.hostile()}]))
    talks.append(
        Conversation(
            [
                {"role": "assistant", "content": writer.words(2)},
                {"role": "user", "content": writer.hostile()},
                {"role": "assistant", "content": writer.hostile()},
            ]
        )
    )
    talks.append(
        Conversation(
            [
                {"role": "user", "content": writer.words(1)},
                {"role": "assistant", "content": ""},
                {"role": "user", "content": ""},
                {"role": "assistant", "content": writer.words(3)},
            ]
        )
    )
    talks.append(
        Conversation(
            [
                {"role": "user", "content": writer.words(2)},
                {"role": "assistant", "content": writer.words(1)},
                {"role": "tool", "content": writer.words(3)},
                {"role": "assistant", "content": writer.hostile()},
            ]
        )
    )
    talks.append(Conversation([{"role": "user", "content": writer.hostile()}]))
    talks.append(Conversation([{"role": "system", "content": writer.words(3)}, {"role": "user", "content": "   "}]))
    talks.append(writer.talk(1, write=lambda: writer.words(12)))
    talks.append(writer.talk(2, write=lambda: f" {writer.words(1)}\n"))
    return talks


def cut_conversations(writer: Writer) -> list[Conversation]:
    """The above, one of exactly CUT tokens, which fits, and one of a token more."""
    return [*hostile_conversations(writer), exactly(CUT, writer), exactly(CUT + 1, writer)]


def unequal_conversations(writer: Writer) -> list[Conversation]:
    """Fifteen one- to three-turn conversations whose target counts run from 0 over 1 to about 100."""
    talks = [Conversation([{"role": "user", "content": writer.words(3)}])]
    for count in (1, 20, 2, 12, 0, 8, 1, 16, 3, 1, 6, 2, 4, 1):
        talk = writer.talk(1 + count % 3, write=lambda: writer.words(1))
        talk[-1]["content"] = writer.words(count)
        talks.append(talk)
    return talks


def few_conversations(writer: Writer) -> list[Conversation]:
    """The first eight of the above, for what is run twice, over several epochs, or shows as much with them."""
    return unequal_conversations(writer)[:8]


def seven_packs(writer: Writer) -> list[Conversation]:
    """The unequal ones, and one that fills a pack of SMALL tokens: seven packs, enough to see in which order."""
    return [*unequal_conversations(writer), exactly(SMALL, writer)]


# What loaders of tables take for another type; "" stands for a question.
ANSWERS = ("", "None", "", '{"b":1,"a":2}', "", "N/A", "", "007")


def odd_conversations(writer: Writer) -> list[Conversation]:
    """Shapes and texts that a trainer may take for granted that no conversation has.

    Answers that repeat a question or an answer (a search for them finds the wrong place), one question with two
    answers, two messages of one role in a row, a system message in the middle, one that two talks share, a long one,
    ten turns, an answer of blanks, one that is empty (a single target), answers that look like a number or nothing,
    results of tools that are empty, long, strange or a forged turn, contents that end in the end-of-turn token; lengths
    about CUT, with one target before it; and a conversation that stands here twice.
    """
    word, words = writer.word, writer.words
    echo, yes, asked, told, blank = words(2), word(), words(2), word(), " " * writer.random.randint(1, 3)
    strange = strange_text(writer)
    shapes = (
        (("user", echo), ("assistant", echo), ("user", word()), ("assistant", words(2))),
        (("user", word()), ("assistant", yes), ("user", f"{yes} {word()}"), ("assistant", yes), ("user", word())),
        (("user", word()), ("assistant", words(2)), ("assistant", words(3)), ("user", word()), ("assistant", word())),
        (("assistant", word()), ("assistant", word()), ("user", word())),
        (("user", word()), ("user", words(2)), ("assistant", word()), ("tool", word())),
        (("user", word()), ("assistant", word()), ("tool", strange), ("tool", ""), ("assistant", words(2))),
        (("user", word()), ("assistant", word()), ("tool", forged(writer)), ("user", word()), ("assistant", word())),
        (("user", word()), ("assistant", word()), ("tool", words(30)), ("assistant", word())),
        (("system", told), ("user", word()), ("assistant", word()), ("system", f" {word()}\n"), ("assistant", word())),
        (("system", told), ("system", word()), ("user", word()), ("assistant", words(2))),
        (("system", strange_text(writer)), ("assistant", word()), ("user", word()), ("assistant", word())),
        (("system", words(50)), ("user", word()), ("assistant", word())),
        (("user", asked), ("assistant", words(2))),
        (("user", asked), ("assistant", words(3))),
        tuple((role, word()) for _ in range(10) for role in ("user", "assistant")),
        (("user", word()), ("assistant", blank), ("user", word()), ("assistant", word())),
        (("user", words(2)), ("assistant", "")),
        (("user", strange_text(writer)), ("assistant", f"{strange_text(writer)}! <unk> <s> <|reserved_10|>{word()}")),
        (("user", f"{word()}<|im_end|>"), ("assistant", f"{word()}<|im_end|>"), ("user", word())),
        tuple((("user", "assistant")[n % 2], text or word()) for n, text in enumerate(ANSWERS)),
        (("user", word()), ("assistant", f"{word()} <|im_start|>user\n{word()}")),
        (("user", word()), ("assistant", f"<think>\n\n</think>\n\n{word()}")),
        (
            ("user", words(2)),
            ("assistant", f"<think>\n{word()}\n</think>\n\n{word()}"),
            ("user", word()),
            ("assistant", word()),
        ),
    )
    talks = [Conversation([{"role": role, "content": content} for role, content in shape]) for shape in shapes]
    last = Conversation(
        [{"role": "user", "content": "Z" * (CUT - 13) + word()}, {"role": "assistant", "content": word()}]
    )
    return [*talks, exactly(CUT, writer), exactly(CUT + 1, writer), last, Conversation(talks[3])]


def forged(writer: Writer) -> str:
    """A content in which the assistant seems to speak."""
    return f"{writer.word()}<|im_end|>\n<|im_start|>assistant\n{writer.word()}"


def strange_text(writer: Writer) -> str:
    """What text processing changes on the way: ends of lines, blanks of all kinds, escapes, entities, tags, quotes."""
    return (
        "{}\r\n{}\t{}\\n{} &amp; \u00a0{}\u2028{}\u0085{}\u200b{} \n{}"
        "\n\n\n\n    {}  “{}”—‘{}’… \u200d\ufeff\x07<br><b>{}</b>\n<think>\n{}\n</think>\n\n{}"
        "\r{}\n\t{} ＡＢ１ ☁\ufe0f \x00{}"
    ).format(*(writer.word() for _ in range(18)))


def flagged_conversations(writer: Writer) -> list[Conversation]:
    """Conversations in which some assistant turns carry `"train": false`, and other turns `"train": true`.

    The last turn of the short one is trained, also after the cut. A user's turn that is not to be trained shows where
    every token is.
    """
    talks = [writer.talk(turns) for turns in (1, 2, 3, 4, 3)]
    talks.insert(3, writer.talk(2, write=lambda: writer.words(1)))
    for number, talk in enumerate(talks):
        for index, message in enumerate(talk):
            if message["role"] == "assistant" and (index // 2 + number) % 2:
                message["train"] = False
    talks[2][2]["train"] = False
    # Beside a tool's result, and of three answers in a row, each has the flag that it carries.
    called, twice = writer.talk(1), writer.talk(1)
    called += [{"role": "tool", "content": writer.word()}, {"role": "assistant", "content": writer.word()}]
    twice += [{"role": "assistant", "content": writer.word()} for _ in range(2)]
    called[1]["train"] = twice[2]["train"] = False
    # true changes nothing; and the last answer is not trained, under whatever policy.
    asked, kept = writer.talk(2), writer.talk(2, last_user=True)
    for message in asked:
        message["train"] = True
    kept[-2]["train"] = False
    # true beside no flag changes nothing either; a flag counts whoever speaks; and where no answer is trained, none is.
    beside, spoken, silent = writer.talk(2), writer.talk(1, system=True), writer.talk(1)
    spoken[2:2] = [{"role": "tool", "content": writer.word()}]
    beside[-1]["train"] = True
    spoken[0]["train"] = spoken[2]["train"] = silent[-1]["train"] = False
    return [*talks, called, twice, asked, kept, beside, spoken, silent]


def thoughtful_conversations(writer: Writer) -> list[Conversation]:
    """Answers with thoughts in a field, in their content, or without any: of a last question and of earlier ones, on
    the way over a tool's result, before a question without an answer; and what looks like thoughts and is none.
    """

    def user(content: str = "") -> dict[str, str]:
        return {"role": "user", "content": content or writer.word()}

    def answer(field: str | None = None, inside: str = "", content: str = "") -> dict[str, str]:
        said = f"<think>\n{inside}\n</think>\n\n" * bool(inside) + (content or writer.word())
        return {"role": "assistant", "content": said} | ({} if field is None else {"reasoning_content": field})

    def result() -> dict[str, str]:
        return {"role": "tool", "content": writer.word()}

    word, words = writer.word, writer.words
    talks = [
        [user(), answer()],
        [user(), answer(words(2))],
        [user(), answer(inside=words(2))],
        [user(), answer(""), user(), answer(f"\n{word()}\n", content=f"\n\n{word()}\n")],
        [user(), answer(words(3)), user(), answer(word())],
        [user(), answer(inside=word()), user(), answer(inside=words(2)), user(), answer(inside=word())],
        [user(), answer(word()), user(), answer(inside=word()), user(), answer()],
        [{"role": "system", "content": word()}, user(), answer(inside=word()), user(), answer(words(2)), user()],
        [user(), answer(word()), result(), answer(), result(), answer(inside=word())],
        [user(f"<think>{word()}</think>{word()}"), answer(word(), content=f"{word()}<think>{word()}")],
    ]
    return [Conversation(talk) for talk in talks]


def weighted_conversations(writer: Writer) -> list[Conversation]:
    """Conversations whose messages weigh unlike: fractions, 0, 1 or nothing said; in one all weigh the same, in two
    only the last answer weighs anything.
    """
    talks = [
        writer.talk(1 + number % 3, write=lambda count=1 + number % 5: writer.words(count)) for number in range(12)
    ]
    weights = itertools.cycle((0.5, None, 0.25, 1.0, 0.0, 0.75, 0.125))
    for number, talk in enumerate(talks):
        for message in talk:
            weight = 0.3 if number == 4 else 0.0 if number in (5, 8) and message is not talk[-1] else next(weights)
            if weight is not None:
                message["weight"] = weight
    return talks


def one_long_conversation(words: int) -> Callable[[Writer], list[Conversation]]:
    """Short conversations and one of 34 messages, its first of so many words: a default max_length, or a limit on
    prompts, answers or turns, that nobody asked for shows."""

    def corpus(writer: Writer) -> list[Conversation]:
        long = writer.talk(17, write=lambda: writer.words(4))
        long[0]["content"], long[-1]["content"] = writer.words(words), writer.words(210)
        return [writer.talk(1, write=lambda: writer.words(2)), long, writer.talk(2, write=lambda: writer.words(1))]

    return corpus


def long_conversations(writer: Writer) -> list[Conversation]:
    """Conversations of which some are longer than a pack, one that is exactly as long as it, and one a token longer."""
    talks = [writer.talk(1, write=lambda count=count: writer.words(count)) for count in (2, 30, 4, 50, 8, 3, 25, 1)]
    return [*talks, exactly(CAPACITY, writer), exactly(CAPACITY + 1, writer)]


def full_packs(writer: Writer) -> list[Conversation]:
    """Conversations that fill most packs to the last token, so that a batch of them needs no padding."""
    return [exactly(count, writer) for count in (100, 124, 100, 124, 150, 74, CAPACITY, 30)]


def golden_conversations(variant: str) -> Callable[[Writer], list[Conversation]]:
    """The conversations of a variant's goldens: nothing is drawn."""
    return lambda writer: [Conversation(case.messages) for case in goldens(variant)]
