"""One connection to the broker for the path of every pack: commands sent together, answers read in order.

redis-py's client spends more on a command (pool, retries, events, response tables) than the broker does on all of
them; its connection, which knows addresses, passwords, TLS and timeouts, is used as it is. Called by the tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis

Command = tuple[bytes | str | int | float, ...]


class Line:
    """A connection that is made when first needed, and anew after a failure; for one thread."""

    def __init__(self, client: redis.Redis) -> None:
        self._pool = client.connection_pool
        self._connection: Any = None
        self.awaits = False

    def call(self, commands: Sequence[Command], *, ahead: Command | None = None) -> list[Any]:
        """Return the broker's answers in order; one that it refuses is a `redis.ResponseError` in its place.

        `ahead` is sent behind the others and not waited for: `awaited` returns its answer, and is to be called next.

        Raises:
            RedisError | OSError: the broker does not answer; what was sent may have been carried out.
        """
        assert not self.awaits
        sent = commands if ahead is None else (*commands, ahead)
        fresh = self._connection is None
        if fresh:
            self._connection = self._pool.make_connection()
        connection = self._connection
        try:
            packed = b"".join(part for command in sent for part in connection.pack_command(*command))
            try:
                connection.send_packed_command([packed], check_health=False)
            except (redis.ConnectionError, OSError):
                if fresh:
                    raise
                # It was closed while nothing was sent, by a restart of the broker, say.
                connection.disconnect()
                connection.send_packed_command([packed], check_health=False)
            answers = [self._answer(connection) for _ in commands]
        except BaseException:
            self.close()
            raise
        self.awaits = ahead is not None
        return answers

    def awaited(self) -> Any:
        """Wait for the answer to what was sent ahead.

        Raises:
            RedisError | OSError: the broker does not answer; what was sent may have been carried out.
        """
        assert self.awaits
        try:
            found = self._answer(self._connection)
        except BaseException:
            self.close()
            raise
        self.awaits = False
        return found

    @staticmethod
    def _answer(connection: Any) -> Any:
        try:
            return connection.read_response()
        except redis.ResponseError as error:
            return error

    def close(self) -> None:
        """Close the connection, if there is one."""
        connection, self._connection, self.awaits = self._connection, None, False
        if connection is not None:
            connection.disconnect()
