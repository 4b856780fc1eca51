"""Values of a program and the steps that make arrays of them: which are arrays, how long, how many bytes at once."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(eq=False)
class Value:
    """What an equation answers or is given.

    Attributes:
      size: bytes.
      parts: what its readers compute it from, if they do; None of an array.
      kept: it is an array where more than one equation reads it.
      spread: it repeats something smaller.
      same: another value, of which it is only a view.
      layers: values that an unrolled scan would have stacked to it.
      born, last: times at which it, or what is made of it, is first and last there.
    """

    size: int
    parts: tuple["Value", ...] | None = None
    kept: bool = False
    spread: bool = False
    same: "Value | None" = None
    layers: tuple["Value", ...] = ()
    born: int | None = None
    last: int = -1


class Step(NamedTuple):
    """An equation that makes arrays: of arrays that it ``reads``, and of values that it ``fuses``.

    ``inside`` are the bytes of a loop's body.
    """

    reads: tuple[Value, ...]
    fuses: tuple[Value, ...]
    answers: tuple[Value, ...]
    inside: int

    @property
    def given(self) -> tuple[Value, ...]:
        return self.reads + self.fuses


def needed(steps: Sequence[Step], answers: Sequence[Value]) -> list[Step]:
    """Without those whose answers nobody reads."""
    wanted, kept = set(_origins(answers)), []
    for step in reversed(steps):
        if not wanted.isdisjoint(step.answers):
            wanted.update(_origins(step.given, wanted))
            kept.append(step)
    return kept[::-1]


def _origins(values: Sequence[Value], known: set[Value] = frozenset()) -> Iterator[Value]:
    """The values and all that they are computed from, each once, without what is known."""
    todo, seen = list(values), set()
    while todo:
        v = todo.pop()
        if v not in seen and v not in known:
            seen.add(v)
            todo += v.parts or ()
            yield v


def _arrays(steps: Sequence[Step], answers: Sequence[Value]) -> set[Value]:
    """Of the values that readers could compute, those that are arrays all the same."""
    found = {v for step in steps for v in step.reads if v.parts is not None}
    readers = Counter(v for step in steps for v in step.fuses)
    for v in _origins([v for step in steps for v in step.given] + list(answers)):
        for part in v.parts or ():
            readers[part] += 1
    return found | {v for v, times in readers.items() if v.kept and times > 1}


def most_bytes(steps: Sequence[Step], answers: Sequence[Value], early: bool) -> int:
    """The largest sum of arrays that are there at one time. Step i runs at 2 i + 1; what it reads is made at 2 i,
    or, ``early``, with the last of what it is made of."""
    arrays = _arrays(steps, answers)

    def read(values: Sequence[Value], time: int) -> Iterator[Value]:
        """Arrays that are made for it come out."""
        todo = list(values)
        while todo:
            v = todo.pop()
            is_array = v.parts is None or v in arrays
            v.last = max(v.last, time if is_array else -1)
            if v in arrays and v.born is None:
                v.born = max((part.born for part in _made_of(v)), default=0) if early else time
                yield v
                todo += v.parts
            elif not is_array:
                todo += v.parts

    end, made = 2 * len(steps), []
    for i, step in enumerate(steps):
        made += [*read(step.given, 2 * i), *read(step.given, 2 * i + 1), *step.answers]
        for v in step.answers:
            v.born = v.last = 2 * i + 1
    made += read(answers, end)
    change = [0] * (end + 2)
    for v in made:
        change[v.born] += v.size
        change[v.last + 1] -= v.size
    most = now = 0
    for time in range(end + 1):
        now += change[time]
        most = max(most, now + (steps[time // 2].inside if time % 2 else 0))
    return most


def _made_of(v: Value) -> Iterator[Value]:
    """The arrays that are there to make it from."""
    todo, seen = list(v.parts), set()
    while todo:
        part = todo.pop()
        if part in seen:
            continue
        seen.add(part)
        if part.born is not None:
            yield part
        else:
            todo += part.parts


def itself(v: Value) -> Value:
    while v.same is not None:
        v = v.same
    return v


def held() -> Value:
    return Value(0, born=0)
