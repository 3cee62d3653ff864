"""Several programs of one client pay from one channel at the same time."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from market.demo import minilm
from market.demo.network import UNIT_PRICE
from market.sdk.client import Market
from market.sdk.papers import PaperStore

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]
PROGRAMS, REQUESTS = 3, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("client")


@pytest.fixture(scope="module")
def papers(folder):
    store = PaperStore(folder / "papers.db")
    yield store
    store.close()


def test_none_of_them_is_refused_and_each_sum_is_charged_once(local, market, folder):
    tensors = minilm.tokenize(minilm.load_tokenizer(), ["Someone has lunch."])

    def program(_: int) -> list[int]:
        store = PaperStore(folder / "papers.db")
        try:
            with Market(local.gateway_url, market.wallet, papers=store) as own:
                return [own.infer(minilm.NAME, tensors).cumulative for _ in range(REQUESTS)]
        finally:
            store.close()

    with ThreadPoolExecutor(PROGRAMS) as pool:
        charged = sorted(one for paid in pool.map(program, range(PROGRAMS)) for one in paid)
    assert charged == [UNIT_PRICE * (number + 1) for number in range(PROGRAMS * REQUESTS)]
    assert market.papers.channels()[0].signed == charged[-1]
