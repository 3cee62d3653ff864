"""Joins the x402 door: the house account, its channel, the facilitator in the process, and the loop behind them."""

from __future__ import annotations

from contracts.bindings.errors import ChainError
from contracts.bindings.keystore import KeystoreError, load_keystore
from contracts.bindings.transactor import Transactor
from market.adapters.database.ledger import DatabaseLedger
from market.adapters.database.outbox import DatabaseOutbox
from market.adapters.database.x402_book import DatabaseBook
from market.adapters.house_channel import HouseChannel
from market.adapters.x402_housekeeping import Housekeeping
from market.bootstrap.services import Services
from market.errors import (
    ChainUnreachable,
    ConfigurationError,
)
from market.inference.channel_facts import RegistryChannels
from market.payments.x402_channels import MIN_WITHDRAW_SECONDS, Merchant
from market.payments.x402_ports import X402Desk


def build_x402(
    services: Services, ledger: DatabaseLedger, channels: RegistryChannels
) -> tuple[X402Desk, Housekeeping] | None:
    """Join the x402 door, if the settings name a house account.

    Raises:
        ConfigurationError: the key does not open, or chain or token are not fit for x402.
    """
    settings = services.settings
    if settings.x402_keystore is None:
        return None
    # The SDK takes half a second to import.
    from market.adapters.x402_facilitator import InProcessFacilitator, token_domain
    from market.adapters.x402_signer import HouseSigner

    password_file = settings.x402_keystore_password_file or settings.keystore_password_file
    try:
        key = load_keystore(settings.x402_keystore, password_file)
    except KeystoreError as error:
        raise ConfigurationError(error.detail, field="MARKET_X402_KEYSTORE", remedy=error.remedy) from error
    chain_id, token = services.deployment.chain_id, services.deployment.token
    name, version = token_domain(services.web3, token, chain_id)
    merchant = Merchant(chain_id, token, key.address, MIN_WITHDRAW_SECONDS)
    transactor = Transactor(
        services.web3,
        key,
        outbox=DatabaseOutbox(services.engine),
        confirmations=settings.confirmations,
        chain_id=chain_id,
    )
    try:
        transactor.resume()
    except ChainError as error:
        raise ChainUnreachable(error.detail, field="MARKET_RPC_URL", remedy=error.remedy) from error
    facilitator = InProcessFacilitator(
        HouseSigner(services.web3, key, transactor), transactor, services.contracts.token, merchant
    )
    book = DatabaseBook(services.engine)
    if not settings.shared_reservations:
        book.inherit()
    house = HouseChannel(
        key=services.key,
        domain=services.domain,
        channels=channels,
        escrow=services.contracts.escrow,
        token=services.contracts.token,
        transactor=transactor,
        target=settings.x402_house_target,
    )
    if settings.public_url is None and settings.host not in ("127.0.0.1", "localhost"):
        raise ConfigurationError(
            "clients that pay by x402 must know by which address they reach this gateway.",
            field="MARKET_PUBLIC_URL",
            remedy="Set it to the scheme, host and port that clients use, such as https://gateway.example.",
        )
    scheme = "http" if settings.tls_certificate is None else "https"
    origin = settings.public_url or f"{scheme}://{settings.host}:{settings.port}"
    desk = X402Desk(
        merchant, facilitator, book, house, name, version, settings.x402_pack, origin, settings.x402_least_claim
    )
    housekeeping = Housekeeping(
        desk, house=house, ledger=ledger, claim_interval_seconds=settings.x402_claim_interval_seconds
    )
    return desk, housekeeping
