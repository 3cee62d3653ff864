"""Files that hold keys and what was signed: each fault names the file that has it, and what to do."""

import pytest

from contracts.bindings.keystore import KeystoreError, load_keystore, save_keystore, write_secret
from contracts.bindings.outbox_file import FileOutbox, OutboxUnreadable
from contracts.protocol.signing import PrivateKey


@pytest.fixture
def keystore(tmp_path):
    path = tmp_path / "key.json"
    save_keystore(path, PrivateKey.generate(), b"right", light=True)
    return path


@pytest.mark.parametrize(
    ("password", "field", "remedy"),
    [
        (None, "keystore", "Name the file with its password."),
        ("wrong", "keystore", "Check it and the first line of "),
        ("missing", "password-file", "Name the file whose first line is the password."),
        ("folder", "password-file", "Name the file whose first line is the password."),
    ],
)
def test_a_keystore_that_does_not_open_says_which_file_is_why(tmp_path, keystore, password, field, remedy):
    (tmp_path / "wrong").write_text("wrong\n")
    (tmp_path / "folder").mkdir()
    with pytest.raises(KeystoreError) as refused:
        load_keystore(keystore, None if password is None else tmp_path / password)
    assert refused.value.field == field
    assert refused.value.remedy.startswith(remedy)


@pytest.mark.parametrize("content", [None, "no JSON", "[]", "{}", '{"version": 3}'])
def test_a_file_that_is_no_keystore_is_named(tmp_path, content):
    path = tmp_path / "key.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(KeystoreError, match=str(path)) as refused:
        load_keystore(path, None)
    assert (refused.value.field, bool(refused.value.remedy)) == ("keystore", True)


def test_a_secret_that_cannot_be_written_names_what_asked_for_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KeystoreError) as refused:
        write_secret(tmp_path / "file" / "pass", b"x", field="password-file")
    assert (refused.value.field, refused.value.remedy) == ("password-file", "Name a file that can be written.")


def test_only_an_outbox_that_is_there_may_name_what_was_sent(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxUnreadable) as nowhere:
        FileOutbox(tmp_path / "file" / "outbox.json").drop(b"", "")
    assert nowhere.value.remedy == "Name a data folder that can be written to."
    (tmp_path / "outbox.json").write_text("{")
    with pytest.raises(OutboxUnreadable) as damaged:
        FileOutbox(tmp_path / "outbox.json").drop(b"", "")
    assert "before you remove it" in damaged.value.remedy
