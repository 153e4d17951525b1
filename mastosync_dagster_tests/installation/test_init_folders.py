"""The folder of manifests that the settings name is there when the units start, which may write to it alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path


def test_the_folder_of_manifests_is_made_and_the_units_may_write_to_it(tmp_path: Path) -> None:
    manifests, home = tmp_path / "my manifests", tmp_path / "home"
    words = [str(Path(sys.executable).with_name("mastosync")), "init", str(home), "--from", "-"]
    subprocess.run(
        words,
        input=f"S3_BUCKET=a\nDESTINATION_S3_BUCKET=b\nMASTOSYNC_MANIFESTS='{manifests}'\n",
        text=True,
        check=True,
        capture_output=True,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
    )
    assert stat.S_IMODE(manifests.stat().st_mode) == 0o700
    unit = (home / "systemd" / "mastosync-code.service").read_text()
    assert f'ReadWritePaths={home} "-{manifests}"' in unit
