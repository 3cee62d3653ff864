"""A process that dies at a chosen step: what it did before stays, what it tries afterwards does not happen."""

import inspect
import threading


class Crash(BaseException):
    """The process dies here; no handler of `Exception` may keep it alive."""


class Life:
    """Counts the steps of one process; after the last one everything it tries raises `Crash`."""

    def __init__(self) -> None:
        self._left: int | None = None
        self._lock = threading.Lock()
        self.over = False

    def ends_after(self, steps: int | None) -> None:
        """Let the process die after so many steps more; None lets it live."""
        self._left = steps
        self.over = steps == 0

    def enter(self) -> None:
        if self.over:
            raise Crash

    def leave(self) -> None:
        with self._lock:
            if self._left is not None:
                self._left -= 1
                self.over = self.over or self._left <= 0
        self.enter()

    def bound(self, work):
        """The same function, plain or async, as one step of this life."""
        if inspect.iscoroutinefunction(work):

            async def apart(*arguments, **named):
                self.enter()
                result = await work(*arguments, **named)
                self.leave()
                return result

            return apart

        def step(*arguments, **named):
            self.enter()
            result = work(*arguments, **named)
            self.leave()
            return result

        return step


class Mortal:
    """Another object whose every method is a step of a life."""

    def __init__(self, inner: object, life: Life) -> None:
        self._inner = inner
        self._life = life

    def __getattr__(self, name: str):
        found = getattr(self._inner, name)
        return self._life.bound(found) if callable(found) else found
