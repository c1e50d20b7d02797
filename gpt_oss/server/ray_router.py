"""Ray Serve's question "which replica?", answered by affinity.py. A file of its own: Ray sends this class to every
process that routes, together with all that stands beside it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from gpt_oss.server.affinity import Placement


class PrefixRouter(RequestRouter):
    """Routes what `Replica.answer` of ray_app.py is asked; its first argument is an Asked."""

    def initialize_state(self, **settings: Any) -> None:
        """slack, spare: see Placement."""
        self._placement = Placement(**settings)
        self._sent: Counter[str] = Counter()  # by this router and not finished

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        if pending_request is None or not pending_request.args:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True  # before the same ones are asked again
        asked = pending_request.args[0]
        replicas = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        asked.of = len(replicas)
        if asked.number is not None:
            names = sorted(replicas)
            return [[replicas[names[asked.number % len(names)]]]]
        loads = {name: self._load(replica.replica_id) for name, replica in replicas.items()}
        return [[replicas[name]] for name in self._placement.ranked(asked.affinity, loads, asked.home)]

    def _load(self, replica: ReplicaID) -> int:
        """What the replica said last, which other routers' requests are in, or what this one knows."""
        return max(self.replica_queue_len_cache.get(replica) or 0, self._sent[replica.unique_id])

    def on_send_request(self, replica_id: ReplicaID) -> None:
        super().on_send_request(replica_id)
        self._sent[replica_id.unique_id] += 1

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        super().on_request_completed(replica_id, internal_request_id)
        self._sent[replica_id.unique_id] = max(0, self._sent[replica_id.unique_id] - 1)

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any) -> None:
        if pending_request.args:
            self._placement.sent(pending_request.args[0].affinity, replica_id.unique_id)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        super().update_replicas(replicas)
        self._keep()

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._keep()

    def _keep(self) -> None:
        names = {replica.unique_id for replica in self.curr_replicas}
        self._placement.keep(names)
        self._sent = Counter({name: count for name, count in self._sent.items() if name in names})
