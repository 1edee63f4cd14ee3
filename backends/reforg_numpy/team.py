"""Threads that stay: woken for a task that all of them share, and asleep between tasks."""

import os
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread

Task = Callable[[int], None]


class Team:
    """Runs one task at a time, on threads of its own while the caller waits: a signal then interrupts no share of a task.

    Shares wait for each other, so a task that one of them left would never end.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """With no threads yet; also in the child of a fork, as they stay with the parent."""
        self.lock = Lock()  # held by whoever uses the team, and what belongs to it, from the first task to the last
        self._inboxes: list[SimpleQueue[Task]] = []
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()

    def run(self, threads: int, task: Task) -> None:
        """task(0) to task(threads - 1), until all are done; then the first error is raised, or what interrupted the caller."""
        while len(self._inboxes) < threads:
            self._hire()
        for inbox in self._inboxes[:threads]:
            inbox.put(task)
        errors: list[BaseException | None] = []
        interruption: BaseException | None = None
        while len(errors) < threads:
            try:
                errors.append(self._done.get())
            except KeyboardInterrupt as caught:
                interruption = caught
        for error in (interruption, *errors):
            if error is not None:
                raise error

    def _hire(self) -> None:
        inbox: SimpleQueue[Task] = SimpleQueue()
        number = len(self._inboxes)
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
