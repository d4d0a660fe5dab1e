"""The page itself, in a browser: its tabs, and that it shows what the functions give."""

import gc
import io
import shutil
import time
import urllib.request
import warnings

import numpy as np
import pytest
from PIL import Image

import explore
from benchmarks import page as page_benchmark
from exploration import Explorer
from training import read_json

gradio = pytest.importorskip('gradio', reason='Gradio is not installed')
webdriver = pytest.importorskip('selenium.webdriver', reason='no browser: Selenium is not installed')
from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

if not shutil.which('chromedriver'):
    pytest.skip('no browser: there is no chromedriver', allow_module_level=True)


@pytest.fixture
def explorer(run_dir):
    found = Explorer(run_dir)
    found.prepare()
    return found


@pytest.fixture
def address(explorer, monkeypatch):
    from exploration.page import build_page

    monkeypatch.setenv('no_proxy', '*')
    page = build_page(explorer, read_json(explorer.folder / 'results.json'))
    _, address, _ = page.launch(server_name=explore.ADDRESS, prevent_thread_lock=True, quiet=True)
    yield address
    page.close()
    del page
    with warnings.catch_warnings():  # Gradio leaves an event loop open: another test would be told of it
        warnings.simplefilter('ignore', ResourceWarning)
        gc.collect()


@pytest.fixture
def browser():
    driver = page_benchmark.start_browser()  # its log has warnings and errors
    yield driver
    driver.quit()


def pixels(element):
    """The picture that an <img> of the page shows."""
    with urllib.request.urlopen(element.get_attribute('src')) as reply:
        return np.asarray(Image.open(io.BytesIO(reply.read())).convert('RGB'))


def eventually(holds):
    """Whether holds() becomes true within 60 seconds; the page may still be drawing what it looks for."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if holds():
                return True
        except (IndexError, WebDriverException):  # not there yet, or just replaced
            pass
        time.sleep(0.2)
    return False


def shows(browser, wanted):
    """Whether the first visible picture of the page becomes the wanted one."""
    return eventually(lambda: np.array_equal(pixels(visible_images(browser)[0]), wanted))


def open_tab(browser, name):
    browser.find_element(By.XPATH, f'//button[@role="tab" and normalize-space()="{name}"]').click()


def editor(browser):
    """The canvas of the editor, at its full size."""
    canvas = browser.find_element(By.CSS_SELECTOR, 'canvas')
    assert eventually(lambda: canvas.size['width'] >= 300)
    return canvas


def fill_in(browser):
    browser.find_element(By.XPATH, '//button[normalize-space()="Fill in"]').click()


def visible_images(browser):
    return [
        image
        for image in browser.find_elements(By.CSS_SELECTOR, '.image-container img')
        if image.is_displayed()
    ]


def test_the_page_shows_what_the_functions_give(browser, address, explorer):
    browser.get(address)
    title = 'A Laplace variational auto-decoder with 6 latent dimensions'
    assert eventually(lambda: title in browser.page_source)
    open_tab(browser, 'Walk')
    assert shows(browser, explorer.walk(0, 6 * [0.0]))
    slider = browser.find_elements(By.CSS_SELECTOR, 'input[type=range][aria-label*="direction 1"]')[0]
    for _ in range(10):
        slider.send_keys(Keys.ARROW_RIGHT)
    assert shows(browser, explorer.walk(0, [1.0]))

    open_tab(browser, 'Between')
    assert shows(browser, explorer.picture(explorer.between(0, 1, [0.5], False)[0]))

    open_tab(browser, 'Draw')
    assert shows(browser, explorer.draw('mixture', 0))

    open_tab(browser, 'Map')
    assert shows(browser, explorer.map())
    visible_images(browser)[0].click()  # the middle
    assert shows(browser, explorer.map(explorer.at(350, 350)))
    severe = [message for message in browser.get_log('browser') if message['level'] == 'SEVERE']
    assert not severe


def test_erased_pixels_are_filled_in(browser, address, explorer):
    browser.get(address)
    canvas = editor(browser)
    found = []

    def are_erased():
        """Draw the stroke, again if the editor was not ready for it, and have it filled in."""
        stroke = webdriver.ActionChains(browser).move_to_element_with_offset(canvas, -40, 0).click_and_hold()
        for _ in range(8):
            stroke.move_by_offset(10, 3)
        stroke.release().perform()
        fill_in(browser)
        time.sleep(3)
        pictures = browser.find_elements(By.CSS_SELECTOR, '.thumbnail-item img, .gallery-item img')
        found[:] = [pixels(picture).astype(int) for picture in pictures[:2]]
        return len(pictures) >= 6 and (found[0] == (120, 160, 230)).all(2).any()

    assert eventually(are_erased)
    left, mean = found
    erased = (left == (120, 160, 230)).all(2)
    original = explorer.original(0)
    assert 0.01 < erased.mean() < 0.5
    assert np.array_equal(mean[~erased], original[~erased])
    assert not np.array_equal(mean[erased], original[erased])


def test_a_picture_of_another_size_is_one_line_on_the_page(browser, address, tmp_path):
    Image.new('RGB', (50, 37)).save(tmp_path / 'other.png')
    browser.get(address)
    editor(browser)
    browser.find_element(By.CSS_SELECTOR, 'input[type=file]').send_keys(str(tmp_path / 'other.png'))
    # Height x width.
    line = 'expected a picture of 28 x 28 pixels, as the images of this run are, got 37 x 50; scale it'

    def is_said():
        fill_in(browser)  # again, if the picture was not uploaded yet
        time.sleep(3)
        return line in browser.page_source

    assert eventually(is_said)


def test_the_benchmark_uses_every_tab(command, run_dir, monkeypatch):
    monkeypatch.setenv('no_proxy', '*')
    monkeypatch.setattr(page_benchmark, 'PAUSE', 0.5)
    monkeypatch.setattr(page_benchmark, 'exit_on_sigterm', lambda: None)
    status, out, err = command(page_benchmark, run_dir, '--repeats', 1)
    assert status == 0 and not err
    lines = [line.split(' | ') for line in out.splitlines()[3:]]
    assert [line[0].strip('| ') for line in lines] == [
        'fill in',
        'walk',
        'walk from another image',
        'between, how far',
        'the whole way',
        'draw',
        'a click on the map',
    ]
    assert all(0 < float(seconds.strip(' |')) < page_benchmark.WAIT for line in lines for seconds in line[1:])


def test_the_benchmark_needs_latents(command, tmp_path):
    (tmp_path / 'config.json').write_text('{"system": "gan"}')
    status, out, err = command(page_benchmark, tmp_path)
    assert status == 2 and not out
    assert err == f'error: expected a run with latents of images, got a GAN in {tmp_path}; name another\n'
