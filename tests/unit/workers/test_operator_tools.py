"""What an operator is told: cards, clocks, room; and how the view reads a worker's metrics."""

import socket
import time
import warnings
from collections import deque
from types import SimpleNamespace

import pytest
from celery.exceptions import SecurityWarning
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from contracts.bindings.errors import NodeUnreachable, WrongChain
from workers import machine, metrics, node
from workers.commands import asking, drain, findings, live, models, serve
from workers.commands.asking import Answers
from workers.commands.findings import Checks, Noted
from workers.errors import ClockOff, DiskFull, ModelNotListed, OfferOutsideBounds, RedisNotReady, StartError
from workers.settings import WorkerSettings


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """Put an `nvidia-smi` on the path that prints these lines."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(text, status=0):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{text}\nEND\nexit {status}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    return write


def test_cards_are_read_from_nvidia_smi(smi):
    smi("NVIDIA A10, 23028, 512, 12, 550.1\nNVIDIA GB10, [N/A], [N/A], 3, 580.2\nnonsense")
    one, other = machine.find_gpus()
    assert (one.name, one.memory_bytes, one.used_bytes, one.busy) == ("NVIDIA A10", 23_028 << 20, 512 << 20, 0.12)
    assert (other.memory_bytes, other.used_bytes, other.driver) == (None, None, "580.2")


def test_a_machine_without_cards_or_with_a_broken_driver_has_none(smi):
    assert machine.find_gpus() == []
    smi("NVIDIA-SMI has failed", status=9)
    assert machine.find_gpus() == []
    assert "no NVIDIA card" in findings.gpus()


def test_a_card_that_onnxruntime_cannot_use_is_worth_a_note(smi, monkeypatch):
    from workers.models import runtime

    smi("NVIDIA A10, 23028, 512, 12, 550.1")
    monkeypatch.setattr(runtime, "available_providers", lambda: ["cpu"])
    with pytest.raises(Noted) as noted:
        findings.gpus()
    assert "RUNTIME=gpu" in noted.value.remedy
    monkeypatch.setattr(runtime, "available_providers", lambda: ["cuda", "cpu"])
    assert "22.4 GiB" in findings.gpus()


def test_clocks_that_differ_are_a_fault_and_an_old_block_a_note():
    now = int(time.time())
    assert "newest block" in findings.clock(0.4, now - 5)
    for ahead, block in ((60.0, now), (-60.0, now), (0.0, now + 60), (None, now + 60)):
        with pytest.raises(ClockOff) as off:
            findings.clock(ahead, block)
        assert "timedatectl" in off.value.remedy
    with pytest.raises(Noted, match="old"):
        findings.clock(0.0, now - 3_600)


def test_a_full_disk_and_a_folder_of_somebody_elses_are_faults(tmp_path, monkeypatch):
    settings = WorkerSettings(model_dir=tmp_path / "m", state_dir=tmp_path / "s")
    assert "free" in findings.disk(settings) or machine.free_bytes(tmp_path) < findings.LOW_FREE_BYTES
    monkeypatch.setattr(machine, "free_bytes", lambda _: 1 << 29)
    with pytest.raises(DiskFull, match="GiB free"):
        findings.disk(settings)
    with pytest.raises(DiskFull) as full:
        findings.disk(WorkerSettings(model_dir="/proc/nowhere"))
    assert full.value.field == "WORKER_MODEL_DIR"


def test_findings_say_state_code_and_remedy():
    checks = Checks()

    def away():
        raise RedisNotReady("it does not answer.", field="WORKER_REDIS_URL", remedy="Start it.")

    def worth_a_look():
        raise Noted("half full.", remedy="Make room.")

    assert checks.add("fine", lambda: "good")
    assert checks.add("disk", worth_a_look)
    assert not checks.add("broker", away)
    assert checks.faults == 1
    assert checks.rows[2].to_json() == {
        "check": "broker",
        "state": "fault",
        "detail": "WORKER_REDIS_URL: it does not answer.",
        "code": "worker-redis",
        "remedy": "Start it.",
    }
    said = "\n".join(checks.lines())
    assert "FAULT  broker" in said
    assert "→ Make room." in said


@pytest.fixture
def counted(tmp_path):
    """A worker's registry and where it is written."""
    registry = CollectorRegistry()
    jobs = Counter("worker_jobs_total", "j", ["code"], registry=registry)
    seconds = Histogram("worker_pack_seconds", "s", buckets=(0.01, 0.1, 1), registry=registry)
    Gauge("worker_served_models", "m", ["provider"], registry=registry).labels("cpu").set(2)
    return registry, jobs, seconds


def write(registry, path):
    stop = metrics.writing(path, registry)
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    stop()
    return path


def test_workers_behind_a_link_are_told_apart_and_added_up(counted, tmp_path):
    registry, jobs, _ = counted
    jobs.labels("ok").inc(3)
    for number in (0, 1):
        write(registry, tmp_path / f"{number}{metrics.SUFFIX}")
    (tmp_path / f"2{metrics.SUFFIX}").write_text("")
    joined = {family.name: family for family in metrics._Written(tmp_path).collect()}
    samples = joined["worker_jobs"].samples
    assert {(sample.labels["process"], sample.value) for sample in samples} == {("0", 3.0), ("1", 3.0)}
    assert joined["worker_jobs"].type == "counter"


def test_the_view_shows_rates_and_latency_of_the_last_seconds(counted, tmp_path, monkeypatch):
    registry, jobs, seconds = counted
    path = tmp_path / "live.prom"
    history = deque()
    monkeypatch.setattr(live.time, "monotonic", lambda: 100.0)
    jobs.labels("ok").inc(7)
    seconds.observe(0.5)
    path.write_bytes(metrics.generate_latest(registry))
    live.look(history, path)
    jobs.labels("ok").inc(40)
    jobs.labels("inputs-refused").inc(10)
    for value in [0.02] * 19 + [0.9]:
        seconds.observe(value)
    path.write_bytes(metrics.generate_latest(registry))
    monkeypatch.setattr(live.time, "monotonic", lambda: 105.0)
    live.look(history, path)
    assert live.rate(history, "worker_jobs_total") == 10
    assert live.rate(history, "worker_jobs_total", code="ok") == 8
    assert live.quantile_ms(history, "worker_pack_seconds", 0.5) == 100
    assert live.quantile_ms(history, "worker_pack_seconds", 0.99) == 1_000
    rows = dict(live.rows(history, history[-1][1]))
    assert rows["models"] == "2 on cpu"
    assert rows["requests"] == "10.0/s   57 in all, 10 refused or failed"


def test_a_worker_that_was_started_again_never_shows_a_negative_rate():
    history = [(0.0, {("worker_jobs_total", ()): 90.0}), (1.0, {("worker_jobs_total", ()): 2.0})]
    assert live.rate(history, "worker_jobs_total") == 0


def test_old_values_leave_the_window(tmp_path, monkeypatch):
    path = tmp_path / "live.prom"
    path.write_text("worker_linked 1\n")
    history = deque()
    for second in range(40):
        monkeypatch.setattr(live.time, "monotonic", lambda second=second: float(second))
        live.look(history, path)
    assert history[-1][0] - history[0][0] <= live.WINDOW_SECONDS


def test_a_question_that_nobody_answers_names_its_option():
    ask = Answers(quiet=True)
    assert ask.text("rpc-url", None, "Which node?", "http://127.0.0.1:8545") == "http://127.0.0.1:8545"
    with pytest.raises(StartError) as missing:
        ask.text("gateway", None, "Which gateway?")
    assert missing.value.remedy == "Add --gateway."


LISTED = {
    "name": "minilm",
    "modelId": "0x01",
    "active": True,
    "minPrice": "100",
    "maxPrice": "900",
    "unit": "row",
    "task": "tensor",
}


@pytest.mark.parametrize(
    ("given", "price", "offers", "chosen"),
    [
        (None, None, [], "minilm=500"),
        (None, None, ["400", "300"], "minilm=300"),
        ("minilm", 200, ["300"], "minilm=200"),
        ("minilm=150", 200, [], "minilm=150"),
        ("0x01", None, [], "0x01=500"),
    ],
)
def test_a_price_is_the_one_given_else_the_lowest_offer_else_the_middle(monkeypatch, given, price, offers, chosen):
    row = {**LISTED, "offers": [{"unitPrice": unit_price} for unit_price in offers]}
    monkeypatch.setattr(asking, "_listed", lambda _: [row])
    assert asking.choose_models(Answers(quiet=True), "http://gateway", given, price) == chosen


def test_a_model_that_is_offered_for_nothing_is_said_to_be(monkeypatch, capsys):
    said = iter(["minilm", ""])
    monkeypatch.setattr(asking.typer, "prompt", lambda *_, default, **__: next(said) or default)
    monkeypatch.setattr(asking, "_listed", lambda _: [{**LISTED, "minPrice": "0", "offers": [{"unitPrice": "0"}]}])
    assert asking.choose_models(Answers(quiet=False), "http://gateway", None, None) == "minilm=0"
    assert "1 offer(s), lowest 0" in capsys.readouterr().out


@pytest.mark.parametrize(("given", "code"), [("minilm=99", OfferOutsideBounds), ("gpt-9", ModelNotListed)])
def test_a_choice_outside_what_is_listed_is_refused(monkeypatch, given, code):
    monkeypatch.setattr(asking, "_listed", lambda _: [{**LISTED, "offers": []}])
    with pytest.raises(code):
        asking.choose_models(Answers(quiet=True), "http://gateway", given, None)


def test_a_person_whose_answer_is_refused_is_asked_again(monkeypatch, capsys):
    said = iter(["gpt-9", "minilm", "99", "150"])
    monkeypatch.setattr(asking.typer, "prompt", lambda *_, **__: next(said))
    monkeypatch.setattr(asking, "_listed", lambda _: [{**LISTED, "offers": []}])
    assert asking.choose_models(Answers(quiet=False), "http://gateway", None, None) == "minilm=150"
    told = capsys.readouterr().err
    assert "gpt-9" in told
    assert "100 to 900" in told


@pytest.mark.parametrize("served", ["0x1", None], ids=["another chain", "nothing there"])
def test_a_person_whose_node_serves_no_such_chain_is_asked_again(monkeypatch, capsys, served):
    wrong, right = "http://127.0.0.1:9", "http://127.0.0.1:8545"
    said = iter([wrong, right])

    def connect(url, chain_id, **_):
        if url == wrong:
            raise (
                NodeUnreachable("no answer.") if served is None else WrongChain(f"it serves {served}, not {chain_id}.")
            )

    monkeypatch.setattr(asking.typer, "prompt", lambda *_, **__: next(said))
    monkeypatch.setattr(asking, "connect", connect)
    assert asking.choose_node(Answers(quiet=False), None, 31_337) == right
    assert ("no answer" if served is None else "not 31337") in capsys.readouterr().err
    assert asking.choose_node(Answers(quiet=False), wrong, 31_337) == wrong, "an option is taken as it is"
    assert asking.choose_node(Answers(quiet=True), None, 31_337) == right


def test_a_machine_that_was_never_set_up_is_pointed_to_init(tmp_path, monkeypatch):
    settings = WorkerSettings(state_dir=tmp_path)
    with pytest.raises(StartError) as keyless:
        node.open_chain(settings)
    assert "`worker init`" in keyless.value.remedy
    with pytest.raises(StartError) as gatewayless:
        node.build(settings)
    assert "`worker init`" in gatewayless.value.remedy
    with pytest.raises(StartError) as idle:
        drain._address(settings)
    assert "--env-file" in idle.value.remedy


def test_a_port_that_is_taken_keeps_the_worker_from_starting_and_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(StartError) as refused:
        metrics._serve("127.0.0.1", taken.getsockname()[1], CollectorRegistry())
    assert refused.value.field == "WORKER_METRICS_PORT"


def test_celerys_warning_about_root_is_left_out_only_where_root_is_meant(monkeypatch):
    for meant in (False, True):
        monkeypatch.setenv("C_FORCE_ROOT", "1" if meant else "")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            serve._accept_root()
            warnings.warn("root", SecurityWarning, stacklevel=1)
        assert bool(said) != meant


@pytest.mark.parametrize("named", ["minilm", "0x" + "01" * 32])
def test_a_model_is_measured_whatever_its_price_and_served_within_its_owners_bounds(tmp_path, monkeypatch, named):
    listing = SimpleNamespace(owner=b"\1" * 20, active=True, min_price=1, max_price=100, uri="file:///x")
    listings = SimpleNamespace(by_name=lambda _: b"\1" * 32, model=lambda _: listing)
    side = SimpleNamespace(contracts=SimpleNamespace(models=listings))
    settings = WorkerSettings(state_dir=tmp_path, models=f"{named}=10")
    assert node.find_models(side, settings) == [(b"\1" * 32, listing, 10)]
    monkeypatch.setattr(node, "open_chain", lambda _: side)
    monkeypatch.setattr(node, "own_addresses", lambda _: frozenset({listing.owner}))
    monkeypatch.setattr(node, "open_store", lambda _: SimpleNamespace(get=lambda *found: found))
    assert models._package(named, settings) == ((b"\1" * 32, listing.uri), None)
    with pytest.raises(OfferOutsideBounds) as refused:
        node.find_models(side, WorkerSettings(state_dir=tmp_path, models=named))
    assert "=PRICE" in refused.value.remedy
    listing.active = False
    with pytest.raises(ModelNotListed):
        node.find_listing(side, named)


@pytest.mark.parametrize("url", ["http://me:sesame@127.0.0.1:1", "foo", "redis://127.0.0.1:port/0"])
def test_an_address_of_redis_that_is_none_is_named_without_its_password(tmp_path, url):
    with pytest.raises(StartError) as refused:
        node.open_redis(WorkerSettings(state_dir=tmp_path, redis_url=url))
    assert refused.value.field == "WORKER_REDIS_URL"
    assert "sesame" not in refused.value.detail
