"""Puts x402's contracts on a development chain, at the addresses that its SDKs expect them at.

The SDKs know one address for each contract on every chain. A fresh anvil has nothing there, so the code of our own
implementations is placed with `anvil_setCode`. Never used where the canonical contracts stand. Called by the local
network and by tests.
"""

from __future__ import annotations

from contracts import artifacts
from contracts.bindings.rpc import connect
from contracts.bindings.transactor import Transactor
from contracts.protocol.hexes import checksum
from contracts.protocol.signing import PrivateKey
from market.devnet.services import rpc

CHANNELS = bytes.fromhex("4020074e9dF2ce1deE5A9C1b5c3f541D02a10003")
DEPOSIT_COLLECTOR = bytes.fromhex("4020806089470a89826cB9fB1f4059150b550004")
MULTICALL3 = bytes.fromhex("cA11bde05977b3631167028862bE2a173976CA11")


def install(rpc_url: str, key: PrivateKey) -> None:
    """Place every contract that is missing; `key`, which needs gas money, deploys the code that is copied.

    Raises:
        ConfigurationError: the node is no development node.
        ChainError: a deployment failed.
    """
    contracts = (
        (CHANNELS, "X402Channels", b""),
        (DEPOSIT_COLLECTOR, "ERC3009DepositCollector", CHANNELS.rjust(32, b"\0")),
        (MULTICALL3, "Multicall3", b""),
    )
    transactor = Transactor(connect(rpc_url), key)
    for address, name, arguments in contracts:
        if rpc(rpc_url, "eth_getCode", checksum(address), "latest") != "0x":
            continue
        mined = transactor.run(f"x402:install:{name}", None, artifacts.load(name).bytecode + arguments)
        assert mined.contract is not None, "a deployment has a contract"
        code = rpc(rpc_url, "eth_getCode", checksum(mined.contract), "latest")
        rpc(rpc_url, "anvil_setCode", checksum(address), code)
