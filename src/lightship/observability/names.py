"""Every metric and label name, so that dashboards and code cannot drift apart.

Labels take values from configuration or closed enums only: never a prompt, a key or a client-sent model name.
"""

from __future__ import annotations

# Gateway
REQUESTS = "lightship_requests"
REQUEST_DURATION = "lightship_request_duration_seconds"
TIME_TO_FIRST_BYTE = "lightship_time_to_first_byte_seconds"
ATTEMPTS = "lightship_attempts"
IN_FLIGHT = "lightship_requests_in_flight"
KEY_FAILURES = "lightship_key_failures"
QUEUE_TIME = "lightship_queue_seconds"
QUEUED = "lightship_requests_queued"
TOKENS = "lightship_tokens"
DEGRADED = "lightship_degraded_requests"
SLO_REQUESTS = "lightship_slo_requests"
LADDER_LEVEL = "lightship_ladder_level"
DEVICE_LOAD = "lightship_device_load_ratio"
DEVICE_LIMIT_SCALE = "lightship_device_limit_scale"
QUALITY_BUDGET_LEFT = "lightship_quality_budget_left_ratio"
RUNG_IN_FLIGHT = "lightship_rung_requests_in_flight"
REPLICA_UP = "lightship_replica_up"
REPLICA_WORK = "lightship_replica_work_seconds"
REPLICA_EJECTED = "lightship_replica_ejected"
BREAKER_STATE = "lightship_replica_breaker_state"
EJECTIONS = "lightship_replica_ejections"
ROUTING_PICKS = "lightship_routing_picks"
PREFIX_BLOCKS = "lightship_routing_prefix_blocks"
HEDGES = "lightship_hedges"
RUNG_PHASE = "lightship_rung_phase"
HELD_REQUESTS = "lightship_held_requests"
CONFIG_RELOADS = "lightship_config_reloads"
CONFIG_LAST_RELOAD_SUCCESSFUL = "lightship_config_last_reload_successful"
CONFIG_LAST_RELOAD_TIME = "lightship_config_last_reload_success_timestamp_seconds"
WORKERS = "lightship_gateway_workers"
WORKER_RESTARTS = "lightship_gateway_worker_restarts"
CACHE_REQUESTS = "lightship_cache_requests"
CACHE_ANSWERS = "lightship_cache_answers"
CACHE_EVICTIONS = "lightship_cache_evictions"
CACHE_STORE_FAILURES = "lightship_cache_store_failures"
CACHE_BYTES = "lightship_cache_bytes"
CACHE_ENTRIES = "lightship_cache_entries"
CACHE_FLIGHTS = "lightship_cache_flights"
# Requests by rung, told for every configured rung, zeros too: what replicas are scaled by
RUNG_HELD_REQUESTS = "lightship_rung_held_requests"
RUNG_QUEUED_REQUESTS = "lightship_rung_queued_requests"
RUNG_IN_FLIGHT_REQUESTS = "lightship_rung_in_flight_requests"
RUNG_DEGRADED_REQUESTS = "lightship_rung_degraded_requests"
RUNG_DEMAND = "lightship_rung_demand_requests"
RUNG_FULL_DEMAND = "lightship_rung_full_demand_requests"
# The gateway in a Kubernetes cluster
CLUSTER_LEADER = "lightship_cluster_leader"
CLUSTER_REPLICAS = "lightship_cluster_replicas"
CLUSTER_SCALINGS = "lightship_cluster_scalings"
CLUSTER_FROZEN = "lightship_cluster_frozen"
CLUSTER_API_ERRORS = "lightship_cluster_api_errors"
CLUSTER_DATA_AGE = "lightship_cluster_data_age_seconds"

# Gauges of several processes add up, but for those that are one fact each process sees for itself.
GAUGES_MERGED_BY_MAX = frozenset(
    {
        REPLICA_UP,
        REPLICA_EJECTED,
        BREAKER_STATE,
        LADDER_LEVEL,
        DEVICE_LOAD,
        DEVICE_LIMIT_SCALE,
        RUNG_PHASE,
        CLUSTER_LEADER,
        CLUSTER_REPLICAS,
        CLUSTER_FROZEN,
        CLUSTER_DATA_AGE,
    }
)
GAUGES_MERGED_BY_MIN = frozenset({QUALITY_BUDGET_LEFT})

# Engine worker; the three gauges that routers ask of every engine
ENGINE_WAITING = "lightship_engine_requests_waiting"
ENGINE_RUNNING = "lightship_engine_requests_running"
ENGINE_KV_USAGE = "lightship_engine_kv_cache_usage_ratio"
ENGINE_PROMPT_TOKENS = "lightship_engine_prompt_tokens"
ENGINE_GENERATION_TOKENS = "lightship_engine_generation_tokens"
ENGINE_REQUESTS = "lightship_engine_requests"
ENGINE_TTFT = "lightship_engine_time_to_first_token_seconds"
ENGINE_PEAK_RSS = "lightship_engine_peak_rss_bytes"
ENGINE_KV_BYTES = "lightship_engine_kv_cache_bytes"
ENGINE_SCORER_LOAD = "lightship_engine_scorer_load_seconds"
ENGINE_SCORER_MEMORY = "lightship_engine_scorer_memory_bytes"

# Labels
LABEL_OUTCOME = "outcome"
LABEL_PATH = "path"
LABEL_MODEL = "model"
LABEL_REPLICA = "replica"
LABEL_RESULT = "result"
LABEL_REASON = "reason"
LABEL_KIND = "kind"
LABEL_OBJECTIVE = "objective"
LABEL_VERDICT = "verdict"
LABEL_DEVICE = "device"
LABEL_VARIANT = "variant"
LABEL_RUNG = "rung"
LABEL_PHASE = "phase"
LABEL_FINISH_REASON = "finish_reason"

# Seconds. OpenTelemetry's TTFT list, with 0.2 and 0.4 added: common SLO edges it lacks.
TTFT_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.2, 0.25, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
)  # fmt: skip
# Seconds. OpenTelemetry's doublings for request durations.
DURATION_BUCKETS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
