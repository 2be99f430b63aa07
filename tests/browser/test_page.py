"""The page in a real browser, opened from disk."""

import re
from dataclasses import replace

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from harness.answers import TaskAnswers, chosen
from harness.patterns import SemiStructured, Unstructured
from harness.record import LayerReport
from harness.reporting.page.build import asset
from harness.reporting.page.questions import Answers
from harness.reporting.statistics import mcnemar, paired_interval
from tests.browser.conftest import Browser, focused
from tests.reporting.conftest import contrast, make_accuracy, make_perplexity, make_record, published  # noqa: F401  (a fixture)

pytestmark = pytest.mark.browser

PERPLEXITY = "perplexity:wikitext2:seq2048:v1/perplexity"
LAYERS = tuple(
    LayerReport(f"blocks.{block}.{kind}", (8, 4), 0.5, 0.5, 0.01 * block, 64)
    for block in range(3)
    for kind in ("q_proj", "up_proj")
)
HOSTILE = (
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!--<script>",
    "'\"`${alert(1)}\\u2028",
    "\u2028\u2029\u202e&lt;b&gt;",
    "]]>{{ 7*7 }}{% raw %}",
    "<a href='https://evil.example'>x</a>",
)


def sweep() -> list:
    """Dense, and three methods at two sparsities and 2:4; one job failed, one was dirty."""
    jobs = [make_record("dense", results=(make_perplexity(27.6), make_accuracy(0.55)))]
    for number, method in enumerate(("magnitude", "sparsegpt", "wanda")):
        for step, pattern in enumerate((Unstructured(0.5), Unstructured(0.6), SemiStructured(2, 4))):
            results = (make_perplexity(30.0 + 10 * step + number), make_accuracy(0.5 - 0.01 * step - 0.001 * number))
            jobs.append(make_record(method, pattern, results, layers=LAYERS, dirty=(method, step) == ("wanda", 2)))
    return [*jobs, make_record("wanda", Unstructured(0.9), error="Traceback\nValueError: weights hold NaN")]


@pytest.fixture(scope="module")
def address(write_page) -> str:
    """The page of the sweep."""
    return str(write_page(sweep()))


def test_a_page_opens_without_network_and_without_a_word_on_the_console(browser: Browser, address: str) -> None:
    """Every view and plot draws from the file alone."""
    pruned = sweep()[1].job_id
    for view in ("", "matrix", "tradeoffs", "layers", "jobs"):
        browser.open(f"{address}#view={view}")
        assert browser.texts("#tabs [aria-current=page]")
        for figure in browser.all("figure"):
            browser.driver.execute_script("arguments[0].scrollIntoView()", figure)
            browser.until(lambda figure=figure: figure.find_elements(By.CSS_SELECTOR, "svg"), "drawn")
    browser.open(f"{address}#view=job&job={pruned}")
    browser.one(".vega-embed svg")
    browser.open(f"{address}#view=compare&pick={pruned}&pick={sweep()[2].job_id}")
    browser.one(".picked")
    assert browser.complaints() == []


def test_sorting_goes_up_down_and_back_and_says_so(browser: Browser, address: str) -> None:
    """A click on a header sorts, `aria-sort` tells it, and jobs without a value come last both ways."""
    browser.open(f"{address}#view=jobs")
    before = browser.column(PERPLEXITY)
    seen = []
    for _ in range(3):
        browser.click(f"sort-{PERPLEXITY}")
        header = browser.by_id(f"sort-{PERPLEXITY}").find_element(By.XPATH, "..")
        seen.append((header.get_attribute("aria-sort"), browser.column(PERPLEXITY)))
    (up, rising), (down, falling), (none, last) = seen
    assert (up, down, none) == ("ascending", "descending", "none")
    numbers = [float(text.split(" ")[0]) for text in rising[:-1]]
    assert numbers == sorted(numbers)
    assert falling[:-1] == rising[-2::-1]
    assert rising[-1] == falling[-1] == "–"
    assert last == before


def test_facets_filter_count_and_hide_what_no_longer_differs(browser: Browser, address: str) -> None:
    """Values of one axis add up, axes narrow each other, counts follow, and constants move to `common`."""
    browser.open(f"{address}#view=jobs")
    labels = browser.texts("#facets summary")
    assert labels == ["method", "pattern", "sparsity", "status", "checkout"]
    browser.one("#facets label[title='wanda']").click()
    assert set(browser.column("method")) == {"wanda", "wanda†", "wanda‡"}
    browser.one("#facets label[title='2:4']").click()
    assert browser.texts("#said") == ["1 of 11 jobs"]
    browser.one("#facets label[title='magnitude']").click()
    assert browser.texts("#said") == ["2 of 11 jobs"]
    assert "pattern 2:4, sparsity 50%" in browser.texts("#common")[0]
    amounts = dict(zip(browser.texts("#facets label"), browser.texts("#facets .amount"), strict=True))
    assert (amounts["sparsegpt"], amounts["unstructured"]) == ("1", "5")
    browser.click("all")
    assert browser.texts("#said") == ["11 jobs"]


def test_search_wants_all_words_in_any_field(browser: Browser, address: str) -> None:
    """Words are found in names, patterns and errors alike."""
    browser.open(f"{address}#view=jobs")
    for query, found in (("wanda 60%", 1), ("WANDA", 4), ("hold nan", 1), ("nothing-like-this", 0)):
        box = browser.by_id("search")
        box.clear()
        box.send_keys(query)
        browser.until(lambda found=found: browser.texts("#said") == [f"{found} of 11 jobs"], query)
    assert browser.texts(".empty")[0].startswith("No job passes these filters.")


def test_two_protocols_never_share_a_column_and_headers_name_them_in_full(browser: Browser, write_page) -> None:
    """Short in the cell, the whole protocol on hover, a dash where it was not measured."""
    one = make_record(results=(make_perplexity(10.0),))
    other = make_record("magnitude", results=(make_perplexity(20.0, seq_len=128),))
    browser.open(write_page([one, other]) + "#view=jobs")
    keys = [PERPLEXITY, "perplexity:wikitext2:seq128:v1/perplexity"]
    assert [browser.column(key) for key in keys] == [["–", "10.00"], ["20.00", "–"]]
    titles = [browser.by_id(f"sort-{key}").get_attribute("title") for key in keys]
    assert all(key.split("/")[0] in title for key, title in zip(keys, titles, strict=True))


def test_a_link_shows_the_same_view_in_a_fresh_browser(browser: Browser, address: str) -> None:
    """Filters, order, ticked jobs, theme: all of it is in the address, and back and forward walk through it."""
    browser.open(f"{address}#view=jobs")
    browser.one("#facets label[title='wanda']").click()
    browser.click(f"sort-{PERPLEXITY}")
    browser.click(f"pick-{sweep()[7].job_id}")
    browser.by_id("theme").find_element(By.CSS_SELECTOR, "[value=dark]").click()
    shown = (browser.column("sparsity"), browser.driver.find_element(By.TAG_NAME, "main").text)
    link = browser.driver.current_url
    browser.open(link)
    assert (browser.column("sparsity"), browser.driver.find_element(By.TAG_NAME, "main").text) == shown
    assert browser.one("html").get_attribute("data-theme") == "dark"
    browser.one("#facets label[title='sparsegpt']").click()
    browser.driver.back()
    browser.until(lambda: set(browser.column("method")) <= {"wanda", "wanda†", "wanda‡"}, "back")
    browser.driver.forward()
    browser.until(lambda: "sparsegpt" in browser.column("method"), "forward")


def figure_of(browser: Browser, name: str) -> str:
    """The text of a figure once it is drawn."""
    figure = browser.one(f"figure[id^={name}]")
    browser.driver.execute_script("arguments[0].scrollIntoView()", figure)
    browser.one(f"figure[id^={name}] svg")
    return str(browser.driver.execute_script("return arguments[0].querySelector('svg').textContent", figure))


def test_figures_follow_the_filters_and_their_choice_is_in_the_link(browser: Browser, address: str) -> None:
    """A filtered method is neither drawn nor in the legend, the numbers stand below, a reload shows the same kind."""
    browser.open(f"{address}#view=tradeoffs")
    whole = figure_of(browser, "perplexity")
    assert all(method in whole for method in ("dense", "magnitude", "sparsegpt", "wanda"))
    browser.open(f"{address}#view=tradeoffs&is.method=wanda&is.method=dense")
    drawn = figure_of(browser, "perplexity")
    assert "wanda" in drawn
    assert "sparsegpt" not in drawn
    browser.by_id("plot").find_element(By.CSS_SELECTOR, "[value=accuracy]").click()
    browser.until(lambda: "plot=accuracy" in browser.hash, "hash")
    browser.open(browser.driver.current_url)
    assert browser.by_id("plot").get_attribute("value") == "accuracy"
    assert {figure.get_attribute("id").split("-")[0] for figure in browser.all("figure")} == {"accuracy"}
    figure_of(browser, "accuracy-boolq")
    browser.one("figure[id^=accuracy-boolq] summary[id^=numbers]").click()
    assert "49.80" in browser.one("figure[id^=accuracy-boolq] table").text


def test_axes_fit_what_the_filters_leave(browser: Browser, write_page) -> None:
    """Without the job that lies far out the others are told apart; a figure of none of the jobs says so."""
    jobs = [
        make_record(method, results=(make_perplexity(value),)) for method, value in (("a", 900.0), ("b", 20), ("c", 21))
    ]
    address = write_page([replace(job, layers=LAYERS) for job in jobs])
    browser.open(f"{address}#view=tradeoffs")
    assert "500" in figure_of(browser, "perplexity")
    browser.open(f"{address}#view=tradeoffs&is.method=b&is.method=c")
    fitted = figure_of(browser, "perplexity")
    assert "20.5" in fitted or "20.4" in fitted
    assert "500" not in fitted


def test_a_mean_over_hidden_jobs_is_said(browser: Browser, write_page) -> None:
    """Seeds are averaged by Python; a mean of which only some jobs are selected is shown with a warning."""
    jobs = [make_record(seed=seed, results=(make_perplexity(20.0 + seed),)) for seed in range(3)]
    browser.open(write_page(jobs) + "#view=tradeoffs&is.seed=1")
    figure_of(browser, "perplexity")
    assert "one mark is a mean over jobs some of which the filters hide" in browser.texts("figure .warning")


def test_a_click_on_a_mark_opens_its_job(browser: Browser, write_page) -> None:
    """A mark of one job opens it."""
    job = make_record(results=(make_perplexity(20.0),))
    browser.open(write_page([job, make_record("dense", results=(make_perplexity(10.0),))]) + "#view=tradeoffs")
    figure_of(browser, "perplexity")
    mark = browser.one("figure[id^=perplexity] .mark-symbol.role-mark path")
    ActionChains(browser.driver).move_to_element(mark).click().perform()
    browser.until(lambda: f"job={job.job_id}" in browser.hash, "opened")


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1500, 900), (390, 844)])
@pytest.mark.parametrize("view", ["", "matrix"])
def test_the_first_screen_shows_the_numbers_of_ten_jobs(
    browser: Browser, address: str, width: int, height: int, view: str
) -> None:
    """Ten numbers of jobs and more, each with its method, before anything is scrolled or clicked; nothing beside it."""
    seen = """const inside = (cell) => { const box = cell.getBoundingClientRect();
            const sheet = cell.closest(".scroll").getBoundingClientRect();
            return box.top >= 0 && box.bottom <= innerHeight && box.right <= Math.min(innerWidth, sheet.right); };
        const cells = [...document.querySelectorAll(".card td:nth-child(2), .matrix td")];
        return cells.filter((cell) => /[0-9]/.test(cell.textContent) && inside(cell) &&
            inside(cell.closest("tr").cells[0])).length"""
    with browser.sized(width, height):
        browser.open(f"{address}#view={view}")
        assert browser.driver.execute_script(seen) >= 10
        assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert (browser.by_id("filters").get_attribute("open") is None) == (width < 500)


def test_the_leaderboard_puts_the_best_first_beside_the_dense_model(browser: Browser, write_page) -> None:
    """A card for each pattern and sparsity: number, error, distance, bar, published; its jobs a click away."""
    jobs = [*sweep(), make_record("sparsegpt", Unstructured(0.8), (replace(make_perplexity(36.91), stderr=0.5),))]
    jobs += [make_record("wanda", SemiStructured(2, 4), (make_perplexity(54.0),), seed=1)]
    browser.open(write_page(jobs))
    assert browser.texts(".card h3") == ["50%", "60%", "80%", "2:4"]
    rows = browser.texts(".card:first-child tbody tr > *")
    assert rows[:6] == ["dense", "27.60", "", "", "", "27.66, -0.06"]
    best = browser.all(".card:first-child tbody tr")[1]
    assert best.text.split()[:3] == ["magnitude", "30.00", "+2.40"]
    assert browser.texts(".card b") == ["30.00", "40.00", "50.00"]  # alone, nobody is the best
    assert best.find_element(By.CSS_SELECTOR, ".bar").get_attribute("aria-label") == "92 % kept"
    alone = browser.texts(".card:nth-child(3) tbody tr:nth-child(2) td")
    assert alone == ["36.91", "0.50", "+9.31", "", ""]
    wanda = browser.all(".card:nth-child(4) tbody tr")[3]
    assert "53.00" in wanda.text  # of two seeds, 52 and 54
    wanda.find_element(By.TAG_NAME, "summary").click()
    links = [link.text for link in wanda.find_elements(By.TAG_NAME, "a")]
    assert links == [job.job_id for job in jobs if "wanda__nm-2-4" in job.job_id]
    browser.click(f"pick-{links[0]}")
    browser.until(lambda: f"pick={links[0]}" in browser.hash, "picked")
    assert browser.texts("#tab-compare") == ["Compare (1)"]
    assert focused(browser)["id"] == f"pick-{links[0]}"
    browser.by_id("metric").find_element(By.CSS_SELECTOR, "[value^=zero_shot]").click()
    browser.until(lambda: "metric=zero_shot:boolq" in browser.hash, "metric")
    assert browser.texts(".card:first-child tbody tr > *")[:4] == ["dense", "55.00", "1.00", ""]
    assert browser.texts("#failed") == ["1 job failed"]
    browser.click("failed")
    browser.until(lambda: browser.column("method") == ["wanda‡"], "failed jobs")


def test_the_matrix_lays_methods_under_patterns_and_follows_the_filters(browser: Browser, address: str) -> None:
    """One number a method and pattern, the best bold, coloured by what is kept; a number opens its job."""
    browser.open(f"{address}#view=matrix&is.method=dense&is.method=wanda&is.method=magnitude")
    assert browser.texts(".matrix thead th") == ["method", "50%", "60%", "2:4"]
    assert browser.texts(".matrix tbody tr > *") == [
        *("dense", "27.60", "27.60", "27.60"),
        *("magnitude", "30.00", "40.00", "50.00"),
        *("wanda", "32.00", "42.00", "52.00†"),
    ]
    assert browser.texts(".matrix b") == ["30.00", "40.00", "50.00"]
    colours = {cell.text: cell.value_of_css_property("background-color") for cell in browser.all(".matrix .heat")}
    assert len(set(colours.values())) == len(colours) == 7
    browser.one(".matrix a[href*='wanda__unstructured-0.6']").click()
    browser.until(lambda: f"job={sweep()[8].job_id}" in browser.hash, "opened")


def test_a_job_s_view_shows_all_of_its_record(browser: Browser, write_page) -> None:
    """Results with protocol and published value, layers, notes, provenance; a failed job shows its traceback."""
    record = replace(
        make_record("sparsegpt", results=(make_perplexity(36.91), make_accuracy(0.5)), layers=LAYERS),
        notes=("mind this",),
    )
    failed = sweep()[-1]
    address = write_page([record, failed])
    browser.open(f"{address}#view=job&job={record.job_id}")
    browser.until(lambda: "Provenance" in browser.one("#view").text, "record")
    shown = browser.one("#view").text
    for text in (
        "36.91 (36.85, +0.06",
        "perplexity:wikitext2:seq2048:v1",
        "mind this",
        "abc123",
        "a processor",
        "torch 2.13.0",
    ):
        assert text in shown
    browser.click("layers")
    assert len(browser.all("details.numbers tbody tr")) == len(LAYERS)
    browser.open(f"{address}#view=job&job={failed.job_id}")
    assert "weights hold NaN" in browser.one("pre.error").text
    browser.open(f"{address}#view=job&job=no-such-job")
    assert "There is no job no-such-job" in browser.one(".empty").text


def answers_of(records, *rights: str) -> Answers:
    """For each record, which of the questions it answers rightly."""
    made = {}
    for record, marks in zip(records, rights, strict=True):
        questions = [
            chosen((index, f"{index:016x}"), (0.0, -1.0 - index) if mark == "1" else (-1.0, 0.0), 0, None)
            for index, mark in enumerate(marks)
        ]
        made[record.job_id] = [TaskAnswers(record.results[0].protocol, "boolq", tuple(questions))]
    texts = {("boolq", index, f"{index:016x}"): f"Is it <b>{index}</b>?\n[0] no" for index in range(len(rights[0]))}
    return Answers(made, (), texts)


def test_compared_jobs_show_their_differences_and_flips(browser: Browser, write_page) -> None:
    """Fields that differ, differences of results, and the very questions that flipped, with an exact p."""
    dense = make_record("dense", results=(make_accuracy(0.75),))
    pruned = make_record(pattern=SemiStructured(2, 4), results=(make_accuracy(0.5),))
    address = write_page([dense, pruned], answers_of([dense, pruned], "11101110", "10100111"))
    browser.open(f"{address}#view=compare&pick={dense.job_id}&pick={pruned.job_id}")
    browser.one("details.numbers")
    fields = browser.texts("[aria-label=Fields] tbody th")
    assert {"method", "pattern"} <= set(fields)
    assert "model" not in fields
    assert "-25.00" in browser.texts(".change")
    cells = browser.texts("#view td")
    assert f"{mcnemar(2, 1):.3g}" in cells
    low, high = paired_interval(2, 1, 8)
    assert f"{100 * low:+.2f} to {100 * high:+.2f}" in cells
    browser.one("summary[id^=flips-0-1-1]").click()
    assert sorted(browser.texts("[aria-label^='boolq acc: 3 flipped'] tbody th")) == ["1", "4", "7"]
    (asked,) = (cell for cell in browser.all("details.numbers td") if "<b>4</b>" in cell.text)
    assert asked.text == "Is it <b>4</b>?\n[0] no"
    browser.click("all-fields")
    browser.until(lambda: "model" in browser.texts("[aria-label=Fields] tbody th"), "all fields")
    assert "fields=all" in browser.hash


def test_durations_are_rounded_before_they_are_split(browser: Browser, address: str) -> None:
    """No minute of sixty seconds."""
    browser.open(f"{address}#view=jobs")
    source = re.search(r"export (function duration.*?\n}\n)", asset("format.js"), re.DOTALL)
    call = f"{source.group(1)}; return [...arguments].map(duration)"
    said = browser.driver.execute_script(call, 9.96, 59.6, 119.6, 3599.7)
    assert said == ["10 s", "1 min 0 s", "2 min 0 s", "1 h 0 min"]


def test_hostile_strings_stay_strings(browser: Browser, write_page) -> None:
    """Nothing in a record runs or becomes an element, in any view."""
    text = " ".join(HOSTILE)
    record = make_record(results=(replace(make_perplexity(1.0), subset=text, data_source=text),), layers=LAYERS)
    job = {**record.job, "model": {**record.job["model"], "name": text}, "recovery": {"name": text, "params": {}}}
    hostile = replace(
        record,
        job_id=f"{HOSTILE[0]}__x__00000000",
        job=job,
        notes=HOSTILE,
        error=text,
        status="failed",
        layers=(replace(LAYERS[0], name=text),),
        provenance=replace(record.provenance, command=HOSTILE, created="<b>now"),
    )
    drawn = replace(hostile, job_id="drawn__x__00000001", status="done", error=None)
    address = write_page([hostile, drawn, make_record("dense")])
    for view in (
        "",
        "view=matrix",
        "metric=toString",
        "view=jobs",
        "view=tradeoffs&plot=time",
        f"q={HOSTILE[1]}&is.model={HOSTILE[0]}",
        f"view=job&job={HOSTILE[0]}__x__00000000",
        f"view=compare&pick={HOSTILE[0]}__x__00000000&pick={make_record('dense').job_id}",
    ):
        browser.driver.get("about:blank")
        browser.driver.get(f"{address}#{view.replace('%', '%25')}")
        browser.one("#view > *")
        browser.until(lambda: "Loading" not in browser.one("#view").text, view)
        assert browser.all("#view img, #view b > b, img[src=x], #facets img") == []
        links = browser.driver.execute_script("return [...document.querySelectorAll('a')].map((a) => a.outerHTML)")
        assert not [link for link in links if "evil.example" in link.split(">")[0]]
    browser.driver.get("about:blank")
    browser.driver.get(f"{address}#view=job&job={HOSTILE[0]}__x__00000000")
    browser.one("#job-title")
    assert HOSTILE[0] in browser.texts("#job-title")[0]
    assert browser.complaints() == []


def test_the_keyboard_reaches_everything(browser: Browser, address: str) -> None:
    """The skip link comes first; headers and boxes answer to Enter and Space and keep the focus, which is seen."""
    browser.open(f"{address}#view=jobs")
    keys = ActionChains(browser.driver)
    keys.send_keys(Keys.TAB).perform()
    assert focused(browser)["id"] == "skip"
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    assert focused(browser)["id"] == "main"
    for _ in range(30):
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        if focused(browser)["id"] == f"sort-{PERPLEXITY}":
            break
    assert focused(browser)["outline"] == "solid"
    ActionChains(browser.driver).send_keys(Keys.ENTER).perform()
    assert focused(browser)["id"] == f"sort-{PERPLEXITY}"
    assert f"sort={PERPLEXITY}" in browser.hash
    box = f"pick-{sweep()[1].job_id}"
    browser.driver.execute_script("document.getElementById(arguments[0]).focus()", box)
    ActionChains(browser.driver).send_keys(Keys.SPACE).perform()
    browser.until(lambda: "pick=" in browser.hash, "picked")
    assert focused(browser)["id"] == box


def test_every_control_has_a_name_and_tables_have_heads(browser: Browser, address: str) -> None:
    """What a screen reader says: labels of inputs, scopes of headers, a caption a table, one h1, a language."""
    browser.open(f"{address}#view=jobs")
    nameless = browser.driver.execute_script("""
        const named = (found) => found.labels?.length || found.getAttribute("aria-label") || found.textContent.trim();
        const controls = [...document.querySelectorAll("input, select, button, a")];
        return controls.filter((found) => !named(found)).map((found) => found.outerHTML)""")
    assert nameless == []
    assert all(found.get_attribute("scope") for found in browser.all("th"))
    assert len(browser.all("table caption")) == len(browser.all("table"))
    assert len(browser.all("h1")) == 1
    assert browser.one("html").get_attribute("lang") == "en"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_a_contrast_of_four_and_a_half(browser: Browser, address: str, theme: str) -> None:
    """Each pair of text and ground that the style sheet uses, by the formula of WCAG 2.1."""
    browser.open(f"{address}#theme={theme}")
    names = (
        "paper",
        "panel",
        "hover",
        "ink",
        "quiet",
        "accent",
        "on-accent",
        "good",
        "bad",
        "warn-paper",
        "warn-ink",
        "heat",
    )
    colours = {
        name: browser.driver.execute_script(
            f"return getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()"
        )
        for name in names
    }
    grounds = [
        (text, ground) for text in ("ink", "quiet", "accent", "good", "bad") for ground in ("paper", "panel", "hover")
    ]
    for text, ground in [*grounds, ("ink", "heat"), ("on-accent", "accent"), ("warn-ink", "warn-paper")]:
        assert contrast(colours[text], colours[ground]) >= 4.5, (theme, text, ground)


def test_many_jobs_make_a_bounded_table(browser: Browser, write_page) -> None:
    """A thousand jobs are a hundred rows a page; the facets count all of them."""
    records = [make_record(seed=seed, results=(make_perplexity(10.0 + seed),)) for seed in range(1000)]
    browser.open(write_page(records) + "#view=jobs")
    assert len(browser.all(".jobs tbody tr")) == 100
    assert browser.texts("#said") == ["1,000 jobs"]
    browser.click("next")
    assert browser.column("seed")[0] == "100"
    assert "page=2" in browser.hash
    browser.click(f"sort-{PERPLEXITY}")
    browser.click(f"sort-{PERPLEXITY}")
    assert browser.column(PERPLEXITY)[0] == "1009.00"


def test_published_numbers_stand_beside_the_measured(browser: Browser, write_page) -> None:
    """Measured, then published and difference in brackets, as in the printed tables."""
    jobs = [make_record("sparsegpt", results=(make_perplexity(36.91),)), make_record("dense")]
    browser.open(write_page(jobs) + "#view=jobs")
    assert browser.column(PERPLEXITY)[1] == "36.91 (36.85, +0.06≈)"
