"""`market trace`: what became of one request, step by step, and where its money went."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.markup import escape

from contracts.protocol.hexes import from_hex, hex0x
from contracts.protocol.money import format_amount
from market.commands.output import JsonOption, console, emit, errors_as_messages, print_fields
from market.commands.profile import DataDirOption, Profile, UrlOption
from market.settings import DEFAULT_DATA_DIR

_NAMES = {
    "received": "received by the gateway",
    "queued": "admitted, money set aside, queued",
    "started": "model run began at the worker",
    "modelRun": "model run ended",
    "signed": "receipt signed by the worker",
    "returned": "answer back at the gateway",
    "charged": "checked, countersigned, charged",
    "answered": "answered",
    "refused": "refused",
    "settled": "settled",
}


def trace(
    request_id: Annotated[str, typer.Argument(help="0x-id of the request, as its receipt and its answer name it.")],
    *,
    channel: Annotated[str | None, typer.Option(help="Its channel, if two channels used one id.")] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    url: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show when each step of a request happened, what it cost, and in which transaction it was settled."""
    with errors_as_messages(as_json=as_json):
        wanted = from_hex(request_id, 32, field="request-id")
        query = "" if channel is None else f"?channel={hex0x(from_hex(channel, 32, field='channel'))}"
        with Profile.load(data_dir, url=url).market() as market:
            found = market.get(f"/market/v1/requests/{hex0x(wanted)}/trace{query}")
        emit(found, as_json=as_json, text=lambda: _show(found))


def _show(found: dict[str, Any]) -> None:
    print_fields(
        {
            "request": found["requestId"],
            "state": found["state"] if found["code"] == "ok" else f"{found['state']}: {found['code']}",
            **({} if found["traceId"] is None else {"trace": found["traceId"]}),
        }
    )
    began_at = next((step["at"] for step in found["steps"] if step["at"] is not None), None)
    for step in found["steps"]:
        when = "" if step["at"] is None else f"{(step['at'] - began_at) * 1_000:+10.3f} ms"
        console.print(f"{when:>14}  {_NAMES.get(step['step'], step['step'])}{escape(_more(step))}", soft_wrap=True)
    money = found["money"]
    if money is None:
        console.print("nothing was charged")
        return
    print_fields(
        {
            "price": format_amount(int(money["price"])),
            "  to the worker": f"{format_amount(int(money['workerAmount']))}  {money['workerPayee']}",
            "  to the owner": f"{format_amount(int(money['ownerAmount']))}  {money['ownerPayee']}",
            "  to the gateway": format_amount(int(money["gatewayAmount"])),
            "channel": f"{money['channelId']}, {format_amount(int(money['cumulative']))} charged by then",
            "worker": money["worker"],
            "model": money["modelId"],
        }
    )


def _more(step: dict[str, Any]) -> str:
    if step["step"] == "received":
        return f" at {datetime.fromtimestamp(step['at'], UTC).isoformat(timespec='milliseconds')}"
    if step["step"] == "modelRun":
        return f", after {step['seconds'] * 1_000:.3f} ms"
    if step["step"] == "queued" and (step["attempts"] or 0) > 1:
        return f" for the {step['attempts']}. attempt"
    if step["step"] == "settled":
        block = "" if step["block"] is None else f", block {step['block']}"
        return f" in epoch {step['epoch']}, transaction {step['transactionHash']}{block}"
    return ""
