"""Working directories: one for each process, whatever its id; those of processes that are gone go."""

import signal
import subprocess
import sys
from pathlib import Path

from streams.work import work_directory


def test_processes_with_the_same_id_have_directories_of_their_own(tmp_path: Path) -> None:
    """As in containers, where each is process 1. One lock is not another's, in one process as in two."""
    with work_directory(tmp_path / "work", "features-") as one, work_directory(tmp_path / "work", "features-") as two:
        (one / "store").write_text("1")
        (two / "store").write_text("2")
        assert (one / "store").read_text() == "1"
    assert not list((tmp_path / "work").iterdir())


def test_what_a_killed_process_left_is_removed_and_a_living_ones_is_not(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from streams.work import work_directory\n"
    code += "with work_directory(Path(sys.argv[1]), 'other-') as own: print(own, flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with work_directory(tmp_path, "own-"):
            assert theirs.exists()
        other.send_signal(signal.SIGKILL)
    with work_directory(tmp_path, "own-"):
        assert not theirs.exists()
