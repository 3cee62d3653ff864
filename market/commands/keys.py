"""`market keys`: API keys that let programs without a wallet spend from the channel in use, each up to a limit."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import from_hex, hex0x
from contracts.protocol.money import both, format_amount, parse_money
from market.commands.acting import acting
from market.commands.amounts import AMOUNT_HELP
from market.commands.listing import Listing
from market.commands.output import console, emit, print_fields, print_table
from market.commands.profile import ChannelOption, Profile
from market.errors import InvalidRequest, KeyNotFound, UnknownModel
from market.sdk.keys import Keys, KeyState

keys_app = typer.Typer(cls=Listing, help="API keys over a channel: the newest, if none is named.", no_args_is_help=True)
_SECONDS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MIN_PREFIX = 6


@keys_app.command("create")
@acting(chain=False)
def keys_create(
    profile: Profile,
    *,
    limit: Annotated[str, typer.Option("--limit", help="Most the key may spend in all. " + AMOUNT_HELP)],
    expires: Annotated[
        str, typer.Option("--expires", help="How long it is good, such as 12h, 30d, 4w; or a date; or never.")
    ] = "never",
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Model it is for, by name or 0x-id; may be repeated. Default: all."),
    ] = None,
    unlisted: Annotated[
        bool, typer.Option("--unlisted", help="Take a --model that is not listed (yet); the key is good once it is.")
    ] = False,
    name: Annotated[str, typer.Option("--name", help="What you call it.")] = "",
    channel: ChannelOption = None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a key and print it, once: only its hash is kept anywhere."""
    units, expires_at = parse_money(limit, field="limit"), parse_expiry(expires, time.time())
    models = tuple(_as_compared(one) for one in model or ())
    with profile.market(profile.wallet(), channel=channel) as market:
        keys = Keys(market)
        if models and not unlisted:
            check_listed(models, market.get("/market/v1/models"))
        if dry_run:
            plan = keys.plan(units)
            data = {
                "dryRun": True,
                "channelId": hex0x(plan.channel_id),
                "limit": str(units),
                "expiresAt": expires_at,
                "voucher": str(plan.ceiling),
                "deposited": str(plan.deposited),
            }
            fields = {
                "channel": data["channelId"],
                "would sign": f"a voucher of {both(plan.ceiling)} and the grant",
                "deposited": both(plan.deposited),
            }
            emit(data, as_json=as_json, text=lambda: print_fields(fields))
            return
        made = keys.create(limit=units, name=name, models=models, expires_at=expires_at)

    def text() -> None:
        print_fields({**_fields(made.state), "key": made.secret})
        console.print("Keep the key now: it is shown once. Send it as Authorization: Bearer <key>.", markup=False)

    emit({"key": made.secret, **made.state.to_json()}, as_json=as_json, text=text)


@keys_app.command("list")
@acting(chain=False)
def keys_list(profile: Profile, *, channel: ChannelOption = None, as_json: bool) -> None:
    """List the channel's keys with what each has spent."""
    with profile.market(profile.wallet(), channel=channel) as market:
        found = Keys(market).all()
    now = time.time()
    rows = [
        [
            hex0x(key.key_hash)[:14],
            key.name,
            key.state(now),
            format_amount(key.spent),
            format_amount(key.limit),
            _date(key.expires_at),
            ", ".join(key.models) or "all",
        ]
        for key in found
    ]
    columns = ["id", "name", "state", "spent", "limit", "expires", "models"]
    data = [{**key.to_json(), "state": key.state(now)} for key in found]
    emit(data, as_json=as_json, text=lambda: print_table("keys", columns, rows))


@keys_app.command("revoke")
@acting(chain=False)
def keys_revoke(
    profile: Profile,
    key: Annotated[str, typer.Argument(help="Id or name as `market keys list` shows it; the beginning is enough.")],
    *,
    channel: ChannelOption = None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """End a key for good, at once."""
    with profile.market(profile.wallet(), channel=channel) as market:
        keys = Keys(market)
        chosen = _chosen(keys.all(), key)
        ended = chosen if dry_run else keys.revoke(chosen.key_hash)
    data = {**({"dryRun": True} if dry_run else {}), **ended.to_json()}
    emit(data, as_json=as_json, text=lambda: print_fields(_fields(ended)))


@keys_app.command("fund")
@acting(chain=False)
def keys_fund(profile: Profile, *, channel: ChannelOption = None, dry_run: bool, as_json: bool) -> None:
    """Sign a voucher for all that the keys may still spend, after own requests have used up theirs."""
    with profile.market(profile.wallet(), channel=channel) as market:
        keys = Keys(market)
        ceiling = keys.plan(0).ceiling if dry_run else keys.fund()
        channel_id = hex0x(market.channel().channel_id)
    data = {**({"dryRun": True} if dry_run else {}), "channelId": channel_id, "voucher": str(ceiling)}
    said = {"channel": channel_id, "would sign" if dry_run else "voucher": both(ceiling)}
    emit(data, as_json=as_json, text=lambda: print_fields(said))


def parse_expiry(text: str, now: float) -> int:
    """Read `never`, a duration or an ISO date; returns unix seconds, 0 for never.

    Raises:
        InvalidRequest: none of them, or past.
    """
    if text == "never":
        return 0
    duration = re.fullmatch(r"([0-9]{1,6})([mhdw])", text)
    if duration is not None:
        return int(now) + int(duration[1]) * _SECONDS[duration[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(
            f"{text!r} is no time.", field="expires", remedy="Write for example 30d, 2027-01-31 or never."
        ) from None
    seconds = int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
    if seconds <= now:
        raise InvalidRequest("this time is over.", field="expires", remedy="Name a time to come, or never.")
    return seconds


def check_listed(wanted: Sequence[str], listings: Sequence[Mapping[str, Any]]) -> None:
    """Hold the models a key is to be for against a gateway's listings, as `GET /market/v1/models` gives them.

    Raises:
        UnknownModel: one is not among the active ones; says which names are near.
    """
    active = {str(one["name"]): str(one["modelId"]) for one in listings if one["active"]}
    for name in wanted:
        if name in active or name in active.values():
            continue
        near = difflib.get_close_matches(name, active, 3)
        mend = f"Did you mean {' or '.join(near)}? " if near else "`market status` shows what is listed. "
        raise UnknownModel(
            f"this gateway lists no model called {name!r}, so the key would be good for nothing yet.",
            field="model",
            remedy=mend + "Add --unlisted if it is still to be listed.",
        )


def _as_compared(model: str) -> str:
    """Write a model id as gateways compare it; a name stays."""
    try:
        return hex0x(from_hex(model, 32, field="model"))
    except CodedError:
        return model


def _chosen(keys: list[KeyState], wanted: str) -> KeyState:
    found = [key for key in keys if key.name == wanted and wanted]
    if not found:
        try:
            whole = from_hex(wanted, 32, field="key")
            found = [key for key in keys if key.key_hash == whole]
        except CodedError:
            beginning = wanted.lower() if len(wanted) >= _MIN_PREFIX else "-"
            found = [key for key in keys if hex0x(key.key_hash).startswith(beginning)]
    if len(found) != 1:
        detail = f"{len(found)} keys go by {wanted!r}." if found else f"no key goes by {wanted!r}."
        raise KeyNotFound(detail, field="key")
    return found[0]


def _fields(key: KeyState) -> dict[str, str]:
    return {
        "id": hex0x(key.key_hash),
        "name": key.name,
        "state": key.state(time.time()),
        "limit": both(key.limit),
        "spent": both(key.spent),
        "expires": _date(key.expires_at),
        "models": ", ".join(key.models) or "all",
    }


def _date(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat() if at else "never"
