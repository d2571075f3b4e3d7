"""The client against a fake server without sockets, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.credentials import TokenFile
from lightship.kubernetes.errors import (
    ForbiddenError,
    StatusError,
    UnauthorizedError,
    UnreachableError,
    missing_rule,
    status_error,
)
from lightship.kubernetes.exchange import ApiAnswer, ApiRequest
from lightship.kubernetes.resources import CONFIG_MAPS, DEPLOYMENTS, PODS
from lightship.testing.fake_kubernetes import FakeKubernetes, Rule
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time


def config_map(name: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"key": "1"}}


def test_client_rotated_token_is_read_again_after_a_minute(tmp_path: Path) -> None:
    async def main() -> None:
        fake, clock, file = FakeKubernetes(clock=LoopClock()), LoopClock(), tmp_path / "token"
        fake.tokens = {"first": "gateway"}
        file.write_text("first\n")
        client = KubernetesClient(fake.exchange(), clock=clock, credentials=TokenFile(file, clock=clock))
        await client.list(CONFIG_MAPS, namespace="default")
        file.write_text("second\n")
        fake.tokens = {"first": "gateway", "second": "gateway"}  # both are good for a while
        await clock.sleep(61)
        await client.list(CONFIG_MAPS, namespace="default")
        assert [call.request.headers["authorization"] for call in fake.calls] == ["Bearer first", "Bearer second"]

    run_in_virtual_time(main())


def test_client_refused_token_is_read_again_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        fake, clock, file = FakeKubernetes(clock=LoopClock()), LoopClock(), tmp_path / "token"
        fake.tokens = {"first": "gateway"}
        file.write_text("first")
        client = KubernetesClient(fake.exchange(), clock=clock, credentials=TokenFile(file, clock=clock))
        await client.list(CONFIG_MAPS, namespace="default")
        fake.tokens = {"second": "gateway"}
        with pytest.raises(UnauthorizedError):  # the file still holds the old one: tried once more, then told
            await client.list(CONFIG_MAPS, namespace="default")
        file.write_text("second")
        await client.list(CONFIG_MAPS, namespace="default")
        assert clock.monotonic_s() == 0.0

    run_in_virtual_time(main())


def test_client_busy_server_is_asked_again_after_the_time_it_names() -> None:
    async def main() -> None:
        fake, clock = FakeKubernetes(clock=LoopClock()), LoopClock()
        fake.fail(2, status=429, retry_after_s=3)
        client = fake.client(clock=clock)
        await client.create(CONFIG_MAPS, config_map("a"), namespace="default")
        assert clock.monotonic_s() == 6.0
        assert len(fake.calls) == 1

    run_in_virtual_time(main())


def test_client_server_busy_for_longer_than_the_limit_is_given_up() -> None:
    async def main() -> None:
        fake, clock = FakeKubernetes(clock=LoopClock()), LoopClock()
        fake.fail(10, status=429, retry_after_s=4)
        client = fake.client(clock=clock, limit_s=10.0)
        with pytest.raises(UnreachableError, match="within 10 s"):
            await client.list(PODS, namespace="default")
        assert clock.monotonic_s() == pytest.approx(10.0)

    run_in_virtual_time(main())


def test_client_error_of_the_server_is_not_retried() -> None:
    async def main() -> None:
        fake = FakeKubernetes(clock=LoopClock())
        fake.fail(1, status=500)
        with pytest.raises(StatusError) as caught:
            await fake.client(clock=LoopClock()).list(PODS, namespace="default")
        assert caught.value.code == 500

    run_in_virtual_time(main())


def test_client_slow_server_meets_the_limit() -> None:
    async def main() -> None:
        fake, clock = FakeKubernetes(clock=LoopClock()), LoopClock()
        fake.delay_s = 60
        with pytest.raises(UnreachableError, match="no answer within 10 s"):
            await fake.client(clock=clock).get(PODS, "a", namespace="default")
        assert clock.monotonic_s() == pytest.approx(10.0)

    run_in_virtual_time(main())


def test_client_list_of_many_pages_gives_every_object_once() -> None:
    async def main() -> None:
        fake = FakeKubernetes(clock=LoopClock())
        for number in range(1201):
            fake.put({**config_map(f"c{number}")})
        listed = await fake.client(clock=LoopClock()).list(CONFIG_MAPS, namespace="default")
        assert len({item["metadata"]["name"] for item in listed.items}) == len(listed.items) == 1201
        assert len(fake.calls) == 3  # 500 a page
        with pytest.raises(UnreachableError, match="more than 1000 configmaps"):
            await fake.client(clock=LoopClock()).list(CONFIG_MAPS, namespace="default", most_items=1000)

    run_in_virtual_time(main())


class _Page:
    """An exchange with something that is no API server."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status, self.body = status, body
        self.headers: Mapping[str, str] = {}

    @asynccontextmanager
    async def open(self, request: ApiRequest) -> AsyncIterator[ApiAnswer]:
        del request
        yield self

    async def pieces(self) -> AsyncIterator[bytes]:
        yield self.body

    async def aclose(self) -> None:
        pass


def test_client_page_of_a_proxy_is_told_apart_from_an_answer() -> None:
    async def main() -> None:
        client = KubernetesClient(_Page(200, b"<html>hello</html>"), clock=LoopClock())
        with pytest.raises(UnreachableError, match="a proxy, or another server, answered"):
            await client.get(PODS, "a", namespace="default")
        client = KubernetesClient(_Page(502, b"<html>Bad   Gateway</html>"), clock=LoopClock())
        with pytest.raises(StatusError, match="<html>Bad Gateway</html>"):
            await client.get(PODS, "a", namespace="default")

    asyncio.run(main())


def test_client_what_rbac_denies_names_the_rule_that_is_missing() -> None:
    async def main() -> None:
        fake = FakeKubernetes(clock=LoopClock())
        fake.tokens = {"t": "system:serviceaccount:llm:gateway"}
        fake.rules = [Rule(("apps",), ("deployments/scale",), ("get",), ("a",))]
        client = fake.client(clock=LoopClock(), token="t")
        with pytest.raises(ForbiddenError) as caught:
            await client.merge_patch(DEPLOYMENTS, "a", {}, namespace="llm", subresource="scale")
        rule = missing_rule(caught.value)
        assert str(rule) == '{apiGroups: ["apps"], resources: [deployments/scale], verbs: [patch]}'
        assert rule is not None
        assert rule.namespace == "llm"

    run_in_virtual_time(main())


def test_status_error_sentence_of_a_real_server_is_understood() -> None:
    # As kube-apiserver 1.29 wrote it.
    message = (
        'pods is forbidden: User "system:serviceaccount:default:default" cannot list resource "pods" in API group "" '
        'in the namespace "kube-system"'
    )
    error = status_error(403, {"message": message, "reason": "Forbidden", "code": 403, "details": {"kind": "pods"}})
    assert isinstance(error, ForbiddenError)
    rule = missing_rule(error)
    assert rule is not None
    assert (rule.verb, rule.resource, rule.group, rule.namespace) == ("list", "pods", "", "kube-system")


def test_missing_rule_refusal_by_a_quota_has_none() -> None:
    message = 'pods "a" is forbidden: exceeded quota: compute, requested: cpu=4, used: cpu=6, limited: cpu=8'
    error = status_error(403, {"message": message, "reason": "Forbidden"})
    assert isinstance(error, ForbiddenError)
    assert missing_rule(error) is None
