"""Report and viewer in a real browser: they draw, say nothing on the console, send nothing anywhere, model text stays text, and ten thousand
rollouts scroll and filter while the page answers."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import BROWSER, Browser
from synthetic_evaluation import put_evaluation, put_responses
from synthetic_run import put_lines, put_run

from faithful_rl.report import build, viewer
from faithful_rl.report.serve import ViewerServer

# .ci/run sets the variable where it has a browser: not finding it there is a failure, and no reason to skip.
REQUIRED = os.environ.get("FAITHFUL_RL_REQUIRE_BROWSER") == "1"
pytestmark = pytest.mark.skipif(BROWSER is None and not REQUIRED, reason="no Chromium on this machine (apt-get install chromium)")
ATTACK = "<script>document.title='taken';console.log('taken')</script><img src='http://127.0.0.1:9/leak.png'>"
READY = "document.getElementById('viewer').dataset.ready === 'yes'"
ANSWER_SECONDS = 30.0  # a page that builds 10,000 entries freezes for longer; how fast ours is, benchmarks.report says


def text_of(browser: Browser, part: str) -> str:
    return str(browser.run(f"document.querySelector('[data-part=\"{part}\"]').textContent"))


def many(run: Path, count: int) -> None:
    """Replace the rollouts of a run by `count` training rollouts of 100 steps, five to a group."""
    (line, *_) = [json.loads(text) for text in (run / "rollouts" / "step_000003.jsonl").read_text().splitlines()]
    for path in (run / "rollouts").glob("*.jsonl"):
        path.unlink()
    per_step = count // 100
    for step in range(1, 101):
        lines: list[dict[str, Any]] = []
        for number in range(per_step):
            right, consistent = float(number % 3 > 0), float(number % 4 > 0)
            columns = {**line["columns"], "accuracy": right, "consistency": consistent, "semantic_grounding": (number % 11) / 10}
            lines.append({**line, "uid": f"s{step}n{number // 5}", "group": str(number // 5), "step": step, "columns": columns,
                          "question": f"Question {number} of step {step}?", "advantage": number / 7 - 5})  # fmt: skip
        put_lines(run / "rollouts" / f"step_{step:06d}.jsonl", lines)


def test_a_page_that_misbehaves_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(f"<!doctype html><title>t</title>{ATTACK}")
    with Browser(tmp_path) as browser:
        browser.open(page.as_uri())
        assert any("taken" in line for line in browser.console)
        assert browser.requests == ["http://127.0.0.1:9/leak.png"]


@pytest.mark.parametrize("dark", [False, True])
def test_the_report(tmp_path: Path, dark: bool) -> None:
    run = put_run(tmp_path / "run", questions=60, steps=8)
    for path in (run / "rollouts").glob("*.jsonl"):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        put_lines(path, [{**line, "response": f"{ATTACK}{line['response']}", "question": ATTACK} for line in lines])
    page = build([run], tmp_path / "report.html")
    with Browser(tmp_path, 1200, 2400, dark) as browser:
        browser.open(page.as_uri())
        browser.wait(READY)
        picture = browser.picture()
        assert (browser.console, browser.requests) == ([], [])
        assert browser.run("document.title") == "fgrpo_tiny, seed 0 · faithful_rl"
        assert ATTACK in text_of(browser, "detail")
        assert browser.run("document.querySelectorAll('script, img, iframe, object').length") == 2  # the data and the script, both ours
    assert picture.shape == (2400, 1200, 3)
    assert (picture[5, 5].mean() < 60) == dark
    # the curves are drawn in the page's colours: accuracy's blue and the inconsistency rate's vermilion
    for colour in ((74, 168, 232), (240, 132, 58)) if dark else ((0, 114, 178), (213, 94, 0)):
        assert (np.abs(picture.astype(int) - colour).max(axis=2) <= 3).sum() > 200


def test_the_report_of_an_evaluation(tmp_path: Path) -> None:
    evaluations = pytest.importorskip("faithful_rl.report.evaluations")
    directories = [put_evaluation(tmp_path / name, name, rate, 0.1) for name, rate in (("grpo", 0.6), ("fgrpo", 0.9))]
    for directory in directories:
        put_responses(directory, "mmvp", f"<think>{ATTACK}</think><answer>A</answer>", ATTACK)
    found = evaluations.read([evaluations.Named(directory.name, directory) for directory in directories])
    page = build([], tmp_path / "report.html", found)
    with Browser(tmp_path, 1200, 2400) as browser:
        browser.open(page.as_uri())
        browser.wait(READY)
        assert (browser.console, browser.requests) == ([], [])
        assert browser.run("document.title") == "2 models on benchmarks · faithful_rl"
        assert text_of(browser, "count") == "160 of 160 rollouts"
        assert ATTACK in text_of(browser, "detail")
        assert "step" not in browser.run("document.querySelector('.row').textContent")
        assert "2 trials that belong together" in text_of(browser, "siblings")
        assert browser.run("document.querySelector('.scene image').getBBox().width") == 112
        assert browser.run("document.querySelectorAll('details').length") == 3  # two benchmarks and the remarks
        assert browser.run("document.documentElement.scrollWidth") == 1200  # nothing sticks out


def test_injected_markup_could_not_run_either(tmp_path: Path) -> None:
    """The policy is the second lock: a script that got into the page all the same is refused."""
    run = put_run(tmp_path / "run", questions=20, steps=3)
    page = viewer.write([run], tmp_path / "viewer.html")
    page.write_text(page.read_text().replace("<main>", f"<main>{ATTACK}", 1))
    with Browser(tmp_path) as browser:
        browser.open(page.as_uri())
        browser.wait(READY)
        assert browser.run("document.title").startswith("Rollouts ·")
        browser.wait("true")
        assert browser.requests == []
        assert any("Content Security Policy" in line for line in browser.console)


def test_ten_thousand_rollouts(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run", questions=20, steps=3)
    many(run, 10_000)
    page = viewer.write([run], tmp_path / "viewer.html")
    with Browser(tmp_path) as browser:
        browser.open(page.as_uri())
        browser.wait(READY)
        assert text_of(browser, "count") == "10,000 of 10,000 rollouts"
        rows = "document.querySelectorAll('.row').length"
        assert 5 < browser.run(rows) < 60  # only those in sight exist

        filtering = """(async () => {
          const began = performance.now();
          for (const button of document.querySelectorAll('.presets button')) { button.click(); await new Promise(requestAnimationFrame); }
          return (performance.now() - began) / document.querySelectorAll('.presets button').length / 1000; })()"""
        assert browser.run(filtering) < ANSWER_SECONDS

        browser.run("document.querySelectorAll('.presets button')[0].click()")
        scrolling = """(async () => {
          const list = document.querySelector('.list'); let longest = 0;
          for (let part = 0; part <= 40; part++) {
            const began = performance.now();
            list.scrollTop = list.scrollHeight * part / 40;
            await new Promise(requestAnimationFrame); await new Promise(requestAnimationFrame);
            longest = Math.max(longest, performance.now() - began);
          }
          return longest / 1000; })()"""
        assert browser.run(scrolling) < ANSWER_SECONDS
        assert "Question 99 of step 100?" in browser.run("document.querySelector('[data-part=rows]').textContent")

        browser.run("(() => { const box = document.querySelector('[data-part=search]'); box.value = 'of step 42?';"
                    "box.dispatchEvent(new Event('input')); })()")  # fmt: skip
        browser.wait("document.querySelector('[data-part=count]').textContent.startsWith('100 of')", ANSWER_SECONDS)
        browser.run("(() => { const step = document.querySelector('[data-part=step]'); step.value = '41';"
                    "step.dispatchEvent(new Event('input')); })()")  # fmt: skip
        assert text_of(browser, "count").startswith("0 of")
        assert "No rollout passes these filters." in text_of(browser, "detail")
        assert (browser.console, browser.requests) == ([], [])


def test_filters_agree_with_the_columns(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run", questions=20, steps=3)
    many(run, 1_000)
    page = viewer.write([run], tmp_path / "viewer.html")
    records = [json.loads(line) for path in (run / "rollouts").glob("*.jsonl") for line in path.read_text().splitlines()]
    false = [any(sentence["verdict"] == "INCORRECT" for sentence in record["sentences"]) for record in records]
    columns = [record["columns"] for record in records]
    with Browser(tmp_path) as browser:
        browser.open(page.as_uri())
        browser.wait(READY)
        counts = browser.run("Object.fromEntries([...document.querySelectorAll('.presets button')].map((button) => "
                             "[button.firstChild.textContent, Number(button.querySelector('span').textContent.replace(',', ''))]))")  # fmt: skip
        assert counts["All"] == 1000
        assert counts["Inconsistent but correct"] == sum(row["accuracy"] > 0 and row["consistency"] == 0 for row in columns)
        assert counts["Right for a false reason"] == sum(row["accuracy"] > 0 and lie for row, lie in zip(columns, false, strict=True))
        assert counts["Wrong answer"] == sum(row["accuracy"] == 0 for row in columns)
        assert counts["Judge failed"] == counts["Malformed"] == 0
        browser.run("document.querySelectorAll('.presets button')[4].click()")  # lowest grounding first
        assert "semantic grounding0.00" in text_of(browser, "detail")


def test_the_keyboard_is_enough(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run", questions=20, steps=3)
    many(run, 1_000)
    page = viewer.write([run], tmp_path / "viewer.html")
    heading = "document.querySelector('[data-part=detail] h3').textContent"
    with Browser(tmp_path) as browser:
        browser.open(page.as_uri())
        browser.wait(READY)
        browser.key("/")
        assert browser.run("document.activeElement.dataset.part") == "search"
        browser.run("document.querySelector('.list').focus()")
        assert browser.run(heading) == "Question 0 of step 100?"  # a training rollout of the last step, with its siblings
        assert "λ" in text_of(browser, "detail")
        assert "5 rollouts of one prompt" in text_of(browser, "siblings")
        browser.key("Home")
        for key, expected in (("ArrowDown", "Question 1 of step 1?"), ("ArrowRight", "Question 2 of step 1?"), ("ArrowUp", "Question 1 of step 1?"),
                              ("End", "Question 9 of step 100?"), ("Home", "Question 0 of step 1?")):  # fmt: skip
            browser.key(key)
            assert browser.run(heading) == expected
        assert browser.run(
            "document.querySelector('[aria-selected=true]').id === document.querySelector('.list').getAttribute('aria-activedescendant')"
        )


def test_the_served_page_asks_for_its_own_images_only(tmp_path: Path) -> None:
    run = put_run(tmp_path / "run", questions=20, steps=3)
    with ViewerServer([run]) as server, Browser(tmp_path) as browser:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        browser.open(server.url)
        browser.wait(READY)
        browser.wait("document.querySelector('.scene image').getBBox().width > 0")
        browser.picture()
        assert browser.requests
        assert all(address.startswith(f"{server.url}image/") or address == f"{server.url}favicon.ico" for address in browser.requests)
        assert [line for line in browser.console if "favicon" not in line and "404" not in line] == []
        server.shutdown()
        thread.join(timeout=10)
