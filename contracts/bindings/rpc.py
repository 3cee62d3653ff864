"""The connection to an EVM node: one web3 client, its failures named, its chain id checked.

Never retries a write. Called by every binding; the transactor decides what to do after a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import requests
from web3 import HTTPProvider, Web3
from web3.exceptions import ContractLogicError, TooManyRequests, Web3Exception, Web3RPCError

from contracts.bindings.errors import NodeUnreachable, NotEnoughGasMoney, WrongChain, decode_revert
from contracts.protocol.own_machine import is_own

TIMEOUT_SECONDS = 15.0
_T = TypeVar("_T")


def connect(url: str, chain_id: int | None = None, *, timeout_seconds: float = TIMEOUT_SECONDS) -> Web3:
    """Open a node by HTTP URL and check which chain it serves.

    Raises:
        NodeUnreachable: nothing answers there.
        WrongChain: the node's chain id is not `chain_id`.
    """
    provider = HTTPProvider(
        url,
        request_kwargs={"timeout": timeout_seconds},
        session=_session(url),
        exception_retry_configuration=None,
    )
    web3 = Web3(provider)
    with named(url):
        served = web3.eth.chain_id
    if chain_id is not None and served != chain_id:
        raise WrongChain(
            f"the node at {url} serves chain {served}, not {chain_id}.",
            field="rpc_url",
            remedy=f"Name a node of chain {chain_id}, or set the chain id to {served}.",
        )
    return web3


def _session(url: str) -> requests.Session | None:
    """Return a session that looks for no proxy where the node is beside us: looking takes a third of such a call."""
    if not is_own(url):
        return None
    session = requests.Session()
    session.trust_env = False
    return session


@contextmanager
def named(url: str = "the RPC URL") -> Iterator[None]:
    """Turn web3's and the transport's exceptions into ours.

    Raises:
        NodeUnreachable: connection, timeout, rate limit or an answer that makes no sense.
        TransactionReverted: a call or estimate reverted.
        NotEnoughGasMoney: the node says the sender cannot pay.
    """
    try:
        yield
    except ContractLogicError as error:
        raise decode_revert(_revert_data(error.data)) from error
    except Web3RPCError as error:
        text = str(error)
        if "insufficient funds" in text.lower():
            raise NotEnoughGasMoney(
                "the account has too little of the chain's own currency for gas.",
                field="account",
                remedy="Send it some and try again.",
            ) from error
        data = _revert_data((error.rpc_response or {}).get("error", {}).get("data"))
        if data:
            raise decode_revert(data) from error
        raise NodeUnreachable(f"the node answered: {_first_line(text)}.", field="rpc_url") from error
    except (requests.RequestException, ConnectionError, TimeoutError, TooManyRequests) as error:
        raise NodeUnreachable(
            f"no answer from the node at {url}.", field="rpc_url", remedy="Start the node or name another."
        ) from error
    except (Web3Exception, ValueError, TypeError, LookupError, AttributeError) as error:
        # web3 reads unchecked JSON: what it stumbles over, where nothing but calls of it stand, is the answer.
        raise NodeUnreachable(
            f"the node's answer makes no sense: {_first_line(str(error))}.", field="rpc_url"
        ) from error


def ask(call: Callable[[], _T]) -> _T:
    """Run one read with its failures named."""
    with named():
        return call()


def _revert_data(data: Any) -> bytes:
    if isinstance(data, dict):
        data = data.get("data")
    if isinstance(data, str) and data.startswith("0x"):
        try:
            return bytes.fromhex(data[2:])
        except ValueError:
            return b""
    return b""


def _first_line(text: str) -> str:
    return text.splitlines()[0][:200] if text else "nothing"
