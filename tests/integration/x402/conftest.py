"""A real chain with x402's contracts, the in-process facilitator on it, and payers with test dollars."""

from dataclasses import dataclass

import pytest

from contracts.bindings.transactor import Transactor
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


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with running_anvil(tmp_path_factory.mktemp("x402")) as url:
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
