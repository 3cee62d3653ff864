"""The process in which a model is made: reads what it was given, writes one folder, says what came of it, and ends.

Started by `workers.models.sandbox` as a program with its orders and one socket; it holds no key and no connection.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import Any

from workers.models.sandbox import limit_here


def main(orders: dict[str, Any], descriptor: int) -> None:
    """Make it, and say `["made", facts]` or `["refused", code, detail, field, remedy]`."""
    limit_here(orders["memory_bytes"], cards=orders["cards"], writes=orders["writes"])
    # It is limited already: what is imported late counts too.
    from contracts.protocol.errors import CodedError
    from workers.errors import ModelUnusable
    from workers.making.work import DOING
    from workers.models.wire import Wire, printable

    wire = Wire(socket.socket(fileno=descriptor))
    try:
        facts = DOING[orders["what"]](orders)
    except CodedError as refused:
        wire.send(["refused", refused.code, refused.detail, refused.field, refused.remedy])
    except Exception as error:  # the parts that read checkpoints raise whatever they like
        wire.send(["refused", ModelUnusable.code, printable(f"{type(error).__name__}: {error}"), None, None])
    else:
        wire.send(["made", facts])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # without the ends of PyTorch's threads, which have been known not to come
