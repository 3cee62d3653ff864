"""Write the two Grafana dashboards, grafana/*.json, from the lists below. Run `make docs` after a change."""

from __future__ import annotations

import json
import pathlib
from typing import Any

FOLDER = pathlib.Path(__file__).with_name("grafana")
Panel = tuple[str, str, dict[str, str]]

_STAGE = "histogram_quantile({q}, sum by (le) (rate(market_stage_seconds_bucket[5m])))"
_PACK = "histogram_quantile({q}, sum by (le) (rate(worker_pack_seconds_bucket[5m])))"
_GENERATION = "histogram_quantile({q}, sum by (le) (rate(worker_generation_seconds_bucket[5m])))"

GATEWAY: list[Panel] = [
    ("Requests a second, by outcome", "reqps", {"{{code}}": "sum by (code) (rate(market_requests_total[1m]))"}),
    (
        "Seconds by stage, 95 %",
        "s",
        {"{{stage}}": "histogram_quantile(0.95, sum by (le, stage) (rate(market_stage_seconds_bucket[5m])))"},
    ),
    ("All stages", "s", {"half": _STAGE.format(q=0.5), "95 %": _STAGE.format(q=0.95), "99 %": _STAGE.format(q=0.99)}),
    ("In flight", "short", {"requests": "sum(market_requests_in_flight)"}),
    ("Charged an hour, tokens", "short", {"charged": "sum(rate(market_charged_units_total[5m])) * 3600 / 1e6"}),
    ("Unsettled, tokens", "short", {"value": "max(market_unsettled_units) / 1e6"}),
    (
        "Oldest unsettled receipt",
        "s",
        {"waits": "max(market_unsettled_seconds)", "receipts": "max(market_unsettled_receipts)"},
    ),
    (
        "Settlements an hour, by outcome",
        "short",
        {"{{code}}": "sum by (code) (increase(market_settlements_total[1h]))"},
    ),
    (
        "Behind the chain",
        "short",
        {"blocks": "max(market_blocks_behind)", "age of the newest, s": "max(market_block_age_seconds)"},
    ),
    (
        "Second workers asked a second, by whose answer counted",
        "reqps",
        {"{{answer}}": "sum by (answer) (rate(market_hedges_total[5m]))"},
    ),
    ("Live workers", "short", {"workers": "max(market_live_workers)"}),
    ("Workers' stake that thaws, tokens", "short", {"thawing": "max(market_stake_thawing_units) / 1e6"}),
    (
        "Jobs that failed, an hour",
        "short",
        {"{{job}} {{code}}": "sum by (job, code) (increase(market_job_failures_total[1h]))"},
    ),
    ("Seconds since a job succeeded", "s", {"{{job}}": "time() - max by (job) (market_job_done_at)"}),
    (
        "x402 house channel, tokens",
        "short",
        {
            "can pay": "max(market_x402_house_units) / 1e6",
            "can be filled with": "max(market_x402_house_spare_units) / 1e6",
        },
    ),
    (
        "x402 channels, tokens",
        "short",
        {
            "owe and hold": "max(market_x402_claimable_units) / 1e6",
            "taken out unclaimed, a day": "sum(increase(market_x402_missing_units_total[1d])) / 1e6",
        },
    ),
    (
        "Audits an hour, by what came of them",
        "short",
        {"{{outcome}}": "sum by (outcome) (increase(market_audits_total[1h]))"},
    ),
    ("Workers that audits took out", "short", {"convicted": "max(market_convicted_workers)"}),
]

WORKER: list[Panel] = [
    ("Requests a second, by outcome", "reqps", {"{{code}}": "sum by (code) (rate(worker_jobs_total[1m]))"}),
    ("Tokens a second", "short", {"{{kind}}": "sum by (kind) (rate(worker_tokens_total[1m]))"}),
    ("Earned an hour, tokens", "short", {"earned": "sum(rate(worker_earned_units_total[5m])) * 3600 / 1e6"}),
    ("Seconds of a pack", "s", {"half": _PACK.format(q=0.5), "95 %": _PACK.format(q=0.95)}),
    ("Seconds of a generation", "s", {"half": _GENERATION.format(q=0.5), "95 %": _GENERATION.format(q=0.95)}),
    (
        "Model runs",
        "s",
        {"mean": "sum(rate(worker_compute_seconds_sum[5m])) / sum(rate(worker_compute_seconds_count[5m]))"},
    ),
    (
        "Jobs in a pack",
        "short",
        {"mean": "sum(rate(worker_pack_jobs_sum[5m])) / sum(rate(worker_pack_jobs_count[5m]))"},
    ),
    (
        "Waiting and in flight",
        "short",
        {"packs wait": "sum(worker_queue_packs)", "jobs in flight": "sum(worker_jobs_in_flight)"},
    ),
    (
        "Models",
        "short",
        {
            "offered, {{provider}}": "sum by (provider) (worker_served_models)",
            "in memory": "sum(worker_loaded_models)",
            "in a sandbox": "sum(worker_isolated_models)",
            "withdrawn": "sum(worker_withdrawn_models)",
        },
    ),
    (
        "Models' processes that ended, by cause; and started, per minute",
        "short",
        {
            "{{cause}}": "60 * sum by (cause) (rate(worker_model_process_ends_total[5m]))",
            "started": "60 * sum(rate(worker_model_process_starts_total[5m]))",
        },
    ),
    (
        "Memory of the cards",
        "bytes",
        {
            "{{instance}} {{gpu}} used": "worker_gpu_memory_used_bytes",
            "{{instance}} {{gpu}} in all": "worker_gpu_memory_bytes",
        },
    ),
    ("Cards busy", "percentunit", {"{{instance}} {{gpu}}": "worker_gpu_busy_ratio"}),
    (
        "Stake, tokens",
        "short",
        {
            "{{instance}}": "worker_stake_units / 1e6",
            "{{instance}} thaws": "worker_stake_thawing_units / 1e6",
            "{{instance}} needed": "worker_stake_needed_units / 1e6",
        },
    ),
    ("Linked and active", "short", {"{{instance}} linked": "worker_linked", "{{instance}} active": "worker_active"}),
    ("Newest block of the node", "s", {"{{instance}}": "worker_block_age_seconds"}),
]


def build(name: str) -> str:
    """Return a dashboard as JSON."""
    title, panels = {"gateway": ("Inference market: gateway", GATEWAY), "worker": ("Inference market: worker", WORKER)}[
        name
    ]
    board = {
        "uid": f"inference-market-{name}",
        "title": title,
        "tags": ["inference-market"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}]
        },
        "panels": [_panel(number, *panel) for number, panel in enumerate(panels)],
    }
    return json.dumps(board, indent=1, ensure_ascii=False) + "\n"


def _panel(number: int, title: str, unit: str, lines: dict[str, str]) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "id": number + 1,
        "title": title,
        "type": "timeseries",
        "datasource": source,
        "gridPos": {"h": 8, "w": 8, "x": number % 3 * 8, "y": number // 3 * 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(65 + place), "expr": expr, "legendFormat": legend, "datasource": source}
            for place, (legend, expr) in enumerate(lines.items())
        ],
    }


if __name__ == "__main__":
    for name in ("gateway", "worker"):
        (FOLDER / f"{name}.json").write_text(build(name), encoding="utf-8")
