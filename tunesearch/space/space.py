"""A parameter with its condition, and the space that parameters span."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesearch.errors import InputError, Problem, nearest
from tunesearch.space.domains import Choice, Domain, FloatRange, Point, Scalar, Suggests, same, text

GRID_RULE = "the grid sampler needs a `step` for a float range"


@dataclass(frozen=True)
class Parameter:
    """One searched field.

    Attributes:
        name: the TrainConfig field.
        domain: where its values come from.
        when: parent name -> values. Active when every parent is active and has any of its values.
    """

    name: str
    domain: Domain
    when: dict[str, tuple[Scalar, ...]] = field(default_factory=dict)

    def is_active(self, point: Mapping[str, object]) -> bool:
        """Whether ``when`` holds in a point whose inactive parameters are absent."""
        return all(
            parent in point and any(same(point[parent], value) for value in values)
            for parent, values in self.when.items()
        )

    def to_document(self) -> dict[str, Any]:
        """The parameter as the file writes it."""
        document = self.domain.to_document()
        if self.when:
            document["when"] = {parent: list(values) for parent, values in self.when.items()}
        return document


@dataclass(frozen=True)
class Space:
    """Parameters in sampling order: every ``when`` names parameters that stand above."""

    parameters: tuple[Parameter, ...]

    def __call__(self, trial: Suggests) -> Point:
        """Samples a point, top to bottom; inactive parameters are neither suggested nor in the result."""
        point: Point = {}
        for parameter in self.parameters:
            if parameter.is_active(point):
                point[parameter.name] = parameter.domain.suggest(trial, parameter.name)
        return point

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)

    def __len__(self) -> int:
        return len(self.parameters)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Parameter:
        """Raises KeyError."""
        return self._by_name[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(parameter.name for parameter in self.parameters)

    @property
    def _by_name(self) -> dict[str, Parameter]:
        return {parameter.name: parameter for parameter in self.parameters}

    def active(self, params: Mapping[str, object]) -> tuple[str, ...]:
        """The parameters that are certain to be active, given these values.

        A parent that is not given counts only where it has a single value to take.
        """
        known: dict[str, object] = {}
        active = []
        for parameter in self.parameters:
            if not parameter.is_active(known):
                continue
            active.append(parameter.name)
            if parameter.name in params:
                known[parameter.name] = params[parameter.name]
            elif isinstance(parameter.domain, Choice) and len(parameter.domain.values) == 1:
                known[parameter.name] = parameter.domain.values[0]
        return tuple(active)

    def contains(self, point: Mapping[str, object]) -> bool:
        """Whether the point is complete: every active parameter, nothing else, every value in its domain."""
        return set(point) == set(self.active(point)) and not self.problems(point)

    def problems(self, point: Mapping[str, object]) -> list[Problem]:
        """What is wrong with a full or partial point; each problem's ``path`` is the parameter's name."""
        found = []
        by_name, active = self._by_name, self.active(point)
        for name, value in point.items():
            if name not in by_name:
                rule, hint = "is no parameter of this space", nearest(name, self.names)
                found.append(Problem(where="", path=name, rule=rule, hint=hint))
                continue
            parameter = by_name[name]
            if not parameter.domain.contains(value):
                kind = "be one of" if isinstance(parameter.domain, Choice) else "lie in"
                rule = f"must {kind} {parameter.domain}"
                found.append(Problem(where="", path=name, rule=rule, value=text(value)))
            if name not in active:
                rule = f"only has a meaning when {when_text(parameter.when)}, which this point does not say"
                found.append(Problem(where="", path=name, rule=rule, hint="give that too, or leave this out"))
        return found

    def grid(self) -> Iterator[Point]:
        """Every full point, the last parameter turning fastest.

        Raises:
            InputError: naming each float range without ``step``.
        """
        self._check_grid()
        return self._points({parameter.name: parameter.domain.grid() for parameter in self.parameters})

    def grid_size(self) -> int:
        """How many points ``grid`` yields, without visiting them all. Raises InputError as ``grid`` does."""
        self._check_grid()
        parents = {parent for parameter in self.parameters for parent in parameter.when}

        def count(index: int, point: Point) -> int:
            if index == len(self.parameters):
                return 1
            parameter = self.parameters[index]
            if not parameter.is_active(point):
                return count(index + 1, point)
            values = parameter.domain.grid()
            if parameter.name not in parents:  # nothing below depends on the value
                return len(values) * count(index + 1, point)
            return sum(count(index + 1, {**point, parameter.name: value}) for value in values)

        return count(0, {})

    def _check_grid(self) -> None:
        problems = [
            Problem(where="", path=f"parameters.{parameter.name}", rule=GRID_RULE, hint="or write a choice")
            for parameter in self.parameters
            if isinstance(parameter.domain, FloatRange) and parameter.domain.step is None
        ]
        if problems:
            raise InputError(problems)

    def skeletons(self, names: Iterable[str]) -> Iterator[Point]:
        """Points over ``names`` and all that decides on them: every choice, and for a range its ends, its middle and
        the values that a ``when`` names. Enough to see which combinations are possible at all."""
        by_name = self._by_name
        wanted: set[str] = set()
        queue = [name for name in names if name in by_name]
        while queue:
            name = queue.pop()
            wanted.add(name)
            queue += [parent for parent in by_name[name].when if parent in by_name and parent not in wanted]
        values: dict[str, Sequence[Scalar]] = {}
        for name in wanted:
            domain = by_name[name].domain
            named = [value for parameter in self.parameters for value in parameter.when.get(name, ())]
            candidates = [*domain.representatives(), *(value for value in named if domain.contains(value))]
            values[name] = list(dict.fromkeys(candidates))
        part = Space(tuple(parameter for parameter in self.parameters if parameter.name in wanted))
        return part._points(values)

    def _points(self, values: Mapping[str, Sequence[Scalar]]) -> Iterator[Point]:
        # Depth first from the top: what a condition names stands above it, so every condition is decided when reached.
        stack: list[tuple[int, Point]] = [(0, {})]
        while stack:
            depth, point = stack.pop()
            if depth == len(self.parameters):
                yield point
                continue
            parameter = self.parameters[depth]
            if not parameter.is_active(point):
                stack.append((depth + 1, point))
                continue
            stack += [(depth + 1, {**point, parameter.name: value}) for value in reversed(values[parameter.name])]

    def describe(self) -> list[tuple[str, str, str]]:
        """Rows for a table: name, domain, condition."""
        return [(parameter.name, str(parameter.domain), when_text(parameter.when)) for parameter in self.parameters]

    def to_document(self) -> dict[str, Any]:
        """The ``parameters`` section as the file writes it."""
        return {parameter.name: parameter.to_document() for parameter in self.parameters}


def when_text(when: Mapping[str, Sequence[Scalar]]) -> str:
    """``optimizer = sgd and loss = dice | focal``."""
    return " and ".join(f"{name} = {' | '.join(text(value) for value in values)}" for name, values in when.items())
