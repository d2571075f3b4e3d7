"""Documents as text: what is text stays text for every reader, and files say who wrote them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from lightship.deploy.document import HEADER, Document, unique_paths, yaml_text
from lightship.deploy.placeholders import Places
from lightship.deploy.systemd import _quoted

TRICKY = [
    *("12e45678", "1e3", "0x10", "0o17", "010", "1_000", "1.5", "-1", "+1", ".5", "1:30", "1.", "0b1"),
    *("y", "n", "yes", "No", "on", "OFF", "true", "~", "null", "", " ", ".inf", "-.INF", ".NaN"),
    *("a: b", "# no comment", "- a", "{a}", "[a]", "*a", "&a", "!a", "%a", "@a", "`a`", "'a", '"a', "a\nb\n", "a\tb"),
    *("2026-01-01", "2026-01-01T00:00:00Z", "1.2.3", "0.1.0", "v1.35", "é", "日本", "\\n", "a #b", "a:", ":a"),
]


def config_map() -> dict[str, object]:
    data = {f"key-{position}": text for position, text in enumerate(TRICKY)}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "tricky"}, "data": data}


def test_yaml_text_is_read_back_as_it_was() -> None:
    assert yaml.safe_load(yaml_text(config_map())) == config_map()


@pytest.mark.slow
def test_yaml_text_means_the_same_to_kubectl(tmp_path: Path) -> None:
    """Kubernetes reads YAML with another library, by other rules of what is a number."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("NOT TESTED: kubectl is not here")
    (tmp_path / "tricky.yaml").write_text(yaml_text(config_map()), "utf-8")
    (tmp_path / "kustomization.yaml").write_text("resources: [tricky.yaml]\n", "utf-8")
    result = subprocess.run([kubectl, "kustomize", str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    # JSON-typed by now: a number would have been refused as the value of a ConfigMap, or come back without quotes
    read = yaml.safe_load(result.stdout)["data"]
    assert read == {f"key-{position}": text for position, text in enumerate(TRICKY)}


def test_yaml_text_begins_with_our_header_and_keeps_the_order_of_keys() -> None:
    text = yaml_text({"b": 1, "a": [{"d": 1, "c": 2}]}, {"z": 1})
    assert text == f"{HEADER}\nb: 1\na:\n  - d: 1\n    c: 2\n---\nz: 1\n"


def test_yaml_text_repeats_what_occurs_twice_and_has_no_anchors() -> None:
    shared = {"x": 1}
    assert "&" not in yaml_text({"a": shared, "b": shared})


def test_documents_with_one_path_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="rendered twice"):
        unique_paths([Document("a", ""), Document("a", "")])


def test_placeholders_are_filled_and_json_is_left_alone() -> None:
    places = Places({"model": "/models", "rung-0": "http://a"})
    text = '{"folder": "{model}", "url": "{rung-0}", "n": {"model": 1}, "A": "{A}"}'
    assert places.fill(text) == '{"folder": "/models", "url": "http://a", "n": {"model": 1}, "A": "{A}"}'


def test_placeholder_that_a_platform_does_not_fill_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        Places({}).fill("{model}")


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("--port=8100", "--port=8100"),
        ("50%", "50%%"),
        ("$HOME", '"$$HOME"'),
        ("two words", '"two words"'),
        ('{"a": "b"}', '"{\\"a\\": \\"b\\"}"'),
        ("", '""'),
    ],
)
def test_systemd_words_are_quoted_as_systemd_reads_them(word: str, written: str) -> None:
    """By hand from systemd.service(5): %% is a percent sign, $$ a dollar, a backslash escapes a quote."""
    assert _quoted(word) == written
