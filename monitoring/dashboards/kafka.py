"""What comes in and what is refused; records between the stages; checkpoints and stores."""

from monitoring.dashboards.builder import Json, Query, Row, dashboard, heatmap, quantiles, timeseries

DEAD = "dead-letter-ratio"
LAG = "lag-growing"
CHECKPOINT = "checkpoint-too-old"


def build() -> Json:
    about = "Messages of producers, lag of every reader, records that stages write, their checkpoints and their state."
    return dashboard(
        "freshet-kafka",
        "Freshet: Kafka and state",
        about,
        Row("Producers", [_messages(), _dead_letters(), _keys(), _ages()]),
        Row("Readers", [_lag_seconds(), _lag_records(), _members(), _skipped()]),
        Row("Stages", [_apply(), _publish(), _busy(), _published()]),
        Row("Records written", [_records(), _record_rows(), _record_bytes()]),
        Row("Checkpoints", [_checkpoint_age(), _checkpoint_time(), _checkpoint_size(), _round()]),
        Row("Machine", [_store(), _store_cache(), _files(), _uptime()]),
    )


def _messages() -> Json:
    about = "Messages read from producers' topics. Good: accepted ones as you expect, next to no dead letters."
    query = Query("sum by (topic, outcome) (rate(freshet_messages_total[$__rate_interval]))", "{{topic}} {{outcome}}")
    return timeseries("Messages", about, "mps", query, runbook=DEAD)


def _dead_letters() -> Json:
    about = "Dead letters in 10 minutes, by what they lack; nothing is shown before the first. Good: 0. `freshet dlt show` has the reasons."
    query = Query("sum by (topic, category) (increase(freshet_dead_letters_total[10m]))", "{{topic}} {{category}}")
    return timeseries("Dead letters by category", about, "none", query, runbook=DEAD)


def _keys() -> Json:
    about = "Accepted messages whose key is not their id, or absent. It does no harm, but tells of a producer. Good: 0, or all of them."
    foreign = Query("sum by (topic) (rate(freshet_foreign_keys_total[$__rate_interval]))", "{{topic}} foreign")
    missing = Query("sum by (topic) (rate(freshet_missing_keys_total[$__rate_interval]))", "{{topic}} missing")
    return timeseries("Foreign and missing keys", about, "mps", foreign, missing)


def _ages() -> Json:
    about = "Kafka timestamp less event time: how late producers send. Good: seconds. Above `late_seconds` events count as late."
    return heatmap("Age of events on arrival", about, "freshet_event_age_seconds")


def _lag_seconds() -> Json:
    about = (
        "Age of the last record applied while newer ones wait. Good: near 0. The alert: above the line, and the records do not get fewer."
    )
    query = Query("max by (stage, topic, partition) (freshet_lag_seconds)", "{{stage}} {{topic}}/{{partition}}")
    return timeseries("Lag", about, "s", query, runbook=LAG, line_at=30)


def _lag_records() -> Json:
    about = (
        "Records not applied. Those of `events` are single events, the others whole micro-batches. Good: near 0, falling after a restart."
    )
    query = Query("max by (stage, topic, partition) (freshet_lag_records)", "{{stage}} {{topic}}/{{partition}}")
    return timeseries("Lag in records", about, "none", query, runbook=LAG)


def _members() -> Json:
    about = "Workers that Kafka counts in the group of a stage. Good: 1 or more each; a second learner stands by."
    return timeseries(
        "Group members", about, "none", Query("max by (stage) (freshet_group_members)", "{{stage}}"), runbook="no-group-members"
    )


def _skipped() -> Json:
    about = "Rows that a stage had applied before. Good: 0, but for moments after a restart. They have no effect."
    query = Query("sum by (stage) (rate(freshet_skipped_rows_total[$__rate_interval]))", "{{stage}}")
    return timeseries("Rows skipped", about, "rowsps", query)


def _apply() -> Json:
    about = "A call of a stage: one record, or several that waited. Good: tens of milliseconds; more where many wait."
    return quantiles("Apply", about, "freshet_apply_seconds", "stage", runbook=LAG)


def _publish() -> Json:
    about = "Gathering and encoding one publication. Good: milliseconds."
    return quantiles("Publish", about, "freshet_publish_seconds", "stage")


def _busy() -> Json:
    about = "Share of the time in which a stage is applied; several partitions of a worker add up. Good: below 0.7 a process."
    query = Query("sum by (stage, instance) (rate(freshet_apply_seconds_sum[$__rate_interval]))", "{{stage}} {{instance}}")
    return timeseries("Busy", about, "percentunit", query, runbook=LAG)


def _published() -> Json:
    about = "Input rows that publications cover, a second. Good: follows the events; level at 0 means that a writer is silent."
    query = Query("sum by (writer) (deriv(freshet_published_version[5m]))", "{{writer}}")
    return timeseries("Rows published", about, "rowsps", query, runbook="cache-version-skew")


def _records() -> Json:
    about = "Records written. Good: some tens a second for each stage; where rows are few and records many, raise `ingest_linger_ms`."
    return timeseries("Records", about, "recps", Query("sum by (stage) (rate(freshet_batch_rows_count[$__rate_interval]))", "{{stage}}"))


def _record_rows() -> Json:
    about = "Rows of a record. Good: a dozen at 1,000 events/s, hundreds while a backlog is read."
    return quantiles("Rows of a record", about, "freshet_batch_rows", "stage", unit="none")


def _record_bytes() -> Json:
    about = "Bytes of a record. Good: far below 8 MiB, which is the most that Kafka takes."
    return quantiles("Size of a record", about, "freshet_batch_bytes", "stage", unit="bytes")


def _checkpoint_age() -> Json:
    about = "Since the newest checkpoint of each stage partition. Good: a saw tooth up to `checkpoint_seconds`, 10 by default."
    query = Query("max by (stage, partition) (time() - freshet_checkpoint_timestamp_seconds)", "{{stage}}/{{partition}}")
    return timeseries("Age of the checkpoint", about, "s", query, runbook=CHECKPOINT, line_at=300)


def _checkpoint_time() -> Json:
    about = "Until a checkpoint is durable. Good: below a second; it grows with what changed, and with a slow disk."
    return quantiles("Time to checkpoint", about, "freshet_checkpoint_seconds", "stage", runbook=CHECKPOINT)


def _checkpoint_size() -> Json:
    about = "Size of the newest checkpoint, files shared with others included. Good: grows with users and items, then level."
    query = Query("max by (stage, partition) (freshet_checkpoint_bytes)", "{{stage}}/{{partition}}")
    return timeseries("Size of the checkpoint", about, "bytes", query, runbook=CHECKPOINT)


def _round() -> Json:
    about = "How long the last round of publishing every row once more took. Good: below half of `parameters_retention_hours`."
    query = Query("max by (stage, partition) (freshet_republish_round_seconds)", "{{stage}}/{{partition}}")
    return timeseries("Round of republishing", about, "s", query)


def _store() -> Json:
    about = "RocksDB of the feature workers, all partitions. Good: tables grow with the users and event ids remembered, then level."
    return timeseries("Store", about, "bytes", Query("sum by (use) (freshet_store_bytes)", "{{use}}"), stacked=True)


def _store_cache() -> Json:
    about = "RocksDB's block cache in use. Good: up to an eighth of `store_cache_mib` for each feature worker."
    return timeseries("Block cache", about, "bytes", Query("sum by (instance) (freshet_store_cache_bytes)", "{{instance}}"))


def _files() -> Json:
    about = "Open file descriptors over their limit. Good: below 0.5. RocksDB and connections take most."
    query = Query('max by (process) (process_open_fds{job="freshet"} / process_max_fds{job="freshet"})', "{{process}}")
    return timeseries("File descriptors", about, "percentunit", query)


def _uptime() -> Json:
    about = "Since each process started. Good: grows; a fall to 0 is a restart."
    query = Query('min by (process) (time() - process_start_time_seconds{job="freshet"})', "{{process}}")
    return timeseries("Uptime", about, "s", query, runbook="process-down")
