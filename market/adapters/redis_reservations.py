"""Reservations shared by all processes of a gateway, as two Redis scripts that mirror `payments.channels`.

Each call is one script run, atomic in Redis; calls of the same turn of the event loop go out together, by call-backs
over one connection. Losing Redis loses no money: an account that is not there is built again from the ledger, and the
ledger bounds every charge. A server that was started again may know an older state than it told, as its disk is written
once a second or less often: what it has of a channel is then brought up to the ledger, and its numbers go on beyond.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import sha1
from typing import Any

import structlog

from contracts.futures import resolve
from contracts.redis_wire import Command
from market.adapters.redis_client import open_redis, reachable, unreachable
from market.adapters.redis_line import RedisLine
from market.errors import RequestInProgress
from market.inference.unfinished import Unfinished
from market.payments.channels import key_shortage, seq_gap, voucher_shortage
from market.payments.model import Account, Claim, Reservation
from market.payments.ports import AlreadyCharged, Ledger, OverLimit

# Scripts count in doubles, which are exact up to here; 9e9 tokens of six decimals.
MAX_EXACT = 2**53 - 1

# A channel is a hash (charged, reserved, ceiling, voucher, signature, seq, and one `h:<request id>` a hold with value
# `<token>:<price or 'charged'>:<remember>[:<key hash>]`; `s:<key hash>` is what an API key spent, `r:<key hash>` what
# it has reserved; `run` is the id of the server's run that it was brought up to date in, `at` when its newest number
# was given, `seen` when it was last asked about, to a second) and a sorted set of its holds by expiry. Times are by
# Redis's own clock, which may be set. What passed between two looks at a channel counts as no less than nothing and no
# more than _MOST_MS, by which a reservation outlives its request; of a longer step the rest moves every hold along. So
# a clock that is set never frees what requests under way have set aside, nor keeps for long what a dead process left.
_MOST_MS = 30_000
_EXPIRE = (
    """
local most = """
    + str(_MOST_MS)
    + """
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
local function follow_clock(now)
  local seen = redis.call('HGET', KEYS[1], 'seen')
  local passed = seen and now - tonumber(seen) or 0
  if seen and passed >= 0 and passed < 1000 then return end
  redis.call('HSET', KEYS[1], 'seen', text(now))
  local step = passed < 0 and passed or passed - math.min(passed, most)
  if step == 0 then return end
  local holds = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
  for i = 1, #holds, 2 do redis.call('ZADD', KEYS[2], text(tonumber(holds[i + 1]) + step), holds[i]) end
end
local function expire(now)
  follow_clock(now)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', text(now))) do
    local _, price, _, key = split(redis.call('HGET', KEYS[1], 'h:' .. id))
    drop(id, price, key)
  end
end
"""
)

# No server is up again within so many milliseconds; to ask for its run's id costs a tenth of a reservation.
_STARTS_WITHIN_MS = 20

# ARGV: request id, token, price, limit, voucher, signature, ttl ms, remember, key hash or '', the key's limit, what the
# ledger says it spent or '', then a ledger account or nothing: charged, voucher, signature, seq; and how many numbers
# to leave out behind it.
_RESERVE = (
    _EXPIRE
    + """
local now = now_ms()
local state = redis.call('HMGET', KEYS[1], 'charged', 'ceiling', 'seq', 'at', 'run')
local since = now - (tonumber(state[4] or '0'))
if not state[1] or since < 0 or since > """
    + str(_STARTS_WITHIN_MS)
    + """ then
  local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
  if state[5] ~= run then
    if #ARGV < 16 then return {'load'} end
    if not state[1] then
      redis.call('DEL', KEYS[2])
      redis.call('HSET', KEYS[1], 'reserved', '0')
    end
    local seq = math.max(tonumber(state[3] or '0'), tonumber(ARGV[15])) + tonumber(ARGV[16])
    redis.call('HSET', KEYS[1], 'run', run, 'seq', text(seq))
    if not state[1] or tonumber(ARGV[12]) > tonumber(state[1]) then
      redis.call('HSET', KEYS[1], 'charged', ARGV[12])
    end
    if not state[1] or tonumber(ARGV[13]) > tonumber(state[2]) then
      redis.call('HSET', KEYS[1], 'ceiling', ARGV[13], 'voucher', ARGV[13], 'signature', ARGV[14])
    end
  end
end
local key = ARGV[9]
if key ~= '' and redis.call('HEXISTS', KEYS[1], 's:' .. key) == 0 then
  if ARGV[11] == '' then return {'load'} end
  redis.call('HSET', KEYS[1], 's:' .. key, ARGV[11], 'r:' .. key, '0')
end
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
redis.call('HSET', KEYS[1], 'h:' .. ARGV[1], hold_of(ARGV[2], ARGV[3], ARGV[8], key), 'at', text(now))
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


_DIGESTS = {script: sha1(script.encode(), usedforsecurity=False).hexdigest() for script in (_RESERVE, _CLOSE)}
_UNKNOWN = "NOSCRIPT"

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Call:
    """One run of a script; `told` is called once, with its answer or the market's word for why there is none."""

    script: str
    channel_id: bytes
    arguments: tuple[Any, ...]
    told: Callable[[Any], None]

    def command(self) -> Command:
        return ("EVALSHA", _DIGESTS[self.script], 2, *_keys(self.channel_id), *self.arguments)


class RedisReservations:
    """Implements `market.payments.ports.Reservations` and `SharedReservations` for several processes."""

    def __init__(self, redis_url: str, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = open_redis(redis_url)
        self._line = RedisLine(self._redis)
        self._ledger = ledger
        self._clock = clock
        self._calls: list[_Call] = []
        self._unfinished = Unfinished()

    async def close(self) -> None:
        """Drop the connections once what was asked is answered, ends of reservations too."""
        await asyncio.sleep(0)  # what this turn of the loop asked goes out
        await self._unfinished.close()
        await self._line.close()
        await self._redis.aclose()

    async def reserve(self, claim: Claim) -> Reservation:
        """See `Reservations.reserve`."""
        arguments, expires_at = self._wish(claim), self._clock() + claim.ttl_seconds
        answer = await self._run(_RESERVE, claim.channel_id, (*arguments, ""))
        if answer[0] == b"load":
            spent = 0 if claim.key is None else await self._ledger.key_spent(claim.key.key_hash)
            durable = await self._ledger.account(claim.channel_id) or Account()
            known = (durable.charged, durable.ceiling, durable.voucher_signature, durable.last_seq)
            loaded = (spent, *known, seq_gap())
            answer = await self._run(_RESERVE, claim.channel_id, (*arguments, *loaded))
        return self._granted(claim, answer, expires_at)

    def reserve_soon(self, claim: Claim, told: Callable[[Reservation | Exception | None], None]) -> None:
        """See `SharedReservations.reserve_soon`."""
        expires_at = self._clock() + claim.ttl_seconds

        def answered(answer: Any) -> None:
            outcome: Reservation | Exception | None
            if isinstance(answer, Exception):
                outcome = answer
            elif answer[0] == b"load":
                outcome = None
            else:
                try:
                    outcome = self._granted(claim, answer, expires_at)
                except Exception as error:
                    outcome = error
            told(outcome)

        self._ask(_RESERVE, claim.channel_id, (*self._wish(claim), ""), answered)

    @staticmethod
    def _wish(claim: Claim) -> tuple[Any, ...]:
        return (
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

    @staticmethod
    def _granted(claim: Claim, answer: Any, expires_at: float) -> Reservation:
        """Return what the script granted, or say why not; see `Reservations.reserve`."""
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
        return bool(await self._run(_CLOSE, reservation.channel_id, _closing(reservation, str(charged), key_spent)))

    async def release(self, reservation: Reservation) -> bool:
        """See `Reservations.release`."""
        return bool(await self._run(_CLOSE, reservation.channel_id, _closing(reservation, "", 0)))

    def commit_now(self, reservation: Reservation, charged: int, key_spent: int = 0) -> None:
        """See `ClosesReservations.commit_now`."""
        self._ask(_CLOSE, reservation.channel_id, _closing(reservation, str(charged), key_spent), _not_closed)

    def release_now(self, reservation: Reservation) -> None:
        """See `ClosesReservations.release_now`."""
        self._ask(_CLOSE, reservation.channel_id, _closing(reservation, "", 0), _not_closed)

    async def account(self, channel_id: bytes) -> Account:
        """See `Reservations.account`."""
        with reachable():
            found = await self._line.call(
                "HMGET", _keys(channel_id)[0], "charged", "reserved", "voucher", "signature", "seq"
            )
        durable = await self._ledger.account(channel_id) or Account()
        if found[0] is None:
            return durable
        charged, reserved, voucher, signature, seq = (value or b"" for value in found)
        return Account(max(int(charged), durable.charged), int(reserved), int(voucher), signature, int(seq))

    # --- scripts -------------------------------------------------------------------------------------------------

    async def _run(self, script: str, channel_id: bytes, arguments: tuple[Any, ...]) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._ask(script, channel_id, arguments, partial(resolve, future))
        return await future

    def _ask(self, script: str, channel_id: bytes, arguments: tuple[Any, ...], told: Callable[[Any], None]) -> None:
        if not self._calls:
            asyncio.get_running_loop().call_soon(self._flush)
        self._calls.append(_Call(script, channel_id, arguments, told))

    def _flush(self) -> None:
        calls, self._calls = self._calls, []
        if not self._send(calls):
            self._unfinished.spawn(self._prepare_and_send(calls, teach=False))

    def _send(self, calls: list[_Call], *, again: bool = True) -> bool:
        sent = self._line.send_all([call.command() for call in calls], partial(self._answered, calls, again=again))
        if sent:
            self._unfinished.begin()
        return sent

    def _answered(self, calls: list[_Call], answers: Any, *, again: bool) -> None:
        try:
            if isinstance(answers, Exception):
                _tell(calls, answers)
                return
            unknown = []
            for call, answer in zip(calls, answers, strict=True):
                if not isinstance(answer, Exception):
                    call.told(answer)
                elif again and str(answer).startswith(_UNKNOWN):
                    unknown.append(call)
                else:
                    call.told(unreachable(answer))
            if unknown:
                # They had no effect: this Redis is new to the scripts, or was restarted.
                self._unfinished.spawn(self._prepare_and_send(unknown, teach=True))
        finally:
            self._unfinished.end()

    async def _prepare_and_send(self, calls: list[_Call], *, teach: bool) -> None:
        """Send calls once there is a connection, and, with `teach`, once Redis knows their scripts."""
        try:
            await self._line.open()
            for script in {call.script for call in calls} if teach else ():
                await self._line.call("SCRIPT", "LOAD", script)
            if not self._send(calls, again=not teach):
                raise ConnectionError("the connection is gone again")
        except BaseException as error:
            _tell(calls, error)
            if isinstance(error, asyncio.CancelledError):
                raise


def _tell(calls: list[_Call], error: BaseException) -> None:
    said = unreachable(error if isinstance(error, Exception) else ConnectionError("the gateway is closing"))
    said.__cause__ = error
    for call in calls:
        call.told(said)


def _not_closed(answer: Any) -> None:
    if isinstance(answer, Exception):
        # The ledger has what was charged, and the reservation ends by itself.
        log.warning("reservation-not-closed", detail=str(answer))


def _closing(reservation: Reservation, charged: str, key_spent: int) -> tuple[Any, ...]:
    key = "" if reservation.key is None else reservation.key.key_hash.hex()
    return (reservation.request_id.hex(), reservation.token.hex(), charged, key, key_spent)


def _keys(channel_id: bytes) -> tuple[str, str]:
    # The braces keep both keys on one node of a cluster.
    name = f"channel:{{{channel_id.hex()}}}"
    return name, f"{name}:holds"
