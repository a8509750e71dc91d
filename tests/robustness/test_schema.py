"""The service against its OpenAPI description: schemathesis generates requests and checks the answers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.pictures import encode, scene
from tests.robustness.conftest import SCALE, Target

pytestmark = pytest.mark.robust

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)


def test_schema(target: Target):
    """Every answer to generated requests has a documented status, type and schema, and none is a 500."""
    command = [sys.executable, "-m", "schemathesis.cli", "run", target.url + "/schema/openapi.json"]
    options = ["--checks", ",".join(CHECKS), "--max-examples", str(int(100 * SCALE)), "--no-color"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    target.check(encode(scene()))
