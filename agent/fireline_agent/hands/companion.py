"""The door to a companion: a module of this program in a process of its own, which answers line by line.

It is started by the first question and goes when nobody has asked for a while: what is dear to load is there for the
second question, and costs nothing the rest of the day. It ends with this process too, at the end of its input.
"""

import os
import select
import subprocess
import threading
import time
from typing import Final

from fireline_agent.hands.process import module_command, module_environment

_MAX_ANSWER: Final = 1 << 20
_END_S: Final = 5.0


class Companion:
    """One companion. Blocking; safe from any thread, which wait for each other."""

    def __init__(self, module: str, *arguments: str, idle_s: float) -> None:
        self._command = module_command(module, arguments)
        self._idle_s = idle_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._leaving: threading.Timer | None = None

    def ask(self, question: bytes, *, timeout_s: float) -> bytes:
        """The answer to one line, without the ends of lines; a companion that has died meanwhile is started again.

        Raises:
            OSError: it can't be started, died over the question, or did not answer in time.
        """
        with self._lock:
            self._stay()
            try:
                if self._process is None or self._process.poll() is not None:
                    self._end()
                    self._process = self._started()
                return _exchange(self._process, question, time.monotonic() + timeout_s)
            except OSError:
                self._end()
                raise
            finally:
                self._leave_later()

    def close(self) -> None:
        """End it now."""
        with self._lock:
            self._stay()
            self._end()

    def _started(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=module_environment(),
        )

    def _stay(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    def _leave_later(self) -> None:
        self._leaving = threading.Timer(self._idle_s, self._leave)
        self._leaving.daemon = True
        self._leaving.start()

    def _leave(self) -> None:
        with self._lock:
            if self._leaving is threading.current_thread():  # else somebody has asked meanwhile
                self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(_END_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _exchange(process: "subprocess.Popen[bytes]", question: bytes, until: float) -> bytes:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101 -- both are pipes
    process.stdin.write(question + b"\n")
    process.stdin.flush()
    answer = b""
    while not answer.endswith(b"\n"):
        left_s = until - time.monotonic()
        if left_s <= 0 or not select.select([process.stdout], [], [], left_s)[0]:
            raise TimeoutError(f"{process.args!r}: no answer in time")
        part = os.read(process.stdout.fileno(), 1 << 16)
        answer += part
        if not part or len(answer) > _MAX_ANSWER:
            raise BrokenPipeError(f"{process.args!r}: it ended over the question, or said too much")
    return answer.removesuffix(b"\n")
