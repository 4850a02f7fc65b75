"""The demo's invoices: made up, and the same ones every time."""

import random
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

INVOICES = 300
SEED = 20
FIRST_DAY = date(2026, 1, 5)


class Invoice(NamedTuple):
    """One invoice as it came in."""

    invoice_id: str
    received_on: date
    supplier: str
    description: str


NAMED = (
    ("Amazon Web Services", "AWS cloud infrastructure costs Rs 124500", "IT"),
    ("Naukri", "Job posting recruitment platform Rs 45000", "HR"),
    ("Lemon Tree", "Hotel conference offsite room Rs 285000", "Admin"),
    ("Adobe Systems", "Adobe design software license Rs 78000", "Marketing"),
    ("Ernst and Young", "EY consulting risk assessment Rs 850000", "Finance"),
)
"""Supplier, text and department of the first five: everybody can check these at a glance."""

# Per department: who sells to it, what they sell, and between which amounts, in rupees.
KINDS = (
    (
        ("Cloudline", "Netsolve India", "Datawave Systems", "Redington"),
        (
            "cloud hosting for the web shop",
            "laptops for new joiners",
            "network switches and firewall",
            "antivirus subscription",
            "backup storage",
            "helpdesk software",
            "data centre rent for two racks",
            "domain renewal",
            "broadband line",
        ),
        (8_000, 400_000),
    ),
    (
        ("TalentFirst", "PeopleWorks", "CareWell Health", "SkillUp Academy"),
        (
            "recruitment of a sales head",
            "background checks of candidates",
            "payroll processing",
            "onboarding kits",
            "leadership training workshop",
            "health insurance premium for staff",
            "relocation of an employee",
            "employee survey",
        ),
        (5_000, 250_000),
    ),
    (
        ("Spick and Span", "Blue Dart", "Godrej Interio", "Grand Residency"),
        (
            "office cleaning and housekeeping",
            "courier charges",
            "ergonomic chairs",
            "hotel rooms for the offsite",
            "electricity bill",
            "stationery and printing paper",
            "taxi rides to the airport",
            "catering for the board lunch",
            "pantry supplies",
        ),
        (1_500, 180_000),
    ),
    (
        ("Bright Pixel", "AdStreet Media", "Expo Builders", "Storyboard Films"),
        (
            "social media campaign",
            "booth at the trade fair",
            "product photography",
            "brochure design",
            "search ads",
            "newsletter copy and branding",
            "sponsorship of a meetup",
            "video for the product launch",
            "banners for the campaign",
        ),
        (4_000, 350_000),
    ),
    (
        ("Mehta and Partners", "KPMG", "Fidelity Bank", "Sharma Legal"),
        (
            "statutory audit",
            "GST filing and tax advice",
            "bank charges",
            "due diligence report",
            "bookkeeping",
            "legal opinion on compliance",
            "valuation of the subsidiary",
            "treasury consulting",
            "interest on the credit line",
        ),
        (2_000, 900_000),
    ),
)
FORMS = (
    "{what} {money}",
    "Invoice for {what}, total {money}",
    "{what} ({month}): {money}",
    "{money} for {what}",
    "Charges for {what} as agreed, {money}",
)


def invoices(count: int = INVOICES) -> list[Invoice]:
    """Return the first invoices of an endless list that is always the same."""
    draw = random.Random(SEED)
    made = []
    for position in range(count):
        number, day = f"INV-{position + 1:05d}", FIRST_DAY + timedelta(days=position // 4)
        if position < len(NAMED):
            supplier, text, _ = NAMED[position]
        else:
            suppliers, subjects, (least, most) = draw.choice(KINDS)
            supplier, what = draw.choice(suppliers), draw.choice(subjects)
            rupees = draw.randrange(least, most, 50)
            text = draw.choice(FORMS).format(
                what=what, money=_money(draw, rupees), month=f"{day:%B}"
            )
            text = text[0].upper() + text[1:]
        made.append(Invoice(number, day, supplier, text))
    return made


def write_invoices(database: str, count: int = INVOICES) -> int:
    """Put the invoices into the table `invoices` of a DuckDB file, unless it has them.

    Returns:
        How many rows the table has.
    """
    import duckdb

    Path(database).parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(database) as warehouse:
        warehouse.execute(
            "create table if not exists invoices "
            "(invoice_id varchar primary key, received_on date, supplier varchar, "
            "description varchar)"
        )
        warehouse.executemany("insert or ignore into invoices values (?, ?, ?, ?)", invoices(count))
        row = warehouse.execute("select count(*) from invoices").fetchone()
    return row[0] if row else 0


def _money(draw: random.Random, rupees: int) -> str:
    kind = draw.random()
    if kind < 0.08:
        return f"USD {rupees // 80}.50"
    if kind < 0.12:
        return f"EUR {rupees // 90}"
    return draw.choice(("Rs {}", "Rs. {}", "INR {:,}", "₹{}")).format(rupees)
