"""The faults: each is applied, lasts a moment and is taken back; what it needs afterwards is started again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.chaos.arena import CONFIRMATIONS, Arena, clock_can_be_skewed

MAX_SKEW_SECONDS = 90


@dataclass(frozen=True)
class Fault:
    name: str
    weight: int
    apply: Callable[[Arena, random.Random], Callable[[], None]]


def _kill(name: str):
    def apply(arena: Arena, chance: random.Random):
        if name == "chain":
            arena.await_chain_kept()
        arena.kill(name)
        return lambda: arena.start_again(name)

    return apply


def _freeze(name: str):
    def apply(arena: Arena, chance: random.Random):
        arena.freeze(name, frozen=True)
        return lambda: arena.freeze(name, frozen=False)

    return apply


def _fill(name: str):
    def apply(arena: Arena, chance: random.Random):
        arena.fill_disk(name, full=True)
        return lambda: arena.fill_disk(name, full=False)

    return apply


def _skew(name: str):
    def do(arena: Arena, chance: random.Random) -> None:
        arena.skew(name, chance.choice((-1, 1)) * chance.randint(1, MAX_SKEW_SECONDS))

    return _at_once(do)


def _at_once(do: Callable[[Arena, random.Random], None]):
    def apply(arena: Arena, chance: random.Random):
        do(arena, chance)
        return lambda: None

    return apply


def all_faults() -> list[Fault]:
    every = ("gateway", "worker", "node", "third", "jobs", "redis", "chain", "postgres")
    return [
        *(Fault(f"kill {name}", 3 if name in every[:3] else 2, _kill(name)) for name in every),
        *(Fault(f"freeze {name}", 1, _freeze(name)) for name in every),
        Fault("wipe redis", 3, _at_once(lambda arena, chance: arena.wipe_redis())),
        Fault("lose data of redis", 1, _at_once(lambda arena, chance: arena.lose_redis_data())),
        Fault("restart postgres", 1, _at_once(lambda arena, chance: arena.restart_database())),
        Fault("cut link of node", 2, _at_once(lambda arena, chance: arena.cut_links())),
        Fault(
            "reorganise chain",
            4,
            _at_once(lambda arena, chance: arena.reorganise(chance.randint(1, CONFIRMATIONS - 1))),
        ),
        *(Fault(f"fill disk of {name}", 2, _fill(name)) for name in ("worker", "postgres")),
        *(Fault(f"fill disk of {name}", 1, _fill(name)) for name in ("gateway", "node", "jobs", "redis")),
        *(
            [Fault(f"skew clock of {name}", 1, _skew(name)) for name in ("gateway", "worker", "node", "jobs")]
            if clock_can_be_skewed()
            else []
        ),
    ]


def touched(name: str) -> str:
    return name.rsplit(" ", 1)[-1]


def draw(chance: random.Random, count: int) -> list[list[Fault]]:
    """Rounds of one to four faults of different programs that overlap, `count` in all."""
    known, rounds, left = all_faults(), [], count
    weights = [fault.weight for fault in known]
    while left:
        wanted = min(left, chance.choice((1, 2, 3, 4, 4)))
        together: list[Fault] = []
        while len(together) < wanted:
            fault = chance.choices(known, weights)[0]
            if touched(fault.name) not in {touched(other.name) for other in together}:
                together.append(fault)
        rounds.append(together)
        left -= wanted
    return rounds
