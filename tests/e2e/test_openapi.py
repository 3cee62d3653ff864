"""Whatever is sent to the described routes of a running gateway is answered without a fault; no secret gets about.

`make fuzz-api` runs the first test for longer: `MARKET_FUZZ_EXAMPLES` a route instead of eight.
"""

import os
from pathlib import Path

import httpx
import pytest
import redis
import schemathesis
from hypothesis import HealthCheck, given, settings

from market.demo import minilm
from market.devnet import keys
from market.sdk.keys import Keys
from tests.e2e.test_paid_inference import TOKENS, voucher_header

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3_600 if "MARKET_FUZZ_EXAMPLES" in os.environ else 280)]
EXAMPLES = int(os.environ.get("MARKET_FUZZ_EXAMPLES", "8"))
LEAST_ROUTES = 30


def fuzz(operation, send):
    """Send one route's requests."""

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy())
    def each(case):
        send(f"{operation.method.upper()} {operation.path}", case)

    each()


def test_no_request_of_the_description_is_answered_by_a_fault(local, market):
    schema = schemathesis.openapi.from_url(f"{local.gateway_url}/openapi.json")
    paid = voucher_header(market, 100_000)
    asked, failures = {}, {}

    def send(name, case):
        asked[name] = asked.get(name, 0) + 1
        if name.endswith("/infer") and asked[name] % 2:
            # Only what is paid for comes as far as the worker.
            case.headers = {**(case.headers or {}), **paid}
            case.path_parameters = {**(case.path_parameters or {}), "model": minilm.NAME}
        answer = case.call(timeout=60)
        if answer.status_code >= 500:
            failures.setdefault(name, []).append((answer.status_code, answer.text[:300]))

    for found in schema.get_all_operations():
        fuzz(found.ok(), send)
    assert len(asked) >= LEAST_ROUTES, sorted(asked)
    assert failures == {}
    # Nothing of it did harm.
    assert httpx.get(f"{local.gateway_url}/v2/health/ready").is_success
    served = httpx.post(f"{local.gateway_url}/v2/models/{minilm.NAME}/infer", json=TOKENS, headers=paid, timeout=60)
    assert served.status_code == 200, served.text


def processes_below(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in processes_below(int(child)))]


def test_no_secret_is_in_a_log_an_environment_a_metric_or_redis(local, market):
    """Canaries: every private key, the keystores' password and an API key, after requests that carried some of them."""
    bearer = Keys(market).create(limit=100_000, name="canary").secret
    url = f"{local.gateway_url}/v2/models/{minilm.NAME}/infer"
    bad = {"Authorization": f"Bearer {bearer}", "Market-Request-Id": "nonsense", "Market-Voucher": "1;2;3"}
    for headers in ({"Authorization": f"Bearer {bearer}"}, bad, {"Authorization": f"Bearer {bearer[:-1]}x"}):
        httpx.post(url, json=TOKENS, headers=headers, timeout=60)
    httpx.get(f"{local.gateway_url}/{bearer}")
    secrets = {"an API key": bearer.encode()}
    for name, account in local.accounts.items():
        key = account.key.secret_bytes()
        secrets[f"the {name}'s key"] = key.hex().encode()
        secrets[f"the {name}'s key, raw"] = key
    secrets["the password"] = keys.password_file(local.data_dir).read_bytes().strip()
    places = {f"log {path.name}": path.read_bytes() for path in local.data_dir.rglob("*.log")}
    assert len(places) >= 4, "gateway, jobs, worker and services keep logs"
    places["metrics"] = httpx.get(f"{local.gateway_url}/metrics").content
    for pid in processes_below(os.getpid())[1:]:
        for part in ("environ", "cmdline"):
            places[f"{part} of {pid}"] = Path(f"/proc/{pid}/{part}").read_bytes()
    with redis.Redis.from_url(local.redis_url) as client:
        for number, name in enumerate(client.scan_iter(count=1_000)):
            places[f"Redis {number}"] = name + (client.dump(name) or b"")
    assert {
        (what, where) for what, secret in secrets.items() for where, text in places.items() if secret in text
    } == set()
