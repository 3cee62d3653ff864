"""Reservations shared by all processes of a gateway, as two Redis scripts that mirror `payments.channels`.

Each call is one script run, atomic in Redis; calls of the same turn of the event loop share one round trip. Losing
Redis loses no money: an account that is not there is built again from the ledger, and the ledger bounds every charge.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from market.adapters.redis_client import open_redis, reachable
from market.errors import RequestInProgress
from market.payments.channels import key_shortage, seq_gap, voucher_shortage
from market.payments.model import Account, Claim, Reservation
from market.payments.ports import AlreadyCharged, Ledger, OverLimit

# Scripts count in doubles, which are exact up to here; 9e9 tokens of six decimals.
MAX_EXACT = 2**53 - 1

# A channel is a hash (charged, reserved, ceiling, voucher, signature, seq, and one `h:<request id>` a hold with value
# `<token>:<price or 'charged'>:<remember>[:<key hash>]`; `s:<key hash>` is what an API key spent, `r:<key hash>` what
# it has reserved) and a sorted set of its holds by expiry. Times are Redis's own.
_EXPIRE = """
local function now_ms() local t = redis.call('TIME') return t[1] * 1000 + math.floor(t[2] / 1000) end
local function text(n) return string.format('%.0f', n) end
local function split(hold) return string.match(hold, '^(%x+):(%w+):(%d):?(%x*)$') end
-- without a key as it was written before there were keys: processes of both versions may share a server
local function hold_of(token, price, remember, key)
  local hold = token .. ':' .. price .. ':' .. remember
  return key == '' and hold or hold .. ':' .. key
end
local function give_back(price, key)
  if price == 'charged' or price == '0' then return end
  redis.call('HINCRBY', KEYS[1], 'reserved', '-' .. price)
  if key ~= '' then redis.call('HINCRBY', KEYS[1], 'r:' .. key, '-' .. price) end
end
local function drop(id, price, key)
  redis.call('HDEL', KEYS[1], 'h:' .. id) redis.call('ZREM', KEYS[2], id)
  give_back(price, key)
end
local function expire(now)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now))) do
    local _, price, _, key = split(redis.call('HGET', KEYS[1], 'h:' .. id))
    drop(id, price, key)
  end
end
"""

# ARGV: request id, token, price, limit, voucher, signature, ttl ms, remember, key hash or '', the key's limit, what the
# ledger says it spent or '', then a ledger account or nothing: charged, voucher, signature, seq.
_RESERVE = (
    _EXPIRE
    + """
local state = redis.call('HMGET', KEYS[1], 'charged', 'reserved', 'ceiling', 'seq')
if not state[1] then
  if #ARGV < 15 then return {'load'} end
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[1], 'charged', ARGV[12], 'reserved', '0', 'ceiling', ARGV[13], 'voucher', ARGV[13],
    'signature', ARGV[14], 'seq', ARGV[15])
end
local key = ARGV[9]
if key ~= '' and redis.call('HEXISTS', KEYS[1], 's:' .. key) == 0 then
  if ARGV[11] == '' then return {'load'} end
  redis.call('HSET', KEYS[1], 's:' .. key, ARGV[11], 'r:' .. key, '0')
end
local now = now_ms()
expire(now)
-- a channel unused for a day is built again from the ledger
redis.call('EXPIRE', KEYS[1], 86400)
state = redis.call('HMGET', KEYS[1], 'charged', 'reserved', 'ceiling')
local charged, reserved, ceiling = tonumber(state[1]), tonumber(state[2]), tonumber(state[3])
local price, limit, voucher = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if voucher > ceiling then
  redis.call('HSET', KEYS[1], 'ceiling', ARGV[5], 'voucher', ARGV[5], 'signature', ARGV[6])
  ceiling = voucher
end
local hold = redis.call('HGET', KEYS[1], 'h:' .. ARGV[1])
if hold then
  local _, held = split(hold)
  if held == 'charged' then return {'charged'} end
  return {'in-progress'}
end
if key ~= '' then
  local totals = redis.call('HMGET', KEYS[1], 's:' .. key, 'r:' .. key)
  if tonumber(totals[1]) + tonumber(totals[2]) + price > tonumber(ARGV[10]) then
    return {'key', totals[1], totals[2]}
  end
end
local total = charged + reserved + price
local best = redis.call('HMGET', KEYS[1], 'voucher', 'signature')
if total > ceiling then return {'short', text(charged), text(reserved), best[1], best[2]} end
if total > limit then return {'over', text(charged), text(reserved), best[1], best[2]} end
redis.call('HINCRBY', KEYS[1], 'reserved', ARGV[3])
if key ~= '' then redis.call('HINCRBY', KEYS[1], 'r:' .. key, ARGV[3]) end
local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
redis.call('HSET', KEYS[1], 'h:' .. ARGV[1], hold_of(ARGV[2], ARGV[3], ARGV[8], key))
redis.call('ZADD', KEYS[2], text(now + tonumber(ARGV[7])), ARGV[1])
redis.call('EXPIRE', KEYS[2], 86400)
return {'ok', text(seq), text(charged + price), best[1], best[2]}
"""
)

# ARGV: request id, token, charged ('' to release), key hash or '', what the key spent.
_CLOSE = (
    _EXPIRE
    + """
local charged = redis.call('HGET', KEYS[1], 'charged')
if not charged then return 0 end
expire(now_ms())
if ARGV[3] ~= '' and tonumber(ARGV[3]) > tonumber(charged) then redis.call('HSET', KEYS[1], 'charged', ARGV[3]) end
if ARGV[3] ~= '' and ARGV[4] ~= '' then
  local spent = redis.call('HGET', KEYS[1], 's:' .. ARGV[4])
  if spent and tonumber(ARGV[5]) > tonumber(spent) then redis.call('HSET', KEYS[1], 's:' .. ARGV[4], ARGV[5]) end
end
local hold = redis.call('HGET', KEYS[1], 'h:' .. ARGV[1])
if not hold then return 0 end
local token, price, remember, key = split(hold)
if token ~= ARGV[2] or price == 'charged' then return 0 end
if ARGV[3] ~= '' and remember == '1' then
  give_back(price, key)
  redis.call('HSET', KEYS[1], 'h:' .. ARGV[1], hold_of(token, 'charged', '1', key))
else
  drop(ARGV[1], price, key)
end
return 1
"""
)


@dataclass(slots=True, eq=False)
class _Call:
    script: str
    channel_id: bytes
    arguments: tuple[Any, ...]
    future: asyncio.Future[Any]


class RedisReservations:
    """Implements `market.payments.ports.Reservations` for several processes."""

    def __init__(self, redis_url: str, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = open_redis(redis_url)
        self._ledger = ledger
        self._clock = clock
        self._digests: dict[str, str] = {}
        self._calls: list[_Call] = []
        self._flushes: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Drop the connections."""
        await self._redis.aclose()

    async def reserve(self, claim: Claim) -> Reservation:
        """See `Reservations.reserve`."""
        arguments = (
            claim.request_id.hex(),
            claim.token.hex(),
            claim.price,
            min(claim.limit, MAX_EXACT),
            claim.voucher_amount,
            claim.voucher_signature,
            max(1, round(claim.ttl_seconds * 1_000)),
            1 if claim.remember else 0,
            "" if claim.key is None else claim.key.key_hash.hex(),
            0 if claim.key is None else min(claim.key.limit, MAX_EXACT),
        )
        expires_at = self._clock() + claim.ttl_seconds
        answer = await self._run(_RESERVE, claim.channel_id, (*arguments, ""))
        if answer[0] == b"load":
            spent = 0 if claim.key is None else await self._ledger.key_spent(claim.key.key_hash)
            durable = await self._ledger.account(claim.channel_id) or Account()
            seq = durable.last_seq + seq_gap()
            loaded = (spent, durable.charged, durable.ceiling, durable.voucher_signature, seq)
            answer = await self._run(_RESERVE, claim.channel_id, (*arguments, *loaded))
        kind = answer[0]
        if kind == b"in-progress":
            raise RequestInProgress(field="Market-Request-Id")
        if kind == b"charged":
            raise AlreadyCharged
        if kind == b"ok":
            return Reservation(
                channel_id=claim.channel_id,
                request_id=claim.request_id,
                token=claim.token,
                price=claim.price,
                seq=int(answer[1]),
                cumulative=int(answer[2]),
                voucher_amount=int(answer[3]),
                voucher_signature=answer[4],
                expires_at=expires_at,
                key=claim.key,
            )
        if kind == b"key":
            assert claim.key is not None
            raise key_shortage(claim.key, int(answer[1]), int(answer[2]), claim.price)
        account = Account(int(answer[1]), int(answer[2]), int(answer[3]), answer[4])
        if kind == b"over":
            raise OverLimit(account)
        raise voucher_shortage(account, claim, account.charged + account.reserved + claim.price)

    async def commit(self, reservation: Reservation, charged: int, key_spent: int = 0) -> bool:
        """See `Reservations.commit`."""
        return await self._close(reservation, str(charged), key_spent)

    async def release(self, reservation: Reservation) -> bool:
        """See `Reservations.release`."""
        return await self._close(reservation, "")

    async def account(self, channel_id: bytes) -> Account:
        """See `Reservations.account`."""
        with reachable():
            found = await self._redis.hmget(
                _keys(channel_id)[0], ["charged", "reserved", "voucher", "signature", "seq"]
            )
        if found[0] is None:
            durable = await self._ledger.account(channel_id)
            return durable or Account()
        charged, reserved, voucher, signature, seq = (value or b"" for value in found)
        return Account(int(charged), int(reserved), int(voucher), _bytes(signature), int(seq))

    async def _close(self, reservation: Reservation, charged: str, key_spent: int = 0) -> bool:
        key = "" if reservation.key is None else reservation.key.key_hash.hex()
        arguments = (reservation.request_id.hex(), reservation.token.hex(), charged, key, key_spent)
        return bool(await self._run(_CLOSE, reservation.channel_id, arguments))

    async def _run(self, script: str, channel_id: bytes, arguments: tuple[Any, ...]) -> Any:
        loop = asyncio.get_running_loop()
        call = _Call(script, channel_id, arguments, loop.create_future())
        self._calls.append(call)
        if len(self._calls) == 1:
            loop.call_soon(self._flush)
        return await call.future

    def _flush(self) -> None:
        calls, self._calls = self._calls, []
        task = asyncio.get_running_loop().create_task(self._send(calls))
        self._flushes.add(task)
        task.add_done_callback(self._flushes.discard)

    async def _send(self, calls: list[_Call]) -> None:
        try:
            with reachable():
                for script in {call.script for call in calls} - self._digests.keys():
                    self._digests[script] = await self._redis.script_load(script)
                unknown = await self._send_once(calls)
                if unknown:
                    # Redis was restarted and knows no script; these calls had no effect.
                    for script in {call.script for call in unknown}:
                        self._digests[script] = await self._redis.script_load(script)
                    unknown = await self._send_once(unknown)
                if unknown:
                    raise NoScriptError("the script vanished twice")
        except BaseException as error:
            for call in calls:
                if not call.future.done():
                    call.future.set_exception(error)
            if isinstance(error, asyncio.CancelledError):
                raise

    async def _send_once(self, calls: list[_Call]) -> list[_Call]:
        """Run the calls in one round trip; return those whose script Redis does not know."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.evalsha(self._digests[call.script], 2, *_keys(call.channel_id), *call.arguments)
            answers = await pipe.execute(raise_on_error=False)
        unknown = []
        for call, answer in zip(calls, answers, strict=True):
            if isinstance(answer, NoScriptError):
                unknown.append(call)
            elif call.future.done():
                continue
            elif isinstance(answer, RedisError):
                call.future.set_exception(answer)
            else:
                call.future.set_result(answer)
        return unknown


def _keys(channel_id: bytes) -> tuple[str, str]:
    # The braces keep both keys on one node of a cluster.
    name = f"channel:{{{channel_id.hex()}}}"
    return name, f"{name}:holds"


def _bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
