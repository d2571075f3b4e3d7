from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.gateway.routing.config import RoutingConfig
from lightship.gateway.routing.picking import (
    UNLIMITED,
    Choice,
    ChoiceReason,
    DeviceLoad,
    ReplicaState,
    RequestFacts,
    pick_replica,
)

# Up to 2 s ahead, or half as much again as the least loaded one.
POLICY = RoutingConfig(load_gate_s=2.0, load_gate_ratio=1.5, min_prefix_share=0.3, imbalance_discount=0.5)


def state(
    name: str,
    *,
    work_s: float = 0.0,
    rung: int = 0,
    is_ready: bool = True,
    last_start: int = 0,
    blocked_until_s: float = 0.0,
    max_in_flight: int = UNLIMITED,
    num_in_flight: int = 0,
    weight: float = 1.0,
) -> ReplicaState:
    return ReplicaState(
        name,
        rung,
        is_ready=is_ready,
        last_start=last_start,
        blocked_until_s=blocked_until_s,
        max_in_flight=max_in_flight,
        num_in_flight=num_in_flight,
        weight=weight,
        device=DeviceLoad(round(work_s * 1e6)),
    )


def told(choice: Choice) -> tuple[str, ChoiceReason]:
    return ("" if choice.replica is None else choice.replica.name, choice.reason)


def knows(known: Mapping[str, int], *, of: int = 10) -> RequestFacts:
    return RequestFacts(known_blocks=known, num_blocks=of)


@dataclass(frozen=True)
class Case:
    """Two replicas, what is known of the prompt or the session, and who is to answer."""

    work_s: tuple[float, float]
    request: RequestFacts
    expected: tuple[str, ChoiceReason]


CASES = {
    "a prefix is worth a second": Case((1.0, 0.0), knows({"a": 9}), ("a", ChoiceReason.PREFIX)),
    "not more than the gate": Case((2.1, 0.0), knows({"a": 10}), ("b", ChoiceReason.LEAST_WORK)),
    # The least loaded one has 10 s: 1.5 times that is 15 s.
    "the gate widens with load": Case((14.0, 10.0), knows({"a": 10}), ("a", ChoiceReason.PREFIX)),
    "but stays a gate": Case((15.5, 10.0), knows({"a": 10}), ("b", ChoiceReason.LEAST_WORK)),
    # 1.6 s ahead of a gate of 2 s: 10 blocks count 10 * (1 - 0.5 * 0.8) = 6.
    "imbalance lowers a prefix's worth": Case((1.6, 0.0), knows({"a": 10, "b": 7}), ("b", ChoiceReason.PREFIX)),
    "and does not drop it": Case((1.6, 0.0), knows({"a": 10, "b": 5}), ("a", ChoiceReason.PREFIX)),
    "the longer prefix in balance": Case((0.0, 0.0), knows({"a": 4, "b": 5}), ("b", ChoiceReason.PREFIX)),
    "equal prefixes go to the lesser work": Case((0.2, 0.1), knows({"a": 5, "b": 5}), ("b", ChoiceReason.PREFIX)),
    "a little of the prompt is a miss": Case((1.0, 0.0), knows({"a": 2}), ("b", ChoiceReason.LEAST_WORK)),
    "a session may be twice as far ahead": Case(
        (3.9, 0.0), RequestFacts(session_replica="a"), ("a", ChoiceReason.SESSION)
    ),
    "and no further": Case((4.1, 0.0), RequestFacts(session_replica="a"), ("b", ChoiceReason.LEAST_WORK)),
    "a session goes before a prefix": Case(
        (0.0, 0.0),
        RequestFacts(session_replica="a", known_blocks={"b": 10}, num_blocks=10),
        ("a", ChoiceReason.SESSION),
    ),
    "a session's replica that is gone is no matter": Case(
        (1.0, 0.0), RequestFacts(session_replica="x"), ("b", ChoiceReason.LEAST_WORK)
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_pick_replica_weighs_locality_against_work(case: Case) -> None:
    replicas = [state("a", work_s=case.work_s[0]), state("b", work_s=case.work_s[1])]
    assert told(pick_replica(replicas, case.request, POLICY)) == case.expected


def test_pick_replica_unknown_prompt_goes_to_the_least_loaded() -> None:
    """Once broken elsewhere: the path of a cache miss ignored load."""
    replicas = [state("a", work_s=5), state("b", work_s=1), state("c", work_s=3)]
    assert told(pick_replica(replicas, knows({}), POLICY)) == ("b", ChoiceReason.LEAST_WORK)
    assert told(pick_replica(replicas, RequestFacts(), POLICY)) == ("b", ChoiceReason.LEAST_WORK)


def test_pick_replica_same_system_prompt_everywhere_does_not_pile_up() -> None:
    """A prefix all requests share leads to one replica only as long as that one is not far ahead."""
    replicas = [state(name) for name in "abcd"]
    known: dict[str, int] = {}
    for number in range(400):
        choice = pick_replica(replicas, knows(known), POLICY)
        assert choice.replica is not None
        known[choice.replica.name] = 10
        choice.replica.device.work_us += 100_000
        choice.replica.last_start = number + 1
    work = [replica.work_s for replica in replicas]
    assert sum(work) == pytest.approx(40)
    assert max(work) - min(work) <= 2.0 + 0.1


def test_pick_replica_replicas_on_one_device_share_its_work() -> None:
    busy = DeviceLoad(3_000_000)
    replicas = [ReplicaState("a", 0, is_ready=True, device=busy), state("b", work_s=1)]
    assert told(pick_replica(replicas, RequestFacts(), POLICY)) == ("b", ChoiceReason.LEAST_WORK)


def test_pick_replica_weight_divides_the_work() -> None:
    replicas = [state("big", work_s=3, weight=4), state("small", work_s=1)]
    assert told(pick_replica(replicas, RequestFacts(), POLICY)) == ("big", ChoiceReason.LEAST_WORK)


def test_pick_replica_equal_work_takes_turns() -> None:
    replicas = [state("a"), state("b"), state("c")]
    picked = []
    for number in range(1, 7):
        choice = pick_replica(replicas, RequestFacts())
        assert choice.replica is not None
        choice.replica.last_start = number
        picked.append(choice.replica.name)
    assert picked == ["a", "b", "c", "a", "b", "c"]


def test_pick_replica_newcomer_is_not_flooded() -> None:
    replicas = [state("old", last_start=1000), state("new", last_start=0)]
    first = pick_replica(replicas, RequestFacts()).replica
    assert first is replicas[1]
    first.last_start = 1001
    assert pick_replica(replicas, RequestFacts()).replica is replicas[0]


def test_pick_replica_blocked_ones_serve_only_when_nobody_else_does() -> None:
    good, worse, bad = state("good", work_s=9), state("worse", blocked_until_s=20), state("bad", blocked_until_s=15)
    replicas = [good, worse, bad]
    assert told(pick_replica(replicas, RequestFacts(now_s=10))) == ("good", ChoiceReason.ONLY_ONE_USABLE)
    assert told(pick_replica(replicas, RequestFacts(now_s=10, excluded={"good"}))) == ("bad", ChoiceReason.LEAST_BAD)
    assert told(pick_replica(replicas, RequestFacts(now_s=15))) == ("bad", ChoiceReason.LEAST_WORK)


def test_pick_replica_another_models_rung_is_another_rung() -> None:
    other = state("other")
    other.served_model = "n"
    assert told(pick_replica([other], RequestFacts(served_model="m"))) == ("", ChoiceReason.NO_SUCH_RUNG)
    assert told(pick_replica([other], RequestFacts(served_model="n")))[0] == "other"


def test_pick_replica_reasons_for_none() -> None:
    full = state("full", num_in_flight=2, max_in_flight=2)
    down = state("down", rung=1, is_ready=False)
    replicas = [full, down]
    assert told(pick_replica(replicas, RequestFacts())) == ("", ChoiceReason.ALL_FULL)
    assert told(pick_replica(replicas, RequestFacts(excluded={"full"}))) == ("", ChoiceReason.ALL_TRIED)
    assert told(pick_replica(replicas, RequestFacts(rung=1))) == ("", ChoiceReason.NONE_READY)
    assert told(pick_replica(replicas, RequestFacts(rung=2))) == ("", ChoiceReason.NO_SUCH_RUNG)


NAMES = st.text("abcdef", min_size=1, max_size=2)
STATES = st.lists(
    st.builds(
        state,
        name=NAMES,
        rung=st.integers(0, 1),
        is_ready=st.booleans(),
        work_s=st.integers(0, 8),
        last_start=st.integers(0, 4),
        num_in_flight=st.integers(0, 3),
        max_in_flight=st.sampled_from([2, UNLIMITED]),
        blocked_until_s=st.sampled_from([0.0, 5.0, 50.0, float("inf")]),
    ),
    max_size=8,
    unique_by=lambda replica: replica.name,
)
REQUESTS = st.builds(
    RequestFacts,
    rung=st.integers(0, 1),
    now_s=st.just(10.0),
    excluded=st.sets(NAMES),
    session_replica=st.one_of(st.just(""), NAMES),
    known_blocks=st.dictionaries(NAMES, st.integers(1, 10)),
    num_blocks=st.just(10),
)


@given(STATES, REQUESTS)
def test_pick_replica_never_leaves_the_filters_and_always_finds_one(
    replicas: list[ReplicaState], request: RequestFacts
) -> None:
    choice = pick_replica(replicas, request, POLICY)
    possible = [
        r
        for r in replicas
        if r.rung == request.rung
        and r.is_ready
        and r.name not in request.excluded
        and r.num_in_flight < r.max_in_flight
    ]
    if not possible:
        assert choice.replica is None
        return
    assert choice.replica in possible
    unblocked = [r for r in possible if r.blocked_until_s <= request.now_s]
    assert not unblocked or choice.replica in unblocked


@given(STATES, REQUESTS)
def test_pick_replica_is_never_further_ahead_than_its_reason_allows(
    replicas: list[ReplicaState], request: RequestFacts
) -> None:
    choice = pick_replica(replicas, request, POLICY)
    if choice.replica is None or choice.reason is ChoiceReason.LEAST_BAD:
        return
    peers = [
        r.work_s
        for r in replicas
        if r.rung == request.rung
        and r.is_ready
        and r.name not in request.excluded
        and r.num_in_flight < r.max_in_flight
        and r.blocked_until_s <= request.now_s
    ]
    gate_s = max(2.0, 0.5 * min(peers))
    allowed_s = {ChoiceReason.SESSION: 2 * gate_s, ChoiceReason.PREFIX: gate_s}.get(choice.reason, 0.0)
    assert choice.replica.work_s <= min(peers) + allowed_s
