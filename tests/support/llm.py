"""Where a real language model for tests lies: not in the repository, so tests that want it skip without it."""

import os
from pathlib import Path

NAME = "SmolLM2-135M-Instruct-int4"


def find() -> Path | None:
    """Return the folder that MARKET_TEST_LLM names, or `../shared/models/SmolLM2-135M-Instruct-int4`, if it is there."""
    named = os.environ.get("MARKET_TEST_LLM")
    folder = Path(named) if named else Path(__file__).parents[3] / "shared" / "models" / NAME
    return folder if (folder / "genai_config.json").is_file() else None


# For a model of ChatML: shows functions, and writes calls between the marks of the format "hermes".
TOOL_TEMPLATE = """
{%- if tools %}
{{- '<|im_start|>system\\nYou may call functions. Their signatures:\\n' }}
{%- for tool in tools %}{{- (tool | tojson) + '\\n' }}{%- endfor %}
{{- 'Write a call as <tool_call>\\n{"name": "…", "arguments": {…}}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\\n' + message.content }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + '}\\n</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
