"""A Kubernetes API server for tests: objects in memory, over real HTTP or without sockets.

    fake = FakeKubernetes()
    async with fake.serving() as access: ...        # real HTTP on a free port
    client = fake.client(clock=clock)               # the same without sockets: fit for virtual time

It keeps to the documented behaviour as far as Lightship uses it: versions, conflicts, list and watch with bookmarks and
410, merge patches, server-side apply with owners of fields, `scale`, strict field validation, finalizers, RBAC. Faults
are switched on by the test. `tests/contract/test_kubernetes_api.py` holds it and real servers to one suite.

It has no scheduler and no kubelet: `Workloads` does what a test says.
"""

from lightship.testing.fake_kubernetes.rbac import Rule
from lightship.testing.fake_kubernetes.server import FakeKubernetes
from lightship.testing.fake_kubernetes.workloads import Workloads

__all__ = ["FakeKubernetes", "Rule", "Workloads"]
