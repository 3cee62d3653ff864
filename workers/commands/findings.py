"""The checks of `worker doctor` and `worker init`: each says what it found, what is wrong and how to mend it.

A fault keeps the worker from serving or being paid; a note is worth a look. No check changes anything.
"""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Literal

import httpx

from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import checksum
from contracts.protocol.money import format_amount
from workers import machine
from workers import node as nodes
from workers.errors import ClockOff, Convicted, DiskFull, GatewayNotReady
from workers.settings import WorkerSettings

# Deadlines are half a minute away: of a clock that differs more than this each side sees another deadline.
MOST_SKEW_SECONDS = 10.0
OLD_BLOCK_SECONDS = 300.0
LEAST_FREE_BYTES = 1 << 30
LOW_FREE_BYTES = 10 << 30
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    state: Literal["ok", "note", "fault"]
    detail: str
    code: str | None = None
    remedy: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it without what is empty."""
        return {name: value for name, value in asdict(self).items() if value is not None}


class Noted(Exception):
    """Something is worth a look; the worker serves all the same."""

    def __init__(self, detail: str, *, remedy: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy


class Checks:
    """Findings, one check after another."""

    def __init__(self) -> None:
        self.rows: list[Finding] = []

    def add(self, name: str, look: Callable[[], str]) -> bool:
        """Make one check; tells whether it found no fault."""
        try:
            self.rows.append(Finding(name, "ok", look()))
        except Noted as error:
            self.rows.append(Finding(name, "note", error.detail, remedy=error.remedy))
        except CodedError as error:
            where = f"{error.field}: " if error.field else ""
            self.rows.append(Finding(name, "fault", where + error.detail, error.code, error.remedy))
        return self.rows[-1].state != "fault"

    @property
    def faults(self) -> int:
        """How many checks found a fault."""
        return sum(row.state == "fault" for row in self.rows)

    def lines(self) -> list[str]:
        """Say it for people."""
        marks = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}
        said = []
        for row in self.rows:
            said.append(f"{marks[row.state]}  {row.check.ljust(14)} {row.detail}")
            if row.remedy:
                said.append(f"{' ' * 22}→ {row.remedy}")
        return said


def key_file(path: Path) -> str:
    """Look whether others can read a keystore or password file."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise Noted(f"others can read {path} (mode {mode:03o}).", remedy=f"chmod 600 {path}")
    return f"{path} is for this user alone"


def stake(side: nodes.ChainSide) -> str:
    """Look at registration and stake."""
    operator = nodes.check_registered(side)
    state = side.contracts.workers.worker(side.key.address)
    text = f"operator {checksum(operator)}, {format_amount(state.stake)} at stake"
    if state.thawing:
        raise Noted(f"{text}, of which {format_amount(state.thawing)} thaws.", remedy="`worker withdraw` pays it out.")
    return text


def gateway_answer(url: str) -> tuple[dict[str, Any], float | None]:
    """Return a gateway's status, and how many seconds its clock is ahead of ours if it says.

    Raises:
        GatewayNotReady: it does not answer as a gateway.
    """
    before = time.time()
    try:
        answer = httpx.get(f"{url.rstrip('/')}/market/v1/status", timeout=TIMEOUT_SECONDS).raise_for_status()
        said = answer.json()
        if not isinstance(said, dict) or not {"gateway", "escrow", "chainId", "contracts"} <= said.keys():
            raise ValueError(url)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise GatewayNotReady(
            f"{url} does not answer as a gateway.",
            field="gateway",
            remedy="Check the address, this machine's network and its DNS.",
        ) from error
    middle = (before + time.time()) / 2
    date = answer.headers.get("date")
    try:
        # The header has whole seconds, cut off.
        return said, None if date is None else parsedate_to_datetime(date).timestamp() + 0.5 - middle
    except ValueError:
        return said, None


def audits(url: str, worker: bytes) -> str:
    """Say what the gateway's audits hold for and against this worker.

    Raises:
        Convicted: two other workers agreed against it.
        GatewayNotReady: the gateway does not tell.
    """
    name = checksum(worker)
    try:
        answer = httpx.get(f"{url.rstrip('/')}/market/v1/audits/workers", timeout=TIMEOUT_SECONDS).raise_for_status()
        row = next((row for row in answer.json() if row["worker"] == name), None)
        passed, number = (0, None) if row is None else (int(row["agreed"]), row["conviction"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise GatewayNotReady(f"{url} does not tell its audits.", field="gateway") from error
    if number is not None:
        raise Convicted(
            f"audit {number} convicted this worker; the gateway sells none of its offers.",
            remedy=f"See {url.rstrip('/')}/market/v1/audits/{number}; run the listed files unchanged (`worker check`), "
            "then ask the gateway's operator for a pardon.",
        )
    return f"{passed} passed, not convicted"


def clock(ahead_of_us: float | None, block_at: int | None) -> str:
    """Compare this machine's clock with the gateway's and with the newest block's time.

    Raises:
        ClockOff: they disagree.
    """
    if ahead_of_us is not None and abs(ahead_of_us) > MOST_SKEW_SECONDS:
        raise ClockOff(
            f"this clock is {abs(ahead_of_us):.0f} s {'behind' if ahead_of_us > 0 else 'ahead of'} the gateway's.",
            remedy="Switch on time synchronisation: `timedatectl set-ntp true`.",
        )
    said = [] if ahead_of_us is None else [f"within {abs(ahead_of_us) + 1:.0f} s of the gateway's"]
    if block_at is not None:
        age = time.time() - block_at
        if age < -MOST_SKEW_SECONDS:
            raise ClockOff(
                f"the chain's newest block is {-age:.0f} s ahead of this clock.",
                remedy="Switch on time synchronisation: `timedatectl set-ntp true`.",
            )
        if age > OLD_BLOCK_SECONDS:
            raise Noted(
                f"the chain's newest block is {age:.0f} s old.",
                remedy="The node lies behind or the chain stands still: look at the node of WORKER_RPC_URL.",
            )
        said.append(f"newest block {max(age, 0):.0f} s old")
    return ", ".join(said) or "nothing to compare with"


def disk(settings: WorkerSettings) -> str:
    """Look at the room for packages and papers.

    Raises:
        DiskFull: there is less than 1 GiB, or a folder cannot be written.
    """
    said = []
    for name, folder in (("WORKER_MODEL_DIR", settings.model_dir), ("WORKER_STATE_DIR", settings.state_dir)):
        if not machine.can_write(folder):
            raise DiskFull(f"{folder} cannot be written.", field=name, remedy="Name a folder of this user's.")
        free = machine.free_bytes(folder)
        text = f"{machine.gibibytes(free)} free at {folder}"
        remedy = "Make room, or name a folder on another disk."
        if free < LEAST_FREE_BYTES:
            raise DiskFull(f"{text}.", field=name, remedy=remedy)
        if free < LOW_FREE_BYTES and name == "WORKER_MODEL_DIR":
            raise Noted(f"{text}; large models may not fit.", remedy=remedy)
        said.append(text)
    return ", ".join(said)


def memory(settings: WorkerSettings) -> str:
    """Compare the budget of models with the machine's memory."""
    has = machine.memory_bytes()
    if settings.memory_budget_bytes > has:
        raise Noted(
            f"models may take {machine.gibibytes(settings.memory_budget_bytes)}, "
            f"the machine has {machine.gibibytes(has)}.",
            remedy="Set WORKER_MEMORY_BUDGET_BYTES below it.",
        )
    return f"{machine.gibibytes(has)}, {machine.gibibytes(settings.memory_budget_bytes)} of it for models"


def broker(settings: WorkerSettings) -> str:
    """Look for a broker: the one that is named, or a server to start behind a link."""
    if settings.gateway_url is None or "redis_url" in settings.model_fields_set:
        return f"Redis {nodes.open_redis(settings).info('server').get('redis_version')}"
    from workers.link.broker import find_server

    return f"embedded: {find_server().name}"


def runtime(settings: WorkerSettings) -> str:
    """Say which execution provider will be used."""
    from workers.models.generation.model import is_installed
    from workers.models.runtime import choose_provider, version

    texts = "is installed" if is_installed() else "is not installed: no text generation"
    return f"{choose_provider(settings.provider)}, onnxruntime {version()}; onnxruntime-genai {texts}"


def gpus() -> str:
    """Name the cards, and look whether onnxruntime could use them."""
    from workers.models.runtime import available_providers

    found = machine.find_gpus()
    if not found:
        return "no NVIDIA card; models run on the CPU"
    text = "; ".join(
        f"{gpu.name}, {'?' if gpu.memory_bytes is None else machine.gibibytes(gpu.memory_bytes)}, driver {gpu.driver}"
        for gpu in found
    )
    if not {"cuda", "tensorrt"} & set(available_providers()):
        raise Noted(
            f"{text}; this onnxruntime cannot use it.",
            remedy="Install the extra `gpu` in place of `cpu`: RUNTIME=gpu make install.",
        )
    return text


def metrics_port(settings: WorkerSettings) -> str:
    """Look whether the metrics' port can be had."""
    port = settings.metrics_port
    if port is None:
        return "no port opened (WORKER_METRICS_PORT is unset); nothing needs to reach this machine"
    if port and not machine.port_is_free(settings.metrics_host, port):
        raise Noted(
            f"{settings.metrics_host}:{port} is in use.",
            remedy="Fine if this worker runs now; else set WORKER_METRICS_PORT to another.",
        )
    return f"{settings.metrics_host}:{port} for metrics; nothing else listens"


def sandbox(settings: WorkerSettings, owners: Mapping[str, bytes], ours: frozenset[bytes]) -> str:
    """Say which models run in the worker's own process and which in a sandbox; `owners` by model.

    Raises:
        SandboxMissing: a stranger's model would be refused here.
    """
    from workers.isolation import REMEDY, confinement_for
    from workers.models.sandbox import find_bubblewrap

    found = find_bubblewrap()
    places = {name: confinement_for(owner, ours=ours, settings=settings) for name, owner in owners.items()}
    boxed = [name for name, place in places.items() if place is not None]
    said = "bubblewrap works here" if found.program else found.fault
    if owners:
        inside = [name for name in places if name not in boxed]
        said += f"; in processes of their own: {_names(boxed)}; in the worker's own: {_names(inside)}"

    if settings.isolation == "off":
        raise Noted(f"{said}; WORKER_ISOLATION is off.", remedy="Leave it out unless you trust every owner you serve.")
    if found.program is None:
        if settings.isolation == "limits":
            said += "; strangers' models have limits, which are no boundary"
        raise Noted(f"{said}.", remedy=REMEDY)
    return said


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"
