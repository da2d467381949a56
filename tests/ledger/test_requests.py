"""Requests as plain data, reduced to what is still to be done. By hand."""

from __future__ import annotations

from tunesearch.ledger.requests import PendingPoint, PendingRepeat, Requests

CONTENTS = {
    "3:c": {"kind": "try", "parameters": {"lr": 0.3}, "retry_of": 7},
    "1:a": {"kind": "try", "parameters": {"lr": 0.1}},
    "2:b": {"kind": "extend", "more": 4},
    "4:d": {"kind": "stop", "trial": 5},
    "5:e": {"kind": "stop", "trial": None},
    "6:f": {"kind": "confirm", "trial": 2, "seed": 9},
    "7:g": {"kind": "confirm", "trial": 2, "seed": 8},
    "8:h": {"kind": "withdrawn"},
    "9:i": {"kind": "extend", "more": 2},
}


def test_what_is_pending_in_the_order_of_asking() -> None:
    requests = Requests(CONTENTS)
    assert requests.points() == [PendingPoint("1:a", {"lr": 0.1}), PendingPoint("3:c", {"lr": 0.3}, retry_of=7)]
    assert requests.repeats() == [PendingRepeat("6:f", 2, 9), PendingRepeat("7:g", 2, 8)]


def test_what_has_a_trial_is_done() -> None:
    requests = Requests(CONTENTS)
    requests.answered = {"1:a": 0, "7:g": 3}
    assert [point.key for point in requests.points()] == ["3:c"]
    assert [repeat.key for repeat in requests.repeats()] == ["6:f"]


def test_ends_and_more() -> None:
    requests = Requests(CONTENTS)
    assert requests.more_trials() == 6
    assert [number for number in range(10) if requests.stops(number)] == [5]
    assert requests.stops_of_search() == {"5:e"}
    assert Requests().more_trials() == 0
