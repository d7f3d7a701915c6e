"""A QC report with oddities, and what a person sees and does on its page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.support import qc_cohort
from voco_data.qc.ledger import LedgerRow

SCRIPT = "<script>document.title='owned'</script>"
ODD_SPACING, FALLBACK, NAMED = 33, 13, 5
"""Numbers of the odd series of `rows`, and of the one whose source is a script."""


def rows() -> list[LedgerRow]:
    """40 series: 36 unremarkable ones or odd in one thing, 3 refused, 1 skipped; and one file."""
    made = [qc_cohort.kept(number) for number in range(36)]
    made[ODD_SPACING] = replace(made[ODD_SPACING], spacing_z_mm=8.0)
    made[FALLBACK] = replace(made[FALLBACK], box_confidence=0.3, box_method="whole")
    made[NAMED] = replace(made[NAMED], source=f"{SCRIPT}/&amp;")
    made += [qc_cohort.refused(number) for number in (100, 101, 103)]
    made.append(LedgerRow("series", "sc", "9.9", "p", "skipped", "derived", f"SC {SCRIPT}"))
    made.append(LedgerRow("file", "notes.txt", "", "", "skipped", "not_medical", "text"))
    return made


def uid(number: int) -> str:
    return qc_cohort.kept(number).series_uid


class Page:
    """What a person sees and does."""

    def __init__(self, chrome: webdriver.Chrome, path: Path) -> None:
        self.chrome = chrome
        for log in chrome.log_types:  # what is left of the page before
            chrome.get_log(log)
        chrome.get(path.as_uri())
        self.wait(lambda: self.script("return performance.getEntriesByName('usable').length"))

    def script(self, code: str, *values: object) -> object:
        return self.chrome.execute_script(code, *values)

    def wait(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.chrome, 10, poll_frequency=0.02).until(lambda _: condition())

    def names(self) -> list[str]:
        """Names of the visible rows, from the top."""
        found = self.script(
            "return [...document.querySelectorAll('#series tbody tr')].filter(r => !r.hidden)"
            ".map(r => r.querySelector('.open').textContent)"
        )
        assert isinstance(found, list)
        return found

    def column(self, key: str) -> list[str]:
        """Visible texts of a column, from the top."""
        found = self.script(
            "const heads = [...document.querySelectorAll('#series thead th')];"
            "const at = heads.findIndex(h => h.querySelector(`[data-key=${arguments[0]}]`));"
            "return [...document.querySelectorAll('#series tbody tr')].filter(r => !r.hidden)"
            ".map(r => r.cells[at].textContent)",
            key,
        )
        assert isinstance(found, list)
        return found

    def click(self, selector: str) -> None:
        self.chrome.find_element(By.CSS_SELECTOR, selector).click()

    def chip(self, value: str) -> None:
        self.click(f".chip[data-value={value}]")

    def text(self, selector: str) -> str:
        return self.chrome.find_element(By.CSS_SELECTOR, selector).text

    def order_of(self, key: str) -> str:
        """aria-sort of a column's head."""
        said = self.script(
            "return document.querySelector(`[data-key=${arguments[0]}]`).closest('th').ariaSort",
            key,
        )
        return str(said)

    def press(self, key: str) -> None:
        ActionChains(self.chrome).send_keys(key).perform()

    def find(self, words: str) -> None:
        field = self.chrome.find_element(By.ID, "find")
        field.clear()
        field.send_keys(words)

    def is_open(self) -> bool:
        return bool(self.script("return document.getElementById('detail').open"))
