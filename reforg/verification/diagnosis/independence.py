"""Which faults are faults of their own, where a recording leaves out what lies between.

A value that the candidate does not hold goes on as predicted. If the first value behind it is wrong, so may be what else reads
it: with norms alone, the tokens that one of them shows wrong are in every later sum. Such a value is beyond its limit, but says
nothing new. Within a unit what lies between is recovered instead; so only what another unit left behind counts here.
"""

from collections.abc import Iterable

from reforg.verification.replay.observations import Key, Observation


def independent(log: Iterable[Observation]) -> list[Observation]:
    """The faults of a record that no earlier fault accounts for, in the order of execution."""
    found: list[Observation] = []
    doubtful: dict[Key, Key | None] = {}
    # A value beyond its limit is left out where it was made from a step that an earlier fault may lie in, of another unit, and that
    # the candidate shows no result of: then it is wrong because that step was, for all that anybody can tell.
    for entry in log:
        if entry.passed or any(doubtful[key] != entry.unit for key in entry.carries if key in doubtful):
            continue
        found.append(entry)
        doubtful |= _doubtful(entry)
    return found


def _doubtful(fault: Observation) -> dict[Key, Key | None]:
    """The finished steps that a fault may lie in, each with its unit: that which explains it, or all since the value before."""
    finished = [call for call in fault.calls if call not in fault.stack]
    difference = fault.comparison.difference
    if difference.explanation is not None:
        named = [call for call in finished if f"{difference.operation}.".startswith(f"{call.path}.")]
        finished = named or finished
    return {call.key: call.parents[0].key if call.parents else call.key for call in finished}
