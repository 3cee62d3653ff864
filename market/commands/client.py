"""`market status`, `market infer`, `market receipts`: what a client does with a gateway."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import orjson
import typer
from rich.markup import escape

from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import checksum, from_hex, hex0x
from contracts.protocol.money import format_amount, parse_amount
from contracts.protocol.tensors import NUMPY_DTYPES, Tensor, utf8
from market.commands.listing import Listing
from market.commands.output import (
    EXIT_REFUSED,
    JsonOption,
    console,
    emit,
    errors_as_messages,
    print_fields,
    print_table,
)
from market.commands.profile import (
    ChainIdOption,
    ChannelOption,
    DataDirOption,
    DeploymentOption,
    KeystoreOption,
    PasswordOption,
    Profile,
    RpcOption,
    UrlOption,
)
from market.demo import minilm
from market.errors import InvalidRequest, ReceiptNotFound
from market.sdk.client import Market
from market.sdk.exchange import Inputs
from market.sdk.papers import SignedReceipt
from market.sdk.verify import Verdict, verify_receipt
from market.settings import DEFAULT_DATA_DIR

receipts_app = typer.Typer(cls=Listing, help="Receipts of paid requests.", no_args_is_help=True)


def status(*, data_dir: DataDirOption = DEFAULT_DATA_DIR, url: UrlOption = None, as_json: JsonOption = False) -> None:
    """Show the gateway, its models and its workers."""
    with errors_as_messages(as_json=as_json):
        with Profile.load(data_dir, url=url).market() as market:
            found = market.status()
            models, workers = market.get("/market/v1/models"), market.get("/market/v1/workers")

        def text() -> None:
            print_fields(
                {
                    "gateway": f"{market.url}  {found['gateway']}",
                    "chain": f"{found['chainId']}, read up to block {found['indexedBlock']}",
                    "escrow": found["escrow"],
                    "settlements": found["lastEpoch"],
                }
            )
            rows = [
                [
                    m["name"],
                    m["unit"].replace("_", " "),
                    ", ".join(format_amount(int(o["unitPrice"])) for o in m["offers"]),
                    m["modelId"],
                ]
                for m in models
            ]
            print_table("models", ["name", "unit", "offers", "id"], rows)
            rows = [
                [w["worker"], "live" if w["live"] else "away", format_amount(int(w["stake"])), w["hardware"]]
                for w in workers
            ]
            print_table("workers", ["worker", "state", "stake", "hardware"], rows)

        emit({"status": found, "models": models, "workers": workers}, as_json=as_json, text=text)


def infer(
    model: Annotated[str, typer.Argument(help="Name or 0x-id of a listed model.")],
    inputs: Annotated[
        str | None, typer.Argument(help="JSON object of tensors, name to nested lists; @file reads it from a file.")
    ] = None,
    *,
    text: Annotated[
        list[str] | None, typer.Option("--text", help="A text for a model that takes texts; may be repeated.")
    ] = None,
    max_price: Annotated[str | None, typer.Option(help="Most the request may cost, in tokens.")] = None,
    worker: Annotated[str | None, typer.Option(help="Address of the only worker that will do.")] = None,
    region: Annotated[str | None, typer.Option(help="Region of the worker; eu takes all that begin with eu-.")] = None,
    min_stake: Annotated[str | None, typer.Option(help="Least stake of the worker, in tokens.")] = None,
    hedge: Annotated[bool, typer.Option("--hedge", help="Let a second worker be asked if the first is late.")] = False,
    sealed: Annotated[bool, typer.Option("--sealed", help="Let the worker alone read it, not the gateway.")] = False,
    channel: ChannelOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    url: UrlOption = None,
    keystore: KeystoreOption = None,
    password_file: PasswordOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pay for one inference from the channel in use, and keep its receipt."""
    with errors_as_messages(as_json=as_json):
        profile = Profile.load(data_dir, url=url, keystore=keystore, password_file=password_file)
        limit = None if max_price is None else parse_amount(max_price, field="max-price")
        stake = 0 if min_stake is None else parse_amount(min_stake, field="min-stake")
        with profile.market(profile.wallet(), channel=channel) as market:
            tensors = _tensors(market, model, inputs, text)
            outcome = market.infer(
                model,
                tensors,
                max_price=limit,
                worker=worker,
                region=region,
                min_stake=stake,
                hedge=hedge,
                sealed=sealed,
            )
        outputs: dict[str, Any] = {name: _plain(array) for name, array in outcome.outputs.items()}
        vectors = _vectors(outcome.outputs, tensors) if text else None
        if vectors is not None:
            outputs = {"embeddings": vectors.tolist(), "similarities": (vectors @ vectors.T).tolist()}
        data = {
            "requestId": hex0x(outcome.paper.receipt.request_id),
            "charged": str(outcome.charged),
            "cumulative": str(outcome.cumulative),
            "worker": checksum(outcome.paper.receipt.worker),
            "outputs": outputs,
        }

        def show() -> None:
            if text and vectors is not None:
                _show_similarities(text, np.array(outputs["similarities"]))
            else:
                for name, array in outcome.outputs.items():
                    console.print(f"[bold]{name}[/bold] {list(array.shape)}")
                    console.print(_written(array), markup=False)
            print_fields(
                {
                    "paid": format_amount(outcome.charged),
                    "paid on the channel": format_amount(outcome.cumulative),
                    "worker": data["worker"],
                    "receipt": data["requestId"],
                }
            )

        emit(data, as_json=as_json, text=show)


def _vectors(outputs: Mapping[str, Any], inputs: Inputs) -> Any:
    """Return the texts' vectors, of length one; None where the model gives none."""
    if isinstance(inputs, dict) and "last_hidden_state" in outputs and "attention_mask" in inputs:
        return minilm.pool(outputs["last_hidden_state"], inputs["attention_mask"])
    found = outputs.get("embedding")
    return None if found is None else found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def _written(array: Any) -> str:
    if array.dtype != object:
        return np.array2string(array, threshold=20, precision=5)
    return "\n".join(item.decode("utf-8", "replace") for item in array.ravel())


def _plain(array: Any) -> Any:
    """Return an array as JSON takes it; texts come as bytes."""
    if array.dtype != object:
        return array.tolist()
    return np.array([item.decode("utf-8", "replace") for item in array.ravel()]).reshape(array.shape).tolist()


def _tensors(market: Market, model: str, inputs: str | None, sentences: list[str] | None) -> Inputs:
    if sentences:
        takes = _inputs(market, model)
        if list(takes.values()) == ["BYTES"]:
            return {next(iter(takes)): np.array(sentences, dtype=object)}
        if takes.keys() == {"input_ids", "attention_mask", "token_type_ids"}:
            for sentence in sentences:
                utf8(sentence, "text")
            return minilm.tokenize(minilm.load_tokenizer(), sentences)
        raise InvalidRequest(
            f"{model} takes {', '.join(takes)}, and no text alone.",
            field="text",
            remedy="Give a JSON object of its tensors.",
        )
    if inputs is None:
        raise InvalidRequest(
            "nothing to infer from.", field="inputs", remedy="Give --text or a JSON object of tensors."
        )
    try:
        raw = orjson.loads(Path(inputs[1:]).read_bytes() if inputs.startswith("@") else inputs)
    except (OSError, orjson.JSONDecodeError) as error:
        wrong = f"not JSON: {error}." if isinstance(error, orjson.JSONDecodeError) else f"{error}."
        raise InvalidRequest(
            wrong, field="inputs", remedy="Give a JSON object of tensors, or @FILE for one in a file."
        ) from error
    if not isinstance(raw, dict):
        raise InvalidRequest("expected a JSON object of tensors.", field="inputs")
    specs = _inputs(market, model)
    return [_tensor(name, specs.get(name), value) for name, value in raw.items()]


def _inputs(market: Market, model: str) -> dict[str, str]:
    """Return the datatypes of a model's inputs by their names."""
    return {spec["name"]: spec["datatype"] for spec in market.get(f"/v2/models/{quote(model, safe='')}")["inputs"]}


def _tensor(name: str, datatype: str | None, value: Any) -> Tensor:
    if datatype is None:
        raise InvalidRequest("not an input of the model.", field=name)
    try:
        array = np.array(value, dtype=object if datatype == "BYTES" else NUMPY_DTYPES[datatype])
    except (ValueError, TypeError, OverflowError, KeyError) as error:
        raise InvalidRequest(f"not a {datatype} tensor: {error}.", field=name) from error
    return Tensor.from_numpy(name, array)


def _show_similarities(sentences: list[str], similarities: Any) -> None:
    for row, sentence in enumerate(sentences):
        for column in range(row):
            console.print(f"{similarities[row, column]:6.3f}  {sentence!r} ~ {sentences[column]!r}", markup=False)


@receipts_app.command("list")
def receipts_list(*, data_dir: DataDirOption = DEFAULT_DATA_DIR, as_json: JsonOption = False) -> None:
    """List the receipts kept in the data folder."""
    with errors_as_messages(as_json=as_json):
        kept = list(Profile.load(data_dir).papers().receipts())
        rows = [
            [
                hex0x(paper.receipt.request_id),
                paper.model,
                format_amount(paper.receipt.price),
                checksum(paper.receipt.worker),
                "" if paper.settlement is None else str(paper.settlement.epoch),
            ]
            for paper in kept
        ]
        emit(
            [paper.to_json() for paper in kept],
            as_json=as_json,
            text=lambda: print_table("receipts", ["request", "model", "price", "worker", "settled in"], rows),
        )


@receipts_app.command("verify")
def receipts_verify(
    request_id: Annotated[str | None, typer.Argument(help="Request id; all kept receipts if left out.")] = None,
    *,
    file: Annotated[Path | None, typer.Option(help="Verify a receipt from a JSON file instead.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the settlement of what is not settled.")] = 0,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    url: UrlOption = None,
    rpc_url: RpcOption = None,
    deployment: DeploymentOption = None,
    chain_id: ChainIdOption = None,
    as_json: JsonOption = False,
) -> None:
    """Verify receipts from the chain alone: signatures, leaf, proof, root, parties, amounts.

    The gateway is only asked for a proof that is not kept yet; every fact comes from the chain.
    """
    with errors_as_messages(as_json=as_json):
        profile = Profile.load(data_dir, url=url, rpc_url=rpc_url, deployment=deployment, chain_id=chain_id)
        chain = profile.chain()
        until = time.monotonic() + wait
        verdicts = [(paper, _verdict(profile, paper, chain, until)) for paper in _chosen(profile, request_id, file)]
        data = [{"requestId": hex0x(p.receipt.request_id), **v.to_json()} for p, v in verdicts]

        def text() -> None:
            for paper, verdict in verdicts:
                console.print(f"[bold]{hex0x(paper.receipt.request_id)}[/bold]")
                for check in verdict.checks:
                    mark = "[green]ok[/green]  " if check.holds else "[red]FAIL[/red]"
                    console.print(f"  {mark} {check.name}: {escape(check.detail)}", soft_wrap=True)

        emit(data, as_json=as_json, text=text)
        if not all(verdict.valid for _, verdict in verdicts):
            raise typer.Exit(EXIT_REFUSED)


def _chosen(profile: Profile, request_id: str | None, file: Path | None) -> list[SignedReceipt]:
    if file is not None:
        try:
            return [SignedReceipt.from_json(orjson.loads(file.read_bytes()))]
        except (OSError, orjson.JSONDecodeError) as error:
            raise InvalidRequest(f"{file} cannot be read: {error}.", field="file") from error
    wanted = None if request_id is None else from_hex(request_id, 32, field="request-id")
    chosen = list(profile.papers().receipts(request_id=wanted))
    if not chosen:
        raise ReceiptNotFound("no such receipt is kept here.", remedy="`market receipts list` names the kept ones.")
    return chosen


def _verdict(profile: Profile, paper: SignedReceipt, chain: Any, until: float) -> Verdict:
    if paper.settlement is None:
        try:
            with profile.market() as market:
                left = until - time.monotonic()
                paper = (
                    market.wait_for_settlement(paper, timeout_seconds=left)
                    if left > 0
                    else market.fetch_settlement(paper)
                )
        except CodedError as error:
            return Verdict.unsettled(error)
    ours = [kept.channel for kept in profile.papers().channels() if kept.channel_id == paper.receipt.channel_id]
    return verify_receipt(paper, chain, channel=ours[0] if ours else None)
