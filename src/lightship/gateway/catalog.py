"""The model names a gateway answers to: the name, for the top of the ladder, and `name@variant` for one rung of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lightship.gateway.config import ReplicaConfig
from lightship.wire.errors import model_not_found
from lightship.wire.replies import ModelCard

# A name a client made up goes back to it in an error: no longer than this many characters.
_ECHOED_CHARS = 200


@dataclass(frozen=True)
class Address:
    """Where a model name leads. `name` is one of the configured ones; `degraded` is the answer's `x-degraded`."""

    name: str
    rung: int
    degraded: str


class ModelCatalog:
    """All names, and what each leads to."""

    def __init__(self, model_name: str, replicas: Iterable[ReplicaConfig], *, created_unix_s: float) -> None:
        self._addresses = {model_name: Address(model_name, 0, "no")}
        self.cards: dict[str, ModelCard] = {}
        for replica in sorted(replicas, key=lambda replica: replica.rung):
            explicit = f"{model_name}@{replica.variant_name}"
            degraded = f"rung={replica.rung}; reason=explicit" if replica.rung else "no"
            self._addresses.setdefault(explicit, Address(explicit, replica.rung, degraded))
            for name in [explicit] if replica.rung else [model_name, explicit]:
                self.cards.setdefault(name, _card(name, replica, created_unix_s=created_unix_s))

    @property
    def names(self) -> list[str]:
        """Every name, the top of the ladder first."""
        return list(self._addresses)

    def resolve(self, model: str) -> Address:
        """Where the name leads.

        Raises: ApiError: 404, listing the names there are.
        """
        address = self._addresses.get(model)
        if address is None:
            raise model_not_found(model[:_ECHOED_CHARS], known=self.names)
        return address

    def card(self, model: str) -> ModelCard:
        """The entry of `/v1/models`.

        Raises: ApiError: 404, listing the names there are.
        """
        return self.cards[self.resolve(model).name]


def _card(name: str, replica: ReplicaConfig, *, created_unix_s: float) -> ModelCard:
    return ModelCard(
        id=name,
        created=int(created_unix_s),
        max_model_len=replica.context_length,
        variant=replica.variant_name,
        variant_digest=replica.variant_digest or None,
    )
