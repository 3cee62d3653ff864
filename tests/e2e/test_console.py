"""The web console in a real browser, on a real market: what is shown is what happened, and everybody can read it.

The tests run in order on one market; the first pays for requests that the others find.
"""

import io
import json
import os
import subprocess
import sys
import wave
from importlib.util import find_spec
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from contracts.protocol.hexes import checksum, hex0x
from market.demo import minilm
from market.demo.network import LocalMarket, Options
from market.devnet import keys
from market.sdk.keys import Keys
from market.sdk.papers import PaperStore
from tests.support import models, tiny_llm
from tests.support.browser import DESKTOP, PHONE, Visit, browser
from tests.support.injected_wallet import InjectedWallet

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

SENTENCES = ["A cat sits on the mat.", "A kitten rests on a rug."]
TOKEN = 1_000_000
# How often the console reads the models of the playground, and the gateway's status.
READ_SECONDS, STATUS_SECONDS = 10, 15
GAIN = {"name": "gain", "datatype": "FP32", "shape": [1], "data": [2]}
ROOT = Path(__file__).parents[2]
HAS_LLM = find_spec("onnxruntime_genai") is not None


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def local(chromium, tmp_path_factory):
    """A market with a model of each task."""
    folder = tmp_path_factory.mktemp("console")
    packages = {
        "embedder": models.embedding_package,
        "sentiment": models.text_classifier_package,
        "pictures": models.image_classifier_package,
        "reranker": models.ranker_package,
        "loudness": models.loudness_package,
        "extremes": models.extremes_package,
    }
    if HAS_LLM:
        packages["chatter"] = tiny_llm.package
    for name, build in packages.items():
        build(folder / name)
    options = Options(
        folder / "market",
        keep_state=False,
        settle_interval_seconds=1.0,
        packages=tuple(folder / name for name in packages),
    )
    with LocalMarket(options) as found:
        found.start()
        yield found


@pytest.fixture(scope="module")
def market(local):
    """A client with an open channel."""
    with local.client(TOKEN) as found:
        yield found


@pytest.fixture(scope="module")
def paid(local, market):
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
    visit.page.get_by_text(f"0 models of {8 if HAS_LLM else 7}").wait_for()
    visit.page.get_by_label("Search").fill("")
    visit.page.get_by_label("Order").select_option("Success")
    assert visit.page.get_by_role("article").first.get_by_role("heading").inner_text() == minilm.NAME
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
    visit.open(f"operators/{checksum(local.accounts['operator'].address)}")
    row = visit.page.get_by_role("row").filter(has=visit.page.get_by_role("link", name=minilm.NAME))
    row.get_by_text("100 %").wait_for()
    assert row.get_by_role("cell").all_inner_texts()[1] == "$0.001 per row"


@pytest.mark.parametrize(("page", "wanted"), [("owners", "No royalty"), ("operators", "Nothing was earned")])
def test_what_is_not_read_yet_is_not_called_empty(visit, page, wanted):
    asked, held = [], [True]

    def hold(route):
        if held:
            asked.append(route)
        else:
            route.continue_()

    visit.page.route("**/market/v1/activity?**", hold)
    address = "0x" + "11" * 20
    visit.open(f"{page}/{address}")
    visit.page.get_by_text("Loading …").first.wait_for()
    assert visit.page.get_by_text(wanted).count() == 0
    held.clear()
    while asked:
        asked.pop().continue_()
    visit.page.get_by_text(wanted).wait_for()


@pytest.mark.parametrize("page", ["owners/0x12", "operators/0x12", "models/nothing"])
def test_what_is_not_there_is_said_and_nothing_is_called_empty(visit, page):
    visit.expected_status |= {400, 404}
    visit.open(page)
    visit.page.get_by_role("alert").get_by_role("code").wait_for()
    assert visit.page.get_by_role("heading", level=1).count() == 1
    for word in ("$0.00", "No royalty", "Nothing was earned", "has no"):
        assert word not in text_of(visit)


def test_the_past_is_the_ledgers(local, paid):
    query = {"owner": checksum(local.accounts["owner"].address), "hours": 1, "stepSeconds": 60}
    past = httpx.get(f"{local.gateway_url}/market/v1/activity", params=query).json()
    earnings = httpx.get(f"{local.gateway_url}/market/v1/owners/{query['owner']}/earnings").json()
    assert sum(int(bucket["ownerAmount"]) for bucket in past["buckets"]) == int(earnings["total"]) > 0
    assert past["complete"] is True


# --- the playground -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def payer(chromium, local):
    """A visit with a wallet that holds tokens and has opened a channel; the tests below go on with it in order."""
    with Visit(chromium, local.gateway_url) as visit:
        visit.wallet = InjectedWallet(visit, local.rpc_url)
        visit.expected_status.add(404)  # a new channel is asked for until the gateway has seen it
        local.chain.mint(local.wallet("deployer"), bytes.fromhex(visit.wallet.address[2:]), 10 * TOKEN)
        yield visit


def voucher_for(local, market, amount: int) -> str:
    """A voucher of the client's channel for `amount` more."""
    kept = market.channel()
    state = httpx.get(f"{local.gateway_url}/market/v1/channels/{hex0x(kept.channel_id)}").json()
    total = int(state["required"]) + amount
    market.papers.signed(kept.channel_id, total)
    return market.wallet.voucher_header(kept.channel, total, kept.domain)


def run(payer: Visit) -> str:
    """Press the button; return what the receipt's card says."""
    link = payer.page.get_by_role("link", name="Look it up on chain")
    before = link.get_attribute("href") if link.count() else None
    payer.page.get_by_role("button", name="Run for").click()
    payer.page.wait_for_function(
        "(before) => { const link = [...document.querySelectorAll('a')].find((a) => a.textContent === 'Look it up on chain');"
        " return link && link.getAttribute('href') !== before; }",
        arg=before,
    )
    receipt = payer.page.locator("section").filter(has=payer.page.get_by_role("heading", name="Receipt"))
    receipt.get_by_text("Verified", exact=True).wait_for()
    assert receipt.locator(".no").count() == 0
    return receipt.inner_text()


def test_a_declined_wallet_changes_nothing(payer):
    payer.open(f"playground/{minilm.NAME}", "Playground")
    payer.wallet.declining.add("eth_requestAccounts")
    payer.page.get_by_role("button", name="Connect Test wallet").click()
    payer.page.get_by_text("You declined in the wallet.").wait_for()
    payer.wallet.declining.clear()
    payer.page.get_by_role("button", name="Connect Test wallet").click()
    payer.wallet.declining.add("eth_signTypedData_v4")
    payer.page.get_by_role("button", name="Open channel").click()
    payer.page.get_by_text("You declined in the wallet.").wait_for()
    payer.wallet.declining.clear()
    assert payer.page.evaluate("localStorage.getItem('console.channels')") == "[]"
    assert "eth_sendTransaction" not in payer.wallet.asked


def test_more_than_the_wallet_holds_is_refused_before_anything_is_signed(payer):
    payer.wallet.asked.clear()
    payer.page.get_by_label("Deposit, in dollars").fill("999")
    payer.page.get_by_role("button", name="Open channel").click()
    payer.page.get_by_text("$10.00 of the token; $999.00 is to be deposited").wait_for()
    assert payer.wallet.asked == []
    payer.page.get_by_label("Deposit, in dollars").fill("1e3")
    assert payer.page.get_by_role("button", name="Open channel").is_disabled()


def test_a_channel_is_opened_by_a_permit_and_one_transaction(payer, local):
    payer.wallet.asked.clear()
    payer.page.get_by_label("Deposit, in dollars").fill("2")
    payer.page.get_by_role("button", name="Open channel").click()
    payer.page.get_by_text("Left to spend").wait_for()
    assert payer.wallet.asked == ["eth_signTypedData_v4", "eth_sendTransaction"]
    kept = payer.page.evaluate("JSON.parse(localStorage.getItem('console.channels'))[0]")
    found = httpx.get(f"{local.gateway_url}/market/v1/channels/{kept['id']}").json()
    assert (found["deposited"], found["payer"].lower()) == ("2000000", payer.wallet.address)
    assert found["signer"] == kept["signer"] != found["payer"]


def test_requests_are_paid_without_asking_the_wallet_and_verified(payer, local):
    payer.wallet.asked.clear()
    for _ in range(2):
        said = run(payer)
        assert "charged $0.001" in said
    assert payer.wallet.asked == []
    answer = payer.page.get_by_label("Values of last_hidden_state").inner_text()
    assert "1,128 more" in answer, "3 tokens of 384 numbers, 24 shown"
    payer.page.get_by_text("$1.998").wait_for()
    payer.page.get_by_role("link", name="Look it up on chain").click()
    payer.page.get_by_text("Verified", exact=True).wait_for(timeout=30_000)
    # The page loads anew while it waits for the settlement.
    payer.page.get_by_text("read by your wallet's own node").first.wait_for(timeout=30_000)


def test_texts_are_embedded_and_compared_and_charged_by_the_token(payer):
    payer.open("playground/embedder")
    payer.page.get_by_label("Texts, one a line").fill("the cat sat\nthe cat sat\na dog ran home")
    payer.page.locator(".asked").get_by_text("at most").wait_for()
    said = run(payer)
    cells = payer.page.locator(".matrix td").all_inner_texts()
    assert len(cells) == 9
    assert cells[0] == cells[1] == "1.00"
    assert cells[2] != "1.00"
    assert "charged $0.00016" in said, "16 tokens with those around the texts"


def test_texts_are_classified_by_their_labels(payer):
    payer.open("playground/sentiment")
    payer.page.get_by_label("Texts, one a line").fill("the cat")
    run(payer)
    assert sorted(payer.page.locator(".scores dt").all_inner_texts()) == sorted(models.LABELS)
    scores = [float(text) for text in payer.page.locator(".scores dd").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=0.01)


def test_documents_are_ranked(payer):
    payer.open("playground/reranker")
    payer.page.get_by_label("Rank by").fill("the cat")
    payer.page.get_by_label("Documents, one a line").fill("a dog ran far away\nthe cat sat on the mat\nhome")
    said = run(payer)
    assert "charged $0.000" in said
    rows = payer.page.get_by_label("Documents, the best first").get_by_role("listitem").all_inner_texts()
    assert len(rows) == 3
    scores = [float(row.split()[-1]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert payer.violations() == []
    payer.page.get_by_label("Rank by").fill(" ")
    payer.page.get_by_text("Type what to rank the documents by.").wait_for()


def recording(folder, name="a tone.wav", seconds=1.5, rate=16_000):
    """Write a tone of half the full scale, in two channels."""
    samples = (np.sin(np.arange(int(seconds * rate)) * 0.05) * 16_384).astype("<i2")
    with wave.open(str(folder / name), "wb") as out:
        out.setparams((2, 2, rate, 0, "NONE", ""))
        out.writeframes(np.repeat(samples, 2).tobytes())
    return folder / name


def test_a_recording_is_brought_to_the_models_rate_and_priced_by_the_second(payer, tmp_path):
    payer.open("playground/loudness")
    payer.page.get_by_text("Choose a recording.").wait_for()
    payer.page.get_by_label("Recording").set_input_files(recording(tmp_path))
    payer.page.get_by_text("1.5 seconds, sent as 12,000 samples of one channel, 8,000 a second.").wait_for()
    payer.page.get_by_label("The other input tensors, as JSON").fill(json.dumps([GAIN]))
    assert "charged $0.002" in run(payer), "of two seconds, begun"
    power = float(payer.page.get_by_label("Values of power").inner_text())
    assert power == pytest.approx(2 * 0.5**2 / 2, rel=0.02)
    assert payer.violations() == []
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    payer.page.get_by_label("Recording").set_input_files(tmp_path / "broken.wav")
    payer.page.get_by_text("This browser cannot read broken.wav as sound.").wait_for()


def test_a_picture_is_dropped_and_classified(payer):
    payer.open("playground/pictures")
    picture = io.BytesIO()
    Image.new("RGB", (20, 12), (200, 30, 30)).save(picture, "PNG")
    payer.page.get_by_label("Picture").set_input_files(
        {"name": "red.png", "mimeType": "image/png", "buffer": picture.getvalue()}
    )
    run(payer)
    assert payer.page.get_by_role("img", name="What is sent: red.png").is_visible()
    assert payer.page.locator(".scores dt").count() == 3
    assert payer.violations() == []
    dropped = payer.page.evaluate_handle(
        """async () => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array([1, 2, 3])], 'broken.png', { type: 'image/png' }));
            return data;
        }"""
    )
    payer.page.locator(".drop").dispatch_event("drop", {"dataTransfer": dropped})
    payer.page.get_by_role("img", name="What is sent: broken.png").wait_for()
    payer.expected_status.add(400)
    payer.page.get_by_role("button", name="Run for").click()
    payer.page.get_by_role("alert").get_by_role("code").wait_for()


@pytest.mark.skipif(not HAS_LLM, reason="the extra [llm] is not installed")
def test_a_chat_is_streamed_paid_by_the_token_and_verified(payer, local):
    payer.open("playground/chatter")
    for turn, temperature in enumerate(("0.7", "1"), start=1):
        payer.page.get_by_label("Message").fill("the cat “sat” on\nthe mat")
        payer.page.get_by_label("Tokens at most").fill("12")
        payer.page.get_by_label("Temperature").fill(temperature)
        payer.page.get_by_role("button", name="Send for at most").click()
        payer.page.locator(".said li").nth(2 * turn - 1).and_(payer.page.locator("[aria-busy=false]")).wait_for()
        receipt = payer.page.locator("section").filter(has=payer.page.get_by_role("heading", name="Receipt"))
        receipt.get_by_text("Verified", exact=True).wait_for()
        assert receipt.locator(".no, .open").count() == 0
    assert '"content":""' not in payer.page.get_by_label("The call in curl").inner_text()
    assert (
        payer.page.get_by_text("12 tokens written, ended by length")
        .or_(payer.page.get_by_text("ended by stop"))
        .count()
    )
    assert payer.violations() == []
    payer.page.get_by_role("button", name="Start over").click()
    assert payer.page.locator(".said li").count() == 0


@pytest.mark.skipif(not HAS_LLM, reason="the extra [llm] is not installed")
@pytest.mark.parametrize(
    ("status", "body", "wanted"),
    [
        (503, '{"error": {"message": "Nobody is free.", "code": "no-capacity"}}', "Nobody is free. no-capacity"),
        (200, 'data: {"error": {"message": "It died.", "code": "worker-failed"}}\n\n', "It died. worker-failed"),
        (200, 'data: {"choices": [{"delta": {"content": "the c"}}]}\n\n', "The answer broke off."),
        (200, "", "The gateway does not answer."),
    ],
    ids=["refused", "failed within", "broken off", "nothing came"],
)
def test_a_chat_that_fails_says_how_and_gives_the_message_back(payer, status, body, wanted):
    payer.open("playground/chatter")
    payer.expected_status.add(status)
    payer.page.route("**/v1/chat/completions", lambda route: route.fulfill(status=status, body=body))
    payer.page.get_by_label("Message").fill("the cat")
    payer.page.get_by_role("button", name="Send for at most").click()
    alert = payer.page.get_by_role("alert")
    alert.get_by_text(wanted).wait_for()
    assert alert.get_by_role("link", name="Look for its receipt").count() == ("broke" in wanted)
    assert payer.page.get_by_label("Message").input_value() == "the cat"
    payer.page.unroute("**/v1/chat/completions")


@pytest.mark.skipif(not HAS_LLM, reason="the extra [llm] is not installed")
def test_what_was_typed_stays_when_the_last_worker_goes(payer):
    def without_offers(route):
        answer = route.fetch()
        route.fulfill(response=answer, json=[{**model, "offers": []} for model in answer.json()])

    payer.wind()
    payer.open("playground/chatter")
    payer.page.get_by_label("Message").fill("the dog")
    payer.page.route("**/market/v1/models", without_offers)
    payer.later(READ_SECONDS)
    payer.page.get_by_text("No live worker offers this model now.").first.wait_for()
    assert payer.page.get_by_label("Message").input_value() == "the dog"
    assert payer.page.get_by_label("Model", exact=True).input_value() == "chatter"
    payer.page.unroute("**/market/v1/models")
    payer.later(READ_SECONDS)
    payer.page.get_by_text("No live worker offers this model now.").first.wait_for(state="detached")
    assert payer.page.get_by_label("Message").input_value() == "the dog"


@pytest.mark.skipif(not HAS_LLM, reason="the extra [llm] is not installed")
def test_a_chat_that_is_stopped_is_charged_for_what_was_read_at_most(payer):
    payer.open("playground/sentiment")
    payer.open("playground/chatter")
    payer.page.evaluate(
        """() => {
            const stop = () => [...document.querySelectorAll('button')].find((one) => one.textContent === 'Stop');
            new MutationObserver(() => stop()?.click()).observe(document.body, { childList: true, subtree: true });
        }"""
    )
    payer.page.get_by_label("Message").fill("the cat")
    payer.page.get_by_role("button", name="Send for at most").click()
    nothing = payer.page.get_by_text("nothing is charged")
    nothing.or_(payer.page.get_by_text("Good, as far as it was read")).wait_for(timeout=30_000)
    assert payer.page.locator(".checks .no").count() == 0


def test_infinities_and_what_is_no_number_are_shown_and_verified(payer):
    payer.open("playground/extremes")
    row = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [0.0, -0.0, 3.0, -4.0]}
    payer.page.get_by_label("Input tensors, as JSON").fill(json.dumps([row]))
    run(payer)
    shown = {
        name: payer.page.get_by_label(f"Values of {name}").inner_text()
        for name in ("inverse", "product", "half", "brain")
    }
    assert shown == {
        "inverse": "Infinity, -Infinity, 0.333333, -0.25",
        "product": "NaN, NaN, 1, 1",
        "half": "Infinity, -Infinity, 0.333252, -0.25",
        "brain": "Infinity, -Infinity, 0.333984, -0.25",
    }


def test_what_is_wrong_with_a_request_is_said_before_it_is_paid(payer):
    payer.open(f"playground/{minilm.NAME}")
    field = payer.page.get_by_label("Input tensors, as JSON")
    field.fill("[{")
    payer.page.get_by_text("Not JSON").wait_for()
    assert payer.page.get_by_role("button", name="Run").is_disabled()
    row = {"name": "input_ids", "datatype": "INT64", "shape": [1, 2], "data": [1]}
    field.fill(json.dumps([row]))
    payer.page.get_by_text("1 values where the shape [1, 2] takes 2").wait_for()
    field.fill(json.dumps([{**row, "data": [1, 2]}]))
    payer.page.locator(".asked").get_by_text("attention_mask").wait_for()


@pytest.fixture
def as_copied(local, market, tmp_path):
    """Run a Python snippet as a person would who pasted it where `market channel open` was used."""
    store = PaperStore(tmp_path / ".market" / "client" / "papers.db")
    (kept,) = market.papers.channels()
    store.keep_channel(kept.channel, local.chain.domain)
    store.signed(kept.channel_id, kept.signed)
    store.close()
    folder = tmp_path / ".market" / "keys"
    folder.mkdir()
    (folder / "client.json").write_bytes(local.accounts["client"].keystore.read_bytes())
    (folder / "password").write_bytes(keys.password_file(local.data_dir).read_bytes())

    def run_it(code: str) -> bytes:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        again = PaperStore(tmp_path / ".market" / "client" / "papers.db")
        market.papers.signed(kept.channel_id, again.channels()[0].signed)
        again.close()
        return done.stdout

    return run_it


def test_the_python_shown_makes_the_same_call(payer, as_copied):
    payer.open("playground/sentiment")
    payer.page.get_by_label("Texts, one a line").fill('the cat\na dog\'s "home"')
    payer.page.get_by_role("button", name="Python").click()
    assert b"scores" in as_copied(payer.page.get_by_label("The call in Python").inner_text())


@pytest.mark.skipif(not HAS_LLM, reason="the extra [llm] is not installed")
def test_the_python_shown_streams_the_same_chat(payer, as_copied):
    payer.open("playground/chatter")
    payer.page.get_by_label("Message").fill('the "cat\'s" mat')
    payer.page.get_by_role("button", name="Python").click()
    assert b"\npaid " in as_copied(payer.page.get_by_label("The call in Python").inner_text())


def test_the_curl_shown_makes_the_same_call(payer, local, market):
    payer.open("playground/sentiment")
    payer.page.get_by_label("Texts, one a line").fill("the cat's mat")
    payer.page.get_by_role("button", name="curl").click()
    code = payer.page.get_by_label("The call in curl").inner_text()
    environment = {**os.environ, "MARKET_VOUCHER": voucher_for(local, market, 20_000)}
    done = subprocess.run(["bash", "-c", code], capture_output=True, env=environment)
    assert json.loads(done.stdout)["outputs"][0]["name"] == "scores", done


def test_the_curl_shown_sends_the_picture(payer, local, market, tmp_path):
    Image.new("RGB", (20, 12), (200, 30, 30)).save(tmp_path / "it's red.png")
    payer.open("playground/pictures")
    payer.page.get_by_label("Picture").set_input_files(tmp_path / "it's red.png")
    payer.page.get_by_role("button", name="curl").click()
    code = payer.page.get_by_label("The call in curl").inner_text()
    environment = {**os.environ, "MARKET_VOUCHER": voucher_for(local, market, 200_000)}
    done = subprocess.run(["bash", "-c", code], capture_output=True, env=environment, cwd=tmp_path)
    assert b"scores" in (tmp_path / "answer.bin").read_bytes(), done


def test_the_calls_shown_send_the_same_recording(payer, local, market, as_copied, tmp_path):
    payer.open("playground/loudness")
    payer.page.get_by_label("Recording").set_input_files(recording(tmp_path))
    payer.page.get_by_label("The other input tensors, as JSON").fill(json.dumps([GAIN]))
    with payer.page.expect_download() as saved:
        payer.page.get_by_role("link", name="Save them as a tone.f32").click()
    saved.value.save_as(tmp_path / "a tone.f32")
    code = payer.page.get_by_label("The call in curl").inner_text()
    environment = {**os.environ, "MARKET_VOUCHER": voucher_for(local, market, 20_000)}
    done = subprocess.run(["bash", "-c", code], capture_output=True, env=environment, cwd=tmp_path)
    (power,) = json.loads(done.stdout)["outputs"][0]["data"]
    assert power == pytest.approx(0.25, rel=0.02)
    payer.page.get_by_role("button", name="Python").click()
    assert f"array([{str(power)[:7]}" in as_copied(payer.page.get_by_label("The call in Python").inner_text()).decode()


def test_the_calls_shown_rank_the_same_documents(payer, local, market, as_copied):
    payer.open("playground/reranker")
    payer.page.get_by_label("Rank by").fill('the cat\'s "mat"')
    payer.page.get_by_role("button", name="curl").click()
    code = payer.page.get_by_label("The call in curl").inner_text()
    environment = {**os.environ, "MARKET_VOUCHER": voucher_for(local, market, 200_000)}
    done = subprocess.run(["bash", "-c", code], capture_output=True, env=environment)
    assert len(json.loads(done.stdout)["results"]) == 3, done
    payer.page.get_by_role("button", name="Cohere").click()
    environment["MARKET_VOUCHER"] = voucher_for(local, market, 200_000)
    code = payer.page.get_by_label("The call in Cohere").inner_text()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.stdout.count(b"relevance_score=") == 3, done.stderr
    payer.page.get_by_role("button", name="Python").click()
    assert b"scores" in as_copied(payer.page.get_by_label("The call in Python").inner_text())


@pytest.mark.parametrize(("model", "said"), [("embedder", b"[8]"), ("chatter", b"")])
def test_the_openai_client_shown_makes_the_same_call(payer, local, market, model, said):
    if model == "chatter" and not HAS_LLM:
        pytest.skip("the extra [llm] is not installed")
    payer.open(f"playground/{model}")
    payer.page.get_by_label("Message" if model == "chatter" else "Texts, one a line").fill('the "cat\'s" mat')
    payer.page.get_by_role("button", name="openai").click()
    code = payer.page.get_by_label("The call in openai").inner_text()
    environment = {**os.environ, "MARKET_VOUCHER": voucher_for(local, market, 200_000)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout != b""


def test_the_node_of_a_wallet_is_asked_instead_of_the_gateway(payer, paid):
    payer.page.reload()
    payer.open(f"receipts/{paid['request']}")
    payer.page.get_by_text("The chain itself was read through the gateway").wait_for()
    payer.page.get_by_role("button", name="Ask the node of Test wallet").click()
    payer.page.get_by_text("The chain was read by your wallet's own node").wait_for()
    payer.page.get_by_text("Verified", exact=True).wait_for()


def test_the_deposit_grows_and_the_rest_comes_back(payer, local):
    payer.page.reload()
    payer.open("playground")
    payer.page.get_by_text("Connect the wallet to add to the deposit").wait_for()
    payer.page.get_by_role("button", name="Connect Test wallet").click()
    top_up(payer, "0.5")
    payer.page.get_by_text("$2.50").last.wait_for()
    kept = payer.page.evaluate("JSON.parse(localStorage.getItem('console.channels'))[0]")
    payer.page.get_by_role("button", name="Take the rest back").click()
    payer.page.get_by_role("button", name="Take the rest back").and_(payer.page.locator(":disabled")).wait_for()
    payer.page.locator(".step:empty").wait_for(state="attached")
    found = httpx.get(f"{local.gateway_url}/market/v1/channels/{kept['id']}").json()
    assert found["deposited"] == found["charged"] != "0", "everything that was free is back at once"
    top_up(payer, "0.1")
    payer.page.get_by_role("button", name="Leave without the gateway").click()
    payer.page.get_by_text("to be drawn from").wait_for()
    found = httpx.get(f"{local.gateway_url}/market/v1/channels/{kept['id']}").json()
    assert int(found["exitAmount"]) >= 100_000


def top_up(payer, amount: str) -> None:
    payer.page.get_by_role("button", name="Add to the deposit").click()
    payer.page.get_by_label("Add, in dollars").fill(amount)
    payer.page.get_by_role("button", name="Deposit", exact=True).click()
    payer.page.get_by_role("button", name="Deposit", exact=True).wait_for(state="detached")


def test_an_api_key_pays_without_a_wallet(visit, market):
    key = Keys(market).create(limit=300_000, name="console")
    visit.open(f"playground/{minilm.NAME}")
    visit.page.get_by_text("Pay by an API key instead").click()
    visit.expected_status.add(401)
    visit.page.get_by_label("API key").fill("mk_" + "A" * 43)
    visit.page.get_by_role("button", name="Use it").click()
    visit.page.get_by_text("invalid-key").wait_for()
    visit.page.get_by_label("API key").fill(key.secret)
    visit.page.get_by_role("button", name="Use it").click()
    visit.page.get_by_text("$0.30").wait_for()
    assert "charged $0.001" in run(visit)
    visit.page.get_by_text("$0.299").wait_for()
    assert "Authorization: Bearer $MARKET_KEY" in visit.page.get_by_label("The call in curl").inner_text()
    assert key.secret not in visit.page.content()
    visit.page.get_by_role("button", name="Stop using this key").click()
    visit.page.get_by_text("No browser wallet").wait_for()


# --- for everybody ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_page_has_an_accessibility_violation(chromium, local, paid, scheme, viewport):
    pages = [
        *(
            "models",
            f"models/{minilm.NAME}",
            "playground",
            "playground/embedder",
            "playground/pictures",
            "playground/chatter",
            "playground/reranker",
            "playground/loudness",
        ),
        *("receipts", f"receipts/{paid['request']}", f"receipts/{paid['channel']}", "settlement"),
        *("operators", f"operators/{checksum(local.accounts['operator'].address)}"),
        *("owners", f"owners/{checksum(local.accounts['owner'].address)}", "nowhere"),
    ]
    with Visit(chromium, local.gateway_url, scheme=scheme, viewport=viewport) as visit:
        visit.expected_status.add(404)
        for page in pages:
            visit.open(page)
            visit.page.get_by_role("heading", level=1).wait_for()
            visit.settle()
            assert visit.violations() == [], page
            assert not visit.overflows(), page


def test_an_owner_who_lists_an_absurd_price_spoils_nobodys_page(chromium, local):
    def dear(route):
        answer = route.fetch()
        route.fulfill(response=answer, json=[{**model, "offers": [], "maxPrice": "9" * 38} for model in answer.json()])

    with Visit(chromium, local.gateway_url, viewport=PHONE) as visit:
        visit.page.route("**/market/v1/models", dear)
        visit.open("models", "Models")
        visit.page.get_by_text("$99,999").first.wait_for()
        assert not visit.overflows()
        visit.page.unroute("**/market/v1/models")


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


def test_a_page_asked_for_before_the_first_frame_is_shown(visit):
    visit.page.add_init_script(
        """new MutationObserver((_, observer) => {
            if (document.querySelector('header nav')) {
                observer.disconnect();
                location.hash = '#/receipts';
            }
        }).observe(document, { childList: true, subtree: true })"""
    )
    visit.open("models", "Receipts")


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
    visit.wind()
    visit.open("models", "Models")
    visit.page.route("**/market/v1/**", lambda route: route.abort())
    visit.open("owners")
    visit.page.get_by_text("The gateway does not answer.").first.wait_for()
    visit.later(STATUS_SECONDS)
    visit.page.get_by_text("What is shown may be from before.").wait_for(timeout=30_000)
    assert visit.violations() == []
    visit.page.route("**/console/**", lambda route: route.abort())
    visit.open("settlement")
    visit.page.get_by_text("The gateway does not answer.").first.wait_for()
    # It would go on asking, and be refused.
    visit.page.close()
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
