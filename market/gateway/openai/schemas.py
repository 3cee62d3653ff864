"""The shapes of the OpenAI routes, for OpenAPI; the parsers check bodies themselves, against the model's manifest."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field


class Model(BaseModel):
    """A listed model; `task`, `tool_calls`, `unit`, `price` and `ready` are this market's."""

    id: str
    object: Literal["model"]
    created: int = Field(description="Always 0: the chain keeps no date of a listing.")
    owned_by: str
    task: str | None = None
    tool_calls: bool = Field(False, description="Whether a chat may offer it tools.")
    unit: str | None = None
    price: str | None = Field(None, description="What the cheapest live worker asks a unit, atomic token units.")
    ready: bool = False


class ModelList(BaseModel):
    """All listed models."""

    object: Literal["list"]
    data: list[Model]


class EmbeddingRequest(BaseModel):
    """What /v1/embeddings takes."""

    model: str
    input: str | list[str]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, description="Must be the model's own.")
    user: str | None = None


class Embedding(BaseModel):
    """One text's vector; as base64 it is little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens as the model's tokenizer counts them."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingAnswer(BaseModel):
    """What /v1/embeddings answers."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class RerankDocument(BaseModel):
    """A document as an object."""

    text: str


class RerankRequest(BaseModel):
    """What /v1/rerank and /v2/rerank take."""

    model: str
    query: str
    documents: list[str | RerankDocument]
    top_n: int | None = Field(None, ge=1, description="So many of the best; all, if not given.")
    return_documents: bool | None = None


class RerankResult(BaseModel):
    """One document's place; `index` counts as they were sent."""

    index: int
    relevance_score: float
    document: RerankDocument | None = None


class RerankAnswer(BaseModel):
    """What they answer, the best first."""

    id: str
    model: str
    results: list[RerankResult]
    usage: EmbeddingUsage


class StreamOptions(BaseModel):
    """What a stream brings beside its text."""

    include_usage: bool | None = None


class SampledRequest(BaseModel):
    """What all requests for generated text take."""

    model: str
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    user: str | None = None


class GenerationRequest(SampledRequest):
    """What both kinds of completions take."""

    max_tokens: int | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(
        None, ge=1, le=16, description="How many texts; the prompt is paid once, each text by itself."
    )


class TextPart(BaseModel):
    """A part of a message."""

    type: Literal["text"]
    text: str


class CalledFunction(BaseModel):
    """What was called; `arguments` are the JSON of an object, as it was generated."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call of a function."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class Message(BaseModel):
    """A message of a chat; of the assistant with `tool_calls`, of a tool with the `tool_call_id` that it answers."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = Field(None, description="May be missing beside tool_calls only.")
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None


class Function(BaseModel):
    """A function that may be called; without `parameters` it takes none."""

    name: str = Field(pattern="^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = Field(None, description="A JSON schema of type object.")
    strict: bool | None = Field(None, description="Refuse the schema if any word of it is not understood.")


class Tool(BaseModel):
    """Something to call."""

    type: Literal["function"]
    function: Function


class FunctionName(BaseModel):
    """A function by its name."""

    name: str


class NamedFunction(BaseModel):
    """One of the tools."""

    type: Literal["function"]
    function: FunctionName


class AllowedFunctions(BaseModel):
    """Some of the tools, and whether one of them must be called."""

    mode: Literal["auto", "required"]
    tools: list[NamedFunction]


class AllowedTools(BaseModel):
    """A choice among some of the tools."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedFunctions


class SchemaFormat(BaseModel):
    """A JSON schema that the text keeps to; `name` and `strict` mean nothing here."""

    name: str | None = None
    strict: bool | None = None
    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """What the text is to be."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None


class ChatRequest(GenerationRequest):
    """What /v1/chat/completions takes."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20, description="With logprobs: so many of the likeliest tokens.")
    response_format: ResponseFormat | None = Field(None, description="Beside tools: of the text where none is called.")
    tools: list[Tool] | None = Field(
        None, max_length=128, description="Of models that GET /v1/models says tool_calls of."
    )
    tool_choice: Literal["none", "auto", "required"] | NamedFunction | AllowedTools | None = None
    parallel_tool_calls: bool | None = Field(None, description="false: one call at most.")


class TextRequest(GenerationRequest):
    """What /v1/completions takes."""

    prompt: str | list[str]
    logprobs: int | None = Field(None, ge=0, le=20, description="0: the chosen tokens' own; else of the likeliest too.")


class Usage(BaseModel):
    """Tokens as the model's tokenizer counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatMessage(BaseModel):
    """A generated message."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(BaseModel):
    """One of the texts of a chat."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length", "tool_calls"]
    logprobs: dict[str, Any] | None = None


class RawTexts(BaseModel):
    """The texts as they were generated, calls and all: their hash stands in the receipt."""

    texts: list[str]


class ChatAnswer(BaseModel):
    """What /v1/chat/completions answers."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    market: RawTexts | None = Field(None, description="Where tools were offered.")


class TextChoice(BaseModel):
    """One of the texts of a completion."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: dict[str, Any] | None = None


class TextAnswer(BaseModel):
    """What /v1/completions answers."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage


class ErrorObject(BaseModel):
    """OpenAI's error; `code` is one of this market's stable codes."""

    message: str
    type: str
    param: str | None
    code: str
    retry: Literal["never", "same", "other_worker", "later"]
    remedy: str | None = None


class Refusal(BaseModel):
    """A refusal."""

    error: ErrorObject


class PaymentRefusal(Refusal):
    """402: what to pay, to whom, where."""

    gateway: str
    escrow: str
    chainId: int  # noqa: N815 - as on the other routes
    token: str
    modelId: str  # noqa: N815
    offers: list[dict[str, Any]]
    required: str | None = Field(None, description="Cumulative amount that a voucher must reach, atomic token units.")
