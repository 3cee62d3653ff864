"""The x402 SDK's facilitator inside this process. Implements `market.payments.x402_ports.Facilitator`.

Decides what is a refusal (the payer's payment is not good), what is a fault (the node is away) and what is undecided (a
transaction is out). A fault is never given out as a refusal: that would make a paying client pay again. Called by the
x402 door from threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from web3 import Web3
from x402.mechanisms.evm.batch_settlement.abi import BATCH_SETTLEMENT_ABI
from x402.mechanisms.evm.batch_settlement.constants import (
    BATCH_SETTLEMENT_ADDRESS,
    ERC3009_DEPOSIT_COLLECTOR_ADDRESS,
)
from x402.mechanisms.evm.batch_settlement.facilitator.scheme import BatchSettlementEvmFacilitator
from x402.mechanisms.evm.batch_settlement.facilitator.utils import read_channel_state
from x402.mechanisms.evm.batch_settlement.types import ChannelState
from x402.mechanisms.evm.constants import (
    ERR_NONCE_ALREADY_USED,
    ERR_SETTLEMENT_PENDING,
    ERR_VALID_BEFORE_EXPIRED,
    MULTICALL3_ADDRESS,
)
from x402.mechanisms.evm.exact.facilitator import ExactEvmScheme
from x402.schemas import PaymentPayload, PaymentRequirements

from contracts.bindings.deploy import require_code
from contracts.bindings.errors import ChainError
from contracts.bindings.rpc import named
from contracts.bindings.token import Token
from contracts.bindings.transactor import NotConfirmed, Transactor
from contracts.protocol.hashing import keccak256
from contracts.protocol.hexes import checksum, from_hex, hex0x
from market.adapters.x402_signer import HouseSigner
from market.adapters.x402_used import UsedAuthorizations
from market.errors import ChainUnreachable, ConfigurationError
from market.payments.x402_channels import Merchant, PayerChannel
from market.payments.x402_model import BATCH, EXACT, PaymentRefused, Settled
from market.payments.x402_ports import SettlementPending

CLAIMS_IN_A_BATCH = 100
PAY_SECONDS = 60.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A read that succeeded, in the shape of the SDK's answers."""

    state: ChannelState
    success: bool = True


class InProcessFacilitator:
    """Verifies and settles both schemes with the house account; safe to use from several threads."""

    def __init__(self, signer: HouseSigner, transactor: Transactor, token: Token, merchant: Merchant) -> None:
        self._signer = signer
        self._transactor = transactor
        self._token = token
        self._merchant = merchant
        self._used = UsedAuthorizations(transactor, merchant.token, merchant.receiver)
        self._schemes: Mapping[str, Any] = {
            EXACT: ExactEvmScheme(signer),
            BATCH: BatchSettlementEvmFacilitator(signer, authorizer_signer=signer),
        }

    def verify(self, payload: Mapping[str, Any], requirements: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Facilitator.verify`."""
        paid, asked, scheme = self._read(payload, requirements)
        found = self._asking(lambda: scheme.verify(paid, asked))
        if not found.is_valid:
            if asked.scheme == EXACT and found.invalid_reason == ERR_NONCE_ALREADY_USED and self._is_paid(paid):
                return {}
            raise PaymentRefused(found.invalid_reason or "invalid_payload", found.invalid_message or "")
        return dict(found.extra or {})

    def settle(self, payload: Mapping[str, Any], requirements: Mapping[str, Any]) -> Settled:
        """See `Facilitator.settle`."""
        paid, asked, scheme = self._read(payload, requirements)
        found = self._asking(lambda: scheme.settle(paid, asked))
        if found.success:
            return Settled(found.transaction, found.payer or "", found.amount or "", dict(found.extra or {}))
        if found.error_reason == ERR_SETTLEMENT_PENDING:
            raise SettlementPending(found.transaction)
        before = self._paid_before(paid, found.error_reason) if asked.scheme == EXACT else None
        if before is not None:
            return before
        raise PaymentRefused(found.error_reason or "transaction_failed", found.error_message or "")

    def pay(self, purpose: str, to: bytes, amount: int) -> str:
        """See `Facilitator.pay`."""
        try:
            data = self._token.encode("transfer", to, amount)
            return hex0x(self._transactor.run(purpose, self._token.address, data, wait_seconds=PAY_SECONDS).tx_hash)
        except ChainError as error:
            raise ChainUnreachable(error.detail, remedy=error.remedy) from error

    def look(self, channel: PayerChannel) -> PayerChannel:
        """See `Facilitator.look`."""
        found = self._asking(lambda: _Seen(read_channel_state(self._signer, hex0x(channel.channel_id)))).state
        return channel.seen_on_chain(
            balance=found.balance,
            total_claimed=found.total_claimed,
            withdraw_requested_at=found.withdraw_requested_at,
            refund_nonce=found.refund_nonce,
            at=time.time(),
        )

    def claim(self, channels: Sequence[PayerChannel], least: int = 1) -> list[PayerChannel]:
        """See `Facilitator.claim`."""
        due = [channel for channel in channels if channel.owed >= max(least, 1)]
        done: list[PayerChannel] = []
        requirements = self._requirements()
        for start in range(0, len(due), CLAIMS_IN_A_BATCH):
            batch = due[start : start + CLAIMS_IN_A_BATCH]
            rows = [claim_row(channel) for channel in batch]
            self.settle(_payload({"type": "claim", "claims": rows}, requirements), requirements)
            done += batch
        if done or self._unswept() >= max(least, 1):
            sweep = {
                "type": "settle",
                "receiver": checksum(self._merchant.receiver),
                "token": checksum(self._merchant.token),
            }
            self.settle(_payload(sweep, requirements), requirements)
        return done

    def refund(self, channel: PayerChannel, amount: int) -> Settled:
        """See `Facilitator.refund`."""
        requirements = self._requirements()
        enriched = {
            "type": "refund",
            "channelConfig": channel.config.to_wire(),
            "voucher": {"channelId": hex0x(channel.channel_id), "maxClaimableAmount": str(channel.signed_max)}
            | {"signature": hex0x(channel.signature)},
            "amount": str(amount),
            "refundNonce": str(channel.refund_nonce),
            "claims": [claim_row(channel)] if channel.owed else [],
        }
        return self.settle(_payload(enriched, requirements), requirements)

    # --- parts --------------------------------------------------------------------------------------------------

    def _paid_before(self, paid: PaymentPayload, reason: str | None) -> Settled | None:
        """Return the settlement of an authorization whose money has arrived although the chain refuses it now."""
        authorization = paid.payload.get("authorization")
        if not isinstance(authorization, dict):
            return None
        try:
            transaction = self._used.paid_in(authorization, expired=reason == ERR_VALID_BEFORE_EXPIRED)
        except ChainError as error:
            raise ChainUnreachable(error.detail, remedy=error.remedy) from error
        return None if transaction is None else Settled(transaction, authorization["from"], authorization["value"])

    def _is_paid(self, paid: PaymentPayload) -> bool:
        """Tell whether a used authorization was used to pay us, or may have been: settling finds out."""
        try:
            return self._paid_before(paid, ERR_NONCE_ALREADY_USED) is not None
        except SettlementPending:
            return True

    def _unswept(self) -> int:
        """Return what was claimed and not swept: a sweep that failed is made good by the next claim."""
        receiver, token = checksum(self._merchant.receiver), checksum(self._merchant.token)
        read = self._signer.read_contract
        found = self._asking(lambda: read(BATCH_SETTLEMENT_ADDRESS, BATCH_SETTLEMENT_ABI, "receivers", receiver, token))
        return int(found[0] - found[1])

    def _requirements(self) -> dict[str, Any]:
        return {
            "scheme": BATCH,
            "network": self._merchant.network,
            "asset": checksum(self._merchant.token),
            "amount": "0",
            "payTo": checksum(self._merchant.receiver),
            "maxTimeoutSeconds": 0,
            "extra": {},
        }

    def _read(
        self, payload: Mapping[str, Any], requirements: Mapping[str, Any]
    ) -> tuple[PaymentPayload, PaymentRequirements, Any]:
        try:
            asked = PaymentRequirements.model_validate(requirements)
            # What is paid is held against what we ask, never against what the client says that we asked.
            paid = PaymentPayload.model_validate({**payload, "accepted": requirements})
        except ValueError as error:
            raise PaymentRefused("invalid_payload", f"{type(error).__name__}") from error
        return paid, asked, self._schemes[asked.scheme]

    def _asking(self, work: Callable[[], Any]) -> Any:
        self._signer.take_fault()
        try:
            found = work()
        except (ChainError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            # The SDK reads unchecked JSON: what it stumbles over is the payload, unless the node was at fault.
            self._raise_fault()
            raise PaymentRefused("invalid_payload", type(error).__name__) from error
        pending = getattr(found, "error_reason", None) == ERR_SETTLEMENT_PENDING
        succeeded = getattr(found, "success", getattr(found, "is_valid", False))
        if not pending and not succeeded:
            self._raise_fault()
        return found

    def _raise_fault(self) -> None:
        fault = self._signer.take_fault()
        if isinstance(fault, NotConfirmed):
            raise SettlementPending("") from fault
        if fault is not None:
            log.warning("x402-chain-fault", code=fault.code, detail=fault.detail)
            raise ChainUnreachable(fault.detail, remedy=fault.remedy) from fault


def claim_row(channel: PayerChannel) -> dict[str, Any]:
    """Return the claim of everything a channel was charged and can pay, as the SDK wants it."""
    return {
        "voucher": {"channel": channel.config.to_wire(), "maxClaimableAmount": str(channel.signed_max)},
        "signature": hex0x(channel.signature),
        "totalClaimed": str(channel.claimable),
    }


def token_domain(web3: Web3, token: bytes, chain_id: int) -> tuple[str, str]:
    """Return the name and version that the token's authorizations are signed for, held against its own separator.

    Raises:
        ConfigurationError: the token has no EIP-3009 as x402 needs it, or x402's contracts are not on this chain.
    """
    for address in (BATCH_SETTLEMENT_ADDRESS, ERC3009_DEPOSIT_COLLECTOR_ADDRESS, MULTICALL3_ADDRESS):
        try:
            require_code(web3, "x402", from_hex(address, 20, field="x402"))
        except ChainError as error:
            raise ConfigurationError(
                error.detail,
                field="MARKET_X402_KEYSTORE",
                remedy="Use a chain that has x402's contracts, or leave this setting out.",
            ) from error
    try:
        name, version = (str(_view(web3, token, view, "string")) for view in ("name", "version"))
        separator = bytes(_view(web3, token, "DOMAIN_SEPARATOR", "bytes32"))
    except (ChainError, ValueError) as error:
        raise _unfit(token, "it does not say its EIP-712 domain") from error
    words = keccak256(name.encode()) + keccak256(version.encode()) + chain_id.to_bytes(32, "big")
    kind = keccak256(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
    if keccak256(kind + words + token.rjust(32, b"\0")) != separator:
        raise _unfit(token, "its EIP-712 domain is not made of its name and version")
    try:
        _view(web3, token, "authorizationState", "bool", (checksum(token), bytes(32)))
    except (ChainError, ValueError) as error:
        raise _unfit(token, "it has no EIP-3009 authorizations with random nonces") from error
    return name, version


def _unfit(token: bytes, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the token {checksum(token)} cannot be paid by x402: {why}.",
        field="MARKET_X402_KEYSTORE",
        remedy="Leave this setting out, or use a token like USDC.",
    )


def _view(web3: Web3, token: bytes, function: str, output: str, arguments: tuple[Any, ...] = ()) -> Any:
    inputs = [{"type": "address"}, {"type": "bytes32"}] if arguments else []
    entry: Any = {"type": "function", "name": function, "stateMutability": "view", "inputs": inputs}
    contract = web3.eth.contract(address=Web3.to_checksum_address(token), abi=[entry | {"outputs": [{"type": output}]}])
    with named():
        return getattr(contract.functions, function)(*arguments).call()


def _payload(inner: Mapping[str, Any], requirements: Mapping[str, Any]) -> dict[str, Any]:
    return {"x402Version": 2, "payload": inner, "accepted": requirements}
