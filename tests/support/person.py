"""Somebody at a terminal in an otherwise empty folder, who types what a document says."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

SECONDS = 300


class Person:
    """What is exported stays; `placed` says what is typed for the addresses and ids that a document names."""

    def __init__(self, folder, placed, **variables):
        self.folder, self.placed = folder, placed
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("WORKER_", "MARKET_"))}
        path = f"{Path(sys.executable).parent}:{plain['PATH']}"
        self.environment = {**plain, "PATH": path, "HOME": str(folder), "COLUMNS": "200", **variables}
        folder.mkdir(exist_ok=True)

    def placing(self, line, **more):
        for word, value in {**self.placed, **more}.items():
            line = line.replace(word, str(value))
        return line

    def types(self, line, *, answers=None, **more):
        """Run a line to its end; `answers` are typed at a terminal when it asks."""
        line = self.placing(line, **more)
        if found := re.fullmatch(r"export (.*)", line):
            self.environment |= dict(one.split("=") for one in found[1].split())
            return ""
        given = {"stdin": subprocess.DEVNULL}
        if answers is not None:
            theirs, ours = pty.openpty()
            os.write(theirs, "".join(f"{answer}\n" for answer in answers).encode())
            given = {"stdin": ours}
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            **given,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def runs(self, program, **more):
        """Run a Python program as it stands in a document."""
        path = self.folder / "program.py"
        path.write_text(self.placing(program, **more))
        return self.types(f"python {path}")

    @contextmanager
    def keeps_running(self, line):
        """Run a line that ends when it is told to."""
        log = self.folder / "running.log"
        with log.open("wb") as out:
            command = ["bash", "-c", f"exec {self.placing(line)}"]
            child = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=out, stderr=out)
        try:
            yield child
            child.send_signal(signal.SIGTERM)
            # A gateway ends in order and then by the signal itself.
            assert child.wait(SECONDS) in (0, -signal.SIGTERM), log.read_text()
        finally:
            child.kill()
            child.wait()


def until(holds, what):
    deadline = time.monotonic() + SECONDS
    while not (found := holds()):
        assert time.monotonic() < deadline, what
        time.sleep(0.3)
    return found
