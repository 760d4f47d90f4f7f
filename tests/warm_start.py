"""Processes of trainers that begin with their libraries imported, so that a test waits for a trainer and not for torch.

One process imports what the process of every trainer imports, and makes a copy of itself for each that is asked for.
The copy runs the code that a new interpreter would be given, and ends as that would. A command in another interpreter
is started as it is, and so is whatever a test starts through a command line.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

SERVE = "import sys; sys.path[:0] = {path!r}\nfrom sftspec.tests.warm_start import serve\nexec(serve({number}))"


class Popen:
    """As much of `subprocess.Popen` as `launch.Ranks` uses."""

    _server: Server | None = None

    def __new__(cls, command, **options):
        return super().__new__(cls) if command[0] == sys.executable else subprocess.Popen(command, **options)

    def __init__(self, command, *, stdout, env, **options):
        if Popen._server is None:
            Popen._server = Server()
        self._ask, self.returncode = Popen._server.ask, None
        self.pid = self._ask(stdout, code=command[2], env=dict(env), folder=os.getcwd())

    def poll(self):
        if self.returncode is None:
            self.returncode = self._ask(None, ended=self.pid)
        return self.returncode

    def wait(self):
        while self.poll() is None:
            time.sleep(0.005)
        return self.returncode

    def kill(self):
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Server:
    """The process that is copied, as its user sees it."""

    def __init__(self):
        self._here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = SERVE.format(path=[item or os.getcwd() for item in sys.path], number=there.fileno())
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[there.fileno()], env=environment, start_new_session=True
        )
        there.close()
        self._lock = threading.Lock()

    def ask(self, output, **asked):
        with self._lock:
            socket.send_fds(self._here, [json.dumps(asked).encode()], [] if output is None else [output])
            return json.loads(self._here.recv(100))


def serve(number: int) -> str:
    """Answer until nobody asks any more. Returns, in a copy, the code that it is to run."""
    from sftspec.conformance.witness import listening  # noqa: F401
    from sftspec.conformance.witness.exchange import load_libraries

    load_libraries()
    asked, codes = socket.socket(fileno=number), {}
    while True:
        said, given, *_ = socket.recv_fds(asked, 2**20, 1)
        if not said:
            os._exit(0)
        order = json.loads(said)
        if "ended" in order:
            pid = order["ended"]
            if pid not in codes:  # two threads may ask for one process
                ended, status = os.waitpid(pid, os.WNOHANG)
                codes |= {pid: os.waitstatus_to_exitcode(status)} if ended else {}
            asked.send(json.dumps(codes.get(pid)).encode())
        elif pid := os.fork():
            os.close(given[0])
            asked.send(json.dumps(pid).encode())
        else:
            asked.close()
            become(order, given[0])
            return order["code"]


def become(order: dict, output: int) -> None:
    """Take what a new process is given: its session, environment, folder and standard streams."""
    os.setsid()
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["folder"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    for done in (nothing, output):
        os.close(done)
