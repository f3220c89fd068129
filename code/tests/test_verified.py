"""The note below every page: it says what was verified, and nothing where nothing is noted."""

import datetime
import json
import subprocess
import sys
from types import SimpleNamespace

import site_verified
import torch
import yaml

import notebooks
import verified

ROOT = notebooks.BOOK.parent


def test_the_note_names_this_commit_and_what_is_installed(tmp_path):
    out = tmp_path / "new" / "verified.json"
    assert verified.main(["--out", str(out)]) == 0
    note = json.loads(out.read_text(encoding="utf-8"))
    assert note["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert note["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    head = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, encoding="utf-8"
    )
    assert note["commit"] == head.stdout.strip()
    today = datetime.datetime.now(datetime.UTC).date()
    assert abs((today - datetime.date.fromisoformat(note["date"])).days) <= 1


def test_what_is_not_installed_is_not_noted(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(verified, "PACKAGES", ("torch", "no-such-package"))
    assert verified.main(["--out", str(tmp_path / "verified.json")]) == 1
    assert "no-such-package is not installed" in capsys.readouterr().err
    assert not (tmp_path / "verified.json").exists()


def test_the_committed_note_is_one():
    note = json.loads(site_verified.NOTE.read_text(encoding="utf-8"))
    assert datetime.date.fromisoformat(note["date"]) <= datetime.date.today() + datetime.timedelta(days=1)
    assert set(note["versions"]) == {"python", *verified.PACKAGES}
    words = site_verified.sentence(note)
    assert all(version in words for version in note["versions"].values())


def test_where_nothing_is_noted_nothing_is_claimed(monkeypatch, tmp_path):
    config = SimpleNamespace(html_theme_options={"extra_footer": "<p>Licence</p>"})
    monkeypatch.setattr(site_verified, "NOTE", tmp_path / "verified.json")
    site_verified.add_to_footer(None, config)
    assert config.html_theme_options["extra_footer"] == "<p>Licence</p>"
    note = {
        "date": "2030-01-02",
        "commit": "0123456789abcdef",
        "versions": {"python": "<3.99>", "torch": "9.1"},
    }
    (tmp_path / "verified.json").write_text(json.dumps(note), encoding="utf-8")
    site_verified.add_to_footer(None, config)
    assert config.html_theme_options["extra_footer"] == (
        '<p>Licence</p>\n<p class="verified">Last verified as a whole on 2 January 2030, at commit 0123456, '
        "with Python &lt;3.99&gt;, PyTorch 9.1.</p>"
    )


def test_workflows_keep_the_note_and_try_other_systems():
    """What the site claims of a weekly run is what its workflow does."""
    folder = ROOT / ".github" / "workflows"
    weekly, ci, platforms = (
        yaml.safe_load((folder / name).read_text(encoding="utf-8"))
        for name in ("weekly.yml", "ci.yml", "platforms.yml")
    )
    assert "verified.py --out _build/verified.json" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    uploads = [step["with"] for step in weekly["jobs"]["newest"]["steps"] if "upload" in step.get("uses", "")]
    assert uploads == [{"name": "verified", "path": "_build/verified.json"}]
    # Only when all other jobs have passed.
    assert set(weekly["jobs"]["note"]["needs"]) == set(weekly["jobs"]) - {"note"}
    assert "workflow_dispatch" in ci[True]  # YAML's "on" is a truth
    assert set(platforms["jobs"]["quick"]["strategy"]["matrix"]["os"]) == {"windows-latest", "macos-latest"}
