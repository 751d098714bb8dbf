"""A stand-in for `python` whose processes start with the libraries imported: most of a short command's time.

    python fork_server.py serve SOCKET
    python fork_server.py run SOCKET script.py its words      # as `python script.py its words`; or -m module, -c code

The server imports the libraries once and forks for each command. The fork has the folder, environment, standard
streams and words of its client, runs the script as `__main__`, and the client ends with its exit code.
"""

import gc
import json
import os
import runpy
import signal
import socket
import sys
import traceback
from importlib import import_module
from pathlib import Path

LIBRARIES = ("hf_eddpm.training.train_text", "hf_eddpm.training.train_protein", "hf_eddpm.training.train_image")
LIBRARIES += ("hf_eddpm.training.evaluation", "datasets", "pandas", "sklearn.linear_model", "matplotlib.pyplot")


def serve(path: str) -> None:
    """Imports the libraries and forks for each connection, for ever."""
    for name in LIBRARIES:
        import_module(name)
    gc.freeze()  # the forks share these pages
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _answer(connection)
        connection.close()


def _answer(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    data, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
    request = json.loads(data)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    code = 1
    try:
        _execute(request["words"])
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(bytes([code & 255]))
        os._exit(code & 255)


def _execute(words: list[str]) -> None:
    first, *rest = words
    if first == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.path[0] = ""
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0] = str(Path(first).resolve().parent)
        sys.argv = words
        runpy.run_path(first, run_name="__main__")


def run(path: str, words: list[str]) -> int:
    """Has the server run a command; its exit code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        request = {"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        answer = connection.recv(1)
    return answer[0] if answer else 1  # the process died


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    else:
        sys.exit(run(sys.argv[2], sys.argv[3:]))
