"""What `market model publish` and `update` refuse of a name or address before anything is made, asked or paid for it."""

import json

import pytest
from typer.testing import CliRunner

from market.cli import app
from market.commands.model_package import check_name, check_uri
from market.errors import ConfigurationError

TERMS = ("--min-price", "1u", "--max-price", "2u", "--royalty-ppm", "0", "--json")


@pytest.mark.parametrize("name", ["m", "my-model_2.1", "a-", "0", "x" * 63])
def test_names_that_the_registry_takes_are_taken(name):
    check_name(name)


@pytest.mark.parametrize("name", ["", "A", "a b", "-a", ".a", "a/b", "ünï", "a\n", "x" * 64])
def test_names_that_it_refuses_are_refused(name):
    with pytest.raises(ConfigurationError) as refused:
        check_name(name)
    assert refused.value.field == "name"


@pytest.mark.parametrize(
    "uri", ["https://models.example/m/", "http://10.0.0.1:8000", "https://[2001:db8::1]/m%20n", "file:///srv/models/m"]
)
def test_addresses_that_workers_fetch_from_are_taken(uri):
    check_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "models.example/m",
        "/srv/models/m",
        "ftp://models.example/m",
        "ipfs://abc",
        "https://",
        "https:///m",
        "https://models.example/m n/",
        "https://models.example/m\n",
        "https://models.example/m/?token=1",
        "https://models.example/m/#1",
        "https://[::1/m",
        "file://models/m",
    ],
)
def test_addresses_that_no_worker_fetches_from_are_refused(uri):
    with pytest.raises(ConfigurationError) as refused:
        check_uri(uri)
    assert refused.value.field == "uri"


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("publish", "nothing-there", "My Model", *TERMS), "name"),
        (("publish", "nothing-there", "m", "--uri", "ftp://x", *TERMS), "uri"),
        (("update", "m", "--uri", "models.example", "--json"), "uri"),
        (("update", "m", "--json"), "name"),
    ],
)
def test_the_commands_say_so_at_once(words, field):
    told = CliRunner().invoke(app, ["model", *words])
    assert told.exit_code == 2
    assert json.loads(told.stdout)["error"]["field"] == field
