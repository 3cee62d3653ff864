"""How models write calls of functions into their text: workers hold a text to it, gateways read the calls from it.

A package's manifest names its format in the option `tool_format`; without one its model calls nothing. Pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType

TOOL_FORMAT = "tool_format"
FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
MAX_TOOLS = 128
# Of all functions together, as the JSON that a model is shown.
MAX_TOOLS_BYTES = 1 << 16
# Deeper JSON is a burden to every parser on its way.
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """A call is `begin`, a JSON object with the function's `name` and its arguments as `arguments`, and `end`.

    `space` stands around the object and between calls. Without `begin` only a whole text can be a call, one.
    """

    begin: str
    end: str
    arguments: str
    space: str


TOOL_FORMATS = MappingProxyType(
    {
        "hermes": ToolFormat("<tool_call>", "</tool_call>", "arguments", "\n"),
        "llama3_json": ToolFormat("", "", "parameters", ""),
    }
)
