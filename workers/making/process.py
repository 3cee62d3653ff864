"""Has a model made by a process of its own, and takes from it a folder of plain files and a few numbers.

The process reads what strangers wrote: pickled weights, graphs, tokenizers. Under bubblewrap it has no network, sees
its source and the programs read-only, and writes one folder that nobody else uses. What it says is a stranger's word,
and what it leaves is taken only once it is gone: files, and no links to what it may not read. Called by the commands
that convert and quantise.
"""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from contracts.folders import homes_of
from workers import machine
from workers.errors import ExecutionFailed, InputsRefused, ModelUnusable, UnsafePackage, WorkerError
from workers.making.told import ended, unreadable
from workers.making.work import DOING
from workers.models.sandbox import Confinement, resident_bytes, start
from workers.models.sources import companion_files
from workers.models.wire import Garbled, Wire, printable

_Made = TypeVar("_Made")

LONGEST_SECONDS = 7_200.0
LOOK_SECONDS = 0.25
END_SECONDS = 30.0
# Of 2 bits a weight may become 32.
MOST_GROWTH = 16
ROOM_BYTES = 1 << 30
LEAST_FREE_BYTES = 256 << 20
_ERRORS: Mapping[str, type[WorkerError]] = {
    kind.code: kind for kind in (ModelUnusable, UnsafePackage, ExecutionFailed, InputsRefused)
}


def make(
    what: str,
    source: Path,
    into: Path,
    *,
    read: Callable[[Mapping[str, Any]], _Made],
    confinement: Confinement | None,
    sample: Path | None = None,
    seconds: float = LONGEST_SECONDS,
    **orders: Any,
) -> _Made:
    """Make `into` of `source`: `convert` or `quantize`; returns what is said of it, as `read` takes it.

    Without a confinement it is made in this process. A failure leaves nothing.

    Raises:
        ModelUnusable: `into` is not empty, or the process ended without having made it.
        WorkerError: what it says against the source.
    """
    source, into = source.resolve(), into.resolve()
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise ModelUnusable(f"{into} is not empty.", field="into", remedy="Name another folder.")
    into.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=into.parent, prefix=".making-") as folder:
        work = Path(folder)
        said = {
            "what": what,
            "source": str(source),
            "into": str(work / "made"),
            "sample": None if sample is None else str(sample.resolve()),
            **orders,
        }
        if confinement is None:
            made = read(DOING[what](said))
        else:
            made = read(_have_made(said, source, work, sample, confinement, seconds))
            take_files(work / "made")
        if into.exists():
            into.rmdir()
        (work / "made").rename(into)
    return made


def take_files(folder: Path) -> None:
    """Refuse what a stranger's process left unless it is folders and plain files, of this user alone.

    Raises:
        ModelUnusable: there is nothing, a link, a device, or a file with a second name.
    """
    try:
        _take(folder, folder)
    except OSError as error:
        raise ModelUnusable(f"what was made cannot be read: {error.strerror}.", field="path") from error


def _take(path: Path, folder: Path) -> None:
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode):
        path.chmod((found.st_mode & 0o755) | 0o700)
        for one in path.iterdir():
            _take(one, folder)
    elif stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        path.chmod((found.st_mode & 0o644) | 0o600)
    else:
        name = printable(path.relative_to(folder).as_posix())
        raise ModelUnusable(f"{name!r} was left, which is no plain file.", field="path")


def _have_made(
    said: Mapping[str, Any],
    source: Path,
    work: Path,
    sample: Path | None,
    confinement: Confinement,
    seconds: float,
) -> dict[str, Any]:
    given = [*_shown(source), *([] if sample is None else [sample])]
    process, ours = start(
        "workers.making.host",
        {**said, "writes": ROOM_BYTES + MOST_GROWTH * sum(map(_bytes, given))},
        folder=source,
        provider="cpu",
        confinement=confinement,
        also=[path for path in given if path.exists()],
        writable=work,
        environment={
            # Nothing is fetched, and no pickle is read that holds more than weights, whoever asks for it.
            "HF_HUB_OFFLINE": "1",
            "TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1",
            **dict.fromkeys(("HOME", "TMPDIR", "HF_HOME", "TORCHINDUCTOR_CACHE_DIR"), str(work)),
            "LOGNAME": "worker",
        },
    )
    try:
        with ours:
            facts = _listen(process, Wire(ours), work, time.monotonic() + seconds)
        try:
            status = process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            raise ended("it said that it was done and did not end.") from None
        if status:
            raise ended(f"status {status} after it said that it was done.")
        return facts
    finally:
        process.kill()
        process.wait()


def _listen(process: subprocess.Popen[bytes], wire: Wire, work: Path, until: float) -> dict[str, Any]:
    most = machine.memory_bytes() * 9 // 10
    while time.monotonic() < until:
        held = resident_bytes(process.pid)
        if held > most:
            raise ended(f"it held {held >> 20} MiB of memory, {most >> 20} allowed.")
        if machine.free_bytes(work) < LEAST_FREE_BYTES:
            raise ended(f"it left less than {LEAST_FREE_BYTES >> 20} MiB free at {work.parent}.")
        wire.sock.settimeout(LOOK_SECONDS)
        try:
            messages = wire.take()
        except TimeoutError:
            continue
        except (EOFError, OSError):
            raise ended(f"status {_status(process)}.") from None
        except Garbled as error:
            raise ended(str(error)) from error
        if messages:
            return _facts(messages[0][0])
    raise ended("it took too long.")


def _facts(said: Any) -> dict[str, Any]:
    match said:
        case ["made", dict() as facts]:
            return facts
        case ["refused", str() as code, str() as detail, (str() | None) as field, (str() | None) as remedy]:
            raise _ERRORS.get(code, ModelUnusable)(
                printable(detail),
                field=None if field is None else printable(field),
                remedy=None if remedy is None else printable(remedy),
            )
    raise unreadable()


def _status(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(1)
    except subprocess.TimeoutExpired:
        return None


def _shown(source: Path) -> Sequence[Path]:
    """Return what of a source is shown: of a file its companions too, of Hugging Face's cache what its links mean."""
    if source.is_file():
        return [source, *companion_files(source.parent)]
    return [home for home in homes_of(source) if home.is_dir()]


def _bytes(path: Path) -> int:
    """Return the size of a file, or of those in a folder; links to folders are not followed."""
    if not path.is_dir():
        return path.stat().st_size if path.exists() else 0
    files = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    return sum(file.stat().st_size for file in files if file.is_file())
