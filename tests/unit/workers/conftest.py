import pytest

from tests.support.worker import DOMAIN, GATEWAY, UNIT_PRICE, WORKER, FakeChain, write_package
from workers.admission import Admission, Served
from workers.execution import Executor
from workers.models.sessions import SessionCache
from workers.models.store import PackageStore


@pytest.fixture(scope="session")
def packaged(tmp_path_factory):
    root = tmp_path_factory.mktemp("package")
    manifest = write_package(root / "mlp")
    store = PackageStore(root / "cache", allow_file_uri=True, max_package_bytes=1 << 20)
    return store.get(manifest.model_id, (root / "mlp").as_uri())


@pytest.fixture
def chain():
    return FakeChain()


@pytest.fixture
def executor(packaged, chain):
    served = {packaged.model_id: Served(packaged, UNIT_PRICE)}
    admission = Admission(
        domain=DOMAIN,
        gateways=frozenset({GATEWAY.address}),
        served=served,
        max_fee_ppm=60_000,
        chain=chain,
        clock=lambda: 2e9,
    )
    sessions = SessionCache(provider="cpu", threads=1, memory_budget_bytes=1 << 30)
    return Executor(key=WORKER, domain=DOMAIN, admission=admission, served=served, sessions=sessions)
