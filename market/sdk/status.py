"""What a gateway says of itself: its address, and the chain and contracts that it works with.

Called by the client and the commands; a stranger's word, read with care.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from contracts.protocol.errors import ProtocolError
from contracts.protocol.hexes import address_from_hex
from contracts.protocol.typed_data import Domain
from market.sdk.errors import GatewayMisbehaved

_REMEDY = "Check that the URL is a gateway's."


def domain_of(status: Mapping[str, Any]) -> Domain:
    """Return the signing domain that a gateway's status names.

    Raises:
        GatewayMisbehaved: it names none.
    """
    try:
        return Domain(int(status["chainId"]), address_from_hex(status["escrow"], field="escrow"))
    except (KeyError, TypeError, ValueError, ProtocolError) as error:
        raise GatewayMisbehaved("the status names no chain and escrow.", field="url", remedy=_REMEDY) from error


def gateway_of(status: Mapping[str, Any]) -> bytes:
    """Return the address that a gateway's status names.

    Raises:
        GatewayMisbehaved: it names none.
    """
    try:
        return address_from_hex(status["gateway"], field="gateway")
    except (KeyError, TypeError, ProtocolError) as error:
        raise GatewayMisbehaved("the status names no gateway.", field="url", remedy=_REMEDY) from error
