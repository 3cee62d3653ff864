"""A browser wallet for tests: an EIP-1193 provider in the page, backed by an account of the local chain's own node.

The node holds the account's key and really signs: typed data, transactions. Nothing is asked of it from the page itself,
whose policy forbids that, but through a binding of the browser, as an extension would.
"""

from __future__ import annotations

import httpx

from market.devnet.services import rpc

_PROVIDER = """
(() => {
  const listeners = {};
  const provider = {
    request: async ({ method, params }) => {
      const { result, error } = await window.walletRequest(method, params ?? []);
      if (error) throw error;
      return result;
    },
    on: (event, heard) => (listeners[event] ??= []).push(heard),
  };
  const info = { uuid: 'b0a8c5a4-0000-4000-8000-000000000001', name: 'Test wallet', icon: '', rdns: 'test.wallet' };
  const announce = () => window.dispatchEvent(
    new CustomEvent('eip6963:announceProvider', { detail: Object.freeze({ info, provider }) }));
  window.addEventListener('eip6963:requestProvider', announce);
  announce();
})();
"""
# What a person would be asked about.
ASKING = ("eth_requestAccounts", "eth_signTypedData_v4", "eth_sendTransaction")


class InjectedWallet:
    """The wallet of one visit; `asked` lists what its person would have been asked, `declining` says no to it."""

    def __init__(self, visit, rpc_url: str) -> None:
        self._rpc_url = rpc_url
        self.address = rpc(rpc_url, "eth_accounts")[0]
        self.asked: list[str] = []
        self.declining: set[str] = set()
        visit.page.expose_function("walletRequest", self._answer)
        visit.context.add_init_script(_PROVIDER)

    def _answer(self, method: str, params: list) -> dict:
        if method in ASKING:
            self.asked.append(method)
        if method in self.declining:
            return {"error": {"code": 4001, "message": "User rejected the request."}}
        if method == "eth_requestAccounts":
            return {"result": [self.address]}
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = httpx.post(self._rpc_url, json=body, timeout=30).json()
        return {name: answer[name] for name in ("result", "error") if name in answer}
