"""Which network a client command talks to: options first, then the local network of the data folder.

Decides defaults so that a second terminal beside `market up` needs no options. Called by the client commands.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from contracts.protocol.hexes import from_hex
from market.devnet.network_file import NetworkFile
from market.errors import ConfigurationError
from market.sdk.client import Market
from market.sdk.errors import NoChannel
from market.sdk.papers import KeptChannel, PaperStore
from market.sdk.status import domain_of, gateway_of
from market.sdk.wallet import Wallet
from market.settings import DEFAULT_DATA_DIR

if TYPE_CHECKING:
    from market.sdk.chain import Chain

DataDirOption = Annotated[
    Path, typer.Option("--data-dir", envvar="MARKET_DATA_DIR", help="Folder of the local network and of your papers.")
]
UrlOption = Annotated[str | None, typer.Option("--url", envvar="MARKET_URL", help="Gateway to use.")]
RpcOption = Annotated[str | None, typer.Option("--rpc-url", envvar="MARKET_RPC_URL", help="Node of the chain.")]
DeploymentOption = Annotated[
    Path | None,
    typer.Option("--deployment", envvar="MARKET_DEPLOYMENT", help="File with the contracts' addresses."),
]
ChainIdOption = Annotated[
    int | None, typer.Option("--chain-id", envvar="MARKET_CHAIN_ID", help="Chain whose known deployment is used.")
]
KeystoreOption = Annotated[Path | None, typer.Option("--keystore", help="Keystore file of the key that acts.")]
PasswordOption = Annotated[
    Path | None, typer.Option("--password-file", help="File whose first line opens the keystore.")
]

ChannelOption = Annotated[str | None, typer.Option("--channel", help="Id of the channel; default the newest.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be signed and what it costs; send nothing.")
]


@dataclass(frozen=True, slots=True)
class Profile:
    """What the options and the data folder's network file say together."""

    data_dir: Path
    network: NetworkFile | None
    url: str | None = None
    rpc_url: str | None = None
    deployment: Path | None = None
    chain_id: int | None = None
    keystore: Path | None = None
    password_file: Path | None = None

    @classmethod
    def load(
        cls,
        data_dir: Path = DEFAULT_DATA_DIR,
        *,
        url: str | None = None,
        rpc_url: str | None = None,
        deployment: Path | None = None,
        chain_id: int | None = None,
        keystore: Path | None = None,
        password_file: Path | None = None,
    ) -> Profile:
        """Join options with the folder's network file.

        Raises:
            ConfigurationError: the network file is damaged.
        """
        network = NetworkFile.load(data_dir)
        return cls(data_dir, network, url, rpc_url, deployment, chain_id, keystore, password_file)

    def gateway(self) -> str:
        """Return the gateway's URL.

        Raises:
            ConfigurationError: none is known.
        """
        known = self.url or (self.network.gateway_url if self.network else None)
        if known is None:
            raise _missing("url", "gateway", "Give --url, or start `market up` with the same --data-dir.")
        return known

    def chain(self, *, dry_run: bool = False) -> Chain:
        """Connect to the chain; a dry run sends nothing.

        Raises:
            ConfigurationError: no node or deployment is known.
            ChainError: the node does not answer or is another network's.
        """
        from market.sdk.chain import Chain  # web3 takes seconds to import

        rpc_url = self.rpc_url or (self.network.rpc_url if self.network else None)
        if rpc_url is None:
            raise _missing("rpc-url", "node", "Give --rpc-url, or start `market up` with the same --data-dir.")
        deployment = self.deployment or (Path(self.network.deployment) if self.network else None)
        outbox = self.data_dir / "client" / "outbox"
        return Chain.connect(rpc_url, deployment, chain_id=self.chain_id, dry_run=dry_run, outbox_dir=outbox)

    def wallet(self, role: str = "client") -> Wallet:
        """Open the keystore of the options, else the local network's `role`.

        Raises:
            ConfigurationError: no key is known.
            KeystoreError: it does not open.
        """
        if self.keystore is not None:
            return Wallet.load(self.keystore, self.password_file)
        if self.network is None:
            remedy = "Give --keystore and --password-file (see `market wallet new`), or the --data-dir of `market up`."
            raise _missing("keystore", "key", remedy)
        if role not in self.network.keystores:
            known = ", ".join(self.network.keystores)
            raise ConfigurationError(f"no account is called {role!r}.", field="role", remedy=f"Use one of {known}.")
        return Wallet.load(Path(self.network.keystores[role]), Path(self.network.password_file))

    def chain_of(self, market: Market, *, dry_run: bool = False) -> tuple[Chain, bytes]:
        """Connect to the chain, and return it with the gateway's address once both work on the same contracts.

        Raises:
            WrongChain: the gateway works elsewhere; what were sent here would be of no use there.
        """
        status = market.status()
        gateway, theirs = gateway_of(status), domain_of(status)
        chain = self.chain(dry_run=dry_run)
        chain.check_domain(theirs)
        return chain, gateway

    def papers(self) -> PaperStore:
        """Open the client's papers in the data folder."""
        return PaperStore(self.data_dir / "client" / "papers.db")

    def market(self, wallet: Wallet | None = None, *, channel: str | None = None) -> Market:
        """Return a client of the gateway with the folder's papers; it pays from the newest channel, or the one named.

        Raises:
            ConfigurationError: no gateway is known.
            InvalidHex | NoChannel: see `remembered`.
        """
        made = Market(self.gateway(), wallet, papers=self.papers())
        if wallet is not None and channel is not None:
            kept = self.remembered(wallet, channel)
            made.use_channel(kept.channel, kept.domain)
        return made

    def remembered(self, wallet: Wallet, channel: str) -> KeptChannel:
        """Return the wallet's channel of this id from the papers.

        Raises:
            InvalidHex: it is no id.
            NoChannel: the papers do not have it.
        """
        wanted = from_hex(channel, 32, field="channel")
        for kept in self.papers().channels(payer=wallet.address):
            if kept.channel_id == wanted:
                return kept
        raise unknown_channel(f"no channel {channel} of this key is known here.")


def unknown_channel(detail: str) -> NoChannel:
    """Return the error of a channel that the papers do not have."""
    return NoChannel(detail, field="channel", remedy="`market channel list --find` reads them from the chain.")


def _missing(field: str, what: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"no {what} is named and no local network is known.", field=field, remedy=remedy)
