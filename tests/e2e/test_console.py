"""The web console in a real browser, on a real market: what is shown is what happened, and everybody can read it.

The tests run in order on one market; the first pays for requests that the others find.
"""

import httpx
import pytest

from contracts.protocol.hexes import checksum, hex0x
from market.demo import minilm
from tests.support.browser import DESKTOP, PHONE, Visit, browser

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

SENTENCES = ["A cat sits on the mat.", "A kitten rests on a rug."]


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def paid(chromium, local, market):
    """A paid request that is settled: its receipt's request and channel ids."""
    outcome = market.infer(minilm.NAME, minilm.tokenize(minilm.load_tokenizer(), SENTENCES))
    receipt = market.wait_for_settlement(outcome.paper, timeout_seconds=60).receipt
    return {"request": hex0x(receipt.request_id), "channel": hex0x(receipt.channel_id)}


@pytest.fixture
def visit(chromium, local):
    with Visit(chromium, local.gateway_url) as found:
        yield found


def text_of(visit: Visit) -> str:
    return visit.page.locator("main").inner_text()


# --- what the pages show ----------------------------------------------------------------------------------------------


def test_models_are_found_by_words_and_show_price_speed_and_success(visit, paid):
    visit.open("", "Models")
    card = visit.page.get_by_role("article").filter(has_text=minilm.NAME)
    card.get_by_text("$0.001 per row").wait_for()
    said = card.inner_text()
    assert "100 %" in said
    assert " ms" in said
    assert "in local" in said
    visit.page.get_by_label("Search").fill("no such thing")
    visit.page.get_by_text("0 models of 1").wait_for()
    visit.page.get_by_label("Search").fill("MINI local")
    visit.page.get_by_role("link", name=minilm.NAME).click()
    visit.page.get_by_role("table", name="Workers that serve this model").get_by_text("cpu").wait_for()
    assert "INT64[any, any]" in text_of(visit)


def test_a_receipt_is_verified_in_the_browser_against_the_chain(visit, paid):
    visit.open("receipts", "Receipts")
    visit.page.get_by_label("Request id or channel id").fill("0x12")
    visit.page.get_by_role("button", name="Look up").click()
    assert "64 hexadecimal digits" in visit.page.get_by_role("alert").inner_text()
    visit.page.get_by_label("Request id or channel id").fill(paid["request"])
    visit.page.keyboard.press("Enter")
    visit.page.get_by_text("Verified", exact=True).wait_for()
    assert visit.page.locator(".checks .yes").count() == 10
    assert visit.page.locator(".checks .no").count() == 0
    assert "through the gateway, so for those answers you trust it" in text_of(visit)
    reads = [url for url in visit.asked if url.endswith("/market/v1/chain")]
    assert len(reads) == 5


def test_a_forged_receipt_fails_the_checks_that_it_breaks(visit, paid):
    def forge(route):
        answer = route.fetch()
        body = answer.json()
        body["receipt"]["price"] = str(int(body["receipt"]["price"]) + 1)
        route.fulfill(response=answer, json=body)

    visit.page.route("**/market/v1/receipts/**", forge)
    visit.open(f"receipts/{paid['request']}")
    visit.page.get_by_text("of 10 checks fail").wait_for()
    failed = visit.page.locator(".checks li").filter(has=visit.page.locator(".no")).all_inner_texts()
    assert [text.splitlines()[1].split(":")[0] for text in failed[:3]] == [
        "Digest",
        "Signed by the worker",
        "Countersigned by the gateway",
    ]


def test_a_channel_lists_its_receipts(visit, paid):
    visit.open(f"receipts/{paid['channel']}", "Receipts")
    table = visit.page.get_by_role("table")
    table.get_by_role("link").first.wait_for()
    assert "batch" in table.inner_text()
    visit.expected_status.add(404)  # it is first looked for as a request id
    visit.faults.clear()
    visit.open(f"receipts/0x{'00' * 32}")
    visit.page.get_by_text("Neither a receipt nor a channel").wait_for()


def test_settlement_shows_batches_with_their_gas(visit, local, paid):
    visit.open("settlement", "Settlement")
    row = visit.page.get_by_role("table", name="Settled batches").get_by_role("row").last
    row.wait_for()
    cells = row.get_by_role("cell").all_inner_texts()
    served = httpx.get(f"{local.gateway_url}/market/v1/settlements").json()[0]
    assert cells[0] == served["epoch"] == "1"
    assert cells[5].replace(",", "") == str(served["gasUsed"])
    assert served["gasPerReceipt"] == served["gasUsed"] // served["count"]
    behind = httpx.get(f"{local.gateway_url}/market/v1/standing").json()
    assert behind["blocksBehind"] <= 5


def test_operators_and_owners_see_their_earnings(visit, local, paid):
    for page, role in (("operators", "operator"), ("owners", "owner")):
        address = checksum(local.accounts[role].address)
        visit.open(page, page.capitalize())
        visit.page.get_by_role("link", name=address).click()
        visit.page.get_by_role("heading", level=1, name=page.capitalize()[:-1]).wait_for()
        earned = httpx.get(f"{local.gateway_url}/market/v1/payees/{address}").json()["earned"]
        assert int(earned) > 0
        dollars = f"${int(earned) / 1_000_000:.6f}".rstrip("0")
        visit.page.get_by_text(dollars).first.wait_for()
    visit.page.get_by_text("As a table: Calls, last day").click()
    assert visit.page.get_by_role("table").count() == 2


def test_the_past_is_the_ledgers(local, paid):
    query = {"owner": checksum(local.accounts["owner"].address), "hours": 1, "stepSeconds": 60}
    past = httpx.get(f"{local.gateway_url}/market/v1/activity", params=query).json()
    earnings = httpx.get(f"{local.gateway_url}/market/v1/owners/{query['owner']}/earnings").json()
    assert sum(int(bucket["ownerAmount"]) for bucket in past["buckets"]) == int(earnings["total"]) > 0
    assert past["complete"] is True


# --- for everybody ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_page_has_an_accessibility_violation(chromium, local, paid, scheme, viewport):
    pages = [
        *("models", f"models/{minilm.NAME}", "playground", f"playground/{minilm.NAME}"),
        *("receipts", f"receipts/{paid['request']}", f"receipts/{paid['channel']}", "settlement"),
        *("operators", f"operators/{checksum(local.accounts['operator'].address)}"),
        *("owners", f"owners/{checksum(local.accounts['owner'].address)}", "nowhere"),
    ]
    with Visit(chromium, local.gateway_url, scheme=scheme, viewport=viewport) as visit:
        visit.expected_status.add(404)
        for page in pages:
            visit.open(page)
            visit.page.get_by_role("heading", level=1).wait_for()
            visit.page.wait_for_load_state("networkidle")
            assert visit.violations() == [], page
            assert not visit.overflows(), page


def test_everything_is_reached_by_keyboard(visit, paid):
    visit.open("models", "Models")
    keyboard = visit.page.keyboard

    def focused() -> str:
        return visit.page.evaluate("document.activeElement.textContent || document.activeElement.id")

    keyboard.press("Tab")
    assert focused() == "Skip to content"
    keyboard.press("Enter")
    assert visit.page.evaluate("document.activeElement.id") == "main"
    keyboard.press("Tab")
    assert visit.page.evaluate("document.activeElement.id") == "words"
    visit.page.reload()
    visit.page.get_by_role("heading", level=1, name="Models").wait_for()
    for expected in ("Skip to content", "Inference market", "Models", "Playground", "Receipts"):
        keyboard.press("Tab")
        assert focused() == expected
    outline = visit.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid", "focus is seen"
    keyboard.press("Enter")
    visit.page.get_by_role("heading", level=1, name="Receipts").wait_for()
    assert visit.page.evaluate("document.activeElement.id") == "main", "a new page is announced from its start"
    assert visit.page.title() == "Receipts · Inference market"


def test_the_colours_chosen_outlast_the_visit(visit):
    visit.open("models", "Models")
    light = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    visit.page.get_by_label("Colours").select_option("dark")
    dark = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert light != dark
    visit.page.reload()
    visit.page.get_by_role("heading", level=1).wait_for()
    assert visit.page.evaluate("getComputedStyle(document.body).backgroundColor") == dark


def test_a_gateway_that_does_not_answer_is_named(visit):
    visit.open("models", "Models")
    visit.page.route("**/market/v1/**", lambda route: route.abort())
    visit.page.get_by_text("The gateway does not answer.").first.wait_for(timeout=20_000)
    visit.faults.clear()


def test_injected_markup_and_foreign_hosts_are_stopped_by_the_policy(visit, local):
    visit.open("models", "Models")
    blocked = visit.page.evaluate(
        """async () => {
            const stopped = [];
            document.addEventListener('securitypolicyviolation', (event) => stopped.push(event.effectiveDirective));
            await fetch('http://example.com/').catch(() => undefined);
            const script = document.createElement('script');
            try { script.textContent = 'window.pwned = 1'; } catch { stopped.push('trusted-types'); }
            try { document.body.innerHTML = '<img src=x onerror=1>'; } catch { stopped.push('trusted-types'); }
            await new Promise((done) => setTimeout(done, 100));
            return stopped;
        }"""
    )
    assert "connect-src" in blocked
    assert "trusted-types" in blocked
    visit.faults.clear()
    visit.asked[:] = [url for url in visit.asked if "example.com" not in url]
