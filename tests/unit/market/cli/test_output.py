"""How tables look on a narrow terminal."""

import pytest

from market.commands import output


@pytest.fixture
def narrow(monkeypatch):
    monkeypatch.setattr(output.console, "_width", 60)


def test_a_short_id_that_begins_a_row_is_kept_whole(narrow, capsys):
    row = ["0x3f9a1c2b44d0", "the nightly reports of our second team", "good", "0.250000", "2027-01-31", "all"]
    output.print_table("keys", ["id", "name", "state", "spent", "expires", "models"], [row])
    printed = capsys.readouterr().out
    assert "0x3f9a1c2b44d0" in printed
    assert max(len(line) for line in printed.splitlines()) <= 60


def test_a_long_one_is_folded_and_nothing_of_it_is_lost(narrow, capsys):
    whole = "0x" + "ab" * 32
    output.print_table("receipts", ["request", "paid"], [[whole, "0.000100"]])
    printed = capsys.readouterr().out
    assert max(len(line) for line in printed.splitlines()) <= 60
    assert "".join(line.split("│")[1].strip() for line in printed.splitlines() if "│" in line and "│ " in line) == whole
