"""What people asked of a search while it runs, reduced to what is still to be done. Plain data, no I/O.

A request is plain data under a key that orders it: ``kind`` is ``extend`` (``more``: trials), ``try`` (``parameters``,
``retry_of``), ``confirm`` (``trial``, ``seed``), ``stop`` (``trial``; None: the whole search) or ``withdrawn``. One to
try or to confirm is done once a trial names it, so none is lost and none is tried twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PendingPoint:
    """A point that a person wants to be tried and that has no trial yet.

    Attributes:
        key: of the request.
        parameters: full or partial; the rest is sampled.
        retry_of: the trial whose configuration is trained again; None: it is a new one.
    """

    key: str
    parameters: dict[str, Any]
    retry_of: int | None = None


@dataclass(frozen=True)
class PendingRepeat:
    """A trial's configuration that is to be trained once more with another seed and has no trial yet.

    Attributes:
        key: of the request.
        confirms: the trial's number.
        seed: of the training.
    """

    key: str
    confirms: int
    seed: int


class Requests:
    """All requests of a search.

    Args:
        contents: by key, in any order.

    Attributes:
        contents: by key, oldest first.
        answered: the trial of each request to try or to confirm that has one.
    """

    def __init__(self, contents: Mapping[str, dict[str, Any]] | None = None) -> None:
        self.contents = dict(sorted((contents or {}).items()))
        self.answered: dict[str, int] = {}

    def points(self) -> list[PendingPoint]:
        """Points that are to be tried, oldest first."""
        return [
            PendingPoint(key, content["parameters"], content.get("retry_of"))
            for key, content in self._of_kind("try").items()
            if key not in self.answered
        ]

    def repeats(self) -> list[PendingRepeat]:
        """Configurations that are to be trained with another seed, oldest request first."""
        return [
            PendingRepeat(key, content["trial"], content["seed"])
            for key, content in self._of_kind("confirm").items()
            if key not in self.answered
        ]

    def more_trials(self) -> int:
        """How many trials the search was extended by."""
        return sum(int(content["more"]) for content in self._of_kind("extend").values())

    def stops(self, number: int) -> bool:
        """Whether a trial is wanted to end."""
        return any(content["trial"] == number for content in self._of_kind("stop").values())

    def stops_of_search(self) -> set[str]:
        """Keys of the requests that the whole search stops."""
        return {key for key, content in self._of_kind("stop").items() if content["trial"] is None}

    def _of_kind(self, kind: str) -> dict[str, dict[str, Any]]:
        return {key: content for key, content in self.contents.items() if content["kind"] == kind}
