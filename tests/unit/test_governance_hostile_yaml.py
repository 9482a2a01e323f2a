"""YAML that means harm: refused at once and in little memory, as a policy and as params.yaml."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LAUGHS = "a0: &a0 [lol, lol]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
ATTACKS = {
    "python-object": "rules: !!python/object/apply:os.system ['touch harmed']\n",
    "python-name": "rules: !!python/name:os.system ''\n",
    "python-module-scalar": "rules:\n  - !!python/module:os ''\n",
    "plain-tag": "rules: !!str 5\n",
    "binary-tag": "rules: !!binary aGVsbG8=\n",
    "own-tag": "rules: !thing {a: 1}\n",
    "billion-laughs": LAUGHS,
    "anchor-loop": "rules: &a\n  - *a\n",
    "merge-loop": "rules: &a\n  <<: *a\n",
    "anchor-alone": "rules: &a []\n",
    "deep-list": "rules: " + "[" * 400_000,
    "deep-map": "rules: " + "{a: " * 200_000,
    "fifty-megabytes": "rules: " + "x" * 50_000_000,
    "long-number": "rules: " + "1" * 900_000,
    "many-documents": "---\na: 1\n" * 50_000,
    "control-bytes": "rules: \x00\x01\n",
}

READ = """
import json, resource, sys, time
from pathlib import Path
from slipway import params
from slipway.errors import UsageError
from slipway.governance.policy import Policy
readers = {"policy": Policy.load, "params": params.load_all, "section": lambda path: params.load("gate", path)}
start = time.monotonic()
try:
    readers[sys.argv[1]](Path(sys.argv[2]))
    said = None
except UsageError as error:
    said = str(error)
status = Path("/proc/self/status")  # where it exists: getrusage also counts the process that forked us
lines = dict(line.split(":", 1) for line in status.read_text().splitlines()) if status.exists() else {}
used = int(lines["VmHWM"].split()[0]) * 1024 if lines else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"said": said, "seconds": time.monotonic() - start, "bytes": used}))
"""


@pytest.mark.alone
@pytest.mark.parametrize("reader", ["policy", "params", "section"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_case_E10_hostile_yaml_is_refused_quickly_in_little_memory(tmp_path: Path, attack: str, reader: str) -> None:
    path = tmp_path / "hostile.yaml"
    path.write_text(ATTACKS[attack])
    ran = subprocess.run(
        [sys.executable, "-c", READ, reader, str(path)],
        cwd=tmp_path, env={"PYTHONPATH": str(Path(__file__).parents[2])}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(ran.stdout)
    assert found["said"] is not None
    assert "hostile.yaml" in found["said"]
    assert len(found["said"]) < 1000
    assert found["seconds"] < 1
    assert found["bytes"] < 100_000_000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hostile.yaml"]
