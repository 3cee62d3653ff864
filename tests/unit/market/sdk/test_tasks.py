"""What `embed` and `chat` are given is held against what they take before anything is asked or paid."""

import json

import pytest

from contracts.protocol.errors import TensorError
from market.sdk.tasks import chat_inputs, text_inputs


@pytest.mark.parametrize("texts", ["one text", ["a", 1], [b"bytes"], [None]])
def test_texts_are_a_list_of_texts(texts):
    with pytest.raises(TensorError, match="list of texts") as refused:
        text_inputs(texts)
    assert (refused.value.field, refused.value.remedy) == ("texts", "Write [text], even for one.")


@pytest.mark.parametrize("messages", ["hello", ["hello"], [{"role": "user"}], [{"role": "user", "content": [{}]}]])
def test_messages_are_a_list_of_roles_and_contents(messages):
    with pytest.raises(TensorError, match="list of messages"):
        chat_inputs(messages)


def test_half_a_character_is_refused():
    with pytest.raises(TensorError, match="character 2") as refused:
        text_inputs(["ab", "a\udcff"])
    assert (refused.value.field, refused.value.remedy) == ("texts", "Texts must be UTF-8.")
    with pytest.raises(TensorError) as refused:
        chat_inputs([{"role": "user", "content": "\ud83d"}])
    assert refused.value.field == "messages"


def test_what_fits_is_sent_as_the_gateway_makes_it():
    assert list(text_inputs(("a", "é"))["text"]) == [b"a", "é".encode()]
    (prompt,) = chat_inputs([{"role": "developer", "content": "Be brief.", "name": "me"}])["prompt"]
    assert json.loads(prompt) == [{"role": "system", "content": "Be brief."}]
