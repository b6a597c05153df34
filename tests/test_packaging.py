"""Law: what is installed from a wheel, or from the sdist's wheel, is whole; the tables come along wherever it runs."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from pricing.resources import data_path

ROOT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command; its output explains a failure."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of this checkout, and the wheel built from that sdist."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def python(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; third-party packages are lent by this one, ratecard is not."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False)
    own = home / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", own, "install", "--quiet", "--no-deps", built[1], cwd=home)
    site = run(own, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=home).strip()
    # The .pth files of a folder named in a .pth file are not read: an editable ratecard does not come along.
    Path(site, "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return own


def test_the_tables_are_in_the_wheel_and_the_sdist(built: tuple[Path, Path]) -> None:
    """Every file under data/ is in the sdist, and in the wheel as a resource of pricing."""
    tracked = run("git", "ls-files", "data", cwd=ROOT).split() if (ROOT / ".git").exists() else []
    tracked = tracked or [str(path.relative_to(ROOT)) for path in (ROOT / "data").rglob("*") if path.is_file()]
    with tarfile.open(built[0]) as sdist:
        inside = {name.partition("/")[2] for name in sdist.getnames()}
    assert set(tracked) <= inside
    assert {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml"} <= inside
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
    assert {f"pricing/_data/{name.removeprefix('data/')}" for name in tracked} <= names
    assert {name.partition("/")[0] for name in names} - {"pricing", "ratelimit"} == {
        next(name for name in names if name.endswith("/METADATA")).partition("/")[0]
    }
    assert {"pricing/py.typed", "ratelimit/py.typed"} <= names


def test_the_wheel_runs_the_demo_anywhere(python: Path, tmp_path: Path) -> None:
    """Installed from the wheel, the demo runs from a folder that has nothing to do with the checkout."""
    where = run(python, "-c", "import pricing, ratelimit; print(pricing.__file__, ratelimit.__file__)", cwd=tmp_path)
    assert str(ROOT) not in where
    command = python.with_name("ratecard")
    report = json.loads(run(command, "demo", "--json", "--requests", "12", "--speed", "60", cwd=tmp_path))
    assert report["ratecard"]["lines"]["done"] == 12
    assert report["ledger_adds_up"] is True
    assert "30,000" in run(command, "models", "o3-pro", cwd=tmp_path)


def test_the_wheel_s_pytest_plugin_disturbs_nobody(python: Path, tmp_path: Path) -> None:
    """Where it is installed, a strict run of pytest passes and is silent, even in a program that has the packages."""
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    code = "import sys, pricing, ratelimit, pytest; sys.exit(pytest.main(sys.argv[1:]))"
    strict = ("-q", "-W", "error", "--strict-markers", "-p", "no:cacheprovider")
    said = run(python, "-c", code, *strict, cwd=tmp_path)
    assert said.splitlines()[1].startswith("1 passed in ")
    assert "cost_ledger" in run(python, "-m", "pytest", "--fixtures", "-p", "no:cacheprovider", cwd=tmp_path)


def test_a_checkout_finds_its_own_tables() -> None:
    """In a checkout and an editable install the tables are those of data/, so that an edit counts at once."""
    assert Path(data_path("tiers.yaml")).resolve().is_relative_to(ROOT)
