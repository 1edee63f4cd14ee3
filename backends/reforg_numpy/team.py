"""Threads that stay: woken for a task that all of them share, and asleep between tasks."""

import os
from _thread import start_new_thread
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock

Task = Callable[[int], None]


class Job:
    """A task of so many shares, and what became of each.

    A share belongs to the thread of its number, so that one that is handed out again is not computed again.
    """

    def __init__(self, task: Task, threads: int) -> None:
        self._task = task
        self.threads = threads
        self.errors: dict[int, BaseException | None] = {}
        self._ended: SimpleQueue[None] = SimpleQueue()

    def compute(self, number: int) -> None:
        """One share."""
        if number in self.errors:
            return
        error: BaseException | None = None
        try:
            self._task(number)
        except BaseException as caught:
            error = caught
        self.errors[number] = error
        self._ended.put(None)

    def ended(self) -> bool:
        """Whether all shares are done."""
        return len(self.errors) == self.threads

    def wait(self) -> None:
        """Until they are."""
        while not self.ended():
            self._ended.get()


class Team:
    """Runs one task at a time, on threads of its own while the caller waits: a signal then interrupts no share of a task.

    Shares wait for each other, and work in memory of the caller's: a task that has begun is always brought to its end.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """With no threads yet; also in the child of a fork, as they stay with the parent."""
        self.lock = Lock()  # held by whoever uses the team, and what belongs to it, from the first task to the last
        self._inboxes: list[SimpleQueue[Job]] = []
        self._job: Job | None = None  # that has begun

    def run(self, threads: int, task: Task) -> None:
        """task(0) to task(threads - 1), until all are done; then what interrupted the caller is raised, or the first error."""
        self._bring_to_its_end()  # one that its caller was torn from while this was being done
        while len(self._inboxes) < threads:
            self._hire()
        job = self._job = Job(task, threads)
        self._bring_to_its_end()
        for error in job.errors.values():
            if error is not None:
                raise error

    def _bring_to_its_end(self) -> None:
        """Hand out the shares and wait for them, again after every interruption; the last of them is raised in the end."""
        interruption: BaseException | None = None
        while self._job is not None:
            try:
                for inbox in self._inboxes[: self._job.threads]:
                    inbox.put(self._job)
                self._job.wait()
                self._job = None
            except BaseException as caught:
                interruption = caught
        if interruption is not None:
            raise interruption

    def _hire(self) -> None:
        """Not by `threading.Thread`: its `start` waits, and makes a RuntimeError of an interruption meanwhile."""
        inbox: SimpleQueue[Job] = SimpleQueue()
        start_new_thread(_serve, (len(self._inboxes), inbox))
        self._inboxes.append(inbox)  # last: an interruption before it leaves a thread that is never asked


def _serve(number: int, inbox: "SimpleQueue[Job]") -> None:
    while True:
        job = inbox.get()
        job.compute(number)
        del job


TEAM = Team()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=TEAM.begin)
