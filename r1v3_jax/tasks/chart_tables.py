"""Reads the real tables that charts are drawn of: six of the package vega_datasets.

    pip install vega_datasets     (MIT; its dataset_info.json says where each table is from)

    table            a chart compares                         held out    from
    barley           varieties, in yield at a site            Duluth      Immer and others, 1934
    cars             cars of a year, in horsepower,           1979, 1982  Ramos and Donoho, 1982
                     miles a gallon or weight                             (StatLib)
    iowa-electricity sources, in power of a year              from 2013   US Energy Information
                                                                          Administration
    seattle-weather  months of a year, in rain                2015        NOAA
    us-employment    sectors, in people employed in a month   from 2014   US Bureau of Labor
                                                                          Statistics
    wheat            years of a century, in price of wheat    from 1800   Playfair, 1822

The last four are in the public domain. A row of a table is in one split: a site or a year is held
out whole.
"""

import collections
import csv
import dataclasses
import functools
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path

SECTORS = (
    "mining_and_logging",
    "construction",
    "manufacturing",
    "trade_transportation_utilties",  # the table's own spelling
    "information",
    "financial_activities",
    "professional_and_business_services",
    "education_and_health_services",
    "leisure_and_hospitality",
    "other_services",
    "government",
)
CAR_COLUMNS = ("Horsepower", "Miles_per_Gallon", "Weight_in_lbs")


@dataclasses.dataclass(frozen=True)
class Group:
    """Values of one table that a chart may compare, in one unit."""

    table: str
    title: str  # "yield at Duluth in 1931"
    rows: tuple[str, ...]  # the table's rows they are from; no row is in two splits
    labels: tuple[str, ...]  # what each value is of: ("Manchuria", "Glabron", ...)
    values: tuple[float, ...]  # above 0


@functools.cache
def load_groups(split: str) -> dict[str, tuple[Group, ...]]:
    """Returns {table: its groups in the order of its rows} of "train" or "held_out".

    Raises ModuleNotFoundError where the package is missing.
    """
    groups = collections.defaultdict(list)
    for group, is_held_out in _all_groups():
        if is_held_out == (split == "held_out"):
            groups[group.table].append(group)
    return {table: tuple(members) for table, members in groups.items()}


def _all_groups() -> Iterable[tuple[Group, bool]]:
    """Yields (group, whether it is held out)."""
    folder = _folder()
    yield from _barley(json.loads((folder / "barley.json").read_text("utf-8")))
    yield from _cars(json.loads((folder / "cars.json").read_text("utf-8")))
    yield from _electricity(_read_csv(folder / "iowa-electricity.csv"))
    yield from _weather(_read_csv(folder / "seattle-weather.csv"))
    yield from _employment(_read_csv(folder / "us-employment.csv"))
    yield from _wheat(json.loads((folder / "wheat.json").read_text("utf-8")))


def _barley(rows: list[dict]) -> Iterable[tuple[Group, bool]]:
    fields = collections.defaultdict(list)
    for row in rows:
        fields[row["site"], row["year"]].append((row["variety"], row["yield"]))
    for (site, year), values in fields.items():
        title = f"yield at {site} in {year}"
        yield _group("barley", title, site, values), site == "Duluth"


def _cars(rows: list[dict]) -> Iterable[tuple[Group, bool]]:
    years = collections.defaultdict(list)
    for row in rows:
        years[row["Year"][:4]].append(row)
    for year, cars in years.items():
        for column in CAR_COLUMNS:
            # A few cars have no value.
            values = [(car["Name"], car[column]) for car in cars if car[column]]
            title = f"{column} of cars of {year}"
            yield _group("cars", title, year, values), year in ("1979", "1982")


def _electricity(rows: list[dict]) -> Iterable[tuple[Group, bool]]:
    years = collections.defaultdict(list)
    for row in rows:
        year = row["year"][:4]
        years[year].append((row["source"], row["net_generation"]))
    for year, values in years.items():
        title = f"electricity in Iowa in {year}"
        yield _group("iowa-electricity", title, year, values), int(year) >= 2013


def _weather(rows: list[dict]) -> Iterable[tuple[Group, bool]]:
    years = collections.defaultdict(collections.Counter)
    for row in rows:
        year, month, _ = row["date"].split("/")
        years[year][month] += float(row["precipitation"])
    for year, rain in years.items():
        title = f"rain in Seattle in {year}"
        # The table has tenths of a millimetre; binary fractions add up to 93.99999999999999.
        values = [(month, round(total, 1)) for month, total in rain.items()]
        group = _group("seattle-weather", title, year, values)
        yield group, year == "2015"


def _employment(rows: list[dict]) -> Iterable[tuple[Group, bool]]:
    for row in rows:
        month = row["month"][:7]
        values = [(sector, row[sector]) for sector in SECTORS]
        title = f"people employed in {month}"
        yield _group("us-employment", title, month, values), month >= "2014"


def _wheat(rows: list[dict]) -> Iterable[tuple[Group, bool]]:
    centuries = collections.defaultdict(list)
    for row in rows:
        century = row["year"][:2]
        centuries[century].append((row["year"], row["wheat"]))
    for century, values in centuries.items():
        title = f"price of wheat in years from {century}00 on"
        yield _group("wheat", title, century, values), century == "18"


def _group(table: str, title: str, block: str, values: Iterable) -> Group:
    """Makes a group of (label, value) pairs; its rows are those of `block` with these labels."""
    positive = [(label, float(value)) for label, value in values if float(value) > 0]
    labels = tuple(label for label, _ in positive)
    rows = tuple(f"{table}/{block}/{label}" for label in labels)
    return Group(table, title, rows, labels, tuple(value for _, value in positive))


def _read_csv(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _folder() -> Path:
    found = importlib.util.find_spec("vega_datasets")
    if found is None:
        raise ModuleNotFoundError(
            "the package vega_datasets, which holds the tables, is not installed: pip install "
            "vega_datasets"
        )
    return Path(found.origin).parent / "_data"
