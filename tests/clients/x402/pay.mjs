// Pays for inferences with the stock TypeScript client, as a program of somebody who knows only x402.
// argv[2]: JSON {url, body, key, network, scheme, asset, signIn, requests}; prints one line of JSON an answer.
import { BatchSettlementEvmScheme } from "@x402/evm/batch-settlement/client";
import { ExactEvmScheme } from "@x402/evm/exact/client";
import { createSIWxClientHook } from "@x402/extensions/sign-in-with-x";
import { decodePaymentResponseHeader, wrapFetchWithPayment, x402Client, x402HTTPClient } from "@x402/fetch";
import { privateKeyToAccount } from "viem/accounts";

const asked = JSON.parse(process.argv[2]);
const account = privateKeyToAccount(asked.key);
const scheme = asked.scheme === "exact" ? new ExactEvmScheme(account) : new BatchSettlementEvmScheme(account);
const client = new x402Client().register(asked.network, scheme);
// Test dollars are on no default list; a real client names them too, with its own cap.
client.setSpendControls({ allowedAssets: [{ network: asked.network, asset: asked.asset }] });
const http = new x402HTTPClient(client);
if (asked.signIn) http.onPaymentRequired(createSIWxClientHook(account));
const pay = wrapFetchWithPayment(fetch, http);

for (let i = 0; i < asked.requests; i++) {
  const response = await pay(asked.url, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(asked.body),
  });
  const settled = response.headers.get("payment-response");
  console.log(
    JSON.stringify({
      status: response.status,
      settled: settled ? decodePaymentResponseHeader(settled) : null,
      receipt: response.headers.get("market-receipt"),
      charged: response.headers.get("market-charged"),
      body: await response.json(),
    }),
  );
}
