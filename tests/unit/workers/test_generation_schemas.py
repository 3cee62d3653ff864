import json

import pytest

from workers.errors import InputsRefused
from workers.models.generation.schemas import MAX_SCHEMA_BYTES, MAX_SCHEMA_WORK, Weight, read_schema


def array(most, **more):
    return {"type": "array", "items": {"type": "integer"}, "maxItems": most, **more}


def refs(number, **beside):
    return {f"p{i}": {"$ref": "#/$defs/a", **beside} for i in range(number)}


def names(number):
    return {f"^n{i}$": {} for i in range(number)}


USUAL = {
    "any object": {"type": "object"},
    "a list": array(1_000, minItems=1),
    "a property of that name": {"type": "object", "properties": {"maxItems": {"type": "integer"}}},
    "many references": {"$defs": {"a": array(100)}, "type": "object", "properties": refs(100)},
    "references with remarks": {"$defs": {"a": array(100)}, "properties": refs(100, title="t", description="d")},
    "fields that may be null": {
        "type": "object",
        "properties": {
            f"f{i}": {"anyOf": [array(10), {"type": "null"}], "default": None, "title": "F"} for i in range(50)
        },
    },
    "many properties": {"type": "object", "properties": names(1_000)},
    "properties of many objects": {"properties": {f"o{i}": {"properties": names(40)} for i in range(30)}},
    "properties of which one is a union": {
        "$defs": {"a": {"properties": names(20)}},
        "properties": {
            **names(60),
            **{
                f"u{i}": {"oneOf": [{"$ref": "#/$defs/a"}] * 4, "discriminator": {"propertyName": "a"}}
                for i in range(9)
            },
        },
    },
    "some patterns": {"patternProperties": names(50)},
    "money": {"type": "object", "properties": {f"m{i}": {"type": "number", "multipleOf": 0.01} for i in range(20)}},
}


@pytest.mark.parametrize("schema", USUAL.values(), ids=USUAL.keys())
def test_a_usual_schema_is_taken_as_it_came(schema):
    text = json.dumps(schema, indent=1)
    assert read_schema(text, Weight()) == text


HEAVY = {
    "least": array(10) | {"minItems": 10**9},
    "most": array(10**9),
    "beyond any number": array(10**4_000),
    "as a float": array(1e9),
    "some lists": {"properties": {f"p{i}": array(100 + i) for i in range(200)}},
    "references beside more": {"$defs": {"a": array(1_000)}, "properties": refs(20, minItems=1)},
    "references merged": {"allOf": [{"$ref": "#/$defs/a"}] * 9 + [array(1_000)]},
    "branches beside more": array(1_000, anyOf=[{"minItems": i} for i in range(20)]),
    "branches merged": {"allOf": [array(1_000), {"oneOf": [{"minItems": i} for i in range(20)]}]},
    "properties": {"properties": names(2_000)},
    "properties merged": {"allOf": [{"properties": names(100 + i)} for i in range(18)]},
    "patterns": {"patternProperties": names(150)},
    "patterns merged": {"$defs": {"a": {"patternProperties": names(50)}}, "properties": refs(30, minProperties=1)},
    "steps": {"type": "integer", "multipleOf": 99_999_989},
    "steps together": {"anyOf": [{"type": "integer", "multipleOf": step} for step in (211, 223)]},
    "small steps": {"anyOf": [{"type": "number", "multipleOf": step} for step in (1e-6, 3)]},
}


@pytest.mark.parametrize("schema", HEAVY.values(), ids=HEAVY.keys())
def test_a_schema_whose_grammar_would_be_huge_is_refused(schema):
    with pytest.raises(InputsRefused) as error:
        read_schema(json.dumps(schema), Weight())
    assert error.value.field == "parameters.json_schema"
    assert error.value.remedy.startswith(("Leave", "Describe fewer"))


def test_of_a_name_given_twice_both_count():
    with pytest.raises(InputsRefused, match="add up to too many"):
        read_schema(f'{{"type": "array", "maxItems": {MAX_SCHEMA_WORK}, "maxItems": 1}}', Weight())


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "5", 5, True, "{", '{"maxItems": NaN}', '{"multipleOf": Infinity}', '{"a": "\ud800"}'),
        "{" + " " * MAX_SCHEMA_BYTES + "}",
        '{"items":' * 5_000 + "{}" + "}" * 5_000,
    ],
)
def test_what_is_no_schema_is_refused(text):
    with pytest.raises(InputsRefused, match="expected the JSON"):
        read_schema(text, Weight())


def test_none_asks_for_nothing():
    assert read_schema(None, Weight()) is None
