"""Every setting, in one file: `freshet.toml` in the working directory, overridden by `FRESHET_<NAME>` variables."""

import os
import re
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from core.errors import SettingsError
from core.schemas import EVENT_TYPES
from features.declarations import EntityConfig
from features.label_config import JoinConfig
from streams.label_settings import Labels, label_configs

PREFIX = "FRESHET_"
TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,240}")
SUPERVISED = "FRESHET_SUPERVISED"  # no setting: set by a parent that holds a child's standard input; when that ends, so does the child


class Settings(BaseSettings):
    """Settings of all processes. A name unknown here is an error, in the file and in the environment, so that a misspelt one is found."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, toml_file="freshet.toml", extra="forbid", frozen=True)

    # Cluster
    bootstrap_servers: str = Field("", description="Kafka to use, `host:port,...`; empty starts the embedded broker")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field("PLAINTEXT", description="How to connect")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field("PLAIN", description="With SASL_*")
    sasl_username: str = Field("", description="With SASL_*")
    sasl_password: str = Field("", description="With SASL_*", repr=False)
    ssl_cafile: str = Field("", description="CA certificates for SSL and SASL_SSL; empty uses the system's")

    # Where things are
    data_dir: Path = Field(Path(".freshet"), description="Broker data, checkpoints, working files")
    namespace: str = Field("freshet.", description="Prefix of the derived topics and of checkpoints; a new one is a rebuild")
    http_host: str = Field("127.0.0.1", description="Address that the server and the metrics ports listen on")
    http_port: int = Field(8080, ge=0, le=65535, description="Port of the server; 0 takes a free one")
    metrics_port: int = Field(0, ge=0, le=65535, description="Port of this process's /metrics where it has no server; 0: none")
    broker_port: int = Field(0, ge=0, le=65535, description="Port of the embedded broker; 0 takes a free one")
    page_port: int = Field(8090, ge=0, le=65535, description="Port of the page; 0 takes a free one")
    metrics_targets: dict[str, str] = Field({}, description="Process -> URL of its /metrics, for the page; `freshet up` fills it in")
    server_url: str = Field("http://127.0.0.1:8080", description="Base address of the server that the page asks for lists")

    # Topics
    events_topic: str = Field("events", description="Where producers write")
    items_topic: str = Field("items", description="The catalogue, compacted")
    events_partitions: int = Field(4, ge=1, description="Made with this number; an existing topic keeps its own")
    batches_partitions: int = Field(4, ge=1, description="Feature workers at most; changing it is a rebuild")
    replication_factor: int = Field(1, ge=1, description="Of every topic that is made")
    events_retention_hours: float = Field(168, gt=0, description="`events` and dead letters")
    derived_retention_hours: float = Field(72, gt=0, description="`batches` and `examples`: how far back a replay can start")
    parameters_retention_hours: float = Field(6, gt=0, description="`parameters`: at least two rounds of republishing")

    # The contract
    event_types: tuple[str, ...] = Field(EVENT_TYPES, min_length=1, description="Accepted values of `type`")
    max_event_bytes: int = Field(1 << 20, ge=256, description="A larger value is a dead letter")
    max_id_bytes: int = Field(256, ge=1, description="Of user_id and item_id")
    max_future_seconds: int = Field(300, ge=0, description="How far an event may be ahead of its Kafka timestamp")

    # Ingest
    ingest_linger_ms: int = Field(20, ge=0, description="How long a micro-batch waits for more")
    ingest_max_rows: int = Field(2_000, ge=1, description="Rows of a micro-batch at most")
    ingest_max_bytes: int = Field(1 << 20, ge=1, description="Input bytes of a micro-batch, about")
    tick_seconds: float = Field(1.0, gt=0, description="How often idle partitions hear the time")

    # Features
    duplicate_horizon_seconds: int = Field(86_400, gt=0, description="How long an event_id is remembered")
    late_seconds: int = Field(3_600, ge=0, description="Events older than the clock by more are counted as late")
    future_seconds: int = Field(3_600, ge=0, description="Events ahead of the clock by more are counted as future")
    half_lives_seconds: tuple[int, ...] = Field((60, 600, 3_600, 86_400), min_length=1, description="Of all decayed counters")
    windows_seconds: tuple[int, ...] = Field((300, 3_600), min_length=1, description="Of sliding counts, in ten buckets each")
    session_gap_seconds: int = Field(1_800, gt=0, description="A user's events further apart are two sessions")
    long_view_seconds: int = Field(10, gt=0, description="A view from there on is a long one")
    sequence_events: int = Field(16, ge=1, description="Last events of a user that are kept, per behaviour")
    user_ttl_seconds: int = Field(30 * 86_400, gt=0, description="A user not seen for longer is forgotten")
    labels: Labels | None = Field(
        None,
        description="Label -> policy, or a table ([labels](labels.md)); empty: none; default: click = sliver, if there are such events",
    )
    max_open_impressions: int = Field(1 << 16, ge=1, description="Impressions that await their labels, per label and partition")
    store_cache_mib: int = Field(
        512, ge=2, description="Memory of a feature worker's state: seven eighths for users' rows, one for RocksDB's block cache"
    )
    popularity_half_life_seconds: int = Field(1_800, gt=0, description="Of `popular now`")

    # Learning
    seed: int = Field(1, ge=0, description="Of every counter-based draw")
    dimensions: int = Field(64, ge=8, multiple_of=8, description="Of SUPA's vectors")
    memory_every: int = Field(
        4, ge=0, description="Edges of which one teaches SUPA's memory-aware score, which ranks personal lists; 0: there is none"
    )
    negative_block_rows: int = Field(64, ge=1, description="Rows of the log that share SUPA's negatives: fewer rows to publish")
    max_users: int = Field(1 << 20, ge=4_096, description="Rows of the user tables; the longest unused are evicted")
    max_items: int = Field(1 << 18, ge=4_096, multiple_of=4_096, description="Rows of the item tables; the longest unused are evicted")
    token_words: int = Field(64, ge=2, le=65_535, description="Codewords per level of the tokenizer")
    token_refresh_seconds: int = Field(900, gt=0, description="Event time between codebook refreshes")

    # Serving
    popularity_weight: float = Field(
        5.0, ge=0, description="Of log popularity beside the learned score, which ranks personal lists, or finds what memory is to rank"
    )

    judged_clicks_per_second: float = Field(10.0, ge=0, description="Clicks that a server looks for in its lists, at most; 0: none")

    # Running
    publish_ms: int = Field(10, ge=0, description="Least time between two publications of the learner")
    history_publish_ms: int = Field(50, ge=0, description="The same of a feature stage: a user's last items, which lists leave out")
    republish_rows_per_second: int = Field(100, ge=0, description="Rows that each stage publishes once more, round and round; 0: none")
    checkpoint_seconds: float = Field(10.0, gt=0, description="Time between checkpoints of a stage")
    checkpoints_kept: int = Field(3, ge=1, description="Whole checkpoints kept; input stays readable from the oldest")
    full_checkpoint_every: int = Field(20, ge=1, description="Every n-th checkpoint shares no file with others")
    worker_instance: str = Field("", description="A name that no other worker has: it is back at once when restarted; empty: none")
    session_timeout_seconds: float = Field(10.0, ge=1, description="How long Kafka waits for a silent worker")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = (self.events_topic, self.items_topic, self.batches_topic)
        if bad := [name for name in names if not TOPIC_NAME.fullmatch(name)]:
            raise ValueError(f"`events_topic`, `items_topic` and `namespace` may have letters, digits, '.', '_' and '-', not {bad[0]!r}")
        self._check_features()
        if self.events_topic == self.items_topic:
            raise ValueError(f"`events_topic` and `items_topic` are the same topic: {self.events_topic!r}")
        if "SASL" in self.security_protocol and not self.sasl_username:
            raise ValueError(f"`security_protocol` is {self.security_protocol}, so `sasl_username` (FRESHET_SASL_USERNAME) must be set")
        return self

    def _check_features(self) -> None:
        try:
            EntityConfig(self.event_types, self.half_lives_seconds, self.windows_seconds)
            configs = label_configs(self.labels, self.event_types)
            if configs:
                JoinConfig(configs, self.max_open_impressions).check(self.event_types)
        except SettingsError as error:
            raise ValueError(str(error)) from error

    def derived(self, name: str) -> str:
        """The topic of a derived log in this namespace."""
        return self.namespace + name

    @property
    def batches_topic(self) -> str:
        return self.derived("batches")

    @property
    def examples_topic(self) -> str:
        return self.derived("examples")

    @property
    def parameters_topic(self) -> str:
        return self.derived("parameters")

    @property
    def state_dir(self) -> Path:
        return self.data_dir / "state" / self.namespace


_KNOWN = {*Settings.model_fields, SUPERVISED.removeprefix(PREFIX).lower()}


def load(**overrides: object) -> Settings:
    """The settings in force.

    Raises:
        SettingsError: a value cannot be used; the message names the setting, its variable and what is wrong.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name.removeprefix(PREFIX).lower() not in _KNOWN)
    if unknown:
        raise SettingsError(f"there is no setting behind {', '.join(unknown)}; docs/operators.md lists them all")
    try:
        return Settings(**given)  # type: ignore[arg-type]  # names and values are checked by pydantic
    except ValidationError as error:
        faults = "; ".join(map(_fault, error.errors()))
        raise SettingsError(f"settings (freshet.toml or environment): {faults}") from error
    except ValueError as error:
        raise SettingsError(f"freshet.toml or a FRESHET_ variable cannot be read: {error}") from error


def _fault(error: Any) -> str:
    if error["type"] == "extra_forbidden" and len(error["loc"]) > 1:
        return f"a table of `{error['loc'][0]}` has no {error['loc'][-1]!r}; docs/{error['loc'][0]}.md lists what it may have"
    if error["type"] == "extra_forbidden":
        return f"there is no setting {'.'.join(map(str, error['loc']))!r}; docs/operators.md lists them all, at the top level of the file"
    name = f"{_name(error['loc'])}: " if error["loc"] else ""
    return f"{name}{error['msg'].removeprefix('Value error, ')}" + (f" (got {error['input']!r})" if error["loc"] else "")


def _name(location: tuple[int | str, ...]) -> str:
    name = ".".join(map(str, location))
    return f"{name} (FRESHET_{str(location[0]).upper()})"
