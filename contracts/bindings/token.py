"""The payment token: ERC-20, and on devnets `TestUSD` with its open mint."""

from __future__ import annotations

from contracts.bindings.contract import Binding


class Token(Binding):
    """Reads and call data of the token; `mint` exists on devnets only."""

    NAME = "TestUSD"

    def balance_of(self, account: bytes, *, block: int | None = None) -> int:
        """Return an account's balance, atomic units."""
        return int(self.read("balanceOf", account, block=block))

    def allowance(self, owner: bytes, spender: bytes) -> int:
        """Return what `spender` may take from `owner`."""
        return int(self.read("allowance", owner, spender))

    def approve(self, spender: bytes, amount: int) -> bytes:
        """Encode an allowance."""
        return self.encode("approve", spender, amount)

    def mint(self, to: bytes, amount: int) -> bytes:
        """Encode minting test dollars."""
        return self.encode("mint", to, amount)
