"""The files to deploy by name only what is there: settings, commands, metrics, files."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from market import cli as market_cli
from market import telemetry as market_telemetry
from market.settings import MarketSettings
from workers import cli as worker_cli
from workers import telemetry as worker_telemetry
from workers.settings import WorkerSettings

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "docs" / "deploy"
FILES = [path for path in sorted(DEPLOY.rglob("*")) if path.is_file() and path.suffix not in (".py", ".pyc")]
# Not settings of the programs: values that the compose file asks its user for, and variables named in its own words.
COMPOSE_OWN = {"MARKET_DOMAIN"}
METRIC = re.compile(r"\b(?:market|worker)_[a-z0-9_]+\b")
PROGRAMS = {"market": get_command(market_cli.app), "worker": get_command(worker_cli.app)}


def settings():
    return {
        f"{kind.model_config['env_prefix']}{name.upper()}"
        for kind in (MarketSettings, WorkerSettings)
        for name in kind.model_fields
    }


def exported():
    names = set()
    for registry in (market_telemetry.METRICS, worker_telemetry.METRICS, worker_telemetry.NODE_METRICS):
        for family in registry.collect():
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            names |= {family.name + ending for ending in endings}
    return names


def dashboards():
    spec = importlib.util.spec_from_file_location("make_dashboards", DEPLOY / "make_dashboards.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return maker


def alerts():
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_every_setting_that_is_named_exists(path):
    named = set(re.findall(r"\b(?:MARKET|WORKER)_[A-Z0-9_]*[A-Z0-9]", path.read_text(encoding="utf-8")))
    assert named - COMPOSE_OWN - settings() == set()


def commands():
    for unit in (DEPLOY / "systemd").glob("*.service"):
        line = re.search(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE).group(1)
        yield unit.name, shlex.split(line)
    for name, service in yaml.safe_load((DEPLOY / "container" / "compose.yml").read_text())["services"].items():
        if str(service.get("image", "")).startswith("inference-market"):
            yield name, service["command"]
    for path in (DEPLOY / "container").glob("Dockerfile*"):
        yield path.name, json.loads(re.search(r"^CMD (.*)$", path.read_text(), re.MULTILINE).group(1))
    for path in (DEPLOY / "helm").rglob("*.yaml"):
        for found in re.findall(r"command: (\[.*\])$", path.read_text(), re.MULTILINE):
            words = json.loads(found)
            yield path.name, words if words[0] != "/bin/sh" else shlex.split(words[2])[2:]


@pytest.mark.parametrize(("where", "words"), list(commands()))
def test_every_command_and_option_exists(where, words):
    program, command, *rest = words
    found = PROGRAMS[Path(program).name].commands[command]
    options = {option for parameter in found.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("-")} <= options, where


def test_there_is_a_unit_an_image_and_a_service_for_each_program():
    ran = {tuple(Path(word).name for word in words[:2]) for _, words in commands()}
    assert ran == {("market", "serve"), ("market", "jobs"), ("worker", "run")}


def test_every_metric_of_the_alerts_is_exported():
    used = {name for rule in alerts() for name in METRIC.findall(rule["expr"])}
    assert len(used) > 10
    assert used - exported() == set()


def test_every_alert_says_how_bad_it_is_and_what_to_do():
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))
    for rule in alerts():
        assert rule["labels"]["severity"] in ("info", "warning", "critical"), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "action"}, rule["alert"]
    for wanted in ("UnsettledValue", "StakeThaws", "BehindTheChain", "WorkerGone"):
        assert wanted in names


@pytest.mark.parametrize("name", ["gateway", "worker"])
def test_the_dashboards_are_as_written_and_show_what_is_exported(name):
    text = (DEPLOY / "grafana" / f"{name}.json").read_text(encoding="utf-8")
    assert text == dashboards().build(name), "run `make docs`"
    used = {
        metric
        for panel in json.loads(text)["panels"]
        for target in panel["targets"]
        for metric in METRIC.findall(target["expr"])
    }
    assert used - exported() == set()


def test_the_dashboards_leave_no_metric_out():
    shown = "".join((DEPLOY / "grafana" / f"{name}.json").read_text() for name in ("gateway", "worker"))
    shown += "".join(rule["expr"] for rule in alerts())
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in exported()}
    assert {name for name in families if name not in shown} == set()


def test_secrets_and_files_of_the_compose_file_are_there_or_asked_for():
    compose = yaml.safe_load((DEPLOY / "container" / "compose.yml").read_text())
    assert {"gateway-1", "gateway-2", "jobs", "worker", "proxy", "postgres", "valkey"} <= compose["services"].keys()
    ids = [compose["services"][name]["environment"]["MARKET_GATEWAY_ID"] for name in ("gateway-1", "gateway-2", "jobs")]
    assert len(set(ids)) == 3, "each process has a reply list of its own"
    said = (DEPLOY / "README.md").read_text()
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            if source.startswith((".", "..")):
                beside = DEPLOY / "container" / source
                assert beside.exists() or Path(source).name in said, source
    for name in re.findall(r"\$\{([A-Z_]+)", (DEPLOY / "container" / "compose.yml").read_text()):
        assert f"`{name}`" in said, name


def test_a_new_volume_is_its_users_own():
    """A volume is made as the image has its folder, else for root alone."""
    compose = yaml.safe_load((DEPLOY / "container" / "compose.yml").read_text())
    ours = [one for one in compose["services"].values() if str(one.get("image")).startswith("inference-market")]
    named = {mount.split(":")[1] for one in ours for mount in one.get("volumes", ()) if mount[0] not in "./"}
    assert named == {"/var/lib/worker"}
    for path in (DEPLOY / "container").glob("Dockerfile*"):
        assert "install --directory --owner market /var/lib/worker" in path.read_text(), path.name


@pytest.mark.parametrize("unit", sorted((DEPLOY / "systemd").glob("*.service")), ids=lambda path: path.name)
def test_systemd_takes_the_units(unit, tmp_path):
    """As they stand, but for the programs, which it looks for."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed")
    programs = f"{Path(sys.executable).parent}/"
    copy = tmp_path / unit.name
    copy.write_text(unit.read_text().replace("/opt/inference-market/.venv/bin/", programs))
    done = subprocess.run([analyze, "verify", "--man=no", copy], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
