"""A disk, folder or database that fails a command is one message, not a stack trace."""

import errno
import json
import os
import socket
import sqlite3

import pytest
import typer
from typer.testing import CliRunner

from contracts import local_files
from contracts.wal import enter_wal
from market.cli import app
from market.sdk.papers import PaperStore
from workers.commands.output import messages


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "Make room"),
        (errno.EROFS, "may write"),
        (errno.EACCES, "may write"),
        (errno.EMFILE, "open files"),
        (errno.EISDIR, "another file"),
    ],
)
def test_a_fault_of_the_system_names_its_file_and_remedy(number, words):
    with pytest.raises(local_files.LocalFiles) as named, local_files.named():
        raise OSError(number, os.strerror(number), "some/file")
    assert named.value.detail == f"some/file: {os.strerror(number)}."
    assert words in named.value.remedy


@pytest.mark.parametrize("fault", [ConnectionRefusedError(errno.ECONNREFUSED, "refused"), socket.gaierror(-2, "x")])
def test_faults_of_the_network_are_left_alone(fault):
    with pytest.raises(type(fault)), local_files.named():
        raise fault


def test_a_file_that_is_no_database_is_named(tmp_path):
    (tmp_path / "papers.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(local_files.LocalFiles) as named, local_files.named():
        PaperStore(tmp_path / "papers.db")
    assert str(tmp_path / "papers.db") in named.value.detail
    assert "damaged" in named.value.remedy


def test_a_database_that_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "papers.db").mkdir()
    with pytest.raises(local_files.LocalFiles) as named, local_files.named():
        PaperStore(tmp_path / "papers.db")
    assert "may write" in named.value.remedy
    with pytest.raises(sqlite3.OperationalError), local_files.named():
        enter_wal(sqlite3.connect(":memory:").execute("SELECT nothing FROM nowhere"))


@pytest.mark.parametrize(
    "words",
    [("receipts", "list", "--data-dir", "{}", "--json"), ("up", "--data-dir", "{}/file/m", "--port", "0", "--json")],
    ids=["no database", "a file for a folder"],
)
def test_the_markets_commands_say_so(tmp_path, words):
    (tmp_path / "client").mkdir()
    (tmp_path / "client" / "papers.db").write_bytes(b"no database at all" * 100)
    (tmp_path / "file").write_text("x")
    told = CliRunner().invoke(app, [word.format(tmp_path) for word in words])
    assert json.loads(told.stdout)["error"]["code"] == "local-files"


def test_the_workers_commands_say_so(tmp_path, capsys):
    with pytest.raises(typer.Exit), messages(as_json=True):
        tmp_path.write_bytes(b"")
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "local-files"
