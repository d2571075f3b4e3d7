"""The model names a gateway answers to: the name, for the top of the ladder, and `name@variant` for one rung of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lightship.gateway.config import ReplicaConfig
from lightship.wire.errors import model_not_found
from lightship.wire.replies import ModelCard

# A name a client made up goes back to it in an error: no longer than this many characters.
_ECHOED_CHARS = 200


@dataclass(frozen=True)
class Address:
    """Where a model name leads.

    `name` is one of the configured ones, `served_model` the one whose ladder it is about; `degraded` is the answer's
    `x-degraded`. `is_pinned` says that the name is that of one rung, so that no other may answer.
    """

    name: str
    rung: int
    degraded: str
    served_model: str = ""
    is_pinned: bool = False


class ModelCatalog:
    """All names, and what each leads to."""

    def __init__(self, model_name: str, replicas: Iterable[ReplicaConfig], *, created_unix_s: float) -> None:
        self._created_unix_s = created_unix_s
        self.apply(model_name, replicas)

    def apply(self, model_name: str, replicas: Iterable[ReplicaConfig]) -> None:
        """Effects: only these replicas are meant from now on, under `model_name` unless they have a `served_model`."""
        addresses: dict[str, Address] = {}
        cards: dict[str, ModelCard] = {}
        by_model: dict[str, list[ReplicaConfig]] = {}
        for replica in replicas:
            by_model.setdefault(replica.served_model or model_name, []).append(replica)
        for model, ladder in by_model.items():
            addresses[model] = Address(model, 0, "no", model)
            for replica in sorted(ladder, key=lambda replica: replica.rung):
                explicit = f"{model}@{replica.variant_name}"
                degraded = f"rung={replica.rung}; reason=explicit" if replica.rung else "no"
                addresses.setdefault(explicit, Address(explicit, replica.rung, degraded, model, True))
                for name in [explicit] if replica.rung else [model, explicit]:
                    cards.setdefault(name, _card(name, replica, created_unix_s=self._created_unix_s))
        self._addresses, self.cards = addresses, cards

    @property
    def names(self) -> list[str]:
        """Every name, the top of the ladder first."""
        return list(self._addresses)

    def resolve(self, model: str, may_use: Callable[[str], bool] = lambda name: True) -> Address:
        """Where the name leads, if whoever asks may use it.

        Raises: ApiError: 404, listing the names there are for it.
        """
        address = self._addresses.get(model)
        if address is None or not may_use(model):
            raise model_not_found(model[:_ECHOED_CHARS], known=[name for name in self.names if may_use(name)])
        return address

    def card(self, model: str, may_use: Callable[[str], bool] = lambda name: True) -> ModelCard:
        """The entry of `/v1/models`.

        Raises: ApiError: 404, listing the names there are for whoever asks.
        """
        return self.cards[self.resolve(model, may_use).name]


def _card(name: str, replica: ReplicaConfig, *, created_unix_s: float) -> ModelCard:
    return ModelCard(
        id=name,
        created=int(created_unix_s),
        max_model_len=replica.context_length,
        variant=replica.variant_name,
        variant_digest=replica.variant_digest or None,
    )
