"""The process of one stranger's model: screens the file, opens it, tries it, then runs what it is sent.

Started by `workers.models.sandbox` as a program with its orders and one socket; it holds no key and no connection.
Whatever the model does to it, the worker sees at most that it ended. Ends when the socket does.
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

from workers.models.sandbox import limit_here


def main(orders: dict[str, Any], descriptor: int) -> None:
    """Open the model and serve it."""
    limit_here(orders["memory_bytes"], cards=orders["cards"])
    # Its memory is limited already: what is imported late counts too.
    from contracts.protocol.errors import CodedError
    from workers.errors import ModelUnusable
    from workers.models.wire import Wire

    wire = Wire(socket.socket(fileno=descriptor))
    try:
        model, facts = _open(orders)
    except MemoryError:
        wire.send(["unusable", ModelUnusable.code, "out of memory.", "entry"])
        return
    except CodedError as refused:
        wire.send(["unusable", refused.code, refused.detail, refused.field])
        return
    wire.send(["ready", facts])
    _serve(wire, model)


def _open(orders: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from contracts.protocol.manifest import FILENAME, Manifest
    from workers.models.opening import open_model, screen_file, try_model, warm_up
    from workers.models.store import Package

    folder, entry = Path(orders["folder"]), orders["entry"]
    manifest = Manifest.parse((folder / FILENAME).read_bytes())
    package = Package(manifest.model_id, manifest, folder)
    screen_file(package, entry)
    model = open_model(
        package,
        entry=entry,
        provider=orders["provider"],
        threads=orders["threads"],
        cuda_graphs=orders["cuda_graphs"],
        memory_bytes=orders["memory_bytes"],
    )
    batch = orders["batch"]
    if not batch:
        try_model(model, entry)
        batch = warm_up(model)
    model.batch_cap = batch
    return model, {"batch": batch, "providers": model.graph.session.get_providers()}


def _serve(wire: Any, model: Any) -> None:
    from workers.models.isolated.messages import pack_outcomes, read_requests
    from workers.models.serving import serve

    try:
        while True:
            for (what, number, *rest), data in wire.take():
                if what != "run":
                    wire.send(*_measured(model, what, number, rest))
                    continue
                for outcomes, _ in serve(model, read_requests(rest[0], data)):
                    wire.send(*pack_outcomes(number, outcomes))
    except (EOFError, OSError):
        return


def _measured(model: Any, what: str, number: int, rest: list[Any]) -> tuple[list[Any], list[Any]]:
    """Do what `worker tune` asks of a model."""
    from workers.errors import ExecutionFailed
    from workers.models.isolated.messages import pack_given
    from workers.models.timing import give, median_seconds

    try:
        if what == "give":
            return pack_given(number, give(model))
        return ["took", number, median_seconds(model, *rest)], []
    except ExecutionFailed as error:
        return ["failed", number, error.detail], []


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), int(sys.argv[2]))
