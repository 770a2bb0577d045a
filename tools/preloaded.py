"""A Python that has torch and transformers imported already: a stand-in for `sys.executable` in tests and READMEs.

To import them takes seven seconds of processor time, to fork a process that has imported them a few milliseconds.
`preloaded_python()` starts such a process and gives the path of a program that behaves like `python -m MODULE …`,
`python -c CODE …` and `python FILE …`: it hands its arguments, folder, environment, limits on file sizes and streams to
the process, which forks, and ends as the fork ends. Whoever kills the program kills the fork with it: its streams close
as it dies, when it runs no more.

What is read when a library is imported (`HF_HUB_OFFLINE`) is as it was for the process that forks.
Needs fork and Unix sockets.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import gc
import json
import os
import resource
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

# With what our commands import of each; `Trainer` alone is five of the seven seconds.
MODULES = (
    "torch",
    "numpy",
    "pyarrow.parquet",
    "safetensors.torch",
    "tokenizers",
    "transformers.trainer",
    "transformers.models.auto.modeling_auto",
    "datasets",
)
_STREAMS = 3


@contextlib.contextmanager
def preloaded_python(
    modules: Sequence[str] = MODULES, *, commands: Sequence[str] = ()
) -> Iterator[Path]:
    """A folder with the program `python`, and one program for each of `commands`, which runs the module of its name.

    Its processes compute with one thread.

    Args:
        modules: to import ahead, those of them that are installed.
        commands: names of modules that are commands, too.
    """
    with tempfile.TemporaryDirectory(prefix="py") as folder:
        door = Path(folder, "door")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(door))
        listener.listen(16)
        for name in ("python", *commands):
            _write_program(Path(folder, name), door, [] if name == "python" else ["-m", name])
        server = subprocess.Popen(
            [sys.executable, __file__, "serve", str(listener.fileno()), *modules],
            pass_fds=[listener.fileno()],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        listener.close()
        try:
            yield Path(folder)
        finally:
            server.terminate()
            server.wait()


def _write_program(file: Path, door: Path, leading: list[str]) -> None:
    start = shlex.join([sys.executable, "-S", "-E", __file__, "ask", str(door), *leading])
    file.write_text(f'#!/bin/sh\nexec {start} "$@"\n')
    file.chmod(0o755)


# --- the program ------------------------------------------------------------------------------------------------


def _ask(door: str, arguments: list[str]) -> None:
    """Have the arguments run, and end as they end."""
    wish = {
        "arguments": arguments,
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
        "file_size": resource.getrlimit(resource.RLIMIT_FSIZE),
    }
    handed_on = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, handed_on)  # until it is known to whom
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.connect(door)
        descriptors = array.array("i", range(_STREAMS))
        line.sendmsg([b"."], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
        line.sendall(json.dumps(wish).encode() + b"\n")
        answers = line.makefile()
        fork = int(answers.readline())
        for number in handed_on:
            signal.signal(number, lambda received, _frame: os.kill(fork, received))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handed_on)
        status = int(answers.readline() or -signal.SIGKILL)
    if status < 0:
        signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
        os.kill(os.getpid(), -status)
    os._exit(status)


# --- the process that forks -------------------------------------------------------------------------------------


def _serve(listener: socket.socket, modules: list[str]) -> None:
    gc.disable()
    for name in modules:
        with contextlib.suppress(ImportError):
            __import__(name)
    gc.freeze()  # what is imported lives to the end: no fork walks through it
    # By a fork's number, the line to the program that asked for it.
    lines: dict[int, socket.socket] = {}
    parent = os.getppid()
    while os.getppid() == parent:  # who was killed cannot end this process
        ready, _, _ = select.select([listener, *lines.values()], [], [], 0.01 if lines else 1.0)
        if listener in ready:
            line, _ = listener.accept()
            fork = _fork(line, [listener, *lines.values()])
            line.sendall(b"%d\n" % fork)
            lines[fork] = line
        for fork, line in list(lines.items()):
            if line in ready and not line.recv(1):  # the program was killed
                os.kill(fork, signal.SIGKILL)
                os.waitpid(fork, 0)
                lines.pop(fork).close()
        _report_ended(lines)


def _report_ended(lines: dict[int, socket.socket]) -> None:
    for fork in list(lines):
        ended, status = os.waitpid(fork, os.WNOHANG)
        if ended:
            with contextlib.suppress(BrokenPipeError):
                lines[fork].sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
            lines.pop(fork).close()


def _fork(line: socket.socket, others: list[socket.socket]) -> int:
    _, ancillary, _, _ = line.recvmsg(1, socket.CMSG_SPACE(_STREAMS * array.array("i").itemsize))
    streams = array.array("i")
    streams.frombytes(ancillary[0][2])
    with line.makefile() as reader:
        wish = json.loads(reader.readline())
    if fork := os.fork():
        for stream in streams:
            os.close(stream)
        return fork
    for place, stream in enumerate(streams):
        os.dup2(stream, place)
        os.close(stream)
    for held in (line, *others):
        held.close()
    _become(wish)
    raise AssertionError("a fork never comes back")


def _become(wish: dict[str, Any]) -> None:
    """Run what is wished for, and exit as Python would."""
    gc.enable()
    os.chdir(wish["folder"])
    os.environ.clear()
    os.environ.update(wish["environment"])
    resource.setrlimit(resource.RLIMIT_FSIZE, tuple(wish["file_size"]))
    status: Any = 0
    try:
        _run(wish["arguments"])
    except SystemExit as ended:
        status = ended.code
        if status is not None and not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001  # as the interpreter itself does
        traceback.print_exc()
        status = 1
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit((status or 0) & 255)


def _run(arguments: list[str]) -> None:
    kind, *rest = arguments
    if kind == "-m":
        sys.argv = rest
        sys.path[0] = str(Path.cwd())
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = ModuleType("__main__")
    if kind == "-c":
        code, name = rest.pop(0), "<string>"
        sys.path[0] = ""
    else:
        file = Path(kind).resolve()
        code, name = file.read_text(encoding="utf-8"), str(file)
        main.__file__ = name
        sys.path[0] = str(file.parent)
    sys.argv = [kind, *rest]
    exec(compile(code, name, "exec"), main.__dict__)


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        _ask(sys.argv[2], sys.argv[3:])
    else:
        _serve(socket.socket(fileno=int(sys.argv[2])), sys.argv[3:])
