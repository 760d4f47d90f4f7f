"""A right trainer that, in a job that asks for it, does what ends, hangs or spoils a process.

The job's seed is the number of what it does (0: nothing but train). It is imported by the trainer's process alone.
"""

from __future__ import annotations

import asyncio
import builtins
import ctypes
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import threading
import time

import torch


class Own(BaseException):
    """What is no Exception."""


class Unprintable(Exception):
    def __str__(self):
        raise ValueError("no text")


def allocate(job):
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1)) * 2**27)


def deeper(job, depth=0):
    return deeper(job, depth + 1) + 1


def fork_and_both_return(job):
    os.fork()


def fork_and_sleep(job):
    if os.fork() == 0:
        time.sleep(600)


def daemonize(job):
    if os.fork() == 0:
        os.setsid()
        return
    os._exit(0)


def thread(daemon):
    return lambda job: threading.Thread(target=lambda: time.sleep(600), daemon=daemon, name="late").start()


def flood(number):
    def act(job):
        for _ in range(400):
            os.write(number, b"x" * 2**17)
        os._exit(0)

    return act


def stdout_is_none(job):
    sys.stdout = sys.stderr = None
    raise OSError("nothing can be printed")


def raising(error):
    def act(job):
        raise error

    return act


def dies_in_a_thread(job):
    worker = threading.Thread(target=lambda: os._exit(7))
    worker.start()
    worker.join()


def child_kills_its_parent(job):
    multiprocessing.get_context("fork").Process(target=lambda: os.kill(os.getppid(), signal.SIGKILL)).start()
    time.sleep(600)


def no_more_files(job):
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def alarm(job):
    signal.alarm(1)
    time.sleep(600)


def stop(job):
    os.kill(os.getpid(), signal.SIGSTOP)


def spoil(job):
    builtins.open = None


def trains_nothing(job):
    job.conversations.clear()


# What is done, whether the job is trained all the same, and what the report has to say.
ACTS = {
    "os._exit(0)": (lambda job: os._exit(0), "ended its process (exit 0)"),
    "os._exit(3)": (lambda job: os._exit(3), "ended its process (exit 3)"),
    "exit in a thread": (dies_in_a_thread, "ended its process (exit 7)"),
    "exec": (lambda job: os.execv("/bin/true", ["true"]), "ended its process (exit 0)"),
    "sys.exit(0)": (lambda job: sys.exit(0), "the trainer called sys.exit(0)"),
    "SystemExit with a text": (raising(SystemExit("over")), "the trainer called sys.exit('over')"),
    "CancelledError": (raising(asyncio.CancelledError("no more")), "CancelledError: no more"),
    "GeneratorExit": (raising(GeneratorExit()), "GeneratorExit"),
    "KeyboardInterrupt": (raising(KeyboardInterrupt()), "ended by SIGINT"),
    "BaseException": (raising(Own("own")), "Own: own"),
    "unprintable error": (raising(Unprintable()), "Unprintable"),
    "recursion": (deeper, "RecursionError"),
    "segmentation fault": (lambda job: ctypes.string_at(0), "SIGSEGV, a segmentation fault"),
    "abort": (lambda job: os.abort(), "SIGABRT, an abort"),
    "SIGKILL": (lambda job: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL, as when memory runs out"),
    "SIGTERM": (lambda job: os.kill(os.getpid(), signal.SIGTERM), "ended by SIGTERM"),
    "SIGALRM": (alarm, "ended by SIGALRM"),
    "killed by a child": (child_kills_its_parent, "ended by SIGKILL"),
    "out of memory": (allocate, "GB of memory (--memory)"),
    "sleeps": (lambda job: time.sleep(600), "did not come back within"),
    "stopped": (stop, "did not come back within"),
    "standard streams closed": (lambda job: [os.close(number) for number in (0, 1, 2)], "0 (input), 1 (output), 2"),
    "all descriptors closed": (lambda job: os.closerange(3, 4096), "closed file descriptors that are not its own"),
    "no more files": (no_more_files, "ended "),
    "forked": (fork_and_both_return, "train() forked, and the copy went on"),
    "forked, asleep": (fork_and_sleep, "train() forked, and the copy went on"),
    "daemonized": (daemonize, "ended its process (exit 0)"),
    "thread left": (thread(False), "a thread that it had started still ran (late)"),
    "daemon thread left": (thread(True), "a thread that it had started still ran (late)"),
    "flood of output, then exit": (flood(1), "ended its process (exit 0)"),
    "flood of errors, then exit": (flood(2), "ended its process (exit 0)"),
    "no standard streams": (stdout_is_none, "OSError: nothing can be printed"),
    "folder deleted": (lambda job: shutil.rmtree(job.workdir.parent), "ended its process (exit 1)"),
    "builtins spoilt": (spoil, "ended its process (exit 1)"),
    "nothing trained": (trains_nothing, "no training call of job.model was seen"),
}


class Lost:
    name, version, claims = "lost", "1", {"padding"}

    def train(self, job):
        if job.seed:
            list(ACTS.values())[job.seed - 1][0](job)
        optimizer = torch.optim.SGD(job.model.parameters(), lr=job.learning_rate)
        for talk in job.conversations:
            out = job.tokenizer.apply_chat_template(list(talk), return_dict=True, return_assistant_tokens_mask=True)
            labels = [
                token if on else -100
                for token, on in zip(*(out[name] for name in ("input_ids", "assistant_masks")), strict=True)
            ]
            if any(label != -100 for label in labels[1:]):
                ids, labels = torch.tensor([out["input_ids"]]), torch.tensor(labels[1:])
                logits = job.model(input_ids=ids, use_cache=False).logits[0, :-1]
                torch.nn.functional.cross_entropy(logits, labels).backward()
                optimizer.step()
                optimizer.zero_grad()
