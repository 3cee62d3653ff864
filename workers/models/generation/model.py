"""A text-generating model as the worker holds it: a process of its own, and who waits for what it says.

The process gets a checked package's folder, one socket and nothing else of the worker: no key, no broker, no
environment. When it dies, every generation in it fails and the next one starts it anew.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog

from contracts.protocol.manifest import Manifest
from workers.errors import CrowdedOut, ExecutionFailed, InputsRefused, JobError, ModelUnusable
from workers.models.generation import config
from workers.models.generation.request import INPUTS, LOGPROBS, OUTPUTS, GenerationRequest
from workers.models.pipelines.base import Options, check_interface
from workers.models.store import Package
from workers.models.wire import Wire

LOAD_SECONDS = 600
_ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")
_REFUSALS: dict[str, type[JobError]] = {"refused": InputsRefused, "crowded": CrowdedOut, "failed": ExecutionFailed}

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a generation; `logprobs` is None if nobody asked."""

    reason: str
    prompt_tokens: int
    completion_tokens: int
    logprobs: list[float] | None


class Listener(Protocol):
    """Hears of one generation, always from the same thread."""

    def delta(self, text: str, tokens: int) -> None:
        """Hear of new text, and how many tokens it took."""

    def finished(self, end: Finished) -> None:
        """Hear of the end."""

    def failed(self, error: JobError) -> None:
        """Hear that nothing came of it."""


class GenerationModel:
    """One loaded model; `after` is called when a round of news has been heard."""

    batch_cap = 1

    def __init__(self, package: Package, *, provider: str, threads: int, most_active: int, cache_bytes: int) -> None:
        self.package = package
        self._after: Callable[[], None] = lambda: None
        _check_runtime()
        options = Options(self.manifest)
        data = package.read(self.manifest.entry)
        found = config.read_config(data, self.manifest)
        context = options.number("context_length", found.context_length, 2, found.context_length)
        options.number("max_output_tokens", 256, 1, context)
        options.number("template_tokens", 64, 0, context)
        options.done()
        spare = [LOGPROBS] if LOGPROBS in self.manifest.outputs else []
        check_interface(self.manifest, INPUTS, [*OUTPUTS, *spare])
        if Path(self.manifest.entry).name != config.FILENAME:
            raise ModelUnusable(f"the entry is not a {config.FILENAME}.", field="entry")
        for name in self.manifest.files:
            package.verify(name)
        tokens = max(cache_bytes // found.cache_bytes_per_token, 1)
        self._said = {
            "folder": str((package.folder / self.manifest.entry).parent),
            "provider": provider,
            "threads": threads,
            "limits": {"context": context, "active": most_active, "tokens": tokens},
        }
        self.provider = provider
        self.most_active = most_active
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._listeners: dict[int, Listener] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: Wire | None = None
        self._closed = False
        with self._lock:
            self._start_process()

    @property
    def manifest(self) -> Manifest:
        """The package's manifest."""
        return self.package.manifest

    @property
    def active(self) -> int:
        """How many generations are not finished."""
        return len(self._listeners)

    def start(self, request: GenerationRequest, listener: Listener) -> int:
        """Start a generation; returns its number.

        Raises:
            ExecutionFailed: the process cannot be started again.
        """
        with self._lock:
            if self._wire is None:
                try:
                    self._start_process()
                except ModelUnusable as error:
                    raise ExecutionFailed(error.detail) from error
            number = next(self._numbers)
            self._listeners[number] = listener
            assert self._wire is not None
            try:
                self._wire.send(["start", number, request.to_wire()])
            except OSError as error:
                if self._listeners.pop(number, None) is not None:  # else it has been told already
                    raise ExecutionFailed("the generating process is gone.") from error
        return number

    def stop(self, number: int) -> None:
        """Stop a generation; its listener hears of the end."""
        with self._lock:
            if self._wire is not None:
                try:
                    self._wire.send(["stop", number])
                except OSError:
                    log.info("generation-not-stopped", number=number)  # the process is gone, which stops it too

    def kill(self) -> None:
        """End a process that hangs; every generation in it fails."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the process for good."""
        self._closed = True
        self.kill()

    def _start_process(self) -> None:
        ours, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        root = str(Path(__file__).parents[3])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "workers.models.generation.host", json.dumps(self._said), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_file(sys.stderr) else subprocess.DEVNULL,
                env=environment,
            )
        wire = Wire(ours)
        ours.settimeout(LOAD_SECONDS)
        try:
            messages: list[Any] = []
            while not messages:
                messages = wire.take()
        except (EOFError, OSError) as error:
            self.kill()
            ours.close()
            raise ModelUnusable("the generating process ended while it loaded the model.", field="entry") from error
        if messages[0][0] != "ready":
            self._process.wait()
            ours.close()
            raise ModelUnusable(f"{messages[0][1]}", field=self.manifest.entry)
        ours.settimeout(None)
        self._wire = wire
        said = messages[0][1]
        self.provider = said["provider"]
        if said["fell_back"]:
            log.warning(
                "provider-fell-back", wanted=self._said["provider"], taken=self.provider, reason=said["fell_back"]
            )
        log.info("generation-ready", model=self.package.model_id.hex(), provider=self.provider, genai=said["version"])
        threading.Thread(target=self._listen, args=(wire, self._process), name="generation", daemon=True).start()

    def _listen(self, wire: Wire, process: subprocess.Popen[bytes]) -> None:
        try:
            while True:
                for events in wire.take():
                    for event in events:
                        self._hear(event)
                    self._after()
        except (EOFError, OSError):
            pass
        finally:
            with self._lock:
                self._wire = None
                lost, self._listeners = self._listeners, {}
            wire.sock.close()
            process.wait()
            if not self._closed:
                log.warning("generation-process-ended", status=process.returncode, lost=len(lost))
            for listener in lost.values():
                listener.failed(ExecutionFailed("the generating process ended."))
            self._after()

    def _hear(self, event: list[Any]) -> None:
        what, number, *rest = event
        # Without the lock: who holds it may wait for the process, and the process for us.
        listener = self._listeners.get(number)
        if listener is None:
            return
        if what == "delta":
            listener.delta(*rest)
            return
        self._listeners.pop(number, None)
        if what == "done":
            listener.finished(Finished(*rest))
        else:
            listener.failed(_REFUSALS[what](rest[0], field=rest[1]))

    def after_each_round(self, act: Callable[[], None]) -> None:
        """Say what to do when a round of news has been heard."""
        self._after = act


def is_installed() -> bool:
    """Tell whether onnxruntime-genai is here."""
    return importlib.util.find_spec("onnxruntime_genai") is not None


def _check_runtime() -> None:
    if not is_installed():
        raise ModelUnusable(
            "onnxruntime-genai is not installed.",
            field="task",
            remedy="Install the extra [llm], for CUDA [llm-gpu].",
        )


def _has_file(stream: Any) -> bool:
    try:
        stream.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    return True
