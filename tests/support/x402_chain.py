"""x402's contracts on a real chain, the in-process facilitator, and the transactions that others may send."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eth_abi import encode

from contracts.bindings.transactor import Transactor
from contracts.protocol.hashing import keccak256
from market.adapters.x402_facilitator import InProcessFacilitator, token_domain
from market.adapters.x402_signer import HouseSigner
from market.devnet import x402
from market.payments.x402_channels import Merchant
from tests.support.chain import Chain, key, running_anvil

WITHDRAW_DELAY = 900


@dataclass
class Shop:
    chain: Chain
    merchant: Merchant
    facilitator: InProcessFacilitator
    transactor: Transactor
    token_name: str
    token_version: str

    def balance(self, name: str) -> int:
        return self.chain.contracts.token.balance_of(key(name).address)


@contextmanager
def running_shop(folder: Path) -> Iterator[Shop]:
    with running_anvil(folder) as url:
        chain = Chain(url)
        x402.install(url, key("deployer"))
        house = key("house")
        chain.give_gas(house.address)
        transactor = Transactor(chain.web3, house)
        merchant = Merchant(chain.deployment.chain_id, chain.deployment.token, house.address, WITHDRAW_DELAY)
        name, version = token_domain(chain.web3, merchant.token, merchant.chain_id)
        facilitator = InProcessFacilitator(
            HouseSigner(chain.web3, house, transactor), transactor, chain.contracts.token, merchant
        )
        yield Shop(chain, merchant, facilitator, transactor, name, version)


def call(function: str, types: list[str], values: list[object]) -> bytes:
    return keccak256(f"{function}({','.join(types)})".encode())[:4] + encode(types, values)


def transfer(inner: dict) -> bytes:
    """The call that uses an authorization."""
    said = inner["authorization"]
    values = [said["from"], said["to"], *(int(said[name]) for name in ("value", "validAfter", "validBefore"))]
    types = ["address", "address", "uint256", "uint256", "uint256", "bytes32", "bytes"]
    signed = [bytes.fromhex(text[2:]) for text in (said["nonce"], inner["signature"])]
    return call("transferWithAuthorization", types, values + signed)


def cancellation(shop: Shop, name: str, inner: dict) -> bytes:
    """The call by which a payer cancels an authorization of its own."""
    nonce = bytes.fromhex(inner["authorization"]["nonce"][2:])
    kinds = keccak256(b"CancelAuthorization(address authorizer,bytes32 nonce)")
    words = kinds + key(name).address.rjust(32, b"\0") + nonce
    separator = shop.chain.contracts.token.read("DOMAIN_SEPARATOR")
    signature = key(name).sign_digest(keccak256(b"\x19\x01" + separator + keccak256(words)))
    return shop.chain.contracts.token.encode("cancelAuthorization", key(name).address, nonce, signature)
