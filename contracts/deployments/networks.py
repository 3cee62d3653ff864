"""The networks the project knows by name: chain id, payment token, how deep a block must be to count."""

from __future__ import annotations

from dataclasses import dataclass

from contracts.deployments import NoDeployment
from contracts.protocol.hexes import address_from_hex


@dataclass(frozen=True, slots=True)
class Network:
    """A known chain; `token` None means that test dollars are deployed with the contracts."""

    name: str
    title: str
    chain_id: int
    token: bytes | None
    confirmations: int


def _usdc(text: str) -> bytes:
    return address_from_hex(text, field="token")


NETWORKS = {
    network.name: network
    for network in (
        Network("devnet", "a local anvil", 31337, None, 1),
        Network("base-sepolia", "Base Sepolia", 84532, _usdc("0x036CbD53842c5426634e7929541eC2318f3dCF7e"), 5),
        Network("sepolia", "Ethereum Sepolia", 11155111, _usdc("0x1c7D4B196Cb0C7B01d743Fbc6116a902379C7238"), 3),
    )
}


# For a chain that is not known: as deep as the deepest of those that are.
DEEP_ENOUGH = max(network.confirmations for network in NETWORKS.values())


def confirmations_of(chain_id: int) -> int:
    """Return how many blocks must be on top of one before it counts on a chain."""
    known = (network.confirmations for network in NETWORKS.values() if network.chain_id == chain_id)
    return next(known, DEEP_ENOUGH)


def network(name: str) -> Network:
    """Return a known network.

    Raises:
        NoDeployment: there is none of this name.
    """
    found = NETWORKS.get(name)
    if found is None:
        raise NoDeployment(
            f"no network is called {name!r}.", field="network", remedy=f"Use one of {', '.join(NETWORKS)}."
        )
    return found
