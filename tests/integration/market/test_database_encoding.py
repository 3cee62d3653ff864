"""A PostgreSQL database without an encoding, as `initdb` makes one where no locale is set, holds texts all the same."""

import psycopg
import pytest
import sqlalchemy as sa

from market.adapters.database.engine import open_engine
from market.adapters.database.migrate import upgrade
from tests.support.postgres import need, server_url

pytestmark = pytest.mark.integration


def test_a_database_that_names_no_encoding_is_used_like_another():
    need()
    with psycopg.connect(server_url(), autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS no_encoding")
        admin.execute("CREATE DATABASE no_encoding ENCODING 'SQL_ASCII' TEMPLATE template0")
    engine = open_engine(server_url().rsplit("/", 1)[0] + "/no_encoding")
    upgrade(engine)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT 'é日'::text")).scalar() == "é日"
    engine.dispose()
