"""Are the items' tokens steady, well spread and up to date."""

from monitoring.dashboards.builder import Json, Query, Row, dashboard, timeseries


def build() -> Json:
    about = "The tokenizer: how often tokens change and why, and what the codebook is worth."
    return dashboard(
        "freshet-tokens",
        "Freshet: tokens",
        about,
        Row("Changes", [_changes(), _encodes(), _changed_share()]),
        Row("Worth of the codebook", [_utilisation(), _collisions(), _distortion()]),
        Row("Reach", [_items(), _codebook_age(), _refreshes()]),
    )


def _changes() -> Json:
    about = (
        "Items whose tokens changed, by what moved. Good: `first` as items arrive; the others rare, bursts of `codebook` after a refresh."
    )
    query = Query("sum by (cause) (rate(freshet_token_changes_total[$__rate_interval]))", "{{cause}}")
    return timeseries("Changes of tokens", about, "ops", query, stacked=True)


def _encodes() -> Json:
    about = "Searches for the best tokens of an item, changed or not. Good: a part of the events, more during a refresh."
    return timeseries("Encodes", about, "ops", Query("sum(rate(freshet_token_encodes_total[$__rate_interval]))", "encodes"))


def _changed_share() -> Json:
    about = "Share of the encodes that changed an item's tokens. Good: low once most items have some, so that readers can rely on them."
    share = "sum(rate(freshet_token_changes_total[$__rate_interval])) / sum(rate(freshet_token_encodes_total[$__rate_interval]))"
    return timeseries("Changed at an encode", about, "percentunit", Query(share, "share"))


def _utilisation() -> Json:
    about = "Words of each level that have an item, at the last refresh. Good: above 0.9; lower, and `token_words` is too high."
    return timeseries("Words in use", about, "percentunit", Query("max by (level) (freshet_token_utilisation_ratio)", "level {{level}}"))


def _collisions() -> Json:
    about = "Items that share all tokens with another. Good: near 0; it rises where `token_words` is too low for the items."
    return timeseries("Collisions", about, "percentunit", Query("max(freshet_token_collisions_ratio)", "share of items"))


def _distortion() -> Json:
    about = (
        "Squared error of the tokens over the squared norm of the items, at the last refresh. Good: level, as low as `token_words` allows."
    )
    return timeseries("Distortion", about, "percentunit", Query("max(freshet_token_distortion_ratio)", "distortion"))


def _items() -> Json:
    about = "Items with tokens beside items that the tokenizer knows. Good: equal, once the first codebook is there."
    known = 'max(freshet_held_rows{learner="tokenizer", kind="items"})'
    return timeseries("Items", about, "none", Query("max(freshet_tokenized_rows)", "with tokens"), Query(known, "known"))


def _codebook_age() -> Json:
    about = "Input rows of the learner since the published codebook. Good: a saw tooth, as each `token_refresh_seconds` brings a new one."
    age = 'max(freshet_published_version{writer=~"learner/.+"}) - max(freshet_codebook_version)'
    return timeseries("Rows since the codebook", about, "none", Query(age, "rows"))


def _refreshes() -> Json:
    about = "New codebooks in an hour. Good: 3600 / `token_refresh_seconds` while event time runs at the pace of the clock."
    return timeseries("Codebooks", about, "none", Query("max(changes(freshet_codebook_version[1h]))", "in an hour"))
