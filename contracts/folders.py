"""Where the files of a model's folder may lie: a link that leads elsewhere would show what nobody meant to show."""

from __future__ import annotations

from pathlib import Path


def homes_of(folder: Path) -> tuple[Path, ...]:
    """Return the folder itself, resolved, and where else its links may lead.

    Hugging Face's cache keeps the files of a snapshot in `blobs` beside all snapshots.
    """
    whole = folder.resolve()
    return (whole, *([whole.parents[1] / "blobs"] if whole.parent.name == "snapshots" else []))


def lies_in(file: Path, homes: tuple[Path, ...]) -> bool:
    """Tell whether a file, its links followed, lies in one of the folders."""
    return any(file.resolve().is_relative_to(home) for home in homes)
