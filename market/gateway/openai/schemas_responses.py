"""The shapes of /v1/responses, for OpenAPI; its parser checks bodies itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from market.gateway.openai.schemas import Function, FunctionName, SampledRequest


class InputTextPart(BaseModel):
    """A part of a message of /v1/responses."""

    type: Literal["input_text", "output_text"]
    text: str


class InputMessage(BaseModel):
    """A message of /v1/responses; an earlier answer's own message is taken as it came."""

    type: Literal["message"] | None = None
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputTextPart]


class CallItem(BaseModel):
    """A call of a function; an earlier answer's own is taken as it came."""

    type: Literal["function_call"]
    id: str | None = None
    call_id: str
    name: str
    arguments: str
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class CallOutput(BaseModel):
    """What a call gave."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputTextPart]


class FunctionTool(Function):
    """A function that may be called; without `parameters` it takes none."""

    type: Literal["function"]


class FunctionNamed(FunctionName):
    """One of the tools."""

    type: Literal["function"]


class FunctionsAllowed(BaseModel):
    """A choice among some of the tools, and whether one of them must be called."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[FunctionNamed]


class TextFormat(BaseModel):
    """What the text is to be; `schema` with json_schema, `name` and `strict` mean nothing here."""

    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")


class TextConfig(BaseModel):
    """The form of the answer's text."""

    format: TextFormat | None = None


class ResponseRequest(SampledRequest):
    """What /v1/responses takes."""

    input: str | list[InputMessage | CallItem | CallOutput]
    instructions: str | None = Field(None, description="Goes before the input as a system's message.")
    max_output_tokens: int | None = None
    text: TextConfig | None = None
    tools: list[FunctionTool] | None = Field(None, max_length=128, description="As of chats.")
    tool_choice: Literal["none", "auto", "required"] | FunctionNamed | FunctionsAllowed | None = None
    parallel_tool_calls: bool | None = Field(None, description="false: one call at most.")
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20, description="So many of the likeliest tokens for each.")
    metadata: dict[str, str] | None = Field(None, description="Comes back with the answer.")
    store: bool | None = Field(None, description="Without effect: nothing is stored.")


class OutputText(BaseModel):
    """A text that was generated."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[Any]


class OutputMessage(BaseModel):
    """A message that was generated."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: Literal["in_progress", "completed", "incomplete"]
    content: list[OutputText]


class ResponseUsage(BaseModel):
    """Tokens as the model's tokenizer counts them."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: dict[str, int]
    output_tokens_details: dict[str, int]


class ResponseAnswer(BaseModel):
    """What /v1/responses answers."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["completed", "incomplete"]
    incomplete_details: dict[str, str] | None = None
    model: str
    output: list[OutputMessage | CallItem]
    usage: ResponseUsage
