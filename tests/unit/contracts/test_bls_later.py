"""What web3 brings and nobody needs is not loaded; whoever asks for it has it; the recursion limit stays."""

import subprocess
import sys

import pytest

TABLES = "py_ecc.optimized_bls12_381"


def run(code: str) -> None:
    """Run in a fresh interpreter: what counts is what was imported, and when."""
    done = subprocess.run([sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["market.jobs", "market.gateway.server", "workers.node", "market.commands.client"])
def test_no_program_computes_the_tables_and_the_limit_stays(module):
    run(f"import {module}\nassert {TABLES!r} not in sys.modules\nassert sys.getrecursionlimit() == 1_000")


def test_keystores_open_and_transactions_are_signed_without_them(tmp_path):
    run(
        "from pathlib import Path\n"
        "from contracts.bindings.keystore import load_keystore, save_keystore\n"
        "from contracts.protocol.signing import PrivateKey\n"
        f"path, word = Path({str(tmp_path)!r}) / 'key.json', Path({str(tmp_path)!r}) / 'word'\n"
        "word.write_bytes(b'secret')\n"
        "key = PrivateKey.from_bytes(bytes(31) + bytes([7]))\n"
        "save_keystore(path, key, b'secret', light=True)\n"
        "assert load_keystore(path, word).address == key.address\n"
        "from eth_account import Account\n"
        "fees = {'maxFeePerGas': 2, 'maxPriorityFeePerGas': 1}\n"
        "call = {'nonce': 0, 'gas': 21_000, 'to': '0x' + '11' * 20, 'value': 1, 'chainId': 1, 'type': 2, **fees}\n"
        "assert Account.sign_transaction(call, key.secret_bytes()).raw_transaction\n"
        f"assert {TABLES!r} not in sys.modules"
    )


@pytest.mark.parametrize("before", ["", "import eth_keyfile.keyfile\n"])
def test_who_asks_for_them_has_them(before):
    run(
        f"import contracts.bindings\n{before}"
        "from py_ecc.bls import G2ProofOfPossession as signatures\n"
        "assert len(signatures.SkToPk(5)) == 48\n"
        "from py_ecc.bls12_381 import G1, curve_order, multiply\n"
        "import py_ecc.optimized_bls12_381 as real\n"
        "assert curve_order == real.curve_order and multiply(G1, curve_order) is None\n"
        "assert sys.getrecursionlimit() == 1_000"
    )


def test_the_limit_is_set_right_where_web3_came_first():
    run(
        "import web3\nassert sys.getrecursionlimit() > 1_000\nimport contracts.bindings\nassert sys.getrecursionlimit() == 1_000"
    )
