"""A gateway that cannot start says what is missing and how to mend it, on real services."""

import pytest

from market.bootstrap.services import open_services
from market.demo.network import LocalMarket, Options
from market.devnet.process import free_port
from market.errors import ChainUnreachable, ConfigurationError, DatabaseUnreachable, RedisUnreachable, WrongNetwork
from market.settings import MarketSettings

pytestmark = [pytest.mark.integration]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    with LocalMarket(Options(tmp_path_factory.mktemp("local"), keep_state=False)) as found:
        found.start_services()
        found.deploy()
        yield found


def settings(local: LocalMarket, **changes: object) -> MarketSettings:
    environment = {name.removeprefix("MARKET_").lower(): value for name, value in local.gateway_environment().items()}
    return MarketSettings(**{**environment, **changes})


def test_with_everything_there_it_opens(local):
    services = open_services(settings(local))
    assert services.key.address == local.accounts["gateway"].address
    services.engine.dispose()


def dead(scheme: str) -> str:
    return f"{scheme}://127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    ("changes", "error", "field"),
    [
        ({"rpc_url": dead("http")}, ChainUnreachable, "MARKET_RPC_URL"),
        ({"redis_url": dead("redis")}, RedisUnreachable, "MARKET_REDIS_URL"),
        ({"redis_url": "unix:///no/such.sock"}, RedisUnreachable, "MARKET_REDIS_URL"),
        ({"redis_url": "http://127.0.0.1:1"}, ConfigurationError, "MARKET_REDIS_URL"),
        ({"redis_url": "redis://127.0.0.1:port/0"}, ConfigurationError, "MARKET_REDIS_URL"),
        ({"database_url": "sqlite:////no/such/folder/market.db"}, DatabaseUnreachable, "MARKET_DATABASE_URL"),
        ({"chain_id": 1}, WrongNetwork, "rpc_url"),
        ({"deployment": "/no/such/file.json"}, WrongNetwork, "deployment"),
        ({"escrow": "0x" + "11" * 20}, WrongNetwork, "escrow"),
        ({"keystore": None}, ConfigurationError, "MARKET_KEYSTORE"),
        ({"keystore": "/no/such/file.json"}, ConfigurationError, "MARKET_KEYSTORE"),
        ({"keystore_password_file": None}, ConfigurationError, "MARKET_KEYSTORE"),
    ],
)
def test_what_is_wrong_is_named_with_a_remedy(local, changes, error, field):
    with pytest.raises(error) as raised:
        open_services(settings(local, **changes))
    assert raised.value.field == field
    assert raised.value.remedy


def test_no_password_is_in_a_message(local):
    with pytest.raises(RedisUnreachable) as raised:
        open_services(settings(local, redis_url=f"redis://me:sesame@127.0.0.1:{free_port()}/0"))
    assert "sesame" not in str(raised.value)


def test_a_database_of_something_else_is_refused(local, tmp_path):
    path = tmp_path / "other.db"
    path.write_bytes(b"this is no database" * 100)
    with pytest.raises(DatabaseUnreachable):
        open_services(settings(local, database_url=f"sqlite:///{path}"))
