"""A text-generating model as the worker holds it: a process of its own, and who waits for what it says.

The process gets a checked package's folder, one socket and nothing else of the worker: no key, no broker, no
environment; a stranger's is confined by `workers.models.sandbox`. When it dies, every generation in it fails and the
next one starts it anew. What it says is bounded by what was asked: a process that says more is ended.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from contracts.protocol.manifest import Manifest
from contracts.protocol.tool_formats import TOOL_FORMAT, TOOL_FORMATS
from workers import telemetry
from workers.errors import CrowdedOut, ExecutionFailed, InputsRefused, JobError, ModelDied, ModelUnusable
from workers.models.deaths import Deaths
from workers.models.generation import config
from workers.models.generation.heard import Heard, Listener, listed, read_ready
from workers.models.generation.request import INPUTS, LOGPROBS, OUTPUTS, TOP, GenerationRequest
from workers.models.pipelines.base import Options, check_interface
from workers.models.sandbox import ROOT, Confinement, resident_bytes, start
from workers.models.store import Package
from workers.models.wire import Garbled, Message, Wire, printable

LOAD_SECONDS = 600
SEND_SECONDS = 10
_ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")
_REFUSALS: dict[str, type[JobError]] = {"refused": InputsRefused, "crowded": CrowdedOut, "failed": ExecutionFailed}

log = structlog.get_logger(__name__)


class GenerationModel:
    """One loaded model; `after` is called when a round of news has been heard."""

    batch_cap = 1

    def __init__(
        self,
        package: Package,
        *,
        provider: str,
        threads: int,
        most_active: int,
        cache_bytes: int,
        confinement: Confinement | None = None,
        deaths: Deaths | None = None,
        together: bool = True,
    ) -> None:
        self.package = package
        self._confinement = confinement
        self._deaths = deaths or Deaths()
        self._after: Callable[[], None] = lambda: None
        _check_runtime()
        options = Options(self.manifest)
        data = package.read(self.manifest.entry)
        found = config.read_config(data, self.manifest)
        context = options.number("context_length", found.context_length, 2, found.context_length)
        options.number("max_output_tokens", 256, 1, context)
        options.number("template_tokens", 64, 0, context)
        tool_format = options.choice(TOOL_FORMAT, "", ("", *TOOL_FORMATS)) or None
        options.done()
        spare = [one for one in (LOGPROBS, *TOP) if one in self.manifest.outputs]
        check_interface(self.manifest, INPUTS, [*OUTPUTS, *spare])
        if Path(self.manifest.entry).name != config.FILENAME:
            raise ModelUnusable(f"the entry is not a {config.FILENAME}.", field="entry")
        for name in self.manifest.files:
            package.verify(name)
        tokens = max(cache_bytes // found.cache_bytes_per_token, 1)
        self._said = {
            "folder": str((package.folder / self.manifest.entry).parent.resolve()),
            "decoder": found.decoder,
            "heads": found.heads,
            "head_size": found.head_size,
            "provider": provider,
            "together": together,
            "threads": threads,
            "tool_format": tool_format,
            "limits": {
                "context": context,
                "active": most_active,
                "tokens": tokens,
                "vocabulary": found.vocabulary,
            },
        }
        if confinement is not None:
            self._said["screen"] = [name for name in _names_beside(self.manifest) if name.endswith(".onnx")]
        self._context = context
        self.provider = provider
        self.most_active = most_active
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._listeners: dict[int, Heard] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: Wire | None = None
        self._closed = False
        self._end: tuple[str, str] | None = None
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
            ModelWithdrawn: it ended too often.
        """
        self._deaths.check(self.package.model_id)
        with self._lock:
            if self._wire is None:
                try:
                    self._start_process()
                except ModelUnusable as error:
                    self._deaths.note(self.package.model_id, "load", error.detail)
                    raise ModelDied(error.detail) from error
            number = next(self._numbers)
            self._listeners[number] = Heard(listener, request, self._context)
            assert self._wire is not None
            try:
                self._wire.send(["start", number, request.to_wire()])
            except OSError as error:
                self.kill("died", "it did not read what it was sent.")
                if self._listeners.pop(number, None) is not None:  # else it has been told already
                    raise ModelDied("the generating process is gone.") from error
        return number

    def stop(self, number: int) -> None:
        """Stop a generation; its listener hears of the end."""
        with self._lock:
            if self._wire is not None:
                try:
                    self._wire.send(["stop", number])
                except OSError:
                    log.info("generation-not-stopped", number=number)  # the process is gone, which stops it too

    def kill(self, cause: str = "overdue", detail: str = "it hung.") -> None:
        """End a process that hangs or does what it must not; every generation in it fails."""
        process = self._process
        if process is not None:
            self._end = self._end or (cause, detail)
            process.kill()

    def watch(self) -> None:
        """End a stranger's process that holds more memory than it may; called now and again while it generates."""
        process = self._process
        if self._confinement is not None and process is not None:
            held, most = resident_bytes(process.pid), self._confinement.memory_bytes
            if held > most:
                self.kill("memory", f"it held {held >> 20} MiB of memory, {most >> 20} allowed.")

    def close(self) -> None:
        """End the process for good."""
        self._closed = True
        self.kill()

    def _start_process(self) -> None:
        self._process, ours = self._launch()
        telemetry.MODEL_STARTS.inc()
        wire = Wire(ours)
        ours.settimeout(self._confinement.load_seconds if self._confinement else LOAD_SECONDS)
        try:
            messages: list[Message] = []
            while not messages:
                messages = wire.take()
            said = read_ready(messages[0][0])
        except (EOFError, OSError, Garbled) as error:
            self._drop(ours)
            raise ModelUnusable("the generating process ended while it loaded the model.", field="entry") from error
        except ModelUnusable as error:
            self._drop(ours)
            error.field = error.field or self.manifest.entry
            raise
        ours.settimeout(None)
        # A process that does not read keeps nobody waiting.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", SEND_SECONDS, 0))
        self._wire, self._end = wire, None
        self.provider = said["provider"]
        if said["fell_back"]:
            log.warning(
                "provider-fell-back", wanted=self._said["provider"], taken=self.provider, reason=said["fell_back"]
            )
        log.info(
            "generation-ready",
            model=self.package.model_id.hex(),
            provider=self.provider,
            genai=said["version"],
            advance=said["advance"],
            **({"why": said["why"]} if said["why"] else {}),
        )
        self.together = said["advance"] == "together"
        threading.Thread(target=self._listen, args=(wire, self._process), name="generation", daemon=True).start()

    def _launch(self) -> tuple[subprocess.Popen[bytes], socket.socket]:
        module = "workers.models.generation.host"
        if self._confinement is not None:
            return start(
                module,
                self._said,
                folder=self.package.folder,
                provider=str(self._said["provider"]),
                confinement=self._confinement,
            )
        ours, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(self._said), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_file(sys.stderr) else subprocess.DEVNULL,
                env=environment,
            )
        return process, ours

    def _drop(self, ours: socket.socket) -> None:
        """End a process that did not become ready."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        ours.close()

    def _listen(self, wire: Wire, process: subprocess.Popen[bytes]) -> None:
        try:
            while True:
                for events, _ in wire.take():
                    for event in listed(events):
                        self._hear(event)
                    self._after()
        except (EOFError, OSError):
            pass
        except Garbled as error:
            self.kill("garbled", f"it said what it must not: {error}")
        finally:
            process.kill()
            process.wait()
            with self._lock:
                lost, self._listeners = self._listeners, {}
                cause, detail = self._end or ("died", f"it died ({process.returncode}).")
                if not self._closed:
                    self._deaths.note(self.package.model_id, cause, f"{detail} {len(lost)} generations were lost.")
                # Last: whoever finds it gone starts another, unless it has died too often.
                self._wire = None
            wire.sock.close()
            for heard in lost.values():
                heard.listener.failed(ModelDied(f"the generating process ended: {detail}"))
            self._after()

    def _hear(self, event: Any) -> None:
        # Without the lock: who holds it may wait for the process, and the process for us.
        match event:
            case ["delta", int() as number, str() as text, int() as tokens]:
                heard = self._listeners.get(number)
                if heard is not None:
                    heard.delta(text, tokens)
                    heard.listener.delta(text, tokens)
            case ["top", int() as number, row]:
                heard = self._listeners.get(number)
                if heard is not None:
                    heard.top(row)
            case ["done", int() as number, str() as reason, int() as prompt, int() as made, logprobs]:
                heard = self._listeners.get(number)
                if heard is not None:
                    end = heard.end(reason, prompt, made, logprobs)
                    self._listeners.pop(number, None)
                    heard.listener.finished(end)
            case ["refused" | "crowded" | "failed" as what, int() as number, str() as detail, str() | None as field]:
                heard = self._listeners.pop(number, None)
                if heard is not None:
                    heard.listener.failed(_REFUSALS[what](printable(detail), field=field and printable(field)))
            case _:
                raise Garbled("no event.")

    def after_each_round(self, act: Callable[[], None]) -> None:
        """Say what to do when a round of news has been heard."""
        self._after = act


def is_installed() -> bool:
    """Tell whether onnxruntime-genai is here."""
    return importlib.util.find_spec("onnxruntime_genai") is not None


def _names_beside(manifest: Manifest) -> list[str]:
    """Return the package's files in the entry's folder, by their names there."""
    start_of = manifest.entry.removesuffix(Path(manifest.entry).name)
    return [name.removeprefix(start_of) for name in manifest.files if name.startswith(start_of)]


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
