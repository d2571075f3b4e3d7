"""A cluster for tests: a fake API server, Pods at command, any number of gateways, all in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from lightship.gateway.cluster.config import ClusterConfig, PoolConfig
from lightship.gateway.cluster.controller import ClusterController
from lightship.gateway.config import ReplicaConfig
from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.errors import UnreachableError
from lightship.kubernetes.exchange import ApiAnswer, ApiRequest
from lightship.kubernetes.resources import DEPLOYMENTS
from lightship.scaling.records import ScaleDecision, ScaleHistory, ScaleLoad, ScalePolicy, ScaleReason
from lightship.testing.fake_kubernetes import FakeKubernetes, Workloads
from lightship.testing.fake_kubernetes.rbac import rules_of
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

MODEL, DEPLOYMENT, NAMESPACE = "qwen", "qwen-int8", "llm"
POOL = PoolConfig(
    served_model=MODEL,
    deployment=DEPLOYMENT,
    selector={"app": DEPLOYMENT},
    policy=ScalePolicy(min_replicas=0, max_replicas=4, in_flight_per_replica=10.0, idle_after_s=60.0, startup_s=20.0),
    startup_budget_s=120.0,
    model_name="m",
    variant_name="int8",
)
CONFIG = ClusterConfig(namespace=NAMESPACE, pools=(POOL,), gateway_selector={"app": "gateway"})
# The Role that the manifests bring.
ROLE = {
    "rules": [
        {
            "apiGroups": ["apps"],
            "resources": ["deployments/scale"],
            "resourceNames": [DEPLOYMENT],
            "verbs": ["get", "patch"],
        },
        {
            "apiGroups": ["coordination.k8s.io"],
            "resources": ["leases"],
            "resourceNames": ["lightship-scaler"],
            "verbs": ["get", "update"],
        },
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    ]
}


def scale_by_demand(load: ScaleLoad, history: ScaleHistory, policy: ScalePolicy) -> ScaleDecision:
    """As many replicas as requests need; none once nothing came for `idle_after_s`."""

    def decide(replicas: int, reason: ScaleReason, **changes: Any) -> ScaleDecision:
        known = {"last_busy_s": history.last_busy_s, **changes}
        after = ScaleHistory(replicas=replicas, **known)
        return ScaleDecision(replicas=replicas, reason=reason, detail=f"{load.num_queued} queued", history=after)

    if not load.is_complete:
        return decide(history.replicas, ScaleReason.MISSING_DATA)
    demand = load.num_queued + load.num_in_flight
    if demand:
        wanted = max(1, min(math.ceil(demand / policy.in_flight_per_replica), policy.max_replicas))
        reason = ScaleReason.LOAD if history.replicas else ScaleReason.WAKE
        return decide(max(wanted, history.replicas), reason, last_busy_s=load.now_s)
    if history.last_busy_s is not None and load.now_s - history.last_busy_s < policy.idle_after_s:
        return decide(history.replicas, ScaleReason.STEADY)
    return decide(policy.min_replicas, ScaleReason.IDLE)


class PartedExchange:
    """A way to the fake that the test can cut for one gateway alone."""

    def __init__(self, fake: FakeKubernetes) -> None:
        self._inner = fake.exchange()
        self.is_cut = False
        self.times_s: list[float] = []

    @asynccontextmanager
    async def open(self, request: ApiRequest) -> AsyncIterator[ApiAnswer]:
        self.times_s.append(LoopClock().monotonic_s())
        if self.is_cut:
            raise UnreachableError("no route to host")
        async with self._inner.open(request) as answer:
            yield answer

    async def aclose(self) -> None:
        pass


class Gateway:
    """One gateway: its controller, its counts, and what it was told to route to."""

    def __init__(self, cluster: Cluster, name: str, config: ClusterConfig) -> None:
        self.name = name
        self.held = self.queued = self.in_flight = 0
        self.is_readable = True
        self.replicas: list[list[ReplicaConfig]] = []
        self.loads: list[ScaleLoad] = []
        self.exchange = PartedExchange(cluster.fake)
        clock = LoopClock()
        self.controller = ClusterController(
            KubernetesClient(self.exchange, clock=clock, limit_s=config.request_limit_s, field_manager=name),
            config,
            pod_name=name,
            identity=name,
            scale=self._scale,
            clock=clock,
            read_metrics=cluster.read_metrics,
            on_replicas=self._take,
            draw=lambda: 0.5,
        )

    def _scale(self, load: ScaleLoad, history: ScaleHistory, policy: ScalePolicy) -> ScaleDecision:
        self.loads.append(load)
        return scale_by_demand(load, history, policy)

    async def _take(self, replicas: list[ReplicaConfig]) -> None:
        self.replicas.append(replicas)

    @property
    def metrics(self) -> bytes:
        counts = {"held": self.held, "queued": self.queued, "in_flight": self.in_flight}
        lines = [f'lightship_rung_{name}_requests{{model="qwen",rung="0"}} {n}\n' for name, n in counts.items()]
        return "".join(lines).encode()


class Cluster:
    """The fake with what a deployed model has in it; gateways join one by one."""

    def __init__(self, *, replicas: int = 0, config: ClusterConfig = CONFIG) -> None:
        self.config = config
        self.clock = LoopClock()
        self.fake = FakeKubernetes(clock=self.clock)
        self.fake.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
        self.workloads = Workloads(self.fake, namespace=NAMESPACE)
        self.fake.put(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"name": "lightship-scaler", "namespace": NAMESPACE},
                "spec": {"leaseDurationSeconds": 15},
            }
        )
        labels = {"app": DEPLOYMENT}
        self.fake.put(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": DEPLOYMENT, "namespace": NAMESPACE},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main"}]}},
                },
            }
        )
        self.fake.rules = rules_of(ROLE)
        self.gateways: dict[str, Gateway] = {}
        self._stack = AsyncExitStack()

    async def join(self, name: str) -> Gateway:
        """A gateway Pod that runs from now on."""
        address = f"10.9.0.{len(self.gateways) + 1}"
        gateway = self.gateways[address] = Gateway(self, name, self.config)
        self.fake.put(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": name,
                    "namespace": NAMESPACE,
                    "labels": {"app": "gateway"},
                    "ownerReferences": [{"name": "gateway-abc", "uid": "0"}],
                },
                "status": {"podIP": address, "conditions": [{"type": "Ready", "status": "True"}]},
            }
        )
        await self._stack.enter_async_context(gateway.controller.running())
        return gateway

    async def read_metrics(self, address: str) -> bytes | None:
        """What `/metrics` of a gateway says."""
        host = address.removeprefix("http://").partition(":")[0]
        gateway = self.gateways.get(host)
        return gateway.metrics if gateway is not None and gateway.is_readable else None

    @property
    def replicas(self) -> int:
        """What the Deployment asks for."""
        deployment = self.fake.find(DEPLOYMENTS, DEPLOYMENT, namespace=NAMESPACE)
        assert deployment is not None
        return int(deployment["spec"]["replicas"])

    def pod_names(self) -> list[str]:
        """The engine's Pods, the oldest first."""
        return [pod["metadata"]["name"] for pod in self.workloads.pods(DEPLOYMENT)]

    def scale_patches(self) -> list[str]:
        """Who patched `scale`, in order."""
        return [
            dict(call.request.query)["fieldManager"]
            for call in self.fake.calls
            if call.verb == "patch" and call.part == "scale"
        ]

    async def __aenter__(self) -> Cluster:
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> None:
        await self._stack.__aexit__(*exception)


def in_cluster(body: Callable[[Cluster], Awaitable[None]], **options: Any) -> None:
    """Runs a test in virtual time."""

    async def main() -> None:
        async with Cluster(**options) as cluster:
            await body(cluster)

    run_in_virtual_time(main())


async def until(condition: Callable[[], bool], *, within_s: float, step_s: float = 0.05) -> float:
    """The seconds until something is so. Raises: AssertionError: it is not within that time."""
    clock = LoopClock()
    started_s = clock.monotonic_s()
    while not condition():
        assert clock.monotonic_s() - started_s <= within_s, f"not so within {within_s} s"
        await asyncio.sleep(step_s)
    return clock.monotonic_s() - started_s
