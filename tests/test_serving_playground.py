"""The page at `/`: what it is served with, what it may do, and what it does in a real browser."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import requests
from serving_models import QUICK, Running, half_plus, serving, several

import zoo
from zoo.serving.catalogue import read_card
from zoo.serving.manager import Manager
from zoo.serving.operations import POLICY, Operations
from zoo.serving.playground import Playground, read_files
from zoo.serving.repository import ModelSource, find_models
from zoo.serving.rest import RestApplication
from zoo.serving.server import bind, http_server
from zoo.serving.service import Service

ROOT = Path(__file__).parents[1]
STATIC = ROOT / "zoo" / "serving" / "static"
SAVED = ROOT / "saved_models"
MNIST, DIGITS = "cnn_bn.mnist", "cnn_bn.digits"
EVIL = "<img src=x onerror='owned=1'>"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def examples() -> dict[str, list[list[tuple[float, float]]]]:
    """The stored strokes: digit -> strokes -> points, in a unit square."""
    stored = json.loads((STATIC / "strokes.json").read_text())
    return {
        digit: [[(int(point[:2]) / 100, int(point[2:]) / 100) for point in stroke.split()] for stroke in strokes] for digit, strokes in stored.items()
    }


def saved(*names: str) -> list[ModelSource]:
    return [ModelSource(name, SAVED / name) for name in names]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    """Two models that read images."""
    with serving(saved(MNIST, DIGITS), playground=True) as running:
        yield running


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Models that read no images, one of them broken."""
    folder = tmp_path_factory.mktemp("plain")
    half_plus(folder / "half_plus_two" / "1", 2)
    several(folder / "several" / "1")
    (folder / "broken" / "1").mkdir(parents=True)
    (folder / "broken" / "1" / "saved_model.pb").write_bytes(b"half a file")
    with serving(find_models(folder), playground=True) as running:
        yield running


# --- what is served ---------------------------------------------------------------------------------------------------


def test_the_page_is_small_and_complete() -> None:
    files = [path for path in STATIC.iterdir() if path.is_file()]
    assert {"index.html", "playground.js", "playground.css"} <= {path.name for path in files}
    assert sum(path.stat().st_size for path in files) < 60_000
    assert len(read_files()) == len(files), "all of it is served"


@pytest.mark.parametrize("path", sorted(path.name for path in STATIC.iterdir()))
def test_the_files_name_nothing_outside_and_make_no_markup_of_data(path: str) -> None:
    text = (STATIC / path).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"(?:https?:)?//[a-z]", text)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|style=|\son[a-z]+=", text)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        digits = colour if len(colour) == 6 else "".join(digit * 2 for digit in colour)
        parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out(scheme: str) -> None:
    sheets = (STATIC / "playground.css").read_text().split("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--([\w-]+): #(\w+);", sheets[scheme == "dark"]))
    for ground in ("ground", "panel", "faint"):
        for text in ("text", "muted", "accent", "warn"):
            if (ground, text) != ("faint", "warn"):  # which is nowhere
                assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["on-accent"], colours["accent"]) >= 4.5


@pytest.mark.parametrize("path", sorted(read_files()))
def test_files_come_with_a_strict_policy(server: Running, path: str) -> None:
    answer = requests.get(server.url + path, timeout=30)
    assert answer.status_code == 200
    assert answer.content == (STATIC / (path.removeprefix("/static/").strip("/") or "index.html")).read_bytes()
    assert answer.headers["content-security-policy"] == POLICY
    assert POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; ")
    assert not {"unsafe-inline", "unsafe-eval", "*", "http:", "https:"} & set(re.split(r"[\s';]+", POLICY))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    head = requests.head(server.url + path, timeout=30)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(answer.content)))
    again = requests.get(server.url + path, headers={"If-None-Match": answer.headers["etag"]}, timeout=30)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])
    assert requests.get(server.url + path, headers={"If-None-Match": '"other"'}, timeout=30).status_code == 200


def test_a_query_does_not_matter(server: Running) -> None:
    assert requests.get(server.url + "/?a=b", timeout=30).text.startswith("<!doctype html>")


OUTSIDE = [("GET", "/other"), ("GET", "/v1"), ("GET", "/static/"), ("GET", "/static/../playground.py"), ("GET", "/static/%2e%2e/rest.py")]
OUTSIDE += [("POST", "/"), ("POST", "/models"), ("DELETE", "/"), ("OPTIONS", "/"), ("GET", f"/prepare/{MNIST}"), ("POST", "/prepare/a/b")]
PAGES = [("GET", "/"), ("HEAD", "/"), ("GET", "/models"), ("GET", "/static/playground.js"), ("POST", "/prepare/half_plus_two")]


@pytest.mark.parametrize(("method", "path"), OUTSIDE)
def test_other_paths_are_as_in_tf_serving(server: Running, method: str, path: str) -> None:
    assert not_found(server, method, path)


def not_found(server: Running, method: str, path: str) -> bool:
    request = requests.Request(method, server.url, data=b"").prepare()
    request.url = server.url + path  # as it is, dots included
    with requests.Session() as session:
        answer = session.send(request, timeout=30)
    return answer.status_code == 404 and (method == "HEAD" or answer.json() == {"error": "Not Found"})


def test_below_v1_nothing_changes_and_without_the_page_nothing_is_outside(plain: Running, tmp_path: Path) -> None:
    half = "/v1/models/half_plus_two"
    cases: list[tuple[str, str, bytes | None]] = [
        ("GET", half, None),
        ("GET", f"{half}/metadata", None),
        ("GET", f"{half}/versions/9", None),
        ("GET", "/v1/", None),
        ("GET", "/V1/Models/half_plus_two", None),
        ("HEAD", half, None),
        ("POST", f"{half}:predict", b'{"instances": [1.0, 2.0]}'),
        ("POST", f"{half}:predict", b"{"),
        ("POST", f"{half}:classify", b'{"signature_name": "classify", "examples": [{"x": 1.0}]}'),
        ("OPTIONS", half, None),
    ]

    def answers(server: Running) -> list[tuple[int, bytes, dict[str, str]]]:
        found = []
        for method, path, body in cases:
            answer = requests.request(method, server.url + path, data=body, timeout=30)
            found.append((answer.status_code, answer.content, {name: value for name, value in answer.headers.items() if name != "date"}))
        return found

    half_plus(tmp_path / "half_plus_two" / "1", 2)
    with serving(find_models(tmp_path)) as without:
        assert answers(without) == answers(plain)
        assert all(not_found(without, method, path) for method, path in PAGES)
    assert not any(not_found(plain, method, path) for method, path in PAGES if method != "POST")


def test_models(server: Running) -> None:
    answer = requests.get(server.url + "/models", timeout=30)
    assert answer.headers["content-type"] == "application/json"
    mnist, digits = answer.json()["models"]
    assert [mnist["name"], digits["name"]] == [MNIST, DIGITS]
    (version,) = mnist["versions"]
    assert (version["version"], version["state"], version["error"]) == (1, "AVAILABLE", None)
    assert version["image"]
    assert version["features"]
    assert version["inputs"]["serving_default"] == {"image": {"dtype": "float", "shape": [-1, 28, 28, 1]}}
    assert version["inputs"]["predict_bytes"] == {"image_bytes": {"dtype": "string", "shape": [-1]}}
    assert version["classes"] == list("0123456789")
    assert version["golden"] == ["classify", "features", "predict_bytes", "predict_uint8", "serving_default"]
    assert version["card"] == json.loads((SAVED / MNIST / "1" / "assets.extra" / "card.json").read_text())
    assert str(ROOT) not in answer.text, "where the files lie is nobody's business"


def test_models_that_read_no_images(plain: Running) -> None:
    broken, half, several_ = requests.get(plain.url + "/models", timeout=30).json()["models"]
    assert broken["versions"][0]["state"] == "END"
    assert "cannot be loaded" in broken["versions"][0]["error"]
    assert (half["versions"][0]["image"], half["versions"][0]["card"], half["versions"][0]["classes"]) == (False, None, [])
    assert several_["versions"][0]["inputs"]["product"] == {"x": {"dtype": "float", "shape": [-1, 3]}, "y": {"dtype": "float", "shape": [3, -1]}}


def test_models_with_labels_and_before_there_is_a_version(tmp_path: Path) -> None:
    for number in (1, 2):
        half_plus(tmp_path / "labelled" / str(number), number)
    sources = [ModelSource("labelled", tmp_path / "labelled", "all", labels={"stable": 1}), ModelSource("nothing", tmp_path / "nothing")]
    with serving(sources, playground=True) as running:
        labelled, nothing = requests.get(running.url + "/models", timeout=30).json()["models"]
    assert (labelled["labels"], [version["version"] for version in labelled["versions"]]) == ({"stable": 1}, [2, 1])
    assert nothing == {"name": "nothing", "labels": {}, "versions": []}


def export_copy(to: Path, card: bytes | None, name: str = DIGITS) -> Path:
    """A copy of an export with another card, or none."""
    shutil.copytree(SAVED / name / "1", to)
    path = to / "assets.extra" / "card.json"
    if card is None:
        path.unlink()
    else:
        path.write_bytes(card)
    return to


NO_CARDS = [None, b"", b"[1]", b'"text"', b"\xff", b"[" * 100_000, b'{"a": "' + b"x" * (1 << 20) + b'"}']


@pytest.mark.parametrize("content", NO_CARDS)
def test_a_card_that_is_none_is_left_out(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "card.json"
    if content is not None:
        path.write_bytes(content)
    assert read_card(path) is None


def test_a_card_that_the_zoo_did_not_write(tmp_path: Path) -> None:
    """It is shown, without the numbers that JSON lacks, but says nothing of how to prepare images."""
    cards = [None, b"[" * 100_000, b'{"a": NaN, "b": [Infinity, 1]}']
    for index, card in enumerate(cards):
        export_copy(tmp_path / str(index) / "1", card)
    with serving([ModelSource(str(index), tmp_path / str(index)) for index in range(len(cards))], playground=True) as running:
        models = json.loads(requests.get(running.url + "/models", timeout=30).text, parse_constant=pytest.fail)["models"]
        refused = [requests.post(f"{running.url}/prepare/{index}", data=png(8), timeout=60) for index in range(len(cards))]
    versions = [model["versions"][0] for model in models]
    assert [version["card"] for version in versions] == [None, None, {"a": None, "b": [None, 1]}]
    for version, answer in zip(versions, refused, strict=True):
        assert (version["image"], version["features"], version["classes"]) == (True, False, list("0123456789"))
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("Images cannot be prepared for this model: ")


# --- what a model sees of an image ------------------------------------------------------------------------------------


def png(side: int, seed: int = 0) -> bytes:
    """A PNG file with dark strokes on white paper."""
    import tensorflow as tf

    pixels = numpy.full((side, side, 1), 255, "uint8")
    corners = numpy.random.default_rng(seed).integers(side // 4, side // 2, (3, 2))
    for row, column in corners:
        pixels[row : row + side // 3, column : column + max(side // 12, 1)] = 20
    return tf.io.encode_png(pixels).numpy()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def predict(server: Running, path: str, body: Any) -> Any:
    answer = requests.post(f"{server.url}/v1/models/{path}:predict", data=body if isinstance(body, bytes) else json.dumps(body), timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"][0]


@pytest.mark.parametrize(("name", "side"), [(MNIST, 140), (MNIST, 28), (DIGITS, 140), (f"{DIGITS}/versions/1", 8)])
def test_prepared_pixels_are_those_that_predict_bytes_makes(server: Running, name: str, side: int) -> None:
    picture = png(side, seed=side)
    prepared = requests.post(f"{server.url}/prepare/{name}", data=picture, timeout=60)
    assert prepared.status_code == 200, prepared.text
    direct = predict(server, name, {"signature_name": "predict_bytes", "instances": [{"b64": b64(picture)}]})
    by_hand = predict(server, name, {"instances": prepared.json()["instances"]})
    assert by_hand["logits"] == pytest.approx(direct["logits"], abs=1e-4)
    levels = predict(server, name, prepared.content)
    assert levels["logits"] == pytest.approx(direct["logits"], abs=1e-4)
    assert set(levels) > {"block1", "hidden1", "logits"}


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("nobody", b"", 404, "Servable not found for request: Latest(nobody)"),
        (f"{MNIST}/versions/7", b"", 404, f"Servable not found for request: Specific({MNIST}, 7)"),
        (f"{MNIST}/labels/x", b"", 400, "Unrecognized servable version label: x"),
        (MNIST, b"no image", 400, "Unknown image file format"),
        (MNIST, b"", 400, ""),
        (MNIST, b"x" * 300_001, 413, "The request's body is larger than 300000 bytes"),
    ],
)
def test_what_cannot_be_prepared(server: Running, path: str, body: bytes, status: int, message: str) -> None:
    answer = requests.post(f"{server.url}/prepare/{path}", data=body, timeout=60)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["error"]


def test_names_in_the_path_are_decoded(tmp_path: Path) -> None:
    name = "it's 100 % ä"
    with serving([ModelSource(name, SAVED / DIGITS, labels={"a b": 1})], playground=True) as running:
        for choice in ("", "/labels/a%20b"):
            answer = requests.post(f"{running.url}/prepare/it%27s%20100%20%25%20%C3%A4{choice}", data=png(8), timeout=60)
            assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs a browser: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'neuron-zoo[test]'")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


Visit = Callable[..., Any]
WATCH = "window.violations = []; document.addEventListener('securitypolicyviolation', (event) => window.violations.push(event.blockedURI))"
SETTLED = """() => {
    const cards = [...document.querySelectorAll('.card')];
    return cards.length > 0 && cards.every((card) => card.ariaBusy === 'false');
}"""


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    """Gives `visit(url, **options)`: the page in a context of its own. At the end nothing may stand on the console."""
    contexts, said = [], list[str]()
    allowed: list[str] = []

    def open_page(url: str, expected: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        context.set_default_timeout(120_000)  # a machine may be busy; no test waits so long where all is well
        contexts.append(context)
        allowed.append(expected)
        page = context.new_page()
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(f"uncaught: {error}"))
        page.add_init_script(WATCH)
        page.goto(url)
        page.wait_for_function("() => document.getElementById('status').dataset.kind === 'live'")
        return page

    yield open_page
    for context in contexts:
        for page in context.pages:
            leave(page)
    assert [line for line in said if not any(word and word in line for word in allowed)] == []


def leave(page: Any) -> None:
    """Closes the page. Where its server stops this comes first, else the page would complain of it."""
    assert page.evaluate("() => window.violations") == []
    page.context.close()


def draw(page: Any, strokes: list[list[tuple[float, float]]]) -> None:
    """Draws by mouse."""
    box = page.locator("#pad").bounding_box()
    for stroke in strokes:
        points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]
        page.mouse.move(*points[0])
        page.mouse.down()
        for point in points[1:]:
            page.mouse.move(*point)
        page.mouse.up()


def settled(page: Any) -> None:
    """Waits until every model has answered about what is drawn now."""
    page.wait_for_function(SETTLED)


def label(page: Any, name: str = MNIST) -> str:
    return page.locator(".card", has=page.locator(".name", has_text=name)).locator(".label").inner_text()


def without_maps(page: Any) -> Any:
    page.locator("#maps").uncheck()
    return page


def test_drawn_digits_come_out_right(server: Running, visit: Visit) -> None:
    page = without_maps(visit(server.url))
    said = {}
    for digit, strokes in examples().items():
        draw(page, strokes)
        settled(page)
        said[digit] = label(page)
        page.click("#clear")
        assert label(page) == ""
    assert len(said) == 10
    assert sum(digit == answer for digit, answer in said.items()) >= 9, said


def test_an_answer_in_full(server: Running, visit: Visit) -> None:
    page = visit(server.url)
    assert page.locator("#verdict").inner_text() == "2 models"
    page.click("#examples button:text-is('3')")
    page.wait_for_function("() => document.querySelectorAll('.mark.right').length === 2")
    settled(page)
    card = page.locator(f".card[aria-label='{MNIST}']")
    assert card.locator(".label").inner_text() == "3"
    assert card.locator(".columns .class").all_inner_texts() == list("0123456789")
    assert card.locator(".columns .best .class").inner_text() == "3"
    shares = card.locator(".bar i").evaluate_all("(bars) => bars.map((bar) => Number(bar.style.getPropertyValue('--share')))")
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    heights = card.locator(".bar i").evaluate_all("(bars) => bars.map((bar) => bar.offsetHeight)")
    assert heights.index(max(heights)) == shares.index(max(shares)) == 3
    assert re.fullmatch(r"3: (> )?\d+\.\d %, .*", card.locator(".bars").get_attribute("aria-label"))
    assert re.fullmatch(r"\d+(\.\d)? ms", card.locator(".latency").inner_text())
    page.wait_for_function("() => document.getElementById('live').textContent === 'All 2 models say 3'")
    # Feature maps: the input and every level that the model has, none of them blank.
    captions = card.locator("figcaption").all_inner_texts()
    assert captions == ["input · 28 × 28", "preprocess · 28 × 28", "block1 · 14 × 14 × 16", "block2 · 7 × 7 × 32", "hidden1 · 128", "logits · 10"]
    inked = "(canvases) => canvases.map((one) => new Set(one.getContext('2d').getImageData(0, 0, one.width, one.height).data).size)"
    assert min(card.locator("canvas").evaluate_all(inked)) > 2
    assert card.locator("canvas").first.evaluate("(one) => [one.width, one.height]") == [28, 28]
    page.click("#clear")
    assert [page.locator(what).count() for what in (".mark.right", "figure", ".bars .best")] == [0, 0, 0], "nothing is left of it"


def test_one_request_under_way_for_each_model(server: Running, visit: Visit) -> None:
    page = without_maps(visit(server.url))
    under_way, most, sent = dict.fromkeys((MNIST, DIGITS), 0), 0, 0

    def count(step: int) -> Callable[[Any], None]:
        def counted(request: Any) -> None:
            nonlocal most, sent
            for name in under_way:
                if f"/{name}:predict" in request.url:
                    under_way[name] += step
                    most, sent = max(most, under_way[name]), sent + (step > 0)

        return counted

    page.on("request", count(1))
    page.on("requestfinished", count(-1))
    draw(page, examples()["8"])
    settled(page)
    assert label(page) == "8"
    assert most == 1
    assert sent >= 2


def test_an_answer_to_what_is_gone_is_dropped(server: Running, visit: Visit) -> None:
    page = without_maps(visit(server.url))
    held: list[Any] = []
    holding = [True]
    page.route("**/v1/models/*:predict", lambda route: held.append(route) if holding else route.continue_())
    with page.expect_request("**/v1/models/*:predict"):
        draw(page, examples()["1"])
    page.click("#clear")
    assert held, "a request is under way"
    holding.clear()
    for route in held:
        route.continue_()
    settled(page)
    assert (label(page), label(page, DIGITS)) == ("", "")


def test_touch_draws_and_does_not_scroll(server: Running, visit: Visit) -> None:
    page = visit(server.url, viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2)
    assert not page.locator("#maps").is_checked(), "the answers fit on a phone's screen"
    page.evaluate("() => scrollTo(0, 20)")
    box = page.locator("#pad").bounding_box()
    client = page.context.new_cdp_session(page)
    for stroke in examples()["7"]:
        for index, (x, y) in enumerate(stroke):
            points = [{"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}]
            client.send("Input.dispatchTouchEvent", {"type": "touchMove" if index else "touchStart", "touchPoints": points})
        client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    settled(page)
    assert label(page) == "7"
    assert page.evaluate("() => scrollY") == 20
    assert page.evaluate("() => document.documentElement.scrollHeight > innerHeight + 20"), "it could have scrolled"


def fits(page: Any) -> bool:
    return page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")


def test_a_phones_screen_is_wide_enough(server: Running, visit: Visit) -> None:
    page = visit(server.url, viewport=PHONE, has_touch=True, is_mobile=True)
    assert fits(page)
    page.locator("#maps").check()
    page.click("#examples button:text-is('5')")
    page.wait_for_function("() => document.querySelectorAll('.mark.right').length > 0")
    settled(page)
    assert fits(page)
    page.click("#console > summary")
    page.wait_for_function("() => document.querySelector('textarea').value")
    page.click("#form button.primary")
    page.locator("#response").wait_for()
    assert fits(page)
    page.locator("button:text-is('Card')").first.click()
    page.locator("#about tbody").wait_for()
    assert fits(page)
    box = page.locator("#about").bounding_box()
    assert 0 <= box["x"] < box["x"] + box["width"] <= PHONE["width"]


def digit_file(index: int = 0) -> tuple[bytes, str]:
    """A test image of the digits as a PNG file, and its class."""
    import tensorflow as tf

    digits = zoo.load_dataset("digits", "test")
    return tf.io.encode_png(digits.images[index]).numpy(), str(digits.labels[index])


DROP = """([pad, data, name, type]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(data), (sign) => sign.charCodeAt(0))], name, { type }));
    pad.dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true, cancelable: true }));
}"""


def run_in_shell(command: str, directory: Path) -> Any:
    """What a command line that the page shows gets as an answer, in the plainest of shells."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    process = subprocess.run(["/bin/sh", "-c", command], cwd=directory, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)["predictions"][0]


def test_a_dropped_file_goes_as_it_is(server: Running, visit: Visit, tmp_path: Path) -> None:
    data, digit = digit_file()
    page = without_maps(visit(server.url))
    page.click(f".card[aria-label='{DIGITS}'] .name")
    with page.expect_request(f"**/{DIGITS}:predict") as asked:
        page.evaluate(DROP, [page.query_selector("#pad"), b64(data), "it's a digit.png", "image/png"])
    assert json.loads(asked.value.post_data)["instances"] == [{"b64": b64(data)}], "byte for byte"
    page.wait_for_function("() => !document.getElementById('command').hidden")
    settled(page)
    assert label(page, DIGITS) == digit
    (tmp_path / "it's a digit.png").write_bytes(data)
    assert run_in_shell(page.locator("#command pre").inner_text(), tmp_path)["label"] == digit
    draw(page, examples()["1"])
    settled(page)
    assert label(page) == "1", "a stroke takes the file's place"


def test_a_file_that_is_chosen(server: Running, visit: Visit) -> None:
    data, _ = digit_file(1)
    page = without_maps(visit(server.url))
    page.set_input_files("#file", {"name": "digit.png", "mimeType": "image/png", "buffer": data})
    page.wait_for_function("() => document.querySelectorAll('.label:not(:empty)').length === 2")
    assert label(page, DIGITS) == predict(server, DIGITS, {"signature_name": "predict_bytes", "instances": [{"b64": b64(data)}]})["label"]
    page.click("#undo")
    assert label(page, DIGITS) == ""
    page.set_input_files("#file", {"name": "text.txt", "mimeType": "text/plain", "buffer": b"no image"})
    page.wait_for_function("() => document.getElementById('status').textContent === 'text.txt is not an image that can be shown'")


def test_the_command_line_gives_the_same_answer(server: Running, visit: Visit, tmp_path: Path) -> None:
    page = without_maps(visit(server.url, permissions=["clipboard-read", "clipboard-write"]))
    draw(page, examples()["2"])
    settled(page)
    page.wait_for_function("() => !document.getElementById('command').hidden")
    command = page.locator("#command pre").inner_text()
    answer = run_in_shell(command, tmp_path)
    assert answer["label"] == label(page) == "2"
    shares = page.locator(f".card[aria-label='{MNIST}'] .bar i").evaluate_all("(bars) => bars.map((bar) => bar.style.getPropertyValue('--share'))")
    assert answer["probabilities"] == pytest.approx([float(share) for share in shares], abs=1e-6)
    page.click("#command button")
    page.wait_for_function("() => document.querySelector('#command button').textContent === 'Copied'")
    assert page.evaluate("() => navigator.clipboard.readText()") == command
    page.click(f".card[aria-label='{DIGITS}'] .name")
    page.wait_for_function(f"() => document.querySelector('#command pre').textContent.includes('/{DIGITS}:predict')")
    assert page.locator(".card.selected .name[aria-pressed=true]").all_inner_texts() == [DIGITS]


def test_the_keyboard_draws(server: Running, visit: Visit) -> None:
    page = visit(server.url)
    for _ in range(5):
        if page.evaluate("() => document.activeElement.id") == "pad":
            break
        page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.id") == "pad", "Tab leads to the pad"
    assert page.locator("#pad").evaluate("(pad) => getComputedStyle(pad).outlineStyle") == "solid", "and one sees it"

    def one() -> None:
        for key in ["ArrowUp"] * 8 + ["Space"] + ["ArrowDown"] * 16 + ["Space"]:
            page.keyboard.press(key)

    one()
    settled(page)
    assert label(page) == "1"
    assert page.locator("#pen").inner_text() == "Pen up"
    page.keyboard.press("z")
    assert label(page) == ""
    for key in ("c", "Escape"):
        page.keyboard.press("Space")
        page.keyboard.press("ArrowUp")
        page.keyboard.press("Space")
        settled(page)
        assert label(page) != ""
        page.keyboard.press(key)
        assert label(page) == ""
        page.wait_for_function("() => document.getElementById('clear').disabled")


def test_two_arrows_at_once_make_a_diagonal(server: Running, visit: Visit) -> None:
    page = without_maps(visit(server.url))
    page.focus("#pad")
    for key in ["ArrowUp"] * 7 + ["ArrowLeft"] * 4 + ["Space"] + ["ArrowRight"] * 8:
        page.keyboard.press(key)
    page.keyboard.down("ArrowLeft")
    for _ in range(8):
        page.keyboard.down("ArrowDown")
        page.keyboard.up("ArrowDown")
    page.keyboard.up("ArrowLeft")
    page.keyboard.press("Space")
    settled(page)
    assert label(page) == "7"


def test_every_control_has_a_name(server: Running, visit: Visit) -> None:
    page = visit(server.url)
    page.click("#console > summary")
    unnamed = """() => [...document.querySelectorAll('button, select, textarea, input, canvas[tabindex]')].filter((node) =>
        !(node.ariaLabel || node.textContent.trim() || node.labels?.length)).map((node) => node.outerHTML)"""
    assert page.evaluate(unnamed) == []
    assert page.locator("html").get_attribute("lang") == "en"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system(server: Running, visit: Visit, scheme: str) -> None:
    page = visit(server.url, color_scheme=scheme)
    draw(page, examples()["0"])
    ground, text = page.evaluate("() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, text)]
    assert (brightness[0] < brightness[1]) == (scheme == "dark")
    ink = page.evaluate("""() => { const pad = document.getElementById('pad');
        const data = pad.getContext('2d').getImageData(0, 0, pad.width, pad.height).data;
        for (let at = 3; at < data.length; at += 4) if (data[at] === 255) return data[at - 1]; }""")
    assert (ink > 128) == (scheme == "dark")
    settled(page)
    assert label(page) == "0", "what is sent does not depend on it"


def test_less_motion_shows_an_example_at_once(server: Running, visit: Visit) -> None:
    page = without_maps(visit(server.url, reduced_motion="reduce"))
    asked = []
    page.on("request", lambda request: asked.append(request.url) if ":predict" in request.url else None)
    page.click("#examples button:text-is('6')")
    page.wait_for_function("() => document.querySelectorAll('.mark.right').length === 2")
    assert len(asked) == 2, "one request for each model: there was nothing in between"
    assert page.locator(".bar i").first.evaluate("(bar) => getComputedStyle(bar).transitionDuration") == "0s"


def test_the_card_in_words(server: Running, visit: Visit) -> None:
    page = visit(server.url)
    page.click(f".card[aria-label='{MNIST}'] button:text-is('Card')")
    page.locator("#about tbody tr").first.wait_for()
    words = page.locator("#about dl").inner_text()
    assert "99.49 % (95 % interval 99.33 % to 99.61 %)" in words
    assert "218,778" in words
    assert page.locator("#about tbody th").all_inner_texts() == [
        f"{name}\n{name if name == 'classify' else 'predict'}"
        for name in ("classify", "features", "predict_bytes", "predict_uint8", "serving_default")
    ]
    page.keyboard.press("Escape")
    assert not page.locator("#about").is_visible()


def test_names_that_look_like_markup_are_text(visit: Visit, tmp_path: Path) -> None:
    card = json.loads((SAVED / DIGITS / "1" / "assets.extra" / "card.json").read_text())

    def spoiled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spoiled(item) for key, item in value.items()}
        if isinstance(value, list):
            return [spoiled(item) for item in value]
        return EVIL if isinstance(value, str) else value

    for name, content in (("strings", spoiled(card)), ("odd", {key: [EVIL, {"a": None}] for key in card})):
        export_copy(tmp_path / name / "1", json.dumps(content).encode())
    evil = f"it's {EVIL} $(id)"
    labels = {EVIL: 1}
    sources = [ModelSource(evil, tmp_path / "strings", "all", labels=labels), ModelSource("odd", tmp_path / "odd")]
    half_plus(tmp_path / "half" / "1", 2)
    sources.append(ModelSource(f"half {EVIL}", tmp_path / "half", "all", labels=labels))
    with serving(sources, playground=True) as running:
        page = visit(running.url, expected="TrustedHTML")
        draw(page, examples()["3"])
        settled(page)
        assert page.locator(".card .label").all_inner_texts() == ["3", "3"]
        assert EVIL in page.locator(".card").first.locator(".rows").inner_text(), "names of classes come from the card"
        page.wait_for_function("() => !document.getElementById('command').hidden")
        assert run_in_shell(page.locator("#command pre").inner_text(), tmp_path)["label"] == "3"
        for index in range(2):
            page.locator("button:text-is('Card')").nth(index).click()
            page.locator("#about tbody").wait_for()
            assert EVIL in page.locator("#about").inner_text()
            page.keyboard.press("Escape")
        page.locator("#list summary").click()
        page.locator("#list tbody").wait_for()
        page.click("#console > summary")
        page.wait_for_function("() => document.querySelector('textarea').value")
        assert page.evaluate("() => [document.querySelectorAll('img, script:not([src])').length, typeof owned]") == [0, "undefined"]
        with pytest.raises(Exception, match="TrustedHTML"):
            page.evaluate("() => { document.body.innerHTML = '<b>x</b>'; }")
        page.evaluate("() => { window.violations = []; }")
        leave(page)


def test_json_to_models_that_read_no_images(plain: Running, visit: Visit, tmp_path: Path) -> None:
    page = visit(plain.url, expected="status of 400")
    assert not page.locator("#left").is_visible()
    assert page.locator("#list details").count() == 3
    page.locator("#list tbody").nth(1).wait_for()
    assert "cannot be loaded" in page.locator("#list details").first.inner_text()
    metadata = page.locator("#list details", has_text="several").inner_text()
    assert "text string (…)" in metadata
    assert "float (…, 3)" in metadata

    def send() -> Any:
        page.locator("[name=outcome]").evaluate("(node) => { node.textContent = ''; }")
        page.click("#form button.primary")
        page.wait_for_function("() => document.querySelector('[name=outcome]').textContent.startsWith('Status')")
        return json.loads(page.locator("#response").inner_text())

    def choose(field: str, value: str) -> Any:
        before = page.locator("textarea").input_value()
        page.select_option(f"[name={field}]", value)
        page.wait_for_function("(before) => document.querySelector('textarea').value !== before", arg=before)
        return json.loads(page.locator("textarea").input_value())

    page.wait_for_function("() => document.querySelector('textarea').value")
    assert json.loads(page.locator("textarea").input_value()) == {"instances": [0]}
    assert send() == {"predictions": [2.0]}
    assert re.fullmatch(r"Status 200 · \d+(\.\d)? ms", page.locator("[name=outcome]").inner_text())
    assert run_in_shell(page.locator("#form .shell pre").inner_text(), tmp_path) == 2.0
    page.fill("textarea", '{"instances": [4.0]}')
    assert send() == {"predictions": [4.0]}
    assert page.locator("#response").inner_text().split() == ["{", '"predictions":', "[4.0]}"], "numbers as they came"
    assert choose("signature", "regress") == {"signature_name": "regress", "instances": [""]}, "by the method that the signature has"
    assert choose("method", "regress") == {"signature_name": "regress", "examples": [{"x": 0.5}]}
    assert send() == {"results": [2.25]}
    page.fill("textarea", "no JSON")
    assert "JSON" in send()["error"]
    assert page.locator("[name=outcome]").inner_text().startswith("Status 400")
    assert choose("model", "several") == {"instances": [{"flag": False, "number": 0, "text": ""}]}
    page.fill("textarea", '{"instances": [{"flag": true, "number": 1, "text": "a"}]}')
    assert send()["predictions"][0]["number"] == 2
    assert choose("signature", "product") == {"signature_name": "product", "inputs": {"x": [[0, 0, 0]], "y": [[0], [0], [0]]}}
    assert send() == {"outputs": [[0.0]]}


def test_examples_of_bodies_for_models_that_read_images(server: Running, visit: Visit) -> None:
    page = without_maps(visit(server.url))
    assert not page.locator("#form").is_visible(), "the form is there, folded"
    draw(page, examples()["9"])
    settled(page)
    page.click("#console > summary")
    for signature in ("serving_default", "predict_uint8", "predict_bytes", "classify", "features"):
        page.wait_for_function("(name) => [...document.querySelector('[name=signature]').options].some((one) => one.value === name)", arg=signature)
        page.select_option("[name=signature]", signature)
        named = """(name) => JSON.parse(document.querySelector('textarea').value || '{"signature_name": ""}').signature_name ===
            (name === 'serving_default' ? undefined : name)"""
        page.wait_for_function(named, arg=signature)
        page.locator("[name=outcome]").evaluate("(node) => { node.textContent = ''; }")
        page.click("#form button.primary")
        page.wait_for_function("() => document.querySelector('[name=outcome]').textContent.startsWith('Status')")
        assert page.locator("[name=outcome]").inner_text().startswith("Status 200"), page.locator("#response").inner_text()
        if signature in ("predict_bytes", "classify"):
            assert '"9"' in page.locator("#response").inner_text(), "the drawing is the example"


def test_a_new_version_appears_and_an_old_one_goes(visit: Visit, tmp_path: Path) -> None:
    shutil.copytree(SAVED / DIGITS / "1", tmp_path / DIGITS / "1")
    with serving([ModelSource(DIGITS, tmp_path / DIGITS)], playground=True) as running:
        page = without_maps(visit(running.url))
        draw(page, examples()["0"])
        settled(page)
        select = f"select[aria-label='Version of {DIGITS}']"
        assert page.locator(f"{select} option").all_inner_texts() == ["latest (1)", "version 1"]
        with page.expect_request(f"**/{DIGITS}/versions/1:predict"):
            page.select_option(select, "versions/1")
        settled(page)
        assert label(page, DIGITS) == "0"
        shutil.copytree(SAVED / "relu_mlp.digits" / "1", tmp_path / "coming")
        (tmp_path / "coming").rename(tmp_path / DIGITS / "2")
        page.wait_for_function("(select) => document.querySelector(select).textContent === 'latest (2)version 2'", arg=select)
        assert page.locator("#status").inner_text().endswith(f"{DIGITS}: version 1 is gone, asking the latest")
        page.wait_for_function("() => document.querySelector('.label').textContent !== ''")
        settled(page)
        assert (page.locator(select).input_value(), label(page, DIGITS)) == ("", "0")
        page.click("button:text-is('Card')")
        assert "relu" in page.locator("#about details pre").text_content()
        leave(page)


class Stand:
    """A server that can be stopped, and started again at the same port."""

    def __init__(self, sources: list[ModelSource]) -> None:
        self.manager = Manager(sources, QUICK)
        self.application = RestApplication(Service(self.manager), operations=Operations(self.manager), playground=Playground(self.manager))
        self.port = 0
        self.start()

    def start(self) -> None:
        self.listener = bind("127.0.0.1", self.port)
        self.port = self.listener.getsockname()[1]
        self.server = http_server(self.application)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.005)

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()
        self.listener.close()

    def close(self) -> None:
        self.stop()
        self.application.close()
        self.manager.close()


def test_the_server_goes_and_comes_back(visit: Visit) -> None:
    stand = Stand(saved(DIGITS))
    with contextlib.closing(stand):
        page = visit(f"http://127.0.0.1:{stand.port}", expected="net::ERR")
        without_maps(page)
        draw(page, examples()["0"])
        settled(page)
        assert label(page, DIGITS) == "0"
        stand.stop()
        page.wait_for_function("() => document.getElementById('status').dataset.kind === 'lost'")
        assert page.locator("#status").inner_text().endswith("The server does not answer, trying again")
        page.click("#clear")
        draw(page, examples()["6"])  # meanwhile one may go on
        assert label(page, DIGITS) == ""
        stand.start()
        page.wait_for_function("() => document.getElementById('status').dataset.kind === 'live'")
        page.wait_for_function("() => document.querySelector('.label').textContent === '6'")
        page.click("#clear")
        draw(page, examples()["1"])
        settled(page)
        assert label(page, DIGITS) == "1"
        leave(page)
