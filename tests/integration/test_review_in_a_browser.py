"""The page of `medseg-site review` in a real browser: what is on the screen, and what mouse and keys do."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import PROGRAM, Browser, browser
from PIL import Image
from reviewing import (
    SHAPE,
    SPACING,
    Site,
    make_scan,
    make_truth,
    material_of,
    served,
    write_cohort,
    write_grid,
)

from medseg_client.review.answers import Material
from medseg_client.review.cases import Predictions
from medseg_client.review.labels import LabelSource
from medseg_client.review.reviewed import file_cases
from medseg_core.types import Case

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine: make chromium"),
]
READY = "state.labels !== null && state.views.every((v) => v.drawn?.truth && !v.isBusy)"
SLICE = "state.views[0].drawn.index"


@pytest.fixture(scope="module")
def screen() -> Iterator[Browser]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = write_cohort(tmp_path_factory.mktemp("cohort"))
    write_grid(folder / "predictions/b.entropy.nii.gz", np.full(SHAPE, 0.5, np.float32))
    (folder / "images/c_ct.nii.gz").write_bytes(b"no image")
    with served(material_of(folder, dice={"a": 0.9, "b": 0.4})) as site:
        yield site


def look(screen: Browser, site: Site, *, case: str = "", ready: str = READY, **window: Any) -> Browser:
    """Open the page at a case, and wait until it is on the screen."""
    screen.problems.clear()
    screen.requested.clear()
    screen.open("about:blank")
    address = f"http://127.0.0.1:{site.server.server_port}{site.enter()}"
    screen.open(address + (f"#{case}" if case else ""), **window)
    screen.wait_for(ready)
    return screen


@pytest.fixture
def page(screen: Browser, site: Site) -> Browser:
    return look(screen, site, case="a")


def centre(page: Browser, view: int = 0) -> tuple[float, float]:
    box = page.run(f"JSON.stringify(state.views[{view}].canvas.getBoundingClientRect())")
    found = json.loads(box)
    return found["x"] + found["width"] / 2, found["y"] + found["height"] / 2


def colour_at(page: Browser, x: int, y: int, view: int = 0) -> list[int]:
    """What the screen shows in the middle of a voxel of a plane."""
    return list(
        page.run(
            f"""(() => {{ const view = state.views[{view}], at = view.place();
            const x = Math.floor(at.x + ({x} + .5) * at.kx), y = Math.floor(at.y + ({y} + .5) * at.ky);
            return [...view.canvas.getContext("2d").getImageData(x, y, 1, 1).data.slice(0, 3)]; }})()"""
        )
    )


def amber(page: Browser) -> int:
    """How many pixels of the large plane have the colour of the first label."""
    return int(
        page.run(
            """(() => { const c = state.views[0].canvas, context = c.getContext("2d");
            const data = context.getImageData(0, 0, c.width, c.height).data;
            let n = 0; for (let at = 0; at < data.length; at += 4)
              if (data[at] > 225 && Math.abs(data[at + 1] - 179) < 30 && data[at + 2] < 70) n++;
            return n; })()"""
        )
    )


def test_every_plane_shows_the_voxels_of_the_scan_through_the_window(page: Browser) -> None:
    page.run(
        """['smooth', 'cross', 'truth-shown', 'prediction-shown'].forEach((id) => $(id).checked && $(id).click());
        setWindow([-1000, 1500], '')"""
    )
    scan = make_scan()[:, :, ::-1]
    i, j, k = page.run("state.position")

    planes = page.run("state.views.map((view) => view.plane)")
    shown = [colour_at(page, 2, 7, n)[0] for n in range(3)]

    assert planes == ["axial", "coronal", "sagittal"]
    values = [scan[2, 7, k], scan[2, j, 7], scan[i, 2, 7]]
    assert shown == pytest.approx([(int(value) + 1000) * 255 / 2500 for value in values], abs=1)


def test_voxels_have_the_proportions_of_their_spacing(page: Browser) -> None:
    ratios = page.run("state.views.map((view) => view.place()).map((at) => at.kx / at.ky)")

    left, back, feet = SPACING
    assert ratios == pytest.approx([left / back, left / feet, back / feet])


def test_scores_stand_beside_the_image(page: Browser) -> None:
    text = page.run("$('scores').innerText").split()

    assert text[text.index("core") :][:5] == ["core", "0.667", "5.0", "0.120", "0.0600"]
    assert "−50 %" in page.run("$('scores').innerText")
    assert text[text.index("mean") + 1] == "0.833"


def test_keys_and_wheel_scroll_slices_within_the_volume(page: Browser) -> None:
    start = page.run(SLICE)
    found = []
    for key in ("ArrowDown", "ArrowUp", "ArrowUp", "End", "PageUp", "PageDown", "Home", "ArrowUp"):
        page.press(key)
        page.wait_for("!state.views[0].isBusy")
        found.append(page.run(SLICE))
    page.mouse("mouseWheel", *centre(page), deltaX=0, deltaY=120)
    page.wait_for("!state.views[0].isBusy")

    assert start == 6
    assert found == [7, 6, 5, 9, 0, 9, 0, 0]
    assert page.run(SLICE) == 1
    assert page.run("state.views[0].figure.querySelector('.place').textContent") == "2 / 10"


def test_left_and_right_go_from_case_to_case(page: Browser) -> None:
    order = page.run("state.shown.map((each) => each.id)")
    page.press("ArrowLeft")
    page.wait_for(f"state.id === 'b' && {READY}")
    before = page.run("$('title').textContent").split()
    page.press("ArrowRight")
    page.wait_for(f"state.id === 'a' && {READY}")

    assert order == ["b", "a", "c"]  # lowest Dice first, those without last
    assert before == ["b", "north"]


def test_dragging_changes_window_and_level_and_a_preset_takes_it_back(page: Browser) -> None:
    first = page.run("state.window")
    x, y = centre(page)

    page.drag((x, y), (x + 60, y + 40))
    low, high = page.run("state.window")
    page.run("document.querySelector('#presets [value=lung]').click()")
    lung = page.run("state.window")
    page.press("w")

    extremes = page.run("state.image.layers[0].extremes")
    step = (extremes[1] - extremes[0]) / 700
    assert first == [-160, 240]  # soft tissue: values below -900 that are whole numbers are a CT's
    assert high - low == pytest.approx(first[1] - first[0] + 120 * step)
    assert (high + low) / 2 == pytest.approx((first[1] + first[0]) / 2 + 40 * step)
    assert lung == [-1350, 150]
    assert page.run("state.window") == first


def test_a_click_takes_the_other_planes_there(page: Browser) -> None:
    place = page.run(
        """(() => { const view = state.views[0], at = view.place(), box = view.canvas.getBoundingClientRect();
        return [box.x + at.x + 3.5 * at.kx, box.y + at.y + 20.5 * at.ky]; })()"""
    )
    page.drag(tuple(place), tuple(place))
    page.wait_for("state.views.every((view) => !view.isBusy)")

    assert page.run("state.position") == [3, 20, 6]
    assert page.run("state.views.map((view) => view.drawn.index)") == [6, 20, 3]


def test_truth_and_prediction_can_be_hidden_and_filled(page: Browser) -> None:
    both = amber(page)
    page.press("p")
    truth_alone = amber(page)
    page.press("t")
    neither = amber(page)
    page.press("t")
    page.run(
        "for (const [id, value] of [['truth-outline', false], ['truth-fill', 1]])"
        " { $(id).checked = value; $(id).value = 1; $(id).dispatchEvent(new Event('input')); }"
    )

    assert both > 50
    assert truth_alone > 50
    assert neither == 0
    assert colour_at(page, 5, 10) == [255, 179, 26]  # core
    assert colour_at(page, 11, 10) == [92, 200, 255]  # rim


def test_the_slice_that_differs_most_is_a_key_away(page: Browser) -> None:
    page.press("e")
    page.wait_for("!state.views[0].isBusy")

    assert page.run(SLICE) == 4


def test_another_plane_can_be_the_large_one(page: Browser) -> None:
    page.press("3")

    widths = page.run("state.views.map((view) => [view.plane, view.canvas.clientWidth])")
    assert widths[0][0] == "sagittal"
    assert widths[0][1] > 1.5 * widths[1][1]


def test_nearer_shows_the_same_voxel_under_the_pointer(page: Browser) -> None:
    x, y = (round(n) for n in centre(page))
    at = f"state.views[0].voxelAt({{clientX: {x + 50}, clientY: {y + 30}}})"
    before = page.run(at)

    page.mouse("mouseWheel", x + 50, y + 30, deltaX=0, deltaY=-300, modifiers=2)
    zoom, after = page.run("state.views[0].zoom"), page.run(at)
    page.press("0")

    assert zoom == pytest.approx(np.exp(300 / 400))
    assert after == pytest.approx(before)
    assert page.run("state.views[0].zoom") == 1


def test_what_is_under_the_pointer_is_told(page: Browser) -> None:
    page.mouse("mouseMoved", *centre(page))
    page.mouse("mouseMoved", centre(page)[0] + 1, centre(page)[1])

    text = page.run("$('under').textContent")
    i, j, k = (int(n) for n in text.split("voxel ")[1].split()[:3])
    assert f"{make_scan()[i, j, 9 - k]}" in text.split("image ")[1].replace("−", "-")
    assert f"L {i * 1.0:.1f}  P {j * 0.5:.1f}  H {(9 - k) * 2.5:.1f} mm" in text


def test_uncertainty_is_shown_where_there_is_a_map(screen: Browser, site: Site) -> None:
    page = look(screen, site, case="b")
    page.run("['truth-shown', 'prediction-shown'].forEach((id) => $(id).click())")
    grey = colour_at(page, 1, 1)
    page.press("u")
    page.wait_for("state.views[0].drawn.entropy && !state.views[0].isBusy")
    coloured = colour_at(page, 1, 1)

    assert grey[0] == grey[1] == grey[2]
    assert coloured[0] > coloured[2] + 20


def test_a_case_that_cannot_be_opened_says_why_and_the_next_one_works(screen: Browser, site: Site) -> None:
    page = look(screen, site, case="c", ready="!$('message').hidden && $('message').className === 'fault'")
    text = page.run("$('message').textContent")
    page.run("openCase('a')")
    page.wait_for(READY)

    assert "case c: " in text
    assert page.run("$('message').hidden")


def test_the_list_is_searched_and_sorted(page: Browser) -> None:
    page.run("$('sort').value = 'name'; $('sort').dispatchEvent(new Event('change'))")
    names = page.run("[...document.querySelectorAll('#list bdi')].map((each) => each.textContent)")
    page.run("$('find').value = 'B'; $('find').dispatchEvent(new Event('input'))")

    assert names == ["a", "b", "c"]
    assert page.run("$('list').innerText").split() == ["b", "0.40"]
    assert page.run("$('count').textContent") == "1 of 3 cases"


def test_the_page_speaks_with_its_server_alone_and_without_a_fault(page: Browser, site: Site) -> None:
    for key in ("ArrowDown", "o", "x", "?"):
        page.press(key)
    own = f"http://127.0.0.1:{site.server.server_port}/"

    assert [address for address in page.requested if not address.startswith((own, "about:"))] == []
    assert page.problems == []
    assert page.run("fetch('http://127.0.0.1:1/').then(() => 'sent', () => 'kept')") == "kept"
    assert page.run("document.cookie + localStorage.length + sessionStorage.length") == "00"


@pytest.mark.parametrize("is_dark", [False, True])
@pytest.mark.parametrize(("width", "height"), [(390, 844), (820, 1180), (1100, 700), (1920, 1080)])
def test_nothing_is_cut_off_at_any_width(
    screen: Browser, site: Site, width: int, height: int, is_dark: bool
) -> None:
    page = look(screen, site, case="a", width=width, height=height, is_dark=is_dark)

    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("window.scrollY") == 0
    assert page.run(
        "state.views.every((view) => view.canvas.clientHeight > 80 && view.canvas.clientWidth > 80)"
    )
    assert page.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(16, 21, 27)" if is_dark else "rgb(255, 255, 255)"
    )


def test_a_colour_photograph_is_shown_in_its_colours(screen: Browser, tmp_path: Path) -> None:
    photograph = np.zeros((40, 60, 3), np.uint8)
    photograph[:, :30], photograph[:, 30:] = (200, 80, 30), (255, 0, 90)
    Image.fromarray(photograph).save(tmp_path / "fundus.png")
    vessel = np.zeros((40, 60), np.uint8)
    vessel[::4] = 255
    Image.fromarray(vessel).save(tmp_path / "vessel.png")
    case = Case("eye", "p", "", (tmp_path / "fundus.png",), tmp_path / "vessel.png")
    with served(Material(file_cases([case], LabelSource(Predictions())))) as site:
        page = look(screen, site)
        page.run("$('smooth').click()")

        assert colour_at(page, 10, 2) == [200, 80, 30]
        assert colour_at(page, 50, 2) == [255, 0, 90]
        assert not page.run("$('truth-outline').checked")  # thin: filled, not outlined
        assert page.run("document.querySelectorAll('.scroller:not([hidden])').length") == 0


def test_all_cases_are_scored_on_request(screen: Browser, tmp_path: Path) -> None:
    folder = write_cohort(tmp_path, ("a", "b", "c", "d"))
    write_grid(folder / "predictions/b_ct_segmentation.nii.gz", np.zeros(SHAPE, np.uint8))
    (folder / "labels/c.nii.gz").write_bytes(b"no label")
    with served(material_of(folder)) as site:
        page = look(screen, site, case="a")
        page.run("$('score').click()")
        page.wait_for("!state.isScoring")

        assert page.run("$('list').innerText").split() == ["b", "0.00", "a", "0.83", "c", "d"]
        assert page.run("$('title').textContent") == "a north"
        assert page.run("$('score').hidden")


def test_a_style_that_the_reader_chose_stays_from_case_to_case(page: Browser) -> None:
    page.press("o")
    page.press("ArrowLeft")
    page.wait_for(f"state.id === 'b' && {READY}")

    assert page.run("['truth-outline', 'prediction-outline'].map((id) => $(id).checked)") == [True, False]
    assert page.run("['truth-fill', 'prediction-fill'].map((id) => $(id).value)") == ["0", "0.8"]


def test_small_steps_of_a_touchpad_add_up_to_slices(page: Browser) -> None:
    for _ in range(6):
        page.mouse("mouseWheel", *centre(page), deltaX=0, deltaY=20)
    page.wait_for("!state.views[0].isBusy")

    assert page.run(SLICE) == 8


def test_labels_without_a_name_in_common_are_shown_and_not_scored(screen: Browser, tmp_path: Path) -> None:
    folder = write_cohort(tmp_path, ("a", "b"))
    write_grid(folder / "labels/a.nii.gz", np.where(make_truth() > 0, 255, 0).astype(np.uint8))
    with served(material_of(folder)) as site:
        page = look(screen, site, case="a")
        page.press("e")

        assert "Start the page with --experiment" in page.run("$('scores').innerText")
        assert "Dice" not in page.run("$('scores').querySelector('table').innerText")
        assert page.run("$('worst').hidden")
        assert page.problems == []
