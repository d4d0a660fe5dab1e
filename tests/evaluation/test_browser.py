"""The pages in a real browser: Chromium and its driver (Debian: chromium-driver), by Selenium."""

import json
import shutil

import numpy as np
import pytest

from evaluation.maps import write_map
from evaluation.page import write_index, write_report

webdriver = pytest.importorskip('selenium.webdriver', reason='no browser: Selenium is not installed')
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

if not shutil.which('chromedriver'):
    pytest.skip('no browser: there is no chromedriver', allow_module_level=True)
CONFIG = dict(system='vad', dist='gaussian', latent_dim=60, dataset='digits', n_train=100, n_test=20)


@pytest.fixture
def runs(digits, tmp_path):
    """The folder of two runs with different losses, the first with a report and a map."""
    for name, loss in (('a', 0.2), ('b', 0.03), ('c', None)):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'results.json').write_text(json.dumps(CONFIG | dict(test_loss=loss)))
    places = np.array([[x, y] for y in (0, 1) for x in range(10)], float)
    write_map(digits[1], places, tmp_path / 'a')
    write_report(tmp_path / 'a', dict(test_loss=0.2, samples=None), CONFIG)
    write_index(tmp_path)
    return tmp_path


@pytest.fixture
def browser(monkeypatch):
    monkeypatch.setenv('no_proxy', '*')  # the driver listens on this machine
    options = webdriver.ChromeOptions()
    for flag in ('--headless=new', '--no-sandbox', '--disable-gpu', '--window-size=1100,900'):
        options.add_argument(flag)
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    service = webdriver.ChromeService(shutil.which('chromedriver'))
    driver = webdriver.Chrome(options, service)
    yield driver
    messages = driver.get_log('browser')
    driver.quit()
    assert not messages


def caption(browser):
    return browser.find_element(By.CSS_SELECTOR, '.shown p').text


def test_the_image_under_the_pointer_is_shown(browser, runs, digits):
    browser.get(f'file://{runs}/a/report.html')
    assert caption(browser) == f'image 0: {digits[1].y[0]}'
    point = browser.find_elements(By.CSS_SELECTOR, '.map circle')[13]
    ActionChains(browser).scroll_to_element(point).move_to_element(point).perform()
    assert caption(browser) == f'image 13: {digits[1].y[13]}'
    thumbnail = browser.find_element(By.CSS_SELECTOR, '.thumbnail')
    assert thumbnail.value_of_css_property('background-position') == '-1820px 0px'


def test_arrow_keys_go_from_point_to_point(browser, runs):
    browser.get(f'file://{runs}/a/report.html')
    chart = browser.find_element(By.CSS_SELECTOR, '.map svg')
    keys = (Keys.ARROW_RIGHT, 1), (Keys.ARROW_UP, 11), (Keys.ARROW_UP, 11), (Keys.ARROW_LEFT, 10)
    for key, wanted in keys:
        chart.send_keys(key)
        assert caption(browser).startswith(f'image {wanted}:')


def test_a_click_sorts_the_runs(browser, runs):
    browser.get(f'file://{runs}/index.html')
    names = lambda: [a.text for a in browser.find_elements(By.CSS_SELECTOR, 'tbody a')]  # noqa: E731
    button = browser.find_element(By.XPATH, '//th/button[contains(., "loss of test images")]')
    assert names() == ['a', 'b', 'c']
    for wanted in ('b', 'a', 'c'), ('a', 'b', 'c'):  # ascending, descending; without a figure last
        button.click()
        assert names() == list(wanted)
