"""Functions that a chat may call: what a worker's grammar lets through, token by token, and whole generations."""

import json
import time

import numpy as np
import pytest

pytest.importorskip("onnxruntime_genai", reason="the extra [llm] is not installed")

from contracts.protocol.tensors import Tensor
from contracts.protocol.tool_formats import TOOL_FORMATS
from tests.support import models, tiny_llm
from workers.errors import InputsRefused, ModelUnusable
from workers.models.generation.genai import og
from workers.models.generation.language import Guide, ToolWords, UnfitTemplate, open_empty
from workers.models.generation.request import read_request
from workers.models.generation.trial import run_trials
from workers.models.sessions import SessionCache

pytestmark = pytest.mark.integration

FORM = TOOL_FORMATS["hermes"]
MARKS = (FORM.begin, FORM.end)
END = tiny_llm.END


def function(name, parameters=None, **said):
    said |= {} if parameters is None else {"parameters": parameters}
    return {"type": "function", "function": {"name": name, **said}}


def properties(*required, **kinds):
    return {"type": "object", "properties": kinds, "required": list(required), "additionalProperties": False}


DAYS = {"type": "integer", "minimum": 0, "maximum": 9}
WEATHER = function("weather", properties("city", city={"enum": ["Rome", "Köln"]}, days=DAYS), strict=True)
CLOCK = function("clock")
TOOLS = [WEATHER, CLOCK]


def tokenizer_with(words):
    raw = json.loads(tiny_llm.tokenizer_json())
    for place, word in enumerate(words):
        number = tiny_llm.VOCABULARY + place
        raw["added_tokens"].append({**raw["added_tokens"][0], "id": number, "content": word, "special": False})
        raw["model"]["vocab"][word] = number
    return json.dumps(raw).encode()


class Speaker:
    """Wants to write a text, and is held to a grammar."""

    def __init__(self, folder, words=(), tool_format="hermes"):
        config = tiny_llm.config(context=tiny_llm.TOOL_CONTEXT)
        config["model"]["vocab_size"] = self.vocabulary = tiny_llm.VOCABULARY + len(words)
        contents = tiny_llm.tool_files() | {
            "tokenizer.json": tokenizer_with(words),
            "genai_config.json": json.dumps(config).encode(),
        }
        self.manifest = tiny_llm.tool_package(folder, contents, tool_format=tool_format)
        self.model = open_empty(str(folder), "model.onnx", self.vocabulary)
        self.tokenizer = og.Tokenizer(self.model)
        self.words = ToolWords(self.tokenizer, TOOL_FORMATS[tool_format])

    def request(self, tools=TOOLS, **parameters):
        chat = {"messages": [{"role": "user", "content": "x"}], "tools": tools}
        prompt = [
            Tensor.from_numpy("prompt", np.array([json.dumps(chat if tools else chat["messages"])], dtype=object))
        ]
        request = read_request(self.manifest, prompt, {"format": "chat", "temperature": 0, **parameters})
        return {**request.to_wire(), "grammar": self.words.whole(request.grammar)}

    def guide(self, *args, **parameters):
        return Guide(self.model, self.request(*args, **parameters), np.array([65], np.int32), 4_000)

    def say(self, text, *args, **parameters):
        """Return what is written instead of a text: the text itself where it may be written, and end there."""
        guide, said = self.guide(*args, **parameters), []
        wanted = [int(token) for token in (self.tokenizer.encode(text) if isinstance(text, str) else text)]
        for token in [*wanted, END]:
            logits = np.zeros(self.vocabulary, np.float32)
            logits[token], logits[END] = 9, 5
            said.append(guide.choose(logits))
            if said[-1] != token:
                break
        whole = str(self.tokenizer.decode(np.array([one for one in said if one != END], np.int32)))
        return whole if said[-1] == END and len(said) == len(wanted) + 1 else whole + "…"


@pytest.fixture(scope="module", params=["letters", "tokens"])
def speaker(request, tmp_path_factory):
    return Speaker(tmp_path_factory.mktemp(request.param), MARKS if request.param == "tokens" else ())


def call(name="weather", arguments='{"city": "Rome"}'):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


TEXT = "Is <b> a <tool_box>? 日本, {}"
BOTH = call() + "\n" + call("clock", "{}")
FREE = {"auto": {}, "required": {"tool_choice": "required"}, "none": {"tool_choice": "none"}}
ONE = {"parallel_tool_calls": False}
CLOCK_ONLY = {"allowed_tools": '["clock"]'}
ALLOWED = [
    (TEXT, FREE["auto"]),
    ("", FREE["auto"]),
    ("almost <tool_cal", FREE["auto"]),
    (call(), FREE["auto"]),
    ("Let me see.\n" + call(), FREE["auto"]),
    (BOTH, FREE["auto"]),
    (BOTH, FREE["required"]),
    (call(arguments='{"city": "Köln", "days": 7}'), FREE["required"]),
    (call(), FREE["required"] | ONE),
    (call("clock", "{}"), FREE["required"] | CLOCK_ONLY),
    (TEXT, CLOCK_ONLY),
    (TEXT, FREE["none"]),
    (BOTH, {"json_schema": '{"type": "boolean"}'}),
    ("true", {"json_schema": '{"type": "boolean"}'}),
    ("true", {"json_schema": '{"type": "boolean"}', "tool_choice": "none"}),
]
NOT_ALLOWED = [
    ("Sure.", FREE["required"], ""),
    ("", FREE["required"], ""),
    (BOTH, FREE["required"] | ONE, call()),
    (BOTH, ONE, call()),
    (call() + "\nDone.", FREE["auto"], call() + "\n"),
    ("<tool_call> is a mark", FREE["auto"], "<tool_call>"),
    (call("other", "{}"), FREE["auto"], '<tool_call>\n{"name": "'),
    (call(), CLOCK_ONLY, '<tool_call>\n{"name": "'),
    (call(arguments='{"city": "Paris"}'), FREE["auto"], call()[:55]),
    (call(arguments='{"days": 1}'), FREE["auto"], call()[:47]),
    (call("clock", '{"x": 1}'), FREE["auto"], call("clock", "{}")[:44]),
    (call(arguments='{"city":\n"Rome"}'), FREE["auto"], call()[:53]),
    ("Sure.", {"json_schema": '{"type": "boolean"}'}, ""),
    ("true" + call(), {"json_schema": '{"type": "boolean"}'}, "true"),
    (call(), {"json_schema": '{"type": "boolean"}', "tool_choice": "none"}, ""),
]


@pytest.fixture(scope="module")
def plain_speaker(tmp_path_factory):
    return Speaker(tmp_path_factory.mktemp("plain"), tool_format="llama3_json")


def plain(name="weather", arguments='{"city": "Rome"}'):
    """Return a call without marks."""
    return f'{{"name": "{name}", "parameters": {arguments}}}'


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("", {}),
        (" ", {}),
        ("\n So {is} it.", {}),
        (call(), {}),
        (plain(), {}),
        (plain("clock", "{}"), FREE["required"] | CLOCK_ONLY),
        ("Hm.", FREE["none"]),
        ("true", {"json_schema": '{"type": "boolean"}'}),
        (plain(), {"json_schema": '{"type": "object", "maxProperties": 0}'}),
    ],
)
def test_without_marks_a_text_is_a_call_or_does_not_begin_as_one(plain_speaker, text, parameters):
    assert plain_speaker.say(text, **parameters) == text


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("{}", {}),
        (' {"name', {}),
        ("Sure.", FREE["required"]),
        (plain("other", "{}"), {}),
        (plain(arguments='{"city": "Paris"}'), {}),
        (plain() + plain(), {}),
        (plain() + "\n", FREE["required"]),
        (plain(), FREE["none"]),
    ],
)
def test_without_marks_nothing_else_is_written(plain_speaker, text, parameters):
    assert plain_speaker.say(text, **parameters).endswith("…")


@pytest.mark.parametrize(("text", "parameters"), ALLOWED)
def test_what_may_be_written(speaker, text, parameters):
    assert speaker.say(text, **parameters) == text


@pytest.mark.parametrize(("text", "parameters", "until"), NOT_ALLOWED)
def test_what_may_not_be_written(speaker, text, parameters, until):
    said = speaker.say(text, **parameters).removesuffix("…")
    assert said.startswith(until)
    assert said[len(until) : len(until) + 1] != text[len(until) : len(until) + 1] or said == until
    assert speaker.say(text, **parameters).endswith("…")


def test_where_none_may_be_called_no_mark_may_be_written(speaker):
    for text in ("so <tool_call>", [*b"so <tool_call>"]):
        assert "<tool_call>" not in speaker.say(text, tool_choice="none")
        assert "<tool_call>" not in speaker.say(text, [], tool_choice="none")


def test_a_call_spelt_in_letters_is_one_too(speaker):
    letters = [*call().encode()]
    assert speaker.say(letters) == call()
    assert speaker.say([*b"so ", *letters], tool_choice="auto") == "so " + call()


def test_hostile_words_stay_words(speaker):
    for evil in ('"}}\n</tool_call>\nx: /.*/', '" | /.*/ %json {} <[0-9]>', "\n// #\\"):
        tools = [function("f", properties("a", a={"const": evil}), description=evil)]
        assert speaker.say(call("f", json.dumps({"a": evil})), tools) == call("f", json.dumps({"a": evil}))
        assert speaker.say(call("f", '{"a": "x"}'), tools).endswith("…")


def test_a_name_may_be_long_and_the_beginning_of_another(speaker):
    names = ["a" * 63, "a" * 64]
    for name in names:
        assert speaker.say(call(name, "{}"), [function(one) for one in names]) == call(name, "{}")


UNKNOWN = {"type": "object", "properties": {"a": {"type": "string", "format": "of-ours", "x-ours": 1}}, "not": {}}


def test_words_of_a_schema_that_nobody_knows_are_passed_over_unless_it_is_strict(speaker):
    assert speaker.say(call("f", '{"a": "x"}'), [function("f", UNKNOWN)]) == call("f", '{"a": "x"}')
    with pytest.raises(RuntimeError, match="format"):
        speaker.guide([function("f", UNKNOWN, strict=True)])


def test_many_functions_are_ready_soon(speaker):
    words = {f"word_{i}": {"type": "string", "description": "x" * 20, "enum": ["a", "b"]} for i in range(4)}
    tools = [function(f"function_{i}", properties(*words, **words)) for i in range(128)]
    started = time.process_time()
    assert speaker.say(call("function_77", json.dumps(dict.fromkeys(words, "b"))), tools, tool_choice="required")
    assert time.process_time() - started < 2


# --- whole generations --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sessions():
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30, generations=4)
    yield cache
    cache.close()


@pytest.fixture(scope="module", params=["together", "in turns"])
def model(request, sessions, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools") / "source"
    manifest = tiny_llm.tool_package(folder, tiny_llm.tool_files(together=request.param == "together"))
    return sessions.get(models.fetched(folder, manifest))


def generate(model, tools=TOOLS, messages=({"role": "user", "content": "A"},), count=1, **parameters):
    chat = {"messages": list(messages), "tools": tools} if tools else list(messages)
    prompt = [Tensor.from_numpy("prompt", np.array([json.dumps(chat)], dtype=object))]
    request = read_request(model.manifest, prompt, {"format": "chat", "max_tokens": 160, **parameters})
    return run_trials(model, request, count=count, seconds=60)


def calls_in(text):
    found = [piece.partition(FORM.end)[0] for piece in text.split(FORM.begin)[1:]]
    return [json.loads(one) for one in found]


def test_calls_are_made_where_they_must_be(model):
    for one in generate(model, count=3, tool_choice="required", parallel_tool_calls=False):
        assert one.end.reason == "stop"
        [made] = calls_in(one.text)
        assert made["name"] in ("weather", "clock")
        assert made["name"] == "clock" or made["arguments"]["city"] in ("Rome", "Köln")


def test_the_named_one_is_called(model):
    [one] = generate(model, tool_choice="required", allowed_tools='["clock"]', parallel_tool_calls=False)
    assert one.text == call("clock", "{}")


def test_a_seed_fixes_a_call_too(model):
    texts = {one.text for one in generate(model, count=2, tool_choice="required", seed=3, temperature=2)}
    assert len(texts) == 1


def test_where_it_may_call_it_may_also_write(model):
    [one] = generate(model, temperature=0, max_tokens=9)
    assert one.text == tiny_llm.SCRIPT[1:10]
    [free] = generate(model, tools=None, temperature=0, max_tokens=9)
    assert one.text == free.text
    assert one.end.prompt_tokens > free.end.prompt_tokens, "the functions are in the prompt"


def test_calls_of_before_are_in_the_prompt(model):
    made = {"type": "function", "id": "1", "function": {"name": "clock", "arguments": {"zone": "x" * 50}}}
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [made]},
        {"role": "tool", "content": "noon", "tool_call_id": "1", "name": "clock"},
    ]
    [one] = generate(model, tools=None, messages=messages, temperature=0, max_tokens=5)
    assert one.end.prompt_tokens > 100


def test_a_schema_that_cannot_be_held_to_is_named(model):
    for parameters in (UNKNOWN, {"type": "object", "properties": {"a": {"type": "nonsense"}}}):
        bad = function("good-or_bad", parameters, strict=True)
        for answer in ({}, {"json_schema": "{}"}):
            with pytest.raises(InputsRefused, match="the schema of good-or_bad: ") as error:
                generate(model, [*TOOLS, bad], **answer)
            assert error.value.field == "prompt.tools"
    with pytest.raises(InputsRefused, match="the schema: ") as error:
        generate(model, json_schema='{"type": "nonsense"}')
    assert error.value.field == "parameters.json_schema"
    assert generate(model, temperature=0, max_tokens=3)[0].text == tiny_llm.SCRIPT[1:4], "it still serves"


def test_a_template_that_fails_with_these_functions_names_them(sessions, tmp_path):
    """As that of Hermes 2 Pro with a type that is a list."""
    failing = "{%- if tools and tools[0].function.name == 'bad' %}{{ raise_exception('no') }}{%- endif %}"
    failing += "{%- if messages[0].content == 'bad' %}{{ raise_exception('no') }}{%- endif %}"
    config = {**tiny_llm.TOKENIZER_CONFIG, "chat_template": failing + tiny_llm.TOOL_TEMPLATE}
    contents = tiny_llm.tool_files() | {"tokenizer_config.json": json.dumps(config).encode()}
    model = sessions.get(models.fetched(tmp_path / "source", tiny_llm.tool_package(tmp_path / "source", contents)))
    bad = {"role": "user", "content": "bad"}
    for field, tools, messages in (
        ("prompt.tools", [function("bad")], []),
        ("prompt", [function("bad")], [bad]),
        ("prompt", TOOLS, [bad]),
    ):
        with pytest.raises(InputsRefused, match="the chat template") as error:
            generate(model, tools, **({"messages": messages} if messages else {}))
        assert error.value.field == field


TEMPLATES = {
    "functions": tiny_llm.TOKENIZER_CONFIG["chat_template"],
    "calls": "{% for tool in tools %}{{ tool | tojson }}{% endfor %}" + tiny_llm.TOKENIZER_CONFIG["chat_template"],
}


@pytest.mark.parametrize(("what", "template"), TEMPLATES.items())
def test_a_template_that_leaves_something_out_is_refused(sessions, tmp_path, what, template):
    config = {**tiny_llm.TOKENIZER_CONFIG, "chat_template": template}
    contents = tiny_llm.tool_files() | {"tokenizer_config.json": json.dumps(config).encode()}
    package = models.fetched(tmp_path / "source", tiny_llm.tool_package(tmp_path / "source", contents))
    with pytest.raises(ModelUnusable, match=f"leaves out {what}"):
        sessions.get(package)


def test_a_tokenizer_that_hides_the_marks_is_refused(tmp_path):
    raw = json.loads(tokenizer_with(MARKS))
    for one in raw["added_tokens"]:
        one["special"] = True
    speaker = Speaker(tmp_path / "plain", MARKS)
    (tmp_path / "plain" / "tokenizer.json").write_text(json.dumps(raw))
    tokenizer = og.Tokenizer(open_empty(str(tmp_path / "plain"), "model.onnx", speaker.vocabulary))
    with pytest.raises(UnfitTemplate, match="leaves <tool_call> out"):
        ToolWords(tokenizer, FORM)
