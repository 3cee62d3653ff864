"""What programs start without: aiohttp, which web3 would load; whoever asks for it has the real one."""

import subprocess
import sys

import pytest

REAL = "'aiohttp.client'"


def run(code: str) -> None:
    """Run in a fresh interpreter: what counts is what was imported, and when."""
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "modules",
    [
        "market.cli, market.commands.services, market.jobs",
        "market.commands, market.gateway.server",
        "workers.commands.doctor",
    ],
)
def test_no_program_loads_it_or_collects_as_often_as_python_does(modules):
    run(
        f"import gc, {modules}\n"
        "assert 'web3' in sys.modules and 'aiohttp' not in sys.modules\n"
        "assert gc.get_threshold()[0] == 10_000"
    )


def test_who_asks_for_it_has_it():
    run(
        "import market.commands, web3, aiohttp\n"
        f"assert aiohttp.ClientSession.__module__ == {REAL}\n"
        "assert web3.__spec__.loader is web3.__loader__ and 'Source' in type(web3.__loader__).__name__\n"
        "from web3._utils.http_session_manager import ClientTimeout\n"
        "assert isinstance(ClientTimeout(5), aiohttp.ClientTimeout)"
    )


def test_who_asks_while_web3_is_being_loaded_has_it():
    run(
        "from contracts.bindings.aiohttp_later import _StandIn\n"
        "sys.modules['aiohttp'] = _StandIn()\n"
        "from aiohttp import FormData, ClientSession\n"
        "assert FormData.__module__ == 'aiohttp.formdata'\n"
        f"import aiohttp\nassert aiohttp.ClientSession.__module__ == {REAL}"
    )


@pytest.mark.parametrize("before", ["aiohttp, market.commands", "market.sdk.chain", "web3, market.commands"])
def test_web3_has_it_where_something_came_first_and_in_the_client_kit(before):
    run(
        f"import {before}\nfrom web3.providers.rpc.async_rpc import ClientSession\nassert ClientSession.__module__ == {REAL}"
    )
