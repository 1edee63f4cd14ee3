"""Threads that stay: woken for a task that all of them share, and asleep between tasks."""

import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread

Task = Callable[[int], None]


class Team:
    """Runs one task at a time: the caller is thread 0, the others are the team's own."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """With no threads yet; also in the child of a fork, as they stay with the parent."""
        self.lock = Lock()  # held by whoever uses the team, and what belongs to it, from the first task to the last
        self._inboxes: list[SimpleQueue[Task]] = []
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()

    def run(self, threads: int, task: Task) -> None:
        """task(0) here and task(1) to task(threads - 1) on the others, until all are done; the first error is raised."""
        while len(self._inboxes) < threads - 1:
            self._hire()
        for inbox in self._inboxes[: threads - 1]:
            inbox.put(task)
        errors: list[BaseException | None] = []
        try:
            task(0)
        finally:
            errors = [self._done.get() for _ in range(threads - 1)]
        for error in errors:
            if error is not None:
                raise error

    def _hire(self) -> None:
        inbox: SimpleQueue[Task] = SimpleQueue()
        number = len(self._inboxes) + 1
        Thread(target=_serve, args=(number, inbox, self._done), name=f"reforg-{number}", daemon=True).start()
        self._inboxes.append(inbox)


def _serve(number: int, inbox: "SimpleQueue[Task]", done: "SimpleQueue[BaseException | None]") -> None:
    while True:
        task = inbox.get()
        error: BaseException | None = None
        try:
            task(number)
        except BaseException as caught:
            error = caught
        del task
        done.put(error)


TEAM = Team()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TEAM.begin)
