"""The embedded broker's jars: exactly those of `jars.lock.json`, fetched once into the local Maven repository and verified."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from core.errors import FreshetError

if TYPE_CHECKING:
    from jgo.config import GlobalSettings
    from jgo.maven import Artifact, MavenContext

LOCK = "jars.lock.json"
# slf4j-simple writes to stderr, so to the broker's one log file; with slf4j-nop a failed start would say nothing at all.
ENDPOINT = "org.apache.kafka:kafka_2.13:4.3.0+org.slf4j:slf4j-simple:1.7.36"
DOWNLOADS = 4  # at once: most jars are small, and a request each is what takes the time
ATTEMPTS = 2

Progress = Callable[[str, int, int], None]  # name of the jar just made ready, bytes ready so far, bytes in all


class BrokerUnavailable(FreshetError):
    """This machine cannot run the embedded broker. One sentence, which names the other ways."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The embedded broker is not available, because {reason}: name another Kafka with `--bootstrap-servers` "
            "(FRESHET_BOOTSTRAP_SERVERS), such as one started with Docker Compose, or use `freshet replay --local`, which needs no broker."
        )


@dataclass(frozen=True)
class Jar:
    """One line of the lock file."""

    group: str
    artifact: str
    version: str
    sha256: str
    size: int  # bytes

    @property
    def name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"

    @property
    def path(self) -> Path:
        """Where it lies inside a Maven repository."""
        return Path(*self.group.split("."), self.artifact, self.version, self.name)


def locked() -> list[Jar]:
    """The jars of the lock file, in the order of the class path."""
    text = resources.files("streams").joinpath(LOCK).read_text("utf-8")
    return [Jar(**line) for line in json.loads(text)["jars"]]


def cached() -> int:
    """How many of the locked jars are in the local Maven repository."""
    repository = _settings().repo_cache
    return sum((repository / jar.path).exists() for jar in locked())


def resolve(progress: Progress | None = None) -> list[Path]:
    """The locked jars on this machine, each verified; needs the network only for those that are missing.

    Args:
        progress: called in the calling thread, once a jar.

    Raises:
        BrokerUnavailable: jgo is not installed, or a jar is missing here and cannot be fetched, or is not the one locked.
    """
    settings, jars = _settings(), locked()
    receipts = Receipts(settings.cache_dir / "freshet-jars.json")
    done, paths, total = 0, [], sum(jar.size for jar in jars)
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        for jar, path in zip(jars, pool.map(lambda jar: _ready(jar, settings, receipts), jars), strict=True):
            paths.append(path)
            done += jar.size
            if progress:
                progress(jar.name, done, total)
    receipts.save()
    return paths


def _settings() -> "GlobalSettings":
    """jgo's own configuration: where the Maven repository and the cache are, which mirrors to ask."""
    try:
        from jgo.config import GlobalSettings
    except ImportError as error:
        raise BrokerUnavailable("the package `jgo` is not installed (pip install 'freshet[broker]')") from error
    return GlobalSettings.load()


def _ready(jar: Jar, settings: "GlobalSettings", receipts: "Receipts") -> Path:
    path: Path = settings.repo_cache / jar.path
    for _ in range(ATTEMPTS):
        if path.exists() and receipts.verified(path, jar):
            return path
        path.unlink(missing_ok=True)
        _fetch(jar, path, settings)
    if receipts.verified(path, jar):
        return path
    path.unlink()
    raise BrokerUnavailable(f"{jar.name} as fetched has another SHA-256 than the lock file says")


def _fetch(jar: Jar, path: Path, settings: "GlobalSettings") -> None:
    """Fetch beside, then rename: neither an ended process nor a second one leaves half a jar in the shared repository."""
    try:
        settings.repo_cache.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".freshet-", dir=settings.repo_cache) as scratch:
            fetched = _artifact(jar, _context(settings, Path(scratch))).resolve()
            path.parent.mkdir(parents=True, exist_ok=True)
            fetched.replace(path)
    except (OSError, RuntimeError) as error:  # RuntimeError is jgo's "not found"; what requests raises is an OSError
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise BrokerUnavailable(f"{jar.name} is not in the local Maven repository and cannot be fetched ({reason})") from error


def _context(settings: "GlobalSettings", repository: Path) -> "MavenContext":
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    return MavenContext(repo_cache=repository, remote_repos={"central": MAVEN_CENTRAL_URL} | settings.repositories)


def _artifact(jar: Jar, context: "MavenContext") -> "Artifact":
    return context.project(jar.group, jar.artifact).at_version(jar.version).artifact()


class Receipts:
    """Remembers which files were verified, by (path, bytes, mtime in ns), so that a start need not hash them all again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read(path)
        self._changed = False

    def verified(self, path: Path, jar: Jar) -> bool:
        """Whether the file is the locked one; hashed only where it changed since the last time."""
        stat = path.stat()
        receipt: list[int | str] = [stat.st_size, stat.st_mtime_ns, jar.sha256]
        if self._known.get(str(path)) == receipt:
            return True
        if stat.st_size != jar.size or digest(path) != jar.sha256:
            return False
        self._known[str(path)], self._changed = receipt, True
        return True

    def save(self) -> None:
        if self._changed:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part = self._path.with_suffix(f".{os.getpid()}")
            part.write_text(json.dumps(self._known, indent=0, sort_keys=True), "utf-8")
            part.replace(self._path)


def _read(path: Path) -> dict[str, list[int | str]]:
    try:
        known = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):  # a damaged one costs one hashing, no more
        return {}
    return known if isinstance(known, dict) else {}


def digest(path: Path) -> str:
    """SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock() -> str:
    """The lock file's text for ENDPOINT as Maven Central has it now: every compile and runtime dependency, one a line."""
    import jgo

    jars = [_measured(artifact) for artifact in jgo.resolve(ENDPOINT)]
    lines = ",\n".join(f"  {json.dumps(asdict(jar))}" for jar in jars)
    return f'{{\n "endpoint": {json.dumps(ENDPOINT)},\n "jars": [\n{lines}\n ]\n}}\n'


def _measured(artifact: "Artifact") -> Jar:
    path = artifact.resolve()
    return Jar(artifact.groupId, artifact.artifactId, artifact.version, digest(path), path.stat().st_size)


if __name__ == "__main__":
    if sys.argv[1:] != ["--lock"]:
        sys.exit(f"usage: python -m streams.jars --lock (writes {LOCK})")
    Path(__file__).with_name(LOCK).write_text(lock(), "utf-8")
