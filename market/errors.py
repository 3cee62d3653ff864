"""The refusals and faults of the market, one class a reason.

Decides the stable code, the retry advice and the default remedy of everything the market can refuse. It never
knows HTTP: the status of each class is mapped once, in `market.gateway.problems`. Raised everywhere in `market`.

    CodedError
    └── MarketError
        ├── RequestError            the caller's request cannot be served as written
        ├── PaymentError            the caller's payment does not cover the request
        ├── AccessError             the caller's API key does not allow the request
        ├── CapacityError           nobody can serve it now
        ├── WorkerFault             a worker was asked and did not deliver; nothing is charged
        └── OperationError          a service or setting of the operator is wrong
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from contracts.protocol.errors import CodedError, Retry


class MarketError(CodedError):
    """Base of every error the market raises on purpose.

    `default_remedy` is what the reader should do when the raiser has nothing more precise to say.
    """

    code: ClassVar[str] = "market-error"
    retry: ClassVar[Retry] = Retry.NEVER
    default_remedy: ClassVar[str | None] = None

    def __init__(self, detail: str = "", *, field: str | None = None, remedy: str | None = None) -> None:
        super().__init__(detail or f"{type(self).title()}.", field=field, remedy=remedy or self.default_remedy)
        # What the answer's headers must say beside the refusal, such as what to pay.
        self.headers: Mapping[str, str] = {}

    @classmethod
    def title(cls) -> str:
        """Return the first line of the class documentation: the short human name of the error."""
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0].rstrip(".")


# --- the request -----------------------------------------------------------------------------------------------


class RequestError(MarketError):
    """The request cannot be served as written."""

    code = "request-error"


class InvalidRequest(RequestError):
    """The request is not well formed."""

    code = "invalid-request"
    default_remedy = "Correct the named field; /openapi.json describes every route."


class UnknownModel(RequestError):
    """No active listing has this name or model id."""

    code = "unknown-model"
    default_remedy = "GET /market/v1/models names the models that are listed."


class WrongTensorName(RequestError):
    """A tensor is missing, repeated or not an input of the model."""

    code = "tensor-name"
    default_remedy = "GET /v2/models/{model} names the inputs and outputs."


class WrongTensorShape(RequestError):
    """A tensor has a shape that the model does not take."""

    code = "tensor-shape"
    default_remedy = "GET /v2/models/{model} gives the shapes; -1 is a free dimension."


class WrongTensorType(RequestError):
    """A tensor has a datatype that the model does not take."""

    code = "tensor-datatype"
    default_remedy = "GET /v2/models/{model} gives the datatypes."


class TensorData(RequestError):
    """The data of a tensor does not fit its datatype or shape."""

    code = "tensor-data"
    default_remedy = "Send exactly as many finite elements as the shape has places, in row-major order."


class PayloadTooLarge(RequestError):
    """The request body is larger than this gateway accepts."""

    code = "payload-too-large"
    default_remedy = "Send fewer rows in a request."


class HeadersTooLarge(RequestError):
    """The request's line and headers are larger than this gateway accepts."""

    code = "headers-too-large"
    default_remedy = "Send shorter headers; inputs belong into the body."


class PromptTooLong(RequestError):
    """The prompt and the answer asked for do not fit the model's context."""

    code = "prompt-too-long"
    default_remedy = "Shorten the prompt, or ask for fewer tokens."


class InputsRefused(RequestError):
    """The worker found that the model does not take these inputs; no other worker would."""

    code = "inputs-refused"
    default_remedy = "Correct the named input; GET /v2/models/{model} describes the inputs."


class WrongTask(RequestError):
    """The model does not do what this route is for."""

    code = "wrong-task"
    default_remedy = "GET /v1/models names each model's task; any model answers POST /v2/models/{model}/infer."


class PriceAboveLimit(RequestError):
    """Every offer costs more than the request allows."""

    code = "price-above-limit"
    default_remedy = "Raise Market-Max-Price, which is in atomic units, or leave it out."


class RequestIdReused(RequestError):
    """The request id was already used for other inputs."""

    code = "request-id-reused"
    default_remedy = "Choose a new random Market-Request-Id."


class RequestInProgress(RequestError):
    """The request with this id is still running."""

    code = "request-in-progress"
    retry = Retry.LATER
    default_remedy = "Send the same request again in a moment; it is charged once."


class ReceiptNotFound(RequestError):
    """No receipt has this request id."""

    code = "receipt-not-found"
    default_remedy = "Name the request id and the channel that the answer's headers carried."


class AuditNotFound(RequestError):
    """No audit has this number, or nothing is held against this worker."""

    code = "audit-not-found"
    default_remedy = "`market audits list` shows them."


class ChannelNotFound(RequestError):
    """The chain does not show this channel, or not confirmed yet."""

    code = "channel-not-found"
    retry = Retry.LATER
    default_remedy = "Open the channel on the escrow and wait for the confirmations."


# --- the payment -----------------------------------------------------------------------------------------------


class PaymentError(MarketError):
    """The payment does not cover the request.

    `required` is the cumulative amount (atomic units) that a voucher must reach, where it is known; `terms` is what
    the gateway's answer adds: where to pay, and what each live offer asks.
    """

    code = "payment-error"

    def __init__(
        self,
        detail: str = "",
        *,
        field: str | None = None,
        remedy: str | None = None,
        required: int | None = None,
    ) -> None:
        super().__init__(detail, field=field, remedy=remedy)
        self.required = required
        self.terms: Mapping[str, Any] = {}


class NoPayment(PaymentError):
    """The request carries no payment."""

    code = "payment-required"
    default_remedy = (
        "Send Authorization: Bearer mk_…, a key that `market keys create` made; or open a channel to the gateway and "
        "send Market-Voucher: <channel>;<cumulative>;<signature>."
    )


class InvalidVoucher(PaymentError):
    """The Market-Voucher header cannot be read."""

    code = "invalid-voucher"
    default_remedy = (
        "Send Market-Voucher: <channel id 0x…>;<cumulative, decimal>;<signature 0x…, 65 bytes>, and where the channel "
        "asks for it ;<access 0x…, 65 bytes>."
    )


class InvalidSignature(PaymentError):
    """The voucher is not signed by the channel's signer."""

    code = "invalid-signature"
    default_remedy = "Sign Voucher(channelId, cumulativeAmount) with the channel's signer, for this chain and escrow."


class AccessNeeded(PaymentError):
    """The channel's signer must show that it asks: others come to have its vouchers."""

    code = "access-needed"
    default_remedy = (
        "Sign ChannelAccess(channelId) with the channel's signer, for this chain and escrow, and send it as the fourth "
        "part of Market-Voucher."
    )


class StaleVoucher(PaymentError):
    """The voucher is below what the channel has already been charged."""

    code = "stale-voucher"
    default_remedy = "Sign a voucher of at least `required`."


class InsufficientVoucher(PaymentError):
    """The voucher does not cover the price of this request."""

    code = "insufficient-voucher"
    default_remedy = "Sign a voucher of at least `required`."


class InsufficientDeposit(PaymentError):
    """The channel's deposit does not cover the price of this request."""

    code = "insufficient-deposit"
    default_remedy = "Deposit more into the channel and wait for the confirmations."


class UnknownChannel(PaymentError):
    """The channel is not on the chain, or not confirmed yet."""

    code = "unknown-channel"
    retry = Retry.LATER
    default_remedy = "Open the channel on the escrow and wait until GET /market/v1/channels/{id} shows it."


class ChannelExiting(PaymentError):
    """The payer has started to take the deposit out of the channel."""

    code = "channel-exiting"
    default_remedy = "Open a new channel, or deposit again."


class WrongGateway(PaymentError):
    """The channel pays another gateway."""

    code = "wrong-gateway"
    default_remedy = "Open a channel to this gateway; GET /market/v1/status names its address."


class GatewaysChannel(PaymentError):
    """The channel is the gateway's own, and pays for nothing that others ask."""

    code = "gateways-channel"
    default_remedy = "Open a channel of your own, and sign its voucher."


class ExposureLimit(PaymentError):
    """The channel owes as much as this gateway lends before it settles."""

    code = "exposure-limit"
    retry = Retry.LATER
    default_remedy = "Wait for the next settlement and send the request again."


class PaymentRejected(PaymentError):
    """The x402 payment is not good for this request."""

    code = "payment-rejected"
    default_remedy = "Read PAYMENT-REQUIRED: its `error` says why, its `accepts` what would be good. Then pay anew."


class CreditSpent(PaymentError):
    """The credit bought by x402 does not cover the price of this request."""

    code = "credit-spent"
    default_remedy = "Buy a credit pack: pay what PAYMENT-REQUIRED accepts."


class KeyUnfunded(PaymentError):
    """The channel's owner has signed too little for all its API keys and its own requests."""

    code = "key-unfunded"
    default_remedy = "The channel's owner runs `market keys fund`."


# --- API keys --------------------------------------------------------------------------------------------------


class AccessError(MarketError):
    """The API key does not allow the request."""

    code = "access-error"


class InvalidKey(AccessError):
    """The gateway knows no such API key."""

    code = "invalid-key"
    default_remedy = "Send Authorization: Bearer mk_… as `market keys create` printed it, to the gateway it is for."

    def __init__(self, detail: str = "", *, field: str | None = None, remedy: str | None = None) -> None:
        super().__init__(detail, field=field or "Authorization", remedy=remedy)
        self.headers = {"WWW-Authenticate": "Bearer"}


class KeyExpired(InvalidKey):
    """The API key has expired."""

    code = "key-expired"
    default_remedy = "The channel's owner makes a new one: `market keys create`."


class KeyRevoked(InvalidKey):
    """The API key was revoked."""

    code = "key-revoked"
    default_remedy = "The channel's owner makes a new one: `market keys create`."


class KeyLimit(AccessError):
    """The API key's spending limit leaves too little for this request."""

    code = "key-limit"
    default_remedy = "Ask for less, such as fewer tokens; or the channel's owner makes a new key."


class KeyModel(AccessError):
    """The API key is not for this model."""

    code = "key-model"
    default_remedy = "GET /market/v1/keys with the key names its models."


class KeySignature(AccessError):
    """The request is not signed by the channel's signer, or was signed too long ago."""

    code = "key-signature"
    default_remedy = "Sign KeyGrant, KeyRevocation or KeyListing with the channel's signer, for this chain and escrow."


class KeyExists(RequestError):
    """Another API key has this hash."""

    code = "key-exists"
    default_remedy = "Draw a new key."


class KeyNotFound(RequestError):
    """No API key has this hash."""

    code = "key-not-found"
    default_remedy = "`market keys list` names them."


class TooManyKeys(RequestError):
    """The channel has as many API keys as it may have."""

    code = "too-many-keys"
    default_remedy = "Revoke some of them."


class TooManyFailures(AccessError):
    """Too many unknown API keys were tried of late."""

    code = "too-many-failures"
    retry = Retry.LATER
    default_remedy = "Wait as long as Retry-After says, then send a key that is known."


class NoRoute(InvalidRequest):
    """There is no such route."""

    code = "no-route"
    default_remedy = "/openapi.json lists the routes."


class UnknownPage(RequestError):
    """The console has no such file."""

    code = "unknown-page"
    default_remedy = "Open / anew; the names of the console's files change with each release."


class ChainReadRefused(RequestError):
    """The gateway does not pass this read on to its chain's node."""

    code = "chain-read-refused"
    default_remedy = "Ask eth_chainId, eth_blockNumber, or eth_call and eth_getLogs of the contracts in the status."


class NoX402(RequestError):
    """This gateway takes no payments by x402."""

    code = "no-x402"
    default_remedy = "Pay with Market-Voucher; GET /market/v1/status names the escrow."


class NothingToRefund(RequestError):
    """The payer has no unused credit."""

    code = "nothing-to-refund"


class RefundNotSigned(RequestError):
    """A refund is given to the channel's payer or signer only."""

    code = "refund-not-signed"
    default_remedy = "Sign Refund(channelId, nonce, amount) with the channel's signer or payer."


class RefundOutOfStep(RequestError):
    """The refund's number is not the channel's next."""

    code = "refund-out-of-step"
    retry = Retry.LATER
    default_remedy = "Take the number from the escrow's refundNonce, and wait for the confirmations of the last refund."


class RefundNotFree(RequestError):
    """Not so much of the channel is free."""

    code = "refund-not-free"
    default_remedy = "Ask for what GET /market/v1/channels/{id} calls available, or exit without the gateway's consent."


# --- capacity and workers --------------------------------------------------------------------------------------


class CapacityError(MarketError):
    """Nobody can serve the request now."""

    code = "capacity-error"
    retry = Retry.LATER


class NoCapacity(CapacityError):
    """No live worker offers this model."""

    code = "no-capacity"
    default_remedy = "Try again later; GET /market/v1/workers shows who is live."


class Overloaded(CapacityError):
    """The workers of this model have as much waiting as they take."""

    code = "overloaded"
    default_remedy = "Wait as long as Retry-After says and send the request again."


class TooManyRequests(CapacityError):
    """This payer, API key or address has sent more requests than the gateway takes from one."""

    code = "too-many-requests"
    default_remedy = "Wait as long as Retry-After says, then send fewer at once."


class WorkerFault(MarketError):
    """A worker did not deliver; nothing is charged.

    It does not speak against a worker that is `blameless`, nor, if it ever answers, against one that called these
    inputs `too_large` for it.
    """

    code = "worker-fault"
    retry = Retry.SAME
    blameless = False
    too_large = False


class WorkerFailed(WorkerFault):
    """The worker refused or failed the request; nothing is charged."""

    code = "worker-failed"
    default_remedy = "Send the request again; the voucher stays good."


class OutOfMemory(WorkerFailed):
    """No worker has the memory for inputs of this size; nothing is charged."""

    code = "out-of-memory"
    retry = Retry.LATER
    default_remedy = "Send smaller inputs, or fewer at once."
    too_large = True


class WorkerHangs(WorkerFault):
    """The worker did not answer while another one could; nothing is charged."""

    code = "worker-hangs"
    retry = Retry.OTHER_WORKER
    default_remedy = "Send the request again; the voucher stays good."


class DeadlineExceeded(WorkerFault):
    """No worker answered in time; nothing is charged."""

    code = "deadline-exceeded"
    default_remedy = "Send the request again; the voucher stays good."


class OutOfTime(DeadlineExceeded):
    """No worker is fast enough for inputs of this size; nothing is charged."""

    code = "out-of-time"
    retry = Retry.LATER
    default_remedy = "Send smaller inputs, or fewer at once."
    too_large = True


class ReceiptMismatch(WorkerFault):
    """The worker's receipt does not match its answer; nothing is charged."""

    code = "receipt-mismatch"
    retry = Retry.OTHER_WORKER
    default_remedy = "Send the request again; the answer was withheld and the worker's signature is kept as evidence."


# --- the operator's own services -------------------------------------------------------------------------------


class OperationError(MarketError):
    """A service or a setting of this program is wrong."""

    code = "operation-error"


class ChainUnreachable(OperationError):
    """The chain's node does not answer."""

    code = "chain-unreachable"
    retry = Retry.LATER
    default_remedy = "Start the node, or set MARKET_RPC_URL to one that runs."


class RedisUnreachable(OperationError):
    """The Redis server does not answer."""

    code = "redis-unreachable"
    retry = Retry.LATER
    default_remedy = "Start Redis or Valkey, or set MARKET_REDIS_URL to one that runs."


class DatabaseUnreachable(OperationError):
    """The database does not answer."""

    code = "database-unreachable"
    retry = Retry.LATER
    default_remedy = "Set MARKET_DATABASE_URL to a database that can be reached and written."


class HouseShort(OperationError):
    """The gateway's own channel cannot pay onward; nothing is charged."""

    code = "house-short"
    retry = Retry.LATER
    default_remedy = "Send the same payment again later. Operator: fund the account of MARKET_X402_KEYSTORE."


class PaymentUndecided(OperationError):
    """The payment's transaction is out and not confirmed yet."""

    code = "payment-undecided"
    retry = Retry.SAME
    default_remedy = "Send the same payment again; it is settled once."


class WrongNetwork(OperationError):
    """The node serves another network than the one configured."""

    code = "wrong-network"
    default_remedy = "Make MARKET_RPC_URL, MARKET_CHAIN_ID and the deployment name the same network."


class ConfigurationError(OperationError):
    """A setting is missing or contradicts another."""

    code = "configuration"
    default_remedy = "See docs/settings.md for the table of settings."
