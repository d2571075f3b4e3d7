from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lightship.gateway.routing import ChoiceReason, ReplicaState, pick_replica


def state(name: str, *, rung: int = 0, is_ready: bool = True, load: int = 0, last_start: int = 0) -> ReplicaState:
    return ReplicaState(name, rung, is_ready=is_ready, num_in_flight=load, last_start=last_start)


STATES = st.lists(
    st.builds(
        ReplicaState,
        name=st.text("abcdef", min_size=1, max_size=3),
        rung=st.integers(0, 2),
        is_ready=st.booleans(),
        num_in_flight=st.integers(0, 4),
        last_start=st.integers(0, 4),
    ),
    max_size=8,
    unique_by=lambda replica: replica.name,
)


@given(STATES, st.integers(0, 2), st.sets(st.text("abcdef", min_size=1, max_size=3)))
def test_pick_replica_is_the_least_loaded_of_those_allowed(
    replicas: list[ReplicaState], rung: int, excluded: set[str]
) -> None:
    choice = pick_replica(replicas, rung=rung, excluded=excluded)
    allowed = [r for r in replicas if r.rung == rung and r.is_ready and r.name not in excluded]
    if choice.replica is None:
        assert allowed == []
    else:
        assert choice.replica in allowed
        assert choice.replica.num_in_flight == min(r.num_in_flight for r in allowed)


def test_pick_replica_equal_load_takes_turns() -> None:
    replicas = [state("a"), state("b"), state("c")]
    picked = []
    for number in range(1, 7):
        choice = pick_replica(replicas, rung=0)
        assert choice.replica is not None
        choice.replica.last_start = number
        picked.append(choice.replica.name)
    assert picked == ["a", "b", "c", "a", "b", "c"]


def test_pick_replica_newcomer_is_not_flooded() -> None:
    replicas = [state("old", last_start=1000), state("new", last_start=0)]
    first = pick_replica(replicas, rung=0).replica
    assert first is replicas[1]
    first.last_start = 1001
    assert pick_replica(replicas, rung=0).replica is replicas[0]


def test_pick_replica_reasons() -> None:
    a, b, down = state("a"), state("b", load=1), state("c", rung=1, is_ready=False)
    replicas = [a, b, down]
    assert pick_replica(replicas, rung=0).reason is ChoiceReason.LEAST_IN_FLIGHT
    assert pick_replica(replicas, rung=0, excluded={"a"}).reason is ChoiceReason.ONLY_ONE_READY
    assert pick_replica(replicas, rung=0, excluded={"a", "b"}).reason is ChoiceReason.ALL_TRIED
    assert pick_replica(replicas, rung=1).reason is ChoiceReason.NONE_READY
    assert pick_replica(replicas, rung=2).reason is ChoiceReason.NO_SUCH_RUNG
