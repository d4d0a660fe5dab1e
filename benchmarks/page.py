"""Time how fast the page of a run answers, in a browser without a window: from an input to the last picture.

Usage:
    pip install -r requirements-explore.txt        (on Debian also: apt install chromium-driver)
    python -m benchmarks.page RUN
"""

import importlib.util
import itertools
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import exit_on_sigterm
from experiments.scripts import markdown_table
from explore import ADDRESS
from training import UserError, data_path_flag, flag, parse_flags, read_json, run_command, whole_number
from training.startup import FOLDER

WAIT = 60  # seconds that anything may take
PAUSE = 2  # seconds between an answer and the next input: nobody reads faster
QUIET = 0.7  # seconds without a further picture: the answer is complete
# In the page. The time of the last input, and of the last picture since.
WATCH = """
for (const name of ['input', 'click'])
    document.addEventListener(name, () => { window.asked = performance.now(); window.shown = null; }, true);
document.addEventListener('load', event => {
    if (event.target.tagName === 'IMG') window.shown = performance.now();
}, true);
"""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Open the page of a run in a browser without a window, use each tab, and print how many seconds pass
    from an input to the last picture of the answer."""

    run: Path = flag(None, 'the run folder, of a system that is no GAN', Path, positional=True, metavar='RUN')
    data_path: str | None = data_path_flag(
        'where the run was trained from, or if that is gone the environment variable DATA_PATH'
    )
    repeats: int = flag(7, 'inputs of each kind, after the first (default: 7)', whole_number, metavar='N')


def start_browser():
    """A headless Chromium. UserError: there is none."""
    driver = shutil.which('chromedriver')
    if importlib.util.find_spec('selenium') is None or not driver:
        raise UserError(
            'expected Selenium and a chromedriver, got none; pip install -r requirements-explore.txt, and on '
            'Debian apt install chromium-driver'
        )
    from selenium import webdriver  # here: nothing else needs it

    options = webdriver.ChromeOptions()
    for word in (
        'headless=new',
        'no-sandbox',
        'disable-gpu',
        'window-size=1200,1400',
        'disable-dev-shm-usage',
    ):
        options.add_argument(f'--{word}')
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    browser.implicitly_wait(WAIT)
    return browser


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((ADDRESS, 0))
        return listener.getsockname()[1]


def wait_for_page(process: subprocess.Popen, port: int):
    """SystemExit: the program that serves it has ended, and said why."""
    while True:
        with socket.socket() as client:
            if client.connect_ex((ADDRESS, port)) == 0:
                return
        if process.poll() is not None:
            sys.exit(process.returncode)
        time.sleep(0.1)


def answer_time(browser, ask: Callable[[], None]) -> float:
    """Seconds from the last input of ask() to the last picture of the answer. UserError: none came."""
    time.sleep(PAUSE)
    ask()
    end = time.monotonic() + WAIT
    while time.monotonic() < end:
        asked, shown, now = browser.execute_script('return [window.asked, window.shown, performance.now()];')
        if shown and now - shown > 1e3 * QUIET:
            return (shown - asked) / 1e3
        time.sleep(0.1)
    raise UserError(f'expected an answer of the page within {WAIT} s, got none')


def actions(browser) -> dict[str, tuple[str, Callable[[], None]]]:
    """What is done -> its tab, and a function that does it, each time differently."""
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    strokes, points = itertools.count(), itertools.count()

    def visible(selector: str, by: str = By.CSS_SELECTOR):
        """The first visible element that the selector finds."""
        return next(element for element in browser.find_elements(by, selector) if element.is_displayed())

    def press(name: str):
        visible(f'//button[not(@role) and normalize-space()="{name}"]', By.XPATH).click()

    def slide(label: str):
        return lambda: visible(f'input[type=range][aria-label*="{label}"]').send_keys(Keys.ARROW_RIGHT)

    def erase():
        canvas, y = browser.find_element(By.CSS_SELECTOR, 'canvas'), next(strokes) % 12 * 8 - 48
        stroke = webdriver.ActionChains(browser).move_to_element_with_offset(canvas, -40, y).click_and_hold()
        for _ in range(4):
            stroke.move_by_offset(10, 3)
        stroke.release().perform()
        time.sleep(1)  # the editor sends the picture
        press('Fill in')

    def draw():
        visible('input[type=number]').send_keys(Keys.ARROW_UP)
        press('Draw')

    def choose():
        chart = visible('.image-container img')
        angle = 2.4 * next(points)
        x, y = (round(0.25 * chart.size['width'] * turn) for turn in (np.cos(angle), np.sin(angle)))
        webdriver.ActionChains(browser).move_to_element_with_offset(chart, x, y).click().perform()

    return {
        'fill in': ('Erase and fill in', erase),
        'walk': ('Walk', slide('direction 1')),
        'walk from another image': ('Walk', slide('test image')),
        'between, how far': ('Between', slide('how far')),
        'the whole way': ('Between', lambda: (slide('from test image')(), press('Show the whole way'))),
        'draw': ('Draw', draw),
        'a click on the map': ('Map', choose),
    }


def time_page(browser, port: int, repeats: int) -> list[list[str]]:
    """Lines of the table."""
    from selenium.webdriver.common.by import By

    browser.get(f'http://{ADDRESS}:{port}')
    browser.find_element(By.CSS_SELECTOR, 'canvas')
    time.sleep(3)  # the editor is drawn
    browser.execute_script(WATCH)
    lines = []
    for name, (tab, ask) in actions(browser).items():
        browser.find_element(By.XPATH, f'//button[@role="tab" and normalize-space()="{tab}"]').click()
        first, *others = (answer_time(browser, ask) for _ in range(1 + repeats))
        lines.append([name, *(f'{seconds:.2f}' for seconds in (first, np.median(others), max(others)))])
    return lines


def main():
    options = parse_flags(Options)
    if read_json(options.run / 'config.json').get('system') == 'gan':
        raise UserError(f'expected a run with latents of images, got a GAN in {options.run}; name another')
    exit_on_sigterm()
    browser = start_browser()
    port = free_port()
    command = [sys.executable, str(FOLDER / 'explore.py'), str(options.run), '--port', str(port)]
    command += ['--data-path', options.data_path] if options.data_path else []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for_page(process, port)
        lines = time_page(browser, port, options.repeats)
    finally:
        process.terminate()
        process.wait()
        browser.quit()
    print(f'{options.run}, {torch.get_num_threads()} threads, torch {torch.__version__}; seconds')
    print(markdown_table(['', 'the first', f'median of {options.repeats} others', 'slowest of these'], lines))


if __name__ == '__main__':
    run_command(main)
