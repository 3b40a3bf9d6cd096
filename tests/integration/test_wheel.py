"""The wheel alone is enough: built from the sources, installed into an empty environment, run from elsewhere."""

import json
import os
import shutil
import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("core", "evaluation", "features", "freshet", "learners", "monitoring", "streams")


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that knows nothing of this checkout or of the coverage run."""
    hidden = ("PYTHON", "COV", "FRESHET_", "VIRTUAL_ENV")
    env = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    done = subprocess.run([str(w) for w in command], check=False, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout[-3_000:]}\n{done.stderr[-3_000:]}"
    return done.stdout


def sources(target: Path) -> Path:
    """A copy of every file that git tracks or would track."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT).split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = sources(tmp_path_factory.mktemp("sources"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "dist", cwd=copy)
    [built] = (copy / "dist").glob("freshet-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that holds the wheel, and sees the dependencies that are installed here."""
    home = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    python = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=home)
    own = Path(run(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=home).strip())
    # Lines of paths only: the .pth files in those folders, an editable install's among them, are not followed.
    (own / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return home / "bin"


def test_the_wheel_holds_the_packages_their_data_and_the_licences(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split("/")[0] for name in names} - set(PACKAGES) == {f"{'-'.join(wheel.stem.split('-')[:2])}.dist-info"}
    for path in ("kuairand_events.parquet", "kuairand_items.parquet", "NOTICE"):
        assert f"streams/data/{path}" in names
    assert {f"streams/logs/mappings/{path.name}" for path in (ROOT / "streams/logs/mappings").glob("*.toml")} < names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not any("__pycache__" in name or name.startswith("tests") for name in names)


def test_modules_come_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = f"import importlib, json; print(json.dumps([importlib.import_module(n).__file__ for n in {PACKAGES}]))"
    files = json.loads(run(installed / "python", "-c", code, cwd=tmp_path))
    assert all(Path(file).is_relative_to(installed.parent) for file in files), files
    version = run(installed / "python", "-c", "import freshet; print(freshet.__version__)", cwd=tmp_path).strip()
    assert version[0].isdigit()


def test_the_command_explains_itself(installed: Path, tmp_path: Path) -> None:
    assert "replay" in run(installed / "freshet", "--help", cwd=tmp_path)
    assert "replay" in run(installed / "python", "-m", "freshet", "--help", cwd=tmp_path)


def test_a_local_replay_runs_from_the_bundled_sample(installed: Path, tmp_path: Path) -> None:
    assert run(installed / "freshet", "replay", "--local", "--events", "2000", cwd=tmp_path).strip()
