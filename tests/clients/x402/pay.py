# /// script
# requires-python = ">=3.11"
# dependencies = ["x402[evm,extensions,httpx]==2.25.0"]
# ///
"""Pays for inferences with the stock Python client, as a program of somebody who knows only x402.

Runs in an environment of its own (`uv run --script`): the sign-in extension holds web3 at 7, this project runs on 8.
argv[1]: JSON {url, body, key, network, scheme, asset, signIn, requests}; prints one line of JSON an answer.
"""

import asyncio
import json
import sys

from eth_account import Account
from x402 import x402Client
from x402.extensions.sign_in_with_x import CreateSIWxClientExtensionOptions, create_siwx_client_extension
from x402.http.clients import x402HttpxClient
from x402.http.utils import decode_payment_response_header
from x402.mechanisms.evm.batch_settlement.client import BatchSettlementEvmScheme
from x402.mechanisms.evm.exact import ExactEvmScheme


async def main() -> None:
    asked = json.loads(sys.argv[1])
    account = Account.from_key(asked["key"])
    scheme = {"exact": ExactEvmScheme, "batch-settlement": BatchSettlementEvmScheme}[asked["scheme"]]
    client = x402Client().register(asked["network"], scheme(account))
    # Test dollars are on no default list; a real client names them too, with its own cap.
    client.set_spend_controls({"allowed_assets": [{"network": asked["network"], "asset": asked["asset"]}]})
    if asked["signIn"]:
        client.register_extension(create_siwx_client_extension(CreateSIWxClientExtensionOptions(signers=[account])))
    async with x402HttpxClient(client, timeout=60.0) as http:
        for _ in range(asked["requests"]):
            answer = await http.post(asked["url"], json=asked["body"])
            settled = answer.headers.get("payment-response")
            line = {
                "status": answer.status_code,
                "settled": decode_payment_response_header(settled).model_dump(by_alias=True) if settled else None,
                "receipt": answer.headers.get("market-receipt"),
                "charged": answer.headers.get("market-charged"),
                "body": answer.json(),
            }
            sys.stdout.write(json.dumps(line) + "\n")


asyncio.run(main())
