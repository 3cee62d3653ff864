"""`market keys`: API keys that let programs without a wallet spend from the channel in use, each up to a limit."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from contracts.protocol.errors import CodedError
from contracts.protocol.hexes import from_hex, hex0x
from contracts.protocol.money import both, format_amount, parse_money
from market.commands.acting import acting
from market.commands.amounts import AMOUNT_HELP
from market.commands.output import console, emit, print_fields, print_table
from market.commands.profile import Profile
from market.errors import InvalidRequest, KeyNotFound
from market.sdk.keys import Keys, KeyState

keys_app = typer.Typer(help="API keys over the channel in use.", no_args_is_help=True)
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
        list[str] | None, typer.Option("--model", help="Model it is for; may be repeated. Default: all.")
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What you call it.")] = "",
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make a key and print it, once: only its hash is kept anywhere."""
    units, expires_at = parse_money(limit, field="limit"), parse_expiry(expires, time.time())
    with profile.market(profile.wallet()) as market:
        keys = Keys(market)
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
        made = keys.create(limit=units, name=name, models=tuple(model or ()), expires_at=expires_at)

    def text() -> None:
        print_fields({**_fields(made.state), "key": made.secret})
        console.print("Keep the key now: it is shown once. Send it as Authorization: Bearer <key>.", markup=False)

    emit({"key": made.secret, **made.state.to_json()}, as_json=as_json, text=text)


@keys_app.command("list")
@acting(chain=False)
def keys_list(profile: Profile, *, as_json: bool) -> None:
    """List the channel's keys with what each has spent."""
    with profile.market(profile.wallet()) as market:
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
    dry_run: bool,
    as_json: bool,
) -> None:
    """End a key for good, at once."""
    with profile.market(profile.wallet()) as market:
        keys = Keys(market)
        chosen = _chosen(keys.all(), key)
        ended = chosen if dry_run else keys.revoke(chosen.key_hash)
    data = {**({"dryRun": True} if dry_run else {}), **ended.to_json()}
    emit(data, as_json=as_json, text=lambda: print_fields(_fields(ended)))


@keys_app.command("fund")
@acting(chain=False)
def keys_fund(profile: Profile, *, as_json: bool) -> None:
    """Sign a voucher for all that the keys may still spend, after own requests have used up theirs."""
    with profile.market(profile.wallet()) as market:
        ceiling = Keys(market).fund()
        channel_id = hex0x(market.channel().channel_id)
    data = {"channelId": channel_id, "voucher": str(ceiling)}
    emit(data, as_json=as_json, text=lambda: print_fields({"channel": channel_id, "voucher": both(ceiling)}))


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
